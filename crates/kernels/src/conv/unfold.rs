//! Convolution as a matrix product: filters times the unfolded input, of which only a few panels
//! exist at a time.

use std::borrow::Cow;

use crate::gemm::{PANEL, Row, Slivers, multiply_made};
use crate::isa::Isa;
use crate::sheet::Layout;
use crate::window::Window;

/// One group of one image: all filters over the planes `x`.
pub(super) fn convolve(isa: Isa, window: &Window, x: &[f32], filters: &Slivers, y: &mut [f32]) {
    let layout = Layout::of(window);
    let sheet = if layout.is_plain() {
        Cow::Borrowed(x)
    } else {
        let mut sheet = layout.empty(x.len() / window.input_len(), 0.0);
        layout.write(x, &mut sheet);
        Cow::Owned(sheet)
    };
    let (depth, taps) = (filters.k(), layout.taps());
    let make = |first: usize, rows: &mut [Row]| {
        for (i, panel) in rows.chunks_exact_mut(depth).enumerate() {
            let runs = Runs::of(window, &layout, (first + i) * PANEL);
            for (channel, rows) in panel.chunks_exact_mut(taps.len()).enumerate() {
                runs.unfold(&sheet[channel * layout.plane()..], &taps, rows);
            }
        }
    };
    multiply_made(isa, filters, window.output_len(), y, &mut Vec::new(), make);
}

/// The outputs of one panel, cut where the innermost axis begins anew.
struct Runs {
    /// First column, number of columns, offset in the sheet.
    runs: [(usize, usize, usize); PANEL],
    count: usize,
}

impl Runs {
    fn of(window: &Window, layout: &Layout, first: usize) -> Runs {
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
            let offset = layout.position([line / b.output, line % b.output, oc]);
            runs.runs[runs.count] = (column, len, offset);
            runs.count += 1;
            column += len;
        }
        runs
    }

    /// Writes the values of one plane under each tap, one row for each.
    fn unfold(&self, plane: &[f32], taps: &[usize], rows: &mut [Row]) {
        let runs = &self.runs[..self.count];
        for (row, &tap) in rows.iter_mut().zip(taps) {
            let values = &plane[tap..];
            row.0 = match *runs {
                [(_, PANEL, offset)] => *values[offset..]
                    .first_chunk()
                    .expect("a whole run lies in the plane"),
                _ => gather(values, runs),
            };
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
