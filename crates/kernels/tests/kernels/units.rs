//! Gaussian error linear units between products and 8-bit integers.

use lemma_kernels::int8::{
    Int8, Output, PackedInt8, Quantisation, Quantised, dequantize, gemm_int8_with,
};
use lemma_kernels::{Binary, Chain, Isa, Link, Source as Operand, Threads, Unary};

use crate::common::{Source, everywhere};

/// The unit of value `x` of a chain, as it is defined.
fn unit(x: usize) -> [Link<'static>; 5] {
    let root = Operand::Scalar(std::f32::consts::SQRT_2);
    let value = Operand::Value;
    [
        Link::Binary(Binary::Div, value(x), root),
        Link::Unary(Unary::Erf, x + 1),
        Link::Binary(Binary::Add, value(x + 2), Operand::Scalar(1.0)),
        Link::Binary(Binary::Mul, value(x), value(x + 3)),
        Link::Binary(Binary::Mul, value(x + 4), Operand::Scalar(0.5)),
    ]
}

/// Sums, and what they go through.
struct Case {
    sizes: [usize; 2],
    a: Vec<u8>,
    b: PackedInt8,
    /// What the integers of the result stand for.
    to: Quantisation,
}

impl Case {
    fn run(&self, isa: Isa, threads: &Threads, chain: &[Link<'_>]) -> Vec<u8> {
        let [m, n] = self.sizes;
        let (mut u, mut s) = (vec![1u8; m * n], vec![1i8; m * n]);
        let y = match self.to.signed {
            false => Quantised::Unsigned(&mut u),
            true => Quantised::Signed(&mut s),
        };
        let (scale, zero) = (self.to.scale, self.to.zero);
        let (a, chain) = (Int8::Unsigned(&self.a), Chain::new(chain));
        let to = Output::Quantised { y, scale, zero };
        gemm_int8_with(isa, threads, m, a, 0, &self.b, &[0], &chain, to);
        match self.to.signed {
            false => u,
            true => s.into_iter().map(i8::cast_unsigned).collect(),
        }
    }
}

/// Values that exceed the ends of the integers, and all between; many that are next to the middle between two of them; bias
/// or none, of numbers or as 8-bit integers before; steps with which the short way is not taken.
#[test]
fn units_are_quantised_as_they_are_defined() {
    let mut source = Source::new(311);
    let [m, n] = [48, 200];
    // Sums of all sizes, a few for each column, and the same with opposite signs.
    let a: Vec<u8> = (0..2 * m).map(|_| source.bits() as u8).collect();
    let b: Vec<i8> = (0..2 * n).map(|_| source.bits() as i8).collect();
    let mut certain = [0u32; 2];
    for (step, zero, signed) in [
        (0.0179, 10, false),
        (0.0179, -118, true),
        (0.004, 43, false),
        (0.11, 2, false),
        (0.0009, 128, false),
        (3.0e-6, 0, true),
        (4.0, 128, false),
    ] {
        let case = Case {
            sizes: [m, n],
            a: a.clone(),
            b: PackedInt8::pack(Int8::Signed(&b), 2, n, false),
            to: Quantisation {
                scale: step,
                zero,
                signed,
            },
        };
        for reach in [0.5, 6.0, 300.0] {
            let scale: Vec<f32> = source
                .values(n)
                .iter()
                .map(|x| (1.0 + x.abs()) * reach / 32640.0)
                .collect();
            let bias: Vec<f32> = source.values(n).iter().map(|x| x * reach / 3.0).collect();
            let first = Quantisation {
                scale: reach / 100.0,
                zero: 120,
                signed: false,
            };
            let scaled = Link::Binary(Binary::Mul, Operand::Value(0), Operand::columns(&scale));
            let biased = |x| Link::Binary(Binary::Add, Operand::columns(&bias), Operand::Value(x));
            for before in [
                vec![scaled],
                vec![scaled, biased(1)],
                vec![scaled, Link::Requantise(1, first)],
                vec![scaled, Link::Requantise(1, first), biased(2)],
                vec![scaled, biased(1), Link::Requantise(2, first), biased(3)],
            ] {
                let chain = [&before[..], &unit(before.len())].concat();
                let expected = case.run(Isa::PORTABLE, &Threads::single(), &chain);
                certain[usize::from(expected.iter().any(|&y| y != expected[0]))] += 1;
                everywhere(|isa, threads| {
                    let y = case.run(isa, threads, &chain);
                    for (at, (y, expected)) in y.iter().zip(&expected).enumerate() {
                        let (i, j) = (at / n, at % n);
                        assert_eq!(y, expected, "{isa} {step} {reach} {i} {j}");
                    }
                });
            }
        }
    }
    assert!(
        certain[1] > certain[0],
        "most results have several integers"
    );
}

/// Functions of one integer that gives one: of many values they are looked up, of few they are not.
#[test]
fn functions_of_one_integer_are_the_same_for_many() {
    let mut source = Source::new(314);
    let x: Vec<u8> = (0..9000).map(|_| source.bits() as u8).collect();
    let signed_x: Vec<i8> = x.iter().map(|x| x.cast_signed()).collect();
    let first = Quantisation {
        scale: 0.05,
        zero: 3,
        signed: true,
    };
    let swish = [
        Link::Unary(Unary::Sigmoid, 0),
        Link::Binary(Binary::Mul, Operand::Value(0), Operand::Value(1)),
    ];
    let tanh = [Link::Unary(Unary::Tanh, 0), Link::Requantise(1, first)];
    let cosine = [Link::Unary(Unary::Cos, 0)];
    for chain in [&unit(0)[..], &swish, &tanh, &cosine] {
        let chain = Chain::new(chain);
        let run = |isa: Isa, threads: &Threads, x: Int8<'_>, zero: i32| {
            let mut y = vec![1i8; x.len()];
            let to = Output::Quantised {
                y: Quantised::Signed(&mut y),
                scale: 0.013,
                zero: -7,
            };
            dequantize(isa, threads, x, 0.031, zero, x.len(), &chain, to);
            y
        };
        let one = Threads::single();
        let few = |x| run(Isa::PORTABLE, &one, x, 12);
        let unsigned: Vec<i8> = x.chunks(100).flat_map(|x| few(Int8::Unsigned(x))).collect();
        let signed: Vec<i8> = signed_x
            .chunks(100)
            .flat_map(|x| few(Int8::Signed(x)))
            .collect();
        everywhere(|isa, threads| {
            assert!(
                run(isa, threads, Int8::Unsigned(&x), 12) == unsigned,
                "{isa}"
            );
            assert!(
                run(isa, threads, Int8::Signed(&signed_x), 12) == signed,
                "{isa}"
            );
        });
    }
}
