//! Convolution with the channels first, as a matrix product: filters times the unfolded input, of
//! which one panel exists at a time.
#![allow(unsafe_code)]

use std::borrow::Cow;

use crate::epilogue::Epilogue;
use crate::gemm::{GROUP, Left, Order, PANEL, Right, UNIT, Unit, multiply};
use crate::isa::Isa;
use crate::sheet::Layout;
use crate::window::Window;

/// One group of one image: all filters, `depth` values each, over the planes `x`.
pub(super) fn convolve(
    isa: Isa,
    window: &Window,
    depth: usize,
    x: &[f32],
    filters: &[f32],
    y: &mut [f32],
) {
    let layout = Layout::of(window);
    let sheet = if layout.is_plain() {
        Cow::Borrowed(x)
    } else {
        let mut sheet = layout.empty(x.len() / window.input_len(), 0.0);
        layout.write(x, &mut sheet);
        Cow::Owned(sheet)
    };
    let (outputs, channels) = (window.output_len(), filters.len() / depth);
    let taps = layout.taps();
    let mut units = vec![Unit::ZERO; depth * (PANEL / UNIT).min(outputs.div_ceil(UNIT))];
    for first in (0..outputs).step_by(PANEL) {
        let width = PANEL.min(outputs - first);
        let count = width.div_ceil(UNIT);
        for unit in 0..count {
            let runs = Runs::of(window, &layout, first + unit * UNIT);
            let mut rows = units[unit..].iter_mut().step_by(count);
            for channel in 0..depth / taps.len() {
                let plane = &sheet[channel * layout.plane()..];
                for (&tap, unit) in taps.iter().zip(&mut rows) {
                    unit.0 = runs.gather(&plane[tap..]);
                }
            }
        }
        let right = Right {
            units: &units[..count * depth],
            k: depth,
            n: width,
            order: Order::Rows,
        };
        for channel in (0..channels).step_by(GROUP) {
            let height = GROUP.min(channels - channel);
            let mut rows = [0; GROUP];
            for (i, row) in rows[..height].iter_mut().enumerate() {
                *row = (channel + i) * depth;
            }
            let lines =
                &mut y[channel * outputs + first..(channel + height - 1) * outputs + first + width];
            // SAFETY: these lines, `outputs` apart, are all of the result that is written.
            unsafe {
                let rows = &rows[..height];
                multiply(
                    isa,
                    &Left::rows(filters),
                    rows,
                    right,
                    &Epilogue::NONE,
                    lines.as_mut_ptr(),
                    outputs,
                );
            }
        }
    }
}

/// The outputs of one unit, cut where the innermost axis begins anew.
struct Runs {
    /// First column, number of columns, offset in the sheet.
    runs: [(usize, usize, usize); UNIT],
    count: usize,
}

impl Runs {
    fn of(window: &Window, layout: &Layout, first: usize) -> Runs {
        let [_, b, c] = &window.axes;
        let width = UNIT.min(window.output_len() - first);
        let mut runs = Runs {
            runs: [(0, 0, 0); UNIT],
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

    /// The values of one plane under one tap; columns beyond the last are zero.
    fn gather(&self, values: &[f32]) -> [f32; UNIT] {
        let runs = &self.runs[..self.count];
        if let [(_, UNIT, offset)] = *runs
            && let Some(whole) = values[offset..].first_chunk()
        {
            return *whole;
        }
        let mut row = [0.0; UNIT];
        for &(column, len, offset) in runs {
            row[column..column + len].copy_from_slice(&values[offset..offset + len]);
        }
        row
    }
}
