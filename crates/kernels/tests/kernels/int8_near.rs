//! Integer products of values most of which are near their zero point, by weights of which four together often fit
//! 16 bits: on some instruction sets they go their own way.

use crate::common::{Source, everywhere, product};
use lemma_kernels::int8::{Int8, PackedInt8, gemm_int8};

/// Bytes around a zero point, one of so many anywhere.
fn near(source: &mut Source, n: usize, zero: i32, seldom: usize) -> Vec<u8> {
    let value = |source: &mut Source| match source.below(seldom) {
        0 => [0, 1, 254, 255, source.bits() as u8][source.below(5)],
        _ => (zero + source.below(140) as i32 - 70).clamp(0, 255) as u8,
    };
    (0..n).map(|_| value(source)).collect()
}

/// Weights most of which are small.
fn weights(source: &mut Source, n: usize, seldom: usize) -> Vec<i8> {
    let value = |source: &mut Source| match source.below(seldom) {
        0 => [-128, -127, 127, source.bits() as i8][source.below(4)],
        _ => source.below(127) as i8 - 63,
    };
    (0..n).map(|_| value(source)).collect()
}

/// Compares a product with its definition, everywhere.
fn check(a: &[u8], [m, k, n]: [usize; 3], a_zero: i32, b: &[i8], b_zero: i32, what: &str) {
    let (av, bv): (Vec<_>, Vec<_>) = (
        a.iter().map(|&a| a.into()).collect(),
        b.iter().map(|&b| b.into()).collect(),
    );
    let expected = product([m, k, n], [&av, &bv], [&[a_zero], &[b_zero]]);
    let packed = PackedInt8::pack(Int8::Signed(b), k, n, false).ordered();
    everywhere(|isa, threads| {
        let mut c = vec![-1; m * n];
        let a = Int8::Unsigned(a);
        gemm_int8(isa, threads, m, a, &[a_zero], &packed, &[b_zero], &mut c);
        assert!(c == expected, "{isa} {threads:?} {what}");
    });
    let unpacked: Vec<i8> = packed.unpack().iter().map(|b| b.cast_signed()).collect();
    assert!(unpacked == b, "{what}");
}

#[test]
fn products_of_values_near_a_zero_point() {
    let mut source = Source::new(311);
    for (m, k, n) in [
        (13, 700, 200),
        (5, 36, 16),
        (61, 332, 97),
        (7, 650, 64),
        (1, 320, 40),
    ] {
        for zero in [0, 1, 64, 65, 128, 190, 191, 192, 255] {
            for seldom in [3, 30, 400] {
                let a = near(&mut source, m * k, zero, seldom);
                let b = weights(&mut source, k * n, 50 * seldom);
                let what = format!("{m} × {k} × {n}, {zero}, {seldom}");
                check(&a, [m, k, n], zero, &b, [0, 3][seldom % 2], &what);
            }
        }
    }
}

/// Of one sign, 255 and 256 in four products at once, by values at the end of their reach and beyond it.
#[test]
fn products_that_just_fit() {
    let patterns: [[[i8; 4]; 2]; 6] = [
        [[127, 0, 127, 1], [127, 1, 127, 0]],
        [[127, 1, 127, 1], [127, 1, 127, 1]],
        [[-128, 0, -128, 0], [-127, 0, 0, -127]],
        [[-128, 0, 0, -128], [-128, 0, 0, -128]],
        [[-128, -128, 127, 127], [127, 127, -128, -128]],
        [[-64, -64, 64, 64], [-64, -63, 63, 64]],
    ];
    let (m, k, n) = (6, 648, 70);
    for (index, pattern) in patterns.iter().enumerate() {
        let at = |i: usize| pattern[i / n / 4 % 2][i / n % 4];
        let b: Vec<i8> = (0..k * n).map(at).collect();
        for (zero, reach, far) in [
            (0, 128, 255),
            (64, 128, 255),
            (100, 164, 0),
            (191, 255, 0),
            (0, 0, 255),
        ] {
            let value = |i: usize| if i % 37 == 36 { far } else { reach };
            let a: Vec<u8> = (0..m * k).map(value).collect();
            check(&a, [m, k, n], zero, &b, 0, &format!("{index}, {zero}"));
        }
    }
}
