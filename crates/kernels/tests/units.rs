//! Gaussian error linear units between products and 8-bit integers.

use lemma_kernels::int8::{Int8, Output, PackedInt8, Quantisation, Quantised, gemm_int8_with};
use lemma_kernels::{Binary, Chain, Isa, Link, Source as Operand, Threads, Unary};

mod common;
use common::{Source, everywhere};

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
