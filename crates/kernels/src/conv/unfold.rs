//! Convolution as a matrix product: filters times the unfolded input, of which only a few panels
//! exist at a time.

use crate::gemm::{PANEL, Row, Slivers, multiply_made};
use crate::isa::Isa;
use crate::sheet::Sheet;
use crate::window::Window;

/// One group of one image: all filters over the planes `x`.
pub(super) fn convolve(isa: Isa, window: &Window, x: &[f32], filters: &Slivers, y: &mut [f32]) {
    let sheet = Sheet::borrow(window, x, 0.0);
    let taps = sheet.taps();
    let depth = filters.k();
    multiply_made(
        isa,
        filters,
        window.output_len(),
        y,
        &mut Vec::new(),
        |first, rows| {
            for (i, panel) in rows.chunks_exact_mut(depth).enumerate() {
                let runs = Runs::of(window, &sheet, (first + i) * PANEL);
                unfold(&sheet, &taps, &runs, panel);
            }
        },
    );
}

/// The outputs of one panel, cut where the innermost axis begins anew.
struct Runs {
    /// First column, number of columns, offset in the sheet.
    runs: [(usize, usize, usize); PANEL],
    count: usize,
}

impl Runs {
    fn of(window: &Window, sheet: &Sheet<'_>, first: usize) -> Runs {
        let [_, b, c] = &window.axes;
        let width = PANEL.min(window.output_len() - first);
        let mut runs = Runs {
            runs: [(0, 0, 0); PANEL],
            count: 0,
        };
        let mut column = 0;
        while column < width {
            let output = first + column;
            let (line, oc) = (output / c.output, output % c.output);
            let len = (c.output - oc).min(width - column);
            let offset = sheet.position([line / b.output, line % b.output, oc]);
            runs.runs[runs.count] = (column, len, offset);
            runs.count += 1;
            column += len;
        }
        runs
    }
}

/// Writes the input under each tap, one row of the panel for each.
fn unfold(sheet: &Sheet<'_>, taps: &[usize], runs: &Runs, panel: &mut [Row]) {
    for (channel, rows) in panel.chunks_exact_mut(taps.len()).enumerate() {
        let plane = sheet.planes_from(channel);
        for (row, &tap) in rows.iter_mut().zip(taps) {
            match runs.runs[..runs.count] {
                [(_, PANEL, offset)] => {
                    if let Some(whole) = plane[offset + tap..].first_chunk() {
                        row.0 = *whole;
                    }
                }
                ref several => row.0 = gather(&plane[tap..], several),
            }
        }
    }
}

/// A row put together from several runs; columns beyond the last are zero.
#[inline]
fn gather(values: &[f32], runs: &[(usize, usize, usize)]) -> [f32; PANEL] {
    /// Copying a fixed number of values is one or two moves; what a run writes too much, the next
    /// overwrites.
    const STEP: usize = 16;
    let mut wide = [0.0; PANEL + STEP];
    let mut end = 0;
    for &(column, len, offset) in runs {
        end = column + len;
        let mut done = 0;
        while done < len {
            let to = column + done;
            let source = &values[offset + done..];
            match source.first_chunk::<STEP>() {
                Some(chunk) => wide[to..to + STEP].copy_from_slice(chunk),
                None => wide[to..end].copy_from_slice(&source[..len - done]),
            }
            done += STEP;
        }
    }
    wide[end..].fill(0.0);
    let mut row = [0.0; PANEL];
    row.copy_from_slice(&wide[..PANEL]);
    row
}
