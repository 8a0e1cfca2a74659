//! Integer products against the definition, on every instruction set.

mod common;

use common::Source;
use lemma_kernels::int8::{FiltersInt8, Int8, PackedInt8, conv_int8, gemm_int8};
use lemma_kernels::{Conv, ConvSpec, Isa, Threads};

struct Bytes(Vec<u8>, bool);

impl Bytes {
    fn new(source: &mut Source, n: usize, signed: bool) -> Bytes {
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

fn with<R>(bytes: &Bytes, f: impl FnOnce(Int8<'_>) -> R) -> R {
    if bytes.1 {
        f(Int8::Signed(&bytes.signed()))
    } else {
        f(Int8::Unsigned(&bytes.0))
    }
}

fn everywhere(mut check: impl FnMut(Isa, &Threads)) {
    for threads in 1..=3 {
        let threads = Threads::new(threads);
        for isa in Isa::available() {
            check(isa, &threads);
        }
    }
}

#[test]
fn products_follow_the_definition() {
    let mut source = Source::new(301);
    for (m, k, n) in [
        (1, 1, 1),
        (1, 300, 200),
        (8, 63, 49),
        (100, 17, 48),
        (13, 258, 97),
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
            let mut expected = vec![0i32; m * n];
            for (i, out) in expected.iter_mut().enumerate() {
                let (row, column) = (i / n, i % n);
                let (za, zb) = (a_zero[row % a_zero.len()], b_zero[column % b_zero.len()]);
                *out = (0..k).fold(0i32, |s, j| {
                    s.wrapping_add((av[row * k + j] - za).wrapping_mul(bv[j * n + column] - zb))
                });
            }
            let packed = with(&b, |b| PackedInt8::pack(b, k, n, false));
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

#[test]
fn the_largest_sums_do_not_saturate() {
    let (m, k, n) = (2, 4096, 50);
    let (a, b) = (vec![255u8; m * k], vec![-128i8; k * n]);
    let packed = PackedInt8::pack(Int8::Signed(&b), k, n, true);
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
