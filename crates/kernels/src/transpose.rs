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
    match rows {
        2 => return interleave::<T, 2>(threads, columns, x, y),
        3 => return interleave::<T, 3>(threads, columns, x, y),
        4 => return interleave::<T, 4>(threads, columns, x, y),
        _ => {}
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

/// Columns of a few rows, as images of a few colours have them, that are interleaved in one task.
const PIECE: usize = 1 << 12;

/// [`transpose`] of matrices of `R` rows.
fn interleave<T: Copy + Send + Sync, const R: usize>(
    threads: &Threads,
    columns: usize,
    x: &[T],
    y: &mut [T],
) {
    let batch = x.len() / (R * columns);
    let pieces = columns.div_ceil(PIECE);
    let out = crate::threads::Slots::of(y);
    threads.run(batch * pieces, |task| {
        let (first, start) = (task % pieces * PIECE, task / pieces * R * columns);
        let count = PIECE.min(columns - first);
        // SAFETY: pieces of the result do not overlap, and each is one task's.
        let to = unsafe { out.slice(start + first * R, count * R) };
        let rows: [&[T]; R] = std::array::from_fn(|r| &x[start + r * columns + first..][..count]);
        for (i, to) in to.as_chunks_mut::<R>().0.iter_mut().enumerate() {
            for (to, row) in to.iter_mut().zip(rows) {
                *to = row[i];
            }
        }
    });
}
