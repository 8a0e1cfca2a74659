//! Reductions and normalisations: bits, order, special values, closeness to exact results.

use crate::common::{Source, assert_canonical, assert_same_bits, everywhere};
use lemma_kernels::{
    Isa, LANES, Reduction, canonical, dot, layer_norm, log_softmax, math, reduce, reduce_with,
    rms_norm, softmax,
};

const REDUCTIONS: [Reduction; 10] = [
    Reduction::Sum,
    Reduction::Mean,
    Reduction::Prod,
    Reduction::Max,
    Reduction::Min,
    Reduction::L1,
    Reduction::L2,
    Reduction::SumSquare,
    Reduction::LogSum,
    Reduction::LogSumExp,
];

/// Sixteen lanes and their tree, written out.
fn lanes(x: &[f32], identity: f32, step: fn(f32, f32) -> f32, join: fn(f32, f32) -> f32) -> f32 {
    let mut lane = [identity; LANES];
    for (i, &v) in x.iter().enumerate() {
        lane[i % LANES] = step(lane[i % LANES], v);
    }
    let eight: [f32; 8] = std::array::from_fn(|i| join(lane[i], lane[i + 8]));
    let four: [f32; 4] = std::array::from_fn(|i| join(eight[i], eight[i + 4]));
    join(join(four[0], four[2]), join(four[1], four[3]))
}

fn add(a: f32, b: f32) -> f32 {
    a + b
}

fn defined(op: Reduction, x: &[f32]) -> f32 {
    let square = |s: f32, v: f32| v.mul_add(v, s);
    canonical(match op {
        Reduction::Sum => lanes(x, 0.0, add, add),
        Reduction::Mean => lanes(x, 0.0, add, add) / x.len() as f32,
        Reduction::Prod => lanes(x, 1.0, |s, v| s * v, |a, b| a * b),
        Reduction::Max => lanes(x, f32::NEG_INFINITY, math::max, math::max),
        Reduction::Min => lanes(x, f32::INFINITY, math::min, math::min),
        Reduction::L1 => lanes(x, 0.0, |s, v| s + v.abs(), add),
        Reduction::L2 => lanes(x, 0.0, square, add).sqrt(),
        Reduction::SumSquare => lanes(x, 0.0, square, add),
        Reduction::LogSum => math::log(lanes(x, 0.0, add, add)),
        Reduction::LogSumExp => {
            let top = lanes(x, f32::NEG_INFINITY, math::max, math::max);
            let shift = if top.is_infinite() { 0.0 } else { top };
            let powers: Vec<f32> = x.iter().map(|&v| math::exp(v - shift)).collect();
            shift + math::log(lanes(&powers, 0.0, add, add))
        }
    })
}

#[test]
fn reductions_follow_the_definition() {
    let mut source = Source::new(31);
    for len in (0..=50).chain([255, 256, 257, 1000]) {
        for wild in [false, true] {
            let x = if wild {
                source.wild(3 * len)
            } else {
                source.values(3 * len)
            };
            for op in REDUCTIONS {
                let expected: Vec<f32> = (0..3)
                    .map(|i| defined(op, &x[i * len..(i + 1) * len]))
                    .collect();
                assert_canonical(&expected, format!("{op:?}"));
                for isa in Isa::available() {
                    let mut y = [f32::NAN; 3];
                    reduce(isa, op, 3, len, 1, &x, &mut y);
                    assert_same_bits(&y, &expected, format!("{isa} {op:?} of {len}"));
                }
            }
        }
    }
}

#[test]
fn columns_reduce_like_rows() {
    let mut source = Source::new(32);
    for (outer, len, inner) in [
        (2, 37, 5),
        (1, 16, 40),
        (3, 1, 33),
        (1, 0, 3),
        (2, 100, 16),
        (1, 20, 600),
        (2, 19, 270),
        (0, 4, 4),
        (2, 4, 0),
    ] {
        let x = source.wild(outer * len * inner);
        for op in REDUCTIONS {
            let expected: Vec<f32> = (0..outer * inner)
                .map(|i| {
                    let column = |j: usize| x[(i / inner * len + j) * inner + i % inner];
                    defined(op, &(0..len).map(column).collect::<Vec<_>>())
                })
                .collect();
            everywhere(|isa, threads| {
                let mut y = vec![f32::NAN; outer * inner];
                reduce_with(isa, threads, op, [outer, len, inner], &x, &mut y);
                assert_same_bits(
                    &y,
                    &expected,
                    format!("{isa} {threads:?} {op:?} of {outer}x{len}x{inner}"),
                );
            });
        }
    }
}

#[test]
fn reductions_of_nothing_give_their_identity() {
    let expected = [
        0.0,
        f32::NAN,
        1.0,
        f32::NEG_INFINITY,
        f32::INFINITY,
        0.0,
        0.0,
        0.0,
        f32::NEG_INFINITY,
        f32::NEG_INFINITY,
    ];
    for (op, expected) in REDUCTIONS.into_iter().zip(expected) {
        let mut y = [5.0];
        reduce(Isa::detect(), op, 1, 0, 1, &[], &mut y);
        assert_eq!(y[0].to_bits(), expected.to_bits(), "{op:?}");
    }
}

#[test]
fn dot_products_run_in_lanes() {
    let mut source = Source::new(33);
    for n in 0..70 {
        let (a, b) = (source.wild(n), source.wild(n));
        let mut lane = [0.0f32; LANES];
        for i in 0..n {
            lane[i % LANES] = a[i].mul_add(b[i], lane[i % LANES]);
        }
        let expected = canonical(lanes(&lane, -0.0, add, add));
        for isa in Isa::available() {
            assert_same_bits(&[dot(isa, &a, &b)], &[expected], format!("{isa} {n}"));
        }
    }
}

type Row<'a> = &'a dyn Fn(Isa, &[f32], &mut [f32]);

/// Each instruction set gives the same bits, and each row is by itself.
fn check_rows(cols: usize, x: &[f32], what: &str, kernel: Row<'_>) -> Vec<f32> {
    let mut expected = vec![0.0; x.len()];
    kernel(Isa::PORTABLE, x, &mut expected);
    assert_canonical(&expected, what);
    for isa in Isa::available() {
        let mut y = vec![0.0; x.len()];
        kernel(isa, x, &mut y);
        assert_same_bits(&y, &expected, format!("{isa} {what} of {cols}"));
        for (x, y) in x
            .chunks_exact(cols.max(1))
            .zip(y.chunks_exact_mut(cols.max(1)))
        {
            let before = y.to_vec();
            kernel(isa, x, y);
            assert_same_bits(y, &before, format!("{isa} {what}, one row of {cols}"));
        }
    }
    expected
}

#[test]
fn rows_agree_and_come_close_to_exact_results() {
    let mut source = Source::new(34);
    for cols in [1, 2, 15, 16, 17, 33, 100, 257] {
        let x: Vec<f32> = source.values(4 * cols).iter().map(|v| v * 10.0).collect();
        let (scale, bias) = (source.values(cols), source.values(cols));
        let wild = source.wild(4 * cols);
        let softmaxes: Row<'_> = &|isa, x, y| softmax(isa, cols, x, y);
        let logs: Row<'_> = &|isa, x, y| log_softmax(isa, cols, x, y);
        let layers: Row<'_> = &|isa, x, y| layer_norm(isa, 1e-5, &scale, Some(&bias), x, y);
        let plain: Row<'_> = &|isa, x, y| layer_norm(isa, 1e-5, &scale, None, x, y);
        let roots: Row<'_> = &|isa, x, y| rms_norm(isa, 1e-6, &scale, x, y);
        for (what, kernel) in [
            ("softmax", softmaxes),
            ("log softmax", logs),
            ("layer norm", layers),
            ("plain layer norm", plain),
            ("RMS norm", roots),
        ] {
            check_rows(cols, &wild, what, kernel);
            let y = check_rows(cols, &x, what, kernel);
            for (x, y) in x.chunks(cols).zip(y.chunks(cols)) {
                let exact = exact(what, x, &scale, &bias);
                for (&found, exact) in y.iter().zip(exact) {
                    let error = (f64::from(found) - exact).abs();
                    assert!(
                        error < 2e-5 * (1.0 + exact.abs()),
                        "{what} of {cols}: {found} for {exact}"
                    );
                }
            }
        }
    }
}

fn exact(what: &str, x: &[f32], scale: &[f32], bias: &[f32]) -> Vec<f64> {
    let x: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
    let n = x.len() as f64;
    let total: f64 = x.iter().map(|v| v.exp()).sum();
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
    let square = x.iter().map(|v| v * v).sum::<f64>() / n;
    (0..x.len())
        .map(|i| {
            let (scale, bias) = (f64::from(scale[i]), f64::from(bias[i]));
            match what {
                "softmax" => x[i].exp() / total,
                "log softmax" => x[i] - total.ln(),
                "layer norm" => (x[i] - mean) / (variance + 1e-5).sqrt() * scale + bias,
                "plain layer norm" => (x[i] - mean) / (variance + 1e-5).sqrt() * scale,
                _ => x[i] / (square + 1e-6).sqrt() * scale,
            }
        })
        .collect()
}

#[test]
fn special_rows_of_softmax() {
    let nan = f32::NAN;
    let inf = f32::INFINITY;
    for (x, expected) in [
        ([0.0, -inf, 0.0], [0.5, 0.0, 0.5]),
        ([-inf, -inf, -inf], [nan; 3]),
        ([1.0, inf, 2.0], [nan; 3]),
        ([1.0, nan, 2.0], [nan; 3]),
        ([-200.0, 0.0, f32::MIN], [0.0, 1.0, 0.0]),
    ] {
        for isa in Isa::available() {
            let mut y = [1.0; 3];
            softmax(isa, 3, &x, &mut y);
            let found = y.map(f32::to_bits);
            assert_eq!(
                found,
                expected.map(f32::to_bits),
                "{isa} softmax of {x:?}: {y:?}"
            );
        }
    }
}

#[test]
fn empty_inputs_give_empty_outputs() {
    softmax(Isa::detect(), 0, &[], &mut []);
    log_softmax(Isa::detect(), 4, &[], &mut []);
    layer_norm(Isa::detect(), 0.0, &[], None, &[], &mut []);
    rms_norm(Isa::detect(), 0.0, &[], &[], &mut []);
}

#[test]
#[should_panic(expected = "softmax: 5 values are no whole number of rows of 2")]
fn a_partial_row_is_refused() {
    softmax(Isa::PORTABLE, 2, &[0.0; 5], &mut [0.0; 5]);
}
