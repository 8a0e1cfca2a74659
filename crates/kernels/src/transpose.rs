//! Transposition.
#![allow(unsafe_code)]

use crate::threads::Threads;

/// Side of the squares that are turned together: a square of each side fits the cache.
const SIDE: usize = 16;

/// Transposes each of `batch` matrices of `rows × columns` values.
///
/// # Panics
/// If `x` or `y` has another length than the shape says.
pub fn transpose<T: Copy + Send + Sync>(
    threads: &Threads,
    batch: usize,
    rows: usize,
    columns: usize,
    x: &[T],
    y: &mut [T],
) {
    assert_eq!(x.len(), batch * rows * columns, "transpose: input length");
    assert_eq!(y.len(), x.len(), "transpose: output length");
    if x.is_empty() {
        return;
    }
    // A task is up to 16 rows of one result.
    let bands = columns.div_ceil(SIDE);
    let out = crate::threads::Slots::of(y);
    threads.run(batch * bands, |task| {
        let (matrix, band) = (task / bands, task % bands);
        let (first, start) = (band * SIDE, matrix * rows * columns);
        let height = SIDE.min(columns - first);
        // SAFETY: bands of one result do not overlap, and each is one task's.
        let band = unsafe { out.slice(start + first * rows, height * rows) };
        let x = &x[start..start + rows * columns];
        for left in (0..rows).step_by(SIDE) {
            let width = SIDE.min(rows - left);
            for (i, line) in band.chunks_exact_mut(rows).enumerate() {
                let column = x[left * columns + first + i..].iter().step_by(columns);
                for (to, &from) in line[left..left + width].iter_mut().zip(column) {
                    *to = from;
                }
            }
        }
    });
}
