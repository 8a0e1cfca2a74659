//! The bytes under the taps of windows, where each channel has its own filter: the way along lines of outputs.
//!
//! Where a tap is in the padding, or there is none, a place of zero points is read.
//!
//! Outputs of windows that are one place apart may be taken for one (see [`fold`](super::fold)) where the input has its
//! padding.

use super::each_line;
use crate::conv::Conv;
use crate::int8::Int8;
use crate::int8::input::reach;
use crate::int8::pack::COLUMNS;
use crate::int8::walk::{Finish, Place, ROWS, Tile};
use crate::threads::Threads;
use crate::window::AXES;

/// The input of such a convolution.
pub(super) struct Under<'a> {
    conv: &'a Conv,
    /// The bytes, and whether they have a sign.
    x: &'a [u8],
    pub(super) signed: bool,
    /// Places of each axis of the input, and how many there are in the padding before these.
    sizes: [usize; AXES],
    before: [usize; AXES],
    /// Outputs that are taken for one, and all their channels.
    fold: usize,
    n: usize,
    /// Zero points, a place of the input.
    padding: Vec<u8>,
    /// The last bytes of the input, followed by others.
    end: Vec<u8>,
}

impl<'a> Under<'a> {
    /// The input `x` and its zero point, raised if `x` has a sign. Of a place, bytes are read up to a multiple of `step`. With a
    /// `fold` other than 1, `x` has its padding.
    pub(super) fn new(
        conv: &'a Conv,
        x: Int8<'a>,
        zero: u8,
        fold: usize,
        step: usize,
    ) -> Under<'a> {
        let axes = &conv.window().axes;
        let (sizes, before) = match fold {
            1 => (
                axes.each_ref().map(|axis| axis.input),
                axes.each_ref().map(|axis| axis.begin),
            ),
            _ => (axes.each_ref().map(reach), [0; AXES]),
        };
        let n = fold * conv.out_channels();
        let places: usize = sizes.iter().product();
        assert_eq!(
            x.len(),
            conv.batch() * places * conv.out_channels(),
            "input of a convolution"
        );
        let (x, signed) = (x.bits(), matches!(x, Int8::Signed(_)));
        let read = n.next_multiple_of(step);
        let mut end = x[x.len().saturating_sub(read)..].to_vec();
        end.resize(end.len() + read, 0);
        Under {
            conv,
            x,
            signed,
            sizes,
            before,
            fold,
            n,
            padding: vec![if signed { zero ^ 0x80 } else { zero }; read],
            end,
        }
    }

    /// Goes over all lines of the outputs. `tile` makes the sums of some outputs and up to 64 channels, of the places that are
    /// under `taps` taps of each.
    pub(super) fn lines(
        &self,
        threads: &Threads,
        taps: usize,
        out: &impl Finish,
        tile: impl Fn(&[*const u8], Place, &mut Tile) + Sync,
    ) {
        each_line(threads, self.conv, |line, sums| {
            self.line(line, taps, |places, at| {
                tile(places, at, sums);
                // SAFETY: each line is one task's.
                unsafe { out.finish(at, sums) };
            });
        });
    }

    /// Goes over line `line` of the outputs, tile by tile.
    fn line(&self, line: usize, taps: usize, mut take: impl FnMut(&[*const u8], Place)) {
        let width = self.conv.window().axes[2].output / self.fold;
        let lines = self.lines_under(line);
        // Taps that there are not read the padding.
        let mut places = vec![self.padding.as_ptr(); ROWS * taps];
        for first in (0..width).step_by(ROWS) {
            let count = ROWS.min(width - first);
            self.places(&lines, first, count, taps, &mut places);
            for column in (0..self.n).step_by(COLUMNS) {
                let at = Place {
                    row: line * width + first,
                    count,
                    column,
                    width: COLUMNS.min(self.n - column),
                };
                take(&places, at);
            }
        }
    }

    /// For each tap but its place on the last axis: where the line of the input under it begins, if there is one.
    fn lines_under(&self, line: usize) -> Vec<Option<usize>> {
        let [a, b, _] = &self.conv.window().axes;
        let (image, rest) = (line / (a.output * b.output), line % (a.output * b.output));
        let (oa, ob) = (rest / b.output, rest % b.output);
        let mut lines = Vec::with_capacity(a.kernel * b.kernel);
        for ka in 0..a.kernel {
            for kb in 0..b.kernel {
                let [depth, height, width] = self.sizes;
                let ia = (oa * a.stride + ka * a.dilation).wrapping_sub(self.before[0]);
                let ib = (ob * b.stride + kb * b.dilation).wrapping_sub(self.before[1]);
                let inside = ia < depth && ib < height;
                lines.push(inside.then(|| ((image * depth + ia) * height + ib) * width));
            }
        }
        lines
    }

    /// Where the channels under each tap of some outputs of a line begin: output after output.
    fn places(
        &self,
        lines: &[Option<usize>],
        first: usize,
        count: usize,
        taps: usize,
        to: &mut [*const u8],
    ) {
        let c = &self.conv.window().axes[2];
        let step = self.fold * c.stride;
        let apart = step * self.conv.out_channels();
        for (tap, line) in (0..).step_by(c.kernel).zip(lines) {
            for kc in 0..c.kernel {
                let begin = (first * step + kc * c.dilation).wrapping_sub(self.before[2]);
                let last = begin.wrapping_add((count - 1) * step);
                let to = to[tap + kc..].iter_mut().step_by(taps).take(count);
                // Mostly all are inside, and none is so near the end that the last ones are read elsewhere.
                if let Some(line) = *line
                    && self.is_inside(begin)
                    && self.is_inside(last)
                    && !self.is_last(line + last)
                {
                    let mut place = self.place(line + begin);
                    for to in to {
                        *to = place;
                        place = place.wrapping_add(apart);
                    }
                    continue;
                }
                for (ic, to) in (0..).map(|i| begin.wrapping_add(i * step)).zip(to) {
                    *to = match line {
                        Some(line) if self.is_inside(ic) => self.place(line + ic),
                        _ => self.padding.as_ptr(),
                    };
                }
            }
        }
    }

    /// Whether an output reads places of a line only, from place `ic` on, which may be before it (and wrap).
    fn is_inside(&self, ic: usize) -> bool {
        ic < self.sizes[2] && self.fold <= self.sizes[2] - ic
    }

    /// Whether fewer bytes follow place `i` of the input than are read of it.
    fn is_last(&self, i: usize) -> bool {
        self.x.len() - i * self.conv.out_channels() < self.padding.len()
    }

    /// Where place `i` of the input can be read.
    fn place(&self, i: usize) -> *const u8 {
        let start = i * self.conv.out_channels();
        match self.is_last(i) {
            false => self.x.as_ptr().wrapping_add(start),
            true => {
                let end = start - self.x.len().saturating_sub(self.padding.len());
                self.end.as_ptr().wrapping_add(end)
            }
        }
    }
}
