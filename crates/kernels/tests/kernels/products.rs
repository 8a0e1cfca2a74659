//! Matrix products: every path against the definition of one output.

use crate::common::{Source, assert_canonical, assert_same_bits};
use lemma_kernels::{Isa, PackedB, gemm, matmul, product};

/// `A · B`, each output by the definition.
fn defined(m: usize, k: usize, n: usize, a: &[f32], b: &[f32]) -> Vec<f32> {
    (0..m * n)
        .map(|i| product(&a[i / n * k..(i / n + 1) * k], |j| b[j * n + i % n]))
        .collect()
}

fn transpose(rows: usize, cols: usize, x: &[f32]) -> Vec<f32> {
    (0..rows * cols)
        .map(|i| x[i % rows * cols + i / rows])
        .collect()
}

/// Every way to compute one product gives the bits of the definition.
fn check(m: usize, k: usize, n: usize, a: &[f32], b: &[f32]) {
    let expected = defined(m, k, n, a, b);
    assert_canonical(&expected, "definition");
    let turned = transpose(k, n, b);
    for isa in Isa::available() {
        let what = format!("{isa} {m}x{k}x{n}");
        for (b, transposed) in [(b, false), (turned.as_slice(), true)] {
            let packed = PackedB::pack(b, k, n, transposed);
            let mut c = vec![f32::NAN; m * n];
            gemm(isa, m, a, &packed, &mut c);
            assert_same_bits(&c, &expected, &what);
            c.fill(f32::NAN);
            matmul(isa, 1, m, k, n, a, b, transposed, &mut c);
            assert_same_bits(&c, &expected, format!("{what}, unpacked"));
        }
    }
}

#[test]
fn products_of_all_shapes_follow_the_definition() {
    let mut source = Source::new(1);
    for k in [0, 1, 2, 255, 256, 257, 513] {
        for (m, n) in [
            (0, 3),
            (1, 1),
            (1, 31),
            (1, 33),
            (1, 128),
            (1, 161),
            (2, 40),
            (3, 0),
            (5, 7),
            (7, 64),
        ] {
            check(m, k, n, &source.values(m * k), &source.values(k * n));
        }
    }
    for m in 0..=40 {
        let (k, n) = (source.below(40), 1 + source.below(70));
        check(m, k, n, &source.values(m * k), &source.values(k * n));
    }
    // Tiles of every height, and of every width that ends within a register.
    for m in 1..=8 {
        for n in 1..=65 {
            let k = [2, 259][(m + n) % 2];
            check(m, k, n, &source.values(m * k), &source.values(k * n));
        }
    }
    // More rows than one group, and a row count that splits unevenly.
    check(
        131,
        300,
        35,
        &source.values(131 * 300),
        &source.values(300 * 35),
    );
}

#[test]
fn special_values_follow_the_definition() {
    let mut source = Source::new(2);
    for (m, k, n) in [
        (1, 3, 40),
        (1, 300, 33),
        (4, 2, 35),
        (13, 9, 33),
        (26, 260, 5),
    ] {
        check(m, k, n, &source.wild(m * k), &source.wild(k * n));
        // Zeros of both signs and subnormals only: no NaN hides anything.
        let tiny = |source: &mut Source, n: usize| -> Vec<f32> {
            (0..n)
                .map(|_| source.value() * [0.0, 1e-20, 1e-38, -1e-45][source.below(4)])
                .collect()
        };
        check(
            m,
            k,
            n,
            &tiny(&mut source, m * k),
            &tiny(&mut source, k * n),
        );
    }
}

#[test]
fn a_product_of_zero_depth_is_positive_zero() {
    for isa in Isa::available() {
        let mut c = [f32::NAN; 6];
        gemm(isa, 2, &[], &PackedB::pack(&[], 0, 3, false), &mut c);
        assert_same_bits(&c, &[0.0; 6], isa);
        c.fill(f32::NAN);
        matmul(isa, 1, 2, 0, 3, &[], &[], true, &mut c);
        assert_same_bits(&c, &[0.0; 6], isa);
    }
}

#[test]
fn rows_alone_equal_rows_in_a_batch() {
    let mut source = Source::new(3);
    let (m, k, n) = (29, 517, 45);
    let (a, b) = (source.values(m * k), source.values(k * n));
    let packed = PackedB::pack(&b, k, n, false);
    for isa in Isa::available() {
        let mut whole = vec![0.0; m * n];
        gemm(isa, m, &a, &packed, &mut whole);
        for rows in [1, 2, 7, 12, 13] {
            let mut split = vec![0.0; m * n];
            for (a, c) in a.chunks(rows * k).zip(split.chunks_mut(rows * n)) {
                gemm(isa, c.len() / n, a, &packed, c);
            }
            assert_same_bits(&split, &whole, format!("{isa}, {rows} rows at a time"));
        }
    }
}

#[test]
fn batches_equal_their_single_products() {
    let mut source = Source::new(4);
    let (batch, m, k, n) = (3, 5, 70, 37);
    let (a, b) = (source.values(batch * m * k), source.values(batch * k * n));
    for isa in Isa::available() {
        for (a_step, b_step) in [(m * k, k * n), (0, k * n), (m * k, 0)] {
            let a = &a[..if a_step == 0 { m * k } else { a.len() }];
            let b = &b[..if b_step == 0 { k * n } else { b.len() }];
            let mut c = vec![0.0; batch * m * n];
            matmul(isa, batch, m, k, n, a, b, false, &mut c);
            for (i, c) in c.chunks_exact(m * n).enumerate() {
                let expected = defined(
                    m,
                    k,
                    n,
                    &a[i * a_step..][..m * k],
                    &b[i * b_step..][..k * n],
                );
                assert_same_bits(c, &expected, format!("{isa}, product {i}"));
            }
        }
    }
}

#[test]
fn products_are_close_to_exact_ones() {
    let mut source = Source::new(5);
    let (m, k, n) = (9, 1000, 33);
    let (a, b) = (source.values(m * k), source.values(k * n));
    let mut c = vec![0.0; m * n];
    gemm(
        Isa::detect(),
        m,
        &a,
        &PackedB::pack(&b, k, n, false),
        &mut c,
    );
    for (i, &found) in c.iter().enumerate() {
        let terms = (0..k).map(|j| f64::from(a[i / n * k + j]) * f64::from(b[j * n + i % n]));
        let (exact, size) = terms.fold((0.0, 0.0), |(s, t), x| (s + x, t + x.abs()));
        assert!((f64::from(found) - exact).abs() <= size * 256.0 * f64::from(f32::EPSILON) / 2.0);
    }
}

#[test]
#[should_panic(expected = "gemm: left matrix is not 2 × 3")]
fn a_left_matrix_of_another_shape_is_refused() {
    gemm(
        Isa::PORTABLE,
        2,
        &[0.0; 5],
        &PackedB::pack(&[0.0; 3], 3, 1, false),
        &mut [0.0; 2],
    );
}
