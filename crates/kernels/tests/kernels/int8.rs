//! Integer products against the definition, on every instruction set.

use crate::common::{Source, assert_same_bits, everywhere, product, specials};
use lemma_kernels::int8::{
    FiltersInt8, Int8, MatricesInt8, Output, PackedInt8, Quantisation, Quantised, conv_int8,
    dequantize, gemm_int8, gemm_int8_with, matmul_int8_with, quantize,
};
use lemma_kernels::{
    Binary, Chain, Conv, ConvSpec, Isa, Link, Source as Operand, Threads, Unary, canonical,
};

pub(crate) struct Bytes(pub(crate) Vec<u8>, pub(crate) bool);

impl Bytes {
    pub(crate) fn new(source: &mut Source, n: usize, signed: bool) -> Bytes {
        // Extremes often: they are where saturating instructions would differ.
        let byte = |source: &mut Source| match source.below(4) {
            0 => [0, 127, 128, 255][source.below(4)],
            _ => source.bits() as u8,
        };
        Bytes((0..n).map(|_| byte(source)).collect(), signed)
    }

    fn signed(&self) -> Vec<i8> {
        self.0.iter().map(|&b| b.cast_signed()).collect()
    }

    fn values(&self) -> Vec<i32> {
        let value = |&b: &u8| {
            if self.1 {
                i32::from(b.cast_signed())
            } else {
                i32::from(b)
            }
        };
        self.0.iter().map(value).collect()
    }
}

pub(crate) fn with<R>(bytes: &Bytes, f: impl FnOnce(Int8<'_>) -> R) -> R {
    if bytes.1 {
        f(Int8::Signed(&bytes.signed()))
    } else {
        f(Int8::Unsigned(&bytes.0))
    }
}

#[test]
fn products_follow_the_definition() {
    let mut source = Source::new(301);
    for (m, k, n) in [
        (1, 1, 1),
        (1, 330, 200),
        (8, 63, 49),
        (100, 17, 90),
        (13, 658, 97),
        (8, 64, 16),
        (33, 130, 80),
        (70, 256, 131),
        (3, 0, 5),
        (0, 4, 4),
    ] {
        for form in 0..8 {
            let (a_signed, b_signed, each) = (form & 1 > 0, form & 2 > 0, form & 4 > 0);
            let a = Bytes::new(&mut source, m * k, a_signed);
            let b = Bytes::new(&mut source, k * n, b_signed);
            let zeros = |source: &mut Source, count: usize, signed: bool| -> Vec<i32> {
                (0..count)
                    .map(|_| source.below(256) as i32 - if signed { 128 } else { 0 })
                    .collect()
            };
            let a_zero = zeros(&mut source, if each { m } else { 1 }, a_signed);
            let b_zero = if form == 2 {
                vec![0]
            } else {
                zeros(&mut source, if each { n } else { 1 }, b_signed)
            };
            let (av, bv) = (a.values(), b.values());
            let expected = product([m, k, n], [&av, &bv], [&a_zero, &b_zero]);
            let packed = with(&b, |b| PackedInt8::pack(b, k, n, false));
            for packed in [packed.clone(), packed.ordered()] {
                everywhere(|isa, threads| {
                    let mut c = vec![-1; m * n];
                    with(&a, |a| {
                        gemm_int8(isa, threads, m, a, &a_zero, &packed, &b_zero, &mut c)
                    });
                    assert!(
                        c == expected,
                        "{isa} {threads:?} {m} × {k} × {n}, form {form}"
                    );
                });
            }
        }
    }
}

#[test]
fn the_largest_sums_do_not_saturate() {
    let (m, k, n) = (2, 4096, 50);
    let (a, b) = (vec![255u8; m * k], vec![-128i8; k * n]);
    let packed = PackedInt8::pack(Int8::Signed(&b), k, n, true).ordered();
    everywhere(|isa, threads| {
        let mut c = vec![0; m * n];
        gemm_int8(
            isa,
            threads,
            m,
            Int8::Unsigned(&a),
            &[0],
            &packed,
            &[0],
            &mut c,
        );
        assert!(c.iter().all(|&v| v == -255 * 128 * 4096), "{isa}");
    });
}

#[test]
fn convolutions_follow_the_definition() {
    let mut source = Source::new(302);
    for (channels, out, groups, kernel, stride, pad) in [
        (5, 7, 1, 3, 1, 1),
        (6, 4, 2, 2, 2, 0),
        (4, 4, 4, 3, 1, 2),
        (9, 50, 1, 1, 1, 0),
    ] {
        let shape = Conv::new(&ConvSpec {
            batch: 2,
            in_channels: channels,
            out_channels: out,
            groups,
            input: &[6, 5],
            kernel: &[kernel, kernel],
            strides: &[stride, stride],
            dilations: &[1, 1],
            pads_begin: &[pad, pad],
            pads_end: &[pad, pad],
        })
        .expect("a valid geometry");
        let [height, width] = shape.output_shape()[..] else {
            panic!("two axes");
        };
        let x = Bytes::new(&mut source, shape.input_len(), false);
        let w = Bytes::new(&mut source, shape.filter_len(), true);
        let w_zero: Vec<i32> = (0..out).map(|_| source.below(9) as i32 - 4).collect();
        let (xv, wv, zero) = (x.values(), w.values(), 117);
        let (per_group, group_out) = (channels / groups, out / groups);
        let mut expected = vec![0i32; shape.output_len()];
        for (i, y) in expected.iter_mut().enumerate() {
            let (rest, ow) = (i / width, i % width);
            let (rest, oh) = (rest / height, rest % height);
            let (image, o) = (rest / out, rest % out);
            for c in 0..per_group {
                for (kh, kw) in (0..kernel * kernel).map(|t| (t / kernel, t % kernel)) {
                    let (h, v) = (
                        (oh * stride + kh).wrapping_sub(pad),
                        (ow * stride + kw).wrapping_sub(pad),
                    );
                    if h < 6 && v < 5 {
                        let plane = image * channels + o / group_out * per_group + c;
                        let weight = wv[((o * per_group + c) * kernel + kh) * kernel + kw];
                        *y += (xv[(plane * 6 + h) * 5 + v] - zero) * (weight - w_zero[o]);
                    }
                }
            }
        }
        let packed = with(&w, |w| FiltersInt8::pack(&shape, w));
        everywhere(|isa, threads| {
            let mut y = vec![-1; expected.len()];
            with(&x, |x| {
                conv_int8(isa, threads, &shape, x, zero, &packed, &w_zero, &mut y)
            });
            assert!(y == expected, "{isa} {threads:?} {channels} → {out}");
        });
    }
}

/// round(x ÷ scale) + zero, in wide integers.
fn step(x: f32, scale: f32, zero: i32, low: i64, high: i64) -> i64 {
    let steps = (x / scale).round_ties_even() as i64;
    steps.saturating_add(i64::from(zero)).clamp(low, high)
}

#[test]
fn quantisation_follows_the_definition() {
    let mut source = Source::new(303);
    let mut x = source.wild(40_000);
    x.extend(specials());
    x.extend((-2000..2000).map(|i| i as f32 * 0.25));
    // The middles between two integers, and their neighbours.
    for scale in [0.017f32, 3e-5, 0.37] {
        for i in -600..600 {
            let bits = ((i as f32 + 0.5) * scale).to_bits();
            x.extend((bits - 3..=bits + 3).map(f32::from_bits));
        }
    }
    for (scale, zero) in [
        (0.5, 3),
        (3e-5, 90),
        (0.37, 127),
        (1e-38, 1),
        (1.0, 0),
        (0.017, -128),
        (f32::INFINITY, 7),
        (0.0, 127),
    ] {
        everywhere(|isa, threads| {
            let mut y = vec![77i8; x.len()];
            quantize(isa, threads, &x, scale, zero, Quantised::Signed(&mut y));
            let mut u = vec![77u8; x.len()];
            quantize(
                isa,
                threads,
                &x,
                scale,
                zero.abs(),
                Quantised::Unsigned(&mut u),
            );
            for ((&x, &y), &u) in x.iter().zip(&y).zip(&u) {
                assert_eq!(i64::from(y), step(x, scale, zero, -128, 127), "{x:e} {isa}");
                assert_eq!(
                    i64::from(u),
                    step(x, scale, zero.abs(), 0, 255),
                    "{x:e} {isa}"
                );
            }
            let mut back = vec![0.0; y.len()];
            let to = Output::Float(&mut back);
            let x = Int8::Signed(&y);
            dequantize(isa, threads, x, scale, zero, y.len(), &Chain::NONE, to);
            for (&y, &found) in y.iter().zip(&back) {
                let value = canonical((i32::from(y) - zero) as f32 * scale);
                assert_eq!(value.to_bits(), found.to_bits());
            }
        });
    }
}

/// Sums as f32, scaled for each column, with a bias, cut off at 0.
pub(crate) fn scaled(sums: &[i32], scale: &[f32], bias: &[f32]) -> Vec<f32> {
    let value = |(i, &sum): (usize, &i32)| {
        let column = i % scale.len();
        (sum as f32 * scale[column] + bias[column]).max(0.0)
    };
    sums.iter().enumerate().map(value).collect()
}

/// Checks a function that scales sums and writes them as f32 and as integers.
pub(crate) fn check_finished(
    expected: &[f32],
    isa: Isa,
    scale: &[f32],
    bias: &[f32],
    run: impl Fn(&Chain<'_>, Output<'_>),
) {
    let links = [
        Link::Binary(Binary::Mul, Operand::Value(0), Operand::columns(scale)),
        Link::Binary(Binary::Add, Operand::Value(1), Operand::columns(bias)),
        Link::Unary(Unary::Relu, 2),
    ];
    let chain = Chain::new(&links);
    let mut y = vec![-1.0; expected.len()];
    run(&chain, Output::Float(&mut y));
    assert_same_bits(&y, expected, isa);
    let mut narrow = vec![1u8; expected.len()];
    let to = Output::Quantised {
        y: Quantised::Unsigned(&mut narrow),
        scale: 0.37,
        zero: 11,
    };
    run(&chain, to);
    for (&x, &y) in expected.iter().zip(&narrow) {
        assert_eq!(i64::from(y), step(x, 0.37, 11, 0, 255), "{isa}");
    }
    let mut narrow = vec![1i8; expected.len()];
    let to = Output::Quantised {
        y: Quantised::Signed(&mut narrow),
        scale: 0.37,
        zero: -7,
    };
    run(&chain, to);
    for (&x, &y) in expected.iter().zip(&narrow) {
        assert_eq!(i64::from(y), step(x, 0.37, -7, -128, 127), "{isa}");
    }
}

#[test]
fn products_go_on_as_floats() {
    let mut source = Source::new(304);
    for (m, k, n) in [(1, 40, 1200), (50, 65, 97), (9, 3, 2000), (130, 64, 48)] {
        for form in 0..4 {
            let a = Bytes::new(&mut source, m * k, form & 1 > 0);
            let b = Bytes::new(&mut source, k * n, form & 2 > 0);
            let b_zero: Vec<i32> = match form {
                3 => (0..n).map(|_| source.below(9) as i32 - 4).collect(),
                _ => vec![0],
            };
            let (scale, bias) = (source.values(n), source.values(n));
            let packed = with(&b, |b| PackedInt8::pack(b, k, n, false).ordered());
            let mut sums = vec![0; m * n];
            let one = Threads::single();
            with(&a, |a| {
                gemm_int8(Isa::PORTABLE, &one, m, a, &[5], &packed, &b_zero, &mut sums);
            });
            let expected = scaled(&sums, &scale, &bias);
            everywhere(|isa, threads| {
                check_finished(&expected, isa, &scale, &bias, |chain, to| {
                    with(&a, |a| {
                        gemm_int8_with(isa, threads, m, a, 5, &packed, &b_zero, chain, to);
                    });
                });
            });
        }
    }
}

/// One value of an operation, as the portable kernel gives it.
fn one(op: Binary, a: f32, b: f32) -> f32 {
    let mut y = [0.0];
    lemma_kernels::binary(Isa::PORTABLE, op, &[a], &[b], &mut y);
    y[0]
}

/// Chains that go from value to value, with integers on the way, against one operation after another.
#[test]
fn chains_go_over_integers() {
    let mut source = Source::new(306);
    let how = |scale, zero, signed| Quantisation {
        scale,
        zero,
        signed,
    };
    for n in [1, 16, 40, 64, 65, 150, 520] {
        let m = 7;
        let x = Bytes::new(&mut source, m * n, n % 2 == 0);
        let wild = source.wild(m * n);
        let (columns, factors) = (source.wild(n), source.values(n));
        let u = Bytes::new(&mut source, m * n, false);
        let s = Bytes::new(&mut source, m * n, true).signed();
        let first = how(0.03, if x.1 { -3 } else { 117 }, x.1);
        let (second, third) = (how(0.11, 100, false), how(0.07, -100, true));
        let links = [
            Link::Binary(Binary::Mul, Operand::Value(0), Operand::columns(&factors)),
            Link::Requantise(1, second),
            Link::Dequantise(Int8::Unsigned(&u.0), second),
            Link::Binary(Binary::Add, Operand::Value(3), Operand::Value(2)),
            Link::Unary(Unary::Relu, 4),
            Link::Dequantise(Int8::Signed(&s), third),
            Link::Binary(Binary::Sub, Operand::Value(5), Operand::Value(6)),
            Link::Requantise(7, third),
            Link::Binary(Binary::Max, Operand::Value(8), Operand::Scalar(-0.5)),
            Link::Binary(Binary::Min, Operand::Scalar(6.0), Operand::Value(9)),
            Link::Binary(
                Binary::Div,
                Operand::Value(10),
                Operand::Rows {
                    values: &wild,
                    divide: 1,
                    modulo: usize::MAX,
                },
            ),
            Link::Binary(Binary::Max, Operand::Value(11), Operand::columns(&columns)),
        ];
        let again = |x: f32, how: Quantisation| {
            let [low, high] = if how.signed { [-128, 127] } else { [0, 255] };
            let steps = step(x, how.scale, how.zero, low, high) - i64::from(how.zero);
            canonical(steps as f32 * how.scale)
        };
        let values = x.values();
        for count in 1..=links.len() {
            if matches!(links[count - 1], Link::Dequantise(..)) {
                continue;
            }
            let expected: Vec<f32> = (0..m * n)
                .map(|i| {
                    let mut v = canonical((values[i] - first.zero) as f32 * first.scale);
                    let (us, ss) = (i32::from(u.0[i]) - 100, i32::from(s[i]) + 100);
                    let (ud, sd) = (us as f32 * 0.11, ss as f32 * 0.07);
                    for link in 0..count {
                        v = match link {
                            0 => v * factors[i % n],
                            1 => again(v, second),
                            3 => v + ud,
                            4 if v <= 0.0 => 0.0,
                            6 => v - sd,
                            7 => again(v, third),
                            8 => one(Binary::Max, v, -0.5),
                            9 => one(Binary::Min, v, 6.0),
                            10 => v / wild[i],
                            11 => one(Binary::Max, v, columns[i % n]),
                            _ => v,
                        };
                    }
                    canonical(v)
                })
                .collect();
            let chain = Chain::new(&links[..count]);
            everywhere(|isa, threads| {
                let (scale, zero) = (first.scale, first.zero);
                let mut y = vec![-1.0; m * n];
                with(&x, |x| {
                    let to = Output::Float(&mut y);
                    dequantize(isa, threads, x, scale, zero, n, &chain, to);
                });
                assert_same_bits(&y, &expected, isa);
                let mut narrow = vec![1i8; m * n];
                with(&x, |x| {
                    let to = Output::Quantised {
                        y: Quantised::Signed(&mut narrow),
                        scale: 0.37,
                        zero: -7,
                    };
                    dequantize(isa, threads, x, scale, zero, n, &chain, to);
                });
                for (&x, &y) in expected.iter().zip(&narrow) {
                    assert_eq!(i64::from(y), step(x, 0.37, -7, -128, 127), "{isa} {x:e}");
                }
            });
        }
    }
}

/// Quotients in the middle between two integers, next to it, far beyond the ends, and of terms that cancel out: where the
/// rounding of a shorter way would show.
#[test]
fn chains_to_integers_round_as_defined() {
    // Columns of the last panel: few, or many and not whole registers.
    round_as_defined(200, true);
    round_as_defined(93, false);
}

fn round_as_defined(n: usize, signed_others: bool) {
    let mut source = Source::new(312);
    let m = 13;
    let a: Vec<u8> = (0..m).map(|i| [1, 2, 3, 5, 255][i % 5]).collect();
    let ones = vec![1u8; n];
    let b = PackedInt8::pack(Int8::Unsigned(&ones), 1, n, false);
    let others = Bytes::new(&mut source, m * n, signed_others);
    for (step_size, zero, signed) in [
        (0.37, 11, false),
        (0.0625, 0, false),
        (3e-5, -9, true),
        (1e-38, 0, true),
    ] {
        for kind in 0..6 {
            let middle = |source: &mut Source| step_size * (source.below(300) as f32 - 20.5);
            let beside = |x: f32, source: &mut Source| {
                f32::from_bits(x.to_bits() + source.below(5) as u32 - 2)
            };
            let mut scale: Vec<f32> = (0..n).map(|_| middle(&mut source)).collect();
            let mut bias = vec![0.0; n];
            for j in 0..n {
                match kind {
                    0 => {}
                    1 => scale[j] = beside(scale[j], &mut source),
                    2 => {
                        (scale[j], bias[j]) =
                            (step_size * 0.5, beside(middle(&mut source), &mut source))
                    }
                    3 => {
                        (scale[j], bias[j]) =
                            (step_size * 700.3, beside(-700.8 * step_size, &mut source))
                    }
                    4 => scale[j] *= [1e3, 1e6, 1e20, 1e30][j % 4],
                    _ => bias[j] = [f32::NAN, f32::INFINITY, 1e30, -4e4][j % 4] * step_size,
                }
            }
            let numbers: Vec<f32> = (0..n).map(|_| 0.5 * middle(&mut source)).collect();
            let other = Quantisation {
                scale: step_size * 1.5,
                zero: 3,
                signed: signed_others,
            };
            let first = Quantisation {
                scale: step_size * 0.75,
                zero: 128,
                signed: false,
            };
            let (values, in_twos) = (others.values(), others.signed());
            let bytes = match signed_others {
                true => Int8::Signed(&in_twos),
                false => Int8::Unsigned(&others.0),
            };
            let links = [
                Link::Binary(Binary::Mul, Operand::Value(0), Operand::columns(&scale)),
                Link::Binary(Binary::Add, Operand::Value(1), Operand::columns(&bias)),
                Link::Requantise(2, first),
                Link::Dequantise(bytes, other),
                Link::Binary(Binary::Add, Operand::Value(4), Operand::Value(3)),
                Link::Unary(Unary::Relu, 5),
            ];
            let relu = [links[0], links[1], Link::Unary(Unary::Relu, 2)];
            let [low, high] = if signed { [-128, 127] } else { [0, 255] };
            let columns = [
                links[0],
                links[2],
                Link::Binary(Binary::Add, Operand::columns(&numbers), Operand::Value(2)),
            ];
            let columns = columns.map(|link| match link {
                Link::Requantise(_, how) => Link::Requantise(1, how),
                link => link,
            });
            for chain in [
                &links[..1],
                &links[..2],
                &relu,
                &columns,
                &links[..5],
                &links,
            ] {
                let expected = |i: usize, j: usize| {
                    let mut v = f32::from(a[i]) * scale[j];
                    if matches!(chain, [_, Link::Requantise(..), _]) {
                        let steps = step(v, first.scale, first.zero, 0, 255) - 128;
                        v = numbers[j] + steps as f32 * first.scale;
                    } else if chain.len() > 1 {
                        v += bias[j];
                    }
                    if chain.len() > 3 {
                        let steps = step(v, first.scale, first.zero, 0, 255) - 128;
                        let others = values[i * n + j] - other.zero;
                        v = steps as f32 * first.scale + others as f32 * other.scale;
                    }
                    let cut = matches!(chain, [.., Link::Unary(..)]) && v <= 0.0;
                    step(if cut { 0.0 } else { v }, step_size, zero, low, high)
                };
                let chain = Chain::new(chain);
                everywhere(|isa, threads| {
                    let (mut u, mut s) = (vec![1u8; m * n], vec![1i8; m * n]);
                    let y = match signed {
                        false => Quantised::Unsigned(&mut u),
                        true => Quantised::Signed(&mut s),
                    };
                    let to = Output::Quantised {
                        y,
                        scale: step_size,
                        zero,
                    };
                    gemm_int8_with(isa, threads, m, Int8::Unsigned(&a), 0, &b, &[0], &chain, to);
                    for (at, (&u, &s)) in u.iter().zip(&s).enumerate() {
                        let y = if signed { i64::from(s) } else { i64::from(u) };
                        let (i, j) = (at / n, at % n);
                        assert_eq!(
                            y,
                            expected(i, j),
                            "{isa} {kind} {step_size} {i} {j} {:e} {:e}",
                            scale[j],
                            bias[j]
                        );
                    }
                });
            }
        }
    }
}

/// The error function of one value, as the portable kernel gives it.
fn erf(x: f32) -> f32 {
    let mut y = [x];
    lemma_kernels::unary_in_place(Isa::PORTABLE, Unary::Erf, &mut y);
    y[0]
}

/// Chains in which a value is read again later: GELU, and a value that is kept after another was.
#[test]
fn chains_keep_a_value() {
    let mut source = Source::new(307);
    for n in [5, 64, 300] {
        let m = 6;
        let x = Bytes::new(&mut source, m * n, false);
        let bias = source.wild(n);
        let links = [
            Link::Binary(Binary::Add, Operand::Value(0), Operand::columns(&bias)),
            Link::Binary(
                Binary::Div,
                Operand::Value(1),
                Operand::Scalar(std::f32::consts::SQRT_2),
            ),
            Link::Unary(Unary::Erf, 2),
            Link::Binary(Binary::Add, Operand::Value(3), Operand::Scalar(1.0)),
            Link::Binary(Binary::Mul, Operand::Value(1), Operand::Value(4)),
            Link::Binary(Binary::Mul, Operand::Value(5), Operand::Scalar(0.5)),
            Link::Unary(Unary::Erf, 6),
            Link::Binary(Binary::Sub, Operand::Value(7), Operand::Value(6)),
        ];
        let values = x.values();
        let expected: Vec<f32> = (0..m * n)
            .map(|i| {
                let x = (values[i] - 100) as f32 * 0.03 + bias[i % n];
                let gelu = x * (erf(x / std::f32::consts::SQRT_2) + 1.0) * 0.5;
                canonical(erf(gelu) - gelu)
            })
            .collect();
        let chain = Chain::new(&links);
        everywhere(|isa, threads| {
            let mut y = vec![-1.0; m * n];
            let to = Output::Float(&mut y);
            dequantize(isa, threads, Int8::Unsigned(&x.0), 0.03, 100, n, &chain, to);
            assert_same_bits(&y, &expected, isa);
        });
    }
}

/// Where the operands and results of some products lie.
struct Places {
    starts: [Vec<usize>; 3],
    steps: [[usize; 2]; 2],
    c_row: usize,
}

/// Products of pairs of matrices that lie one after another, and between each other.
#[test]
fn products_of_pairs_follow_the_definition() {
    let mut source = Source::new(308);
    for (batch, [m, k, n]) in [
        (1, [7, 12, 70]),
        (3, [13, 64, 20]),
        (4, [5, 10, 33]),
        (2, [1, 1, 1]),
        (2, [2, 0, 5]),
        (0, [3, 4, 5]),
    ] {
        let each = |size: usize| (0..batch).map(|i| i * size).collect::<Vec<_>>();
        let after = Places {
            starts: [each(m * k), each(k * n), each(m * n)],
            steps: [[k, 1], [n, 1]],
            c_row: n,
        };
        // As the heads of attention lie: the right one by columns.
        let between = Places {
            starts: [each(k), each(k), each(n)],
            steps: [[batch * k, 1], [1, batch * k]],
            c_row: batch * n,
        };
        for (places, form) in [(&after, 0), (&after, 3), (&between, 1), (&between, 2)] {
            let (a_signed, b_signed) = (form & 1 > 0, form & 2 > 0);
            let a = Bytes::new(&mut source, batch * m * k, a_signed);
            let b = Bytes::new(&mut source, batch * k * n, b_signed);
            let (a_zero, b_zero) = (
                if a_signed { -9 } else { 130 },
                if form == 0 { 0 } else { 7 },
            );
            let (av, bv) = (a.values(), b.values());
            let columns = source.values(places.c_row);
            let mut expected = vec![0.0; batch * m * n];
            for i in 0..batch * m * n {
                let (pair, row, column) = (i / (m * n), i / n % m, i % n);
                let [a_start, b_start, c_start] = [0, 1, 2].map(|o| places.starts[o][pair]);
                let sum: i32 = (0..k)
                    .map(|j| {
                        let left = av[a_start + row * places.steps[0][0] + j];
                        let [down, across] = places.steps[1];
                        let right = bv[b_start + j * down + column * across];
                        (left - a_zero) * (right - b_zero)
                    })
                    .sum();
                let to = c_start + row * places.c_row + column;
                expected[to] = sum as f32 * 0.01 + columns[to % places.c_row];
            }
            let links = [
                Link::Binary(Binary::Mul, Operand::Value(0), Operand::Scalar(0.01)),
                Link::Binary(Binary::Add, Operand::Value(1), Operand::columns(&columns)),
            ];
            let chain = Chain::new(&links);
            let run = |isa: Isa, threads: &Threads, to: Output<'_>| {
                with(&a, |a| {
                    with(&b, |b| {
                        let matrices = |values, o: usize| MatricesInt8 {
                            values,
                            starts: &places.starts[o],
                            row: places.steps[o][0],
                            column: places.steps[o][1],
                        };
                        let (a, b) = (matrices(a, 0), matrices(b, 1));
                        let (sizes, c) = ([m, k, n], &places.starts[2]);
                        matmul_int8_with(
                            isa,
                            threads,
                            sizes,
                            &a,
                            a_zero,
                            &b,
                            b_zero,
                            &chain,
                            to,
                            c,
                            places.c_row,
                        );
                    });
                });
            };
            everywhere(|isa, threads| {
                let mut y = vec![-1.0; expected.len()];
                run(isa, threads, Output::Float(&mut y));
                assert_same_bits(&y, &expected, isa);
                let mut narrow = vec![1u8; expected.len()];
                let to = Output::Quantised {
                    y: Quantised::Unsigned(&mut narrow),
                    scale: 0.37,
                    zero: 100,
                };
                run(isa, threads, to);
                for (&x, &y) in expected.iter().zip(&narrow) {
                    assert_eq!(i64::from(y), step(x, 0.37, 100, 0, 255), "{isa}");
                }
            });
        }
    }
}

#[test]
#[should_panic(expected = "results overlap")]
fn results_of_pairs_that_overlap_are_refused() {
    let (values, mut y) = ([1u8; 16], [0.0; 16]);
    let a = MatricesInt8 {
        values: Int8::Unsigned(&values),
        starts: &[0, 0],
        row: 4,
        column: 1,
    };
    let (one, to) = (Threads::single(), Output::Float(&mut y));
    matmul_int8_with(
        Isa::PORTABLE,
        &one,
        [2, 4, 4],
        &a,
        0,
        &a,
        0,
        &Chain::NONE,
        to,
        &[0, 4],
        4,
    );
}
