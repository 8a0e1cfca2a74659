//! The definition of one output of a matrix product.

use super::BLOCK_K;
use crate::math::canonical;

/// One output of a matrix product, as the numeric specification defines it: the sum of
/// `row[k] · column(k)`, +0.0 for an empty row.
///
/// This is what [`gemm`](crate::gemm), [`matmul`](crate::matmul) and [`conv`](crate::conv)
/// compute for each output, here written plainly, for tests and for whoever checks a single
/// disputed value.
pub fn product(row: &[f32], column: impl Fn(usize) -> f32) -> f32 {
    let mut total = 0.0f32;
    for (block, values) in row.chunks(BLOCK_K).enumerate() {
        let mut sum = 0.0f32;
        for (k, &value) in values.iter().enumerate() {
            sum = value.mul_add(column(block * BLOCK_K + k), sum);
        }
        total = if block == 0 { sum } else { total + sum };
    }
    canonical(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_sum_is_positive_zero() {
        assert_eq!(product(&[], |_| 1.0).to_bits(), 0);
    }

    #[test]
    fn a_product_is_fused_with_its_sum() {
        // (1 + 2⁻¹²)² = 1 + 2⁻¹¹ + 2⁻²⁴: the last term survives only in a fused chain.
        let x = 1.0 + 2f32.powi(-12);
        let row = [1.0, x];
        let column = [-1.0 - 2f32.powi(-11), x];
        assert_eq!(product(&row, |k| column[k]), 2f32.powi(-24));
    }

    #[test]
    fn blocks_are_summed_apart() {
        // In one chain 2⁻²⁴ would vanish 256 times beside 1; as a block they sum to 2⁻¹⁶ first.
        let mut row = vec![2f32.powi(-24); 512];
        row[..256].fill(0.0);
        row[0] = 1.0;
        assert_eq!(product(&row, |_| 1.0), 1.0 + 2f32.powi(-16));
        assert_eq!(product(&row[..257], |_| 1.0), 1.0);
    }

    #[test]
    fn nan_is_canonical() {
        let odd = f32::from_bits(0xffab_cdef);
        assert_eq!(product(&[odd], |_| 1.0).to_bits(), 0x7fc0_0000);
        assert_eq!(product(&[f32::INFINITY], |_| 0.0).to_bits(), 0x7fc0_0000);
    }
}
