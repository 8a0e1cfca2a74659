//! The windows of a convolution as the rows of a matrix.
//!
//! Without padding they are read where they lie ([`Plain`]). With padding ([`Padded`]) each task first writes the part of
//! the input that its windows see, padding included, into memory of its thread: a part is little, so it is in the nearest
//! cache when the product reads it, and the input passes through memory once. So it is with places whose channels are
//! multiplied by a gate first ([`Gated`]).

use std::cell::RefCell;
use std::ops::Range;

use super::Conv;
use super::last::Channels;
use crate::gemm::{GROUP, Left, Rows, UNIT, group};
use crate::isa::{Isa, Kernel};
use crate::math;
use crate::window::{AXES, Axis};

/// Values of its input that a thread keeps between tasks, at most: 4 MiB.
const KEPT: usize = 1 << 20;

thread_local! {
    /// Input of a task, with its padding or after its gate.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Values between neighbouring windows that put all of them into a few sets of the first-level cache: half of one of its
/// ways, or a quarter where narrow tiles pass through the cache beside them.
fn crowded(isa: Isa) -> usize {
    #[cfg(target_arch = "x86_64")]
    if isa.is_avx512() {
        return 512;
    }
    let _ = isa;
    256
}

/// How an image, or part of one, lies in memory.
pub(super) struct Sheet {
    input: Channels,
    channels: usize,
    /// Values between neighbours along each spatial axis.
    steps: [usize; AXES],
    /// Values between channels.
    channel: usize,
    /// Values of an image, or of a part.
    len: usize,
}

impl Sheet {
    /// Whether no window reaches beyond the input.
    pub(super) fn is_plain(conv: &Conv) -> bool {
        conv.window.axes.iter().all(|a| a.span() == a.input)
    }

    /// That of the parts that a task's windows see.
    pub(super) fn of(isa: Isa, conv: &Conv, input: Channels) -> Sheet {
        let [a, b, c] = &conv.window.axes;
        // A task's rows lie on so many planes and, if there is one plane, on so many lines.
        let planes = ((GROUP - 1) / (b.output * c.output) + 2).min(a.output);
        let (mut lines, mut columns) = (b.output, c.output);
        if a.output == 1 {
            lines = lines.min((GROUP - 1) / columns + 2);
            if b.output == 1 {
                columns = columns.min(GROUP);
            }
        }
        let sizes = [(a, planes), (b, lines), (c, columns)];
        let channels = conv.group_in * conv.groups;
        // Neighbours that lie a large power of two apart would crowd few sets of the cache.
        let apart = match (c.stride * channels) % crowded(isa) {
            0 => channels + UNIT,
            _ => channels,
        };
        Sheet::new(
            conv,
            input,
            sizes.map(|(axis, n)| seen(axis, &(0..n)).len()),
            apart,
        )
    }

    /// `apart` is how many values channels that come last take at each place.
    fn new(conv: &Conv, input: Channels, sizes: [usize; AXES], apart: usize) -> Sheet {
        let places: usize = sizes.iter().product();
        let channels = conv.group_in * conv.groups;
        let (place, channel, len) = match input {
            Channels::First => (1, places, places * channels),
            Channels::Last => (apart, 1, places * apart),
        };
        Sheet {
            input,
            channels,
            steps: [sizes[1] * sizes[2] * place, sizes[2] * place, place],
            channel,
            len,
        }
    }

    /// Values of all parts of a task, at most.
    pub(super) fn scratch(&self, conv: &Conv) -> usize {
        let images = (GROUP - 1) / conv.window.output_len() + 2;
        images.min(conv.batch).saturating_mul(self.len)
    }

    /// Distances of the values under a window from its first, channel by channel.
    fn offsets(&self, conv: &Conv) -> Vec<u32> {
        let [a, b, c] = &conv.window.axes;
        let mut offsets = Vec::with_capacity(conv.depth());
        for channel in 0..conv.group_in {
            for ka in 0..a.kernel {
                for kb in 0..b.kernel {
                    for kc in 0..c.kernel {
                        let at = channel * self.channel
                            + ka * a.dilation * self.steps[0]
                            + kb * b.dilation * self.steps[1]
                            + kc * c.dilation * self.steps[2];
                        offsets.push(u32::try_from(at).expect("an image has less than 2³² values"));
                    }
                }
            }
        }
        offsets
    }

    /// Finds where the windows of a part begin, if that at the place `origin` of the image begins at `base`.
    fn find(
        &self,
        conv: &Conv,
        part: &Part,
        origin: [usize; AXES],
        base: usize,
        places: &mut [usize],
    ) {
        let axes = &conv.window.axes;
        let [a, b, c] = std::array::from_fn(|i| axes[i].stride * self.steps[i]);
        let [_, lines, columns] = axes.map(|axis| axis.output);
        let (line, mut ic) = (part.first / columns, part.first % columns);
        let (mut ia, mut ib) = (line / lines, line % lines);
        let origin = origin[0] * a + origin[1] * b + origin[2] * c;
        for place in places {
            *place = base + ia * a + ib * b + ic * c - origin;
            ic += 1;
            if ic == columns {
                (ic, ib) = (0, ib + 1);
                if ib == lines {
                    (ib, ia) = (0, ia + 1);
                }
            }
        }
    }
}

/// Neighbouring windows of one image.
struct Part {
    image: usize,
    /// The number of the first window within its image, and how many there are.
    first: usize,
    count: usize,
    /// The planes, lines and columns of the output that they lie on: all lines if there is more than one plane, all
    /// columns if there is more than one line.
    on: [Range<usize>; AXES],
}

impl Part {
    /// The parts that some rows are cut into, image by image.
    fn all(conv: &Conv, rows: Range<usize>) -> impl Iterator<Item = Part> {
        let [_, b, c] = conv.window.axes.map(|axis| axis.output);
        let len = conv.window.output_len();
        let images = rows.start / len..rows.end.div_ceil(len);
        images.map(move |image| {
            let first = rows.start.max(image * len) - image * len;
            let last = rows.end.min((image + 1) * len) - image * len - 1;
            let part = |first: usize, last: usize, alone: bool, all: usize| match alone {
                true => first..last + 1,
                false => 0..all,
            };
            let (one_plane, one_line) = (first / (b * c) == last / (b * c), first / c == last / c);
            Part {
                image,
                first,
                count: last + 1 - first,
                on: [
                    first / (b * c)..last / (b * c) + 1,
                    part(first / c % b, last / c % b, one_plane, b),
                    part(first % c, last % c, one_line, c),
                ],
            }
        })
    }
}

/// Values that a window adds to what its neighbours see.
fn weight(conv: &Conv) -> usize {
    let strides = conv.window.axes.iter().map(|a| a.stride.min(a.kernel));
    strides.product::<usize>() * conv.group_in
}

/// Windows that lie within the input.
pub(super) struct Plain<'a> {
    conv: &'a Conv,
    sheet: Sheet,
    x: &'a [f32],
    /// None where the values of a window are neighbours.
    offsets: Option<Vec<u32>>,
}

impl<'a> Plain<'a> {
    pub(super) fn of(conv: &'a Conv, input: Channels, x: &'a [f32]) -> Plain<'a> {
        let sizes = conv.window.axes.map(|a| a.input);
        let sheet = Sheet::new(conv, input, sizes, conv.group_in * conv.groups);
        let neighbours = input == Channels::Last && conv.window.kernel_len() == 1;
        Plain {
            offsets: (!neighbours).then(|| sheet.offsets(conv)),
            conv,
            sheet,
            x,
        }
    }
}

impl Rows for Plain<'_> {
    fn weight(&self) -> usize {
        weight(self.conv)
    }

    fn with(&self, rows: Range<usize>, with: impl FnOnce(&Left<'_>, &[usize])) {
        let mut places = [0; GROUP];
        let mut found = 0;
        for part in Part::all(self.conv, rows) {
            let places = &mut places[found..found + part.count];
            let base = part.image * self.sheet.len;
            self.sheet.find(self.conv, &part, [0; AXES], base, places);
            found += part.count;
        }
        let left = match &self.offsets {
            Some(offsets) => Left::gathered(self.x, offsets),
            None => Left::rows(self.x),
        };
        with(&left, &places[..found]);
    }
}

/// Windows over an input with padding.
pub(super) struct Padded<'a> {
    conv: &'a Conv,
    sheet: Sheet,
    x: &'a [f32],
    offsets: Vec<u32>,
}

impl<'a> Padded<'a> {
    pub(super) fn of(isa: Isa, conv: &'a Conv, input: Channels, x: &'a [f32]) -> Padded<'a> {
        let sheet = Sheet::of(isa, conv, input);
        Padded {
            offsets: sheet.offsets(conv),
            conv,
            sheet,
            x,
        }
    }

    /// Writes what the windows of a part see.
    fn write(&self, part: &Part, to: &mut [f32]) {
        let [a, b, c] = &self.conv.window.axes;
        // Channels that come first are images of one channel.
        let (images, wide) = match self.sheet.input {
            Channels::First => (self.sheet.channels, 1),
            Channels::Last => (1, self.sheet.channels),
        };
        let [_, line, place] = self.sheet.steps;
        let columns = seen(c, &part.on[2]);
        // The columns of the input, and how many of the padding come before.
        let inside = columns.start.max(c.begin)..columns.end.min(c.begin + c.input);
        let inside = inside.start.min(inside.end)..inside.end;
        let before = (inside.start - columns.start) * place;
        let (len, whole) = (inside.len() * place, columns.len() * place);
        for image in 0..images {
            let x = (part.image * images + image) * a.input;
            for (pa, ia) in seen(a, &part.on[0]).enumerate() {
                let ia = ia.wrapping_sub(a.begin);
                let plane = image * self.sheet.channel + pa * self.sheet.steps[0];
                let lines = to[plane..].chunks_mut(line);
                for (to, ib) in lines.zip(seen(b, &part.on[1])) {
                    let ib = ib.wrapping_sub(b.begin);
                    if ia >= a.input || ib >= b.input || len == 0 {
                        to[..whole].fill(0.0);
                        continue;
                    }
                    let from = ((x + ia) * b.input + ib) * c.input + inside.start - c.begin;
                    let from = &self.x[from * wide..][..inside.len() * wide];
                    to[..before].fill(0.0);
                    spread(from, wide, &mut to[before..][..len], place);
                    to[before + len..whole].fill(0.0);
                }
            }
        }
    }
}

/// Copies values, `wide` of each place, to where places are `apart`.
fn spread(from: &[f32], wide: usize, to: &mut [f32], apart: usize) {
    if wide == apart {
        return to.copy_from_slice(from);
    }
    for (to, from) in to.chunks_exact_mut(apart).zip(from.chunks_exact(wide)) {
        to[..wide].copy_from_slice(from);
    }
}

/// The places of the padded input that the windows at some places of the output see along an axis.
fn seen(axis: &Axis, outputs: &Range<usize>) -> Range<usize> {
    let first = outputs.start * axis.stride;
    first..(outputs.end - 1) * axis.stride + axis.extent()
}

/// Memory of this thread of at least so many values.
fn with_scratch(len: usize, with: impl FnOnce(&mut [f32])) {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < len {
            scratch.resize(len, 0.0);
        }
        with(scratch);
        if scratch.len() > KEPT {
            *scratch = Vec::new();
        }
    });
}

impl Rows for Padded<'_> {
    fn weight(&self) -> usize {
        weight(self.conv)
    }

    fn with(&self, rows: Range<usize>, with: impl FnOnce(&Left<'_>, &[usize])) {
        let len = self.sheet.len;
        let parts = Part::all(self.conv, rows.clone()).count();
        with_scratch(parts * len, |scratch| {
            let mut places = [0; GROUP];
            let mut found = 0;
            let sheets = scratch.chunks_exact_mut(len);
            for (i, (part, to)) in Part::all(self.conv, rows).zip(sheets).enumerate() {
                self.write(&part, to);
                let places = &mut places[found..found + part.count];
                let origin = part.on.each_ref().map(|range| range.start);
                self.sheet.find(self.conv, &part, origin, i * len, places);
                found += part.count;
            }
            let left = Left::gathered(scratch, &self.offsets);
            with(&left, &places[..found]);
        });
    }
}

/// The places of images, channels last, as rows of a product; each channel of an image is multiplied by a value of its own.
pub(super) struct Gated<'a> {
    pub(super) isa: Isa,
    pub(super) conv: &'a Conv,
    pub(super) x: &'a [f32],
    /// For each image a value for each channel.
    pub(super) gate: &'a [f32],
}

impl Gated<'_> {
    /// Whether a convolution is a product of places.
    pub(super) fn serves(conv: &Conv) -> bool {
        let alone = |axis: &Axis| axis.kernel == 1 && axis.stride == 1 && axis.output == axis.input;
        conv.groups == 1 && conv.window.axes.iter().all(alone)
    }

    /// Values that a task keeps, at most.
    pub(super) fn scratch(conv: &Conv) -> usize {
        let rows = conv.batch.saturating_mul(conv.window.output_len());
        rows.min(group(2 * conv.group_in))
            .saturating_mul(conv.group_in)
    }
}

impl Rows for Gated<'_> {
    fn weight(&self) -> usize {
        // As it lies in the input, and multiplied.
        2 * self.conv.group_in
    }

    fn with(&self, rows: Range<usize>, with: impl FnOnce(&Left<'_>, &[usize])) {
        let channels = self.conv.group_in;
        let len = rows.len() * channels;
        with_scratch(len, |scratch| {
            let mut to = &mut scratch[..len];
            for part in Part::all(self.conv, rows.clone()) {
                let row = part.image * self.conv.window.output_len() + part.first;
                let (y, rest) = to.split_at_mut(part.count * channels);
                self.isa.run(Multiply {
                    x: &self.x[row * channels..][..y.len()],
                    gate: &self.gate[part.image * channels..][..channels],
                    y,
                });
                to = rest;
            }
            let places: [usize; GROUP] = std::array::from_fn(|i| i * channels);
            with(&Left::rows(scratch), &places[..rows.len()]);
        });
    }
}

/// Rows times a row.
struct Multiply<'a> {
    x: &'a [f32],
    gate: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let n = self.gate.len();
        for (y, x) in self.y.chunks_exact_mut(n).zip(self.x.chunks_exact(n)) {
            for ((y, &x), &gate) in y.iter_mut().zip(x).zip(self.gate) {
                *y = math::mul(x, gate);
            }
        }
    }
}
