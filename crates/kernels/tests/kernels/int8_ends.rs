//! Ends of chains that are functions of one 8-bit integer.

use crate::common::{Source, everywhere};
use crate::int8::{Bytes, with};
use lemma_kernels::int8::{Output, PackedInt8, Quantisation, Quantised, gemm_int8_with};
use lemma_kernels::{Binary, Chain, Isa, Link, Source as Operand, Threads, Unary};

/// Every row of a product that is large enough for its integers to be looked up is what it is alone, where it is computed.
#[test]
fn many_integers_are_what_each_is_alone() {
    let (m, k, n) = (40, 33, 70);
    let mut source = Source::new(331);
    let (a, b) = (
        Bytes::new(&mut source, m * k, false),
        Bytes::new(&mut source, k * n, true),
    );
    let scale: Vec<f32> = source.values(n).iter().map(|x| x * 0.0005).collect();
    let (bias, other) = (source.values(n), source.values(n));
    let packed = with(&b, |b| PackedInt8::pack(b, k, n, false));
    let value = Operand::Value;
    for (signed, zero) in [(false, 100), (true, -7)] {
        let how = |scale| Quantisation {
            scale,
            zero,
            signed,
        };
        let before = [
            Link::Binary(Binary::Mul, value(0), Operand::columns(&scale)),
            Link::Binary(Binary::Add, value(1), Operand::columns(&bias)),
            Link::Requantise(2, how(0.02)),
        ];
        let ends = [
            // x · σ(x)
            vec![
                Link::Unary(Unary::Sigmoid, 3),
                Link::Requantise(4, how(0.01)),
                Link::Binary(Binary::Mul, value(3), value(5)),
            ],
            // A second integer on the way, of which all that follows is a function too.
            vec![
                Link::Unary(Unary::Relu, 3),
                Link::Requantise(4, how(0.03)),
                Link::Unary(Unary::Tanh, 5),
                Link::Binary(Binary::Sub, value(6), Operand::Scalar(0.25)),
            ],
            // No function of one integer: it reads a value before, or one for each column.
            vec![
                Link::Unary(Unary::Sigmoid, 3),
                Link::Binary(Binary::Mul, value(2), value(4)),
            ],
            vec![
                Link::Unary(Unary::Sigmoid, 3),
                Link::Binary(Binary::Mul, value(4), Operand::columns(&other)),
            ],
            // What is quantised is not the last value.
            vec![
                Link::Requantise(1, how(0.5)),
                Link::Unary(Unary::Sigmoid, 4),
            ],
        ];
        for end in ends {
            let links = [&before[..], &end].concat();
            for to_signed in [false, true] {
                let run = |isa: Isa, threads: &Threads, first: usize, count: usize| -> Vec<u8> {
                    let mut unsigned = vec![0u8; count * n];
                    let mut signed = vec![0i8; count * n];
                    let y = match to_signed {
                        false => Quantised::Unsigned(&mut unsigned),
                        true => Quantised::Signed(&mut signed),
                    };
                    let zero = if to_signed { -3 } else { 60 };
                    let scale = 0.013;
                    let to = Output::Quantised { y, scale, zero };
                    let rows = Bytes(a.0[first * k..][..count * k].to_vec(), a.1);
                    with(&rows, |a| {
                        let chain = Chain::new(&links);
                        gemm_int8_with(isa, threads, count, a, 128, &packed, &[0], &chain, to);
                    });
                    match to_signed {
                        false => unsigned,
                        true => signed.iter().map(|v| v.cast_unsigned()).collect(),
                    }
                };
                let one = Threads::single();
                let alone = |row| run(Isa::PORTABLE, &one, row, 1);
                let expected: Vec<u8> = (0..m).flat_map(alone).collect();
                assert!(expected.iter().any(|&v| v != expected[0]), "a constant");
                everywhere(|isa, threads| {
                    assert!(
                        run(isa, threads, 0, m) == expected,
                        "{isa} {signed} {to_signed}"
                    );
                });
            }
        }
    }
}
