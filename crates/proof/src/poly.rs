//! Multilinear polynomials. The variables of a point are ordered from the most significant bit of
//! an index to the least.

use rayon::prelude::*;

use crate::field::{Base, Ext, LANES, PackedExt, PrimeCharacteristicRing, pack};

/// `eq(point, i)` for every index.
pub(crate) fn eq_table(point: &[Ext]) -> Vec<Ext> {
    eq_scaled(point, Ext::ONE)
}

/// `scale · eq(point, i)` for every index.
pub(crate) fn eq_scaled(point: &[Ext], scale: Ext) -> Vec<Ext> {
    let mut table = Vec::with_capacity(1 << point.len());
    table.push(scale);
    for &r in point {
        let mut next = Vec::with_capacity(table.len() * 2);
        for &v in &table {
            let high = v * r;
            next.push(v - high);
            next.push(high);
        }
        table = next;
    }
    table
}

/// `eq(point, i)` for every index, packed; needs at least as many variables as lanes call for.
pub(crate) fn eq_packed(point: &[Ext]) -> Vec<PackedExt> {
    let split = point.len() - LANES.trailing_zeros() as usize;
    let low = pack(&eq_table(&point[split..]))[0];
    let high = eq_table(&point[..split]);
    high.into_par_iter()
        .with_min_len(1024)
        .map(|h| low * PackedExt::from(h))
        .collect()
}

/// `eq(a, b)`.
pub(crate) fn eq_eval(a: &[Ext], b: &[Ext]) -> Ext {
    a.iter()
        .zip(b)
        .map(|(&x, &y)| {
            let xy = x * y;
            Ext::ONE - x - y + xy + xy
        })
        .product()
}

/// `eq(point, i)` for one index.
pub(crate) fn eq_index(point: &[Ext], index: usize) -> Ext {
    let n = point.len();
    point
        .iter()
        .enumerate()
        .map(|(j, &r)| {
            if index >> (n - 1 - j) & 1 == 1 {
                r
            } else {
                Ext::ONE - r
            }
        })
        .product()
}

/// `Σ eq(point, i)` over the indices below `size`: the multilinear extension of the indicator.
pub(crate) fn below(size: usize, point: &[Ext]) -> Ext {
    let n = point.len();
    if size >= 1 << n {
        return Ext::ONE;
    }
    let (mut sum, mut prefix) = (Ext::ZERO, Ext::ONE);
    for (j, &r) in point.iter().enumerate() {
        if size >> (n - 1 - j) & 1 == 1 {
            sum += prefix * (Ext::ONE - r);
            prefix *= r;
        } else {
            prefix *= Ext::ONE - r;
        }
    }
    sum
}

/// `Σ i · eq(point, i)`: the multilinear extension of the index itself.
pub(crate) fn index_eval(point: &[Ext]) -> Ext {
    point.iter().fold(Ext::ZERO, |sum, &r| sum.double() + r)
}

/// The value of a multilinear polynomial, given by its values at the indices, at a point.
pub(crate) fn evaluate(values: &[Base], point: &[Ext]) -> Ext {
    debug_assert_eq!(values.len(), 1 << point.len());
    let split = point.len() / 2;
    let (high, low) = (eq_table(&point[..split]), eq_table(&point[split..]));
    values
        .chunks(low.len())
        .zip(high)
        .map(|(row, h)| h * row.iter().zip(&low).map(|(&v, &e)| e * v).sum::<Ext>())
        .sum()
}

/// Values as a polynomial of at most quadratic degree: `u(0)`, `u(1)` and the leading coefficient.
pub(crate) fn quadratic(at_0: Ext, at_1: Ext, leading: Ext, x: Ext) -> Ext {
    at_0 + x * (at_1 - at_0 - leading + leading * x)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(n: usize) -> Vec<Ext> {
        (0..n)
            .map(|i| crate::field::ext_from_fn(|d| Base::from_u32((i * 7 + d * 3 + 5) as u32)))
            .collect()
    }

    #[test]
    fn tables_and_closed_forms_agree() {
        let r = point(5);
        let table = eq_table(&r);
        let other = &point(9)[4..];
        for size in 0..=32 {
            assert_eq!(below(size, &r), table[..size].iter().copied().sum());
        }
        let index: Ext = table
            .iter()
            .enumerate()
            .map(|(i, &e)| e * Base::from_usize(i))
            .sum();
        assert_eq!(index_eval(&r), index);
        for (i, &e) in table.iter().enumerate() {
            assert_eq!(eq_index(&r, i), e);
        }
        let dot: Ext = table.iter().zip(eq_table(other)).map(|(&a, b)| a * b).sum();
        assert_eq!(eq_eval(&r, other), dot);
        let values: Vec<Base> = (0..32).map(|i| Base::from_u32(i * i + 3)).collect();
        let sum: Ext = table.iter().zip(&values).map(|(&e, &v)| e * v).sum();
        assert_eq!(evaluate(&values, &r), sum);
        if r.len() >= LANES.trailing_zeros() as usize {
            assert_eq!(crate::field::unpack(&eq_packed(&r)), table);
        }
    }
}
