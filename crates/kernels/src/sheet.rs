//! Padded planes, laid out so that a window slides over them without asking where it is.

use crate::window::{AXES, Axis, Window};

/// How planes lie in memory: with their padding written out and, along an axis of stride s > 1,
/// split into s phases of every s-th value, each phase a plane of its own.
///
/// So the value under a window is found by adding two offsets, that of the
/// [output position](Layout::position) and that of the [tap](Layout::taps); and outputs that are
/// neighbours along the innermost axis are neighbours in memory, whatever the stride.
pub(crate) struct Layout {
    axes: [Axis; AXES],
    /// Sizes of the plane of one phase.
    sizes: [usize; AXES],
}

/// Values of an AVX-512 register.
const VECTOR: usize = 16;

/// Values after the last plane, so that a vector may be read from any valid position.
const SLACK: usize = VECTOR;

impl Layout {
    pub(crate) fn of(window: &Window) -> Layout {
        Layout {
            axes: window.axes,
            sizes: window.axes.map(|a| a.span().div_ceil(a.stride)),
        }
    }

    /// Whether planes without padding already lie like this.
    pub(crate) fn is_plain(&self) -> bool {
        let plain = |(axis, &size): (&Axis, &usize)| axis.stride == 1 && axis.input == size;
        self.axes.iter().zip(&self.sizes).all(plain)
    }

    /// Length of a plane with all its phases.
    pub(crate) fn plane(&self) -> usize {
        let phases: usize = self.axes.iter().map(|a| a.stride).product();
        phases * self.sizes.iter().product::<usize>()
    }

    /// Memory for some planes, all padding.
    pub(crate) fn empty(&self, planes: usize, padding: f32) -> Vec<f32> {
        vec![padding; planes * self.plane() + SLACK]
    }

    /// Writes planes to their places; the padding stays as it is.
    #[inline(always)]
    pub(crate) fn write(&self, planes: &[f32], values: &mut [f32]) {
        let [a, b, c] = &self.axes;
        let inputs = planes.chunks_exact(a.input * b.input * c.input);
        for (plane, values) in inputs.zip(values.chunks_exact_mut(self.plane())) {
            let mut lines = plane.chunks_exact(c.input);
            for ia in a.begin..a.begin + a.input {
                for (ib, source) in (b.begin..b.begin + b.input).zip(&mut lines) {
                    self.write_line(ia, ib, source, values);
                }
            }
        }
    }

    /// Writes one line, which has its place in the padded plane.
    #[inline(always)]
    fn write_line(&self, ia: usize, ib: usize, source: &[f32], values: &mut [f32]) {
        let c = &self.axes[2];
        if c.stride == 1 {
            let start = self.place([ia, ib, c.begin]);
            return values[start..start + c.input].copy_from_slice(source);
        }
        for first in 0..c.stride.min(c.input) {
            let start = self.place([ia, ib, c.begin + first]);
            let (source, to) = (&source[first..], &mut values[start..]);
            if c.stride == 2 {
                // The common stride, known to the compiler.
                every::<2>(source, to);
            } else {
                let phase = source.iter().step_by(c.stride);
                to.iter_mut().zip(phase).for_each(|(to, &from)| *to = from);
            }
        }
    }

    /// Offset of a place in the padded plane.
    #[inline(always)]
    fn place(&self, at: [usize; AXES]) -> usize {
        let (mut phase, mut offset, mut len) = (0, 0, 1);
        for (i, at) in at.into_iter().enumerate() {
            let (stride, size) = (self.axes[i].stride, self.sizes[i]);
            // Most strides are 1, and divisions are slow.
            let (rest, step) = if stride == 1 {
                (0, at)
            } else {
                (at % stride, at / stride)
            };
            phase = phase * stride + rest;
            offset = offset * size + step;
            len *= size;
        }
        phase * len + offset
    }

    /// Offset of the window at an output position.
    #[inline(always)]
    pub(crate) fn position(&self, [oa, ob, oc]: [usize; AXES]) -> usize {
        (oa * self.sizes[1] + ob) * self.sizes[2] + oc
    }

    /// Offset of each position of the window, in row-major order.
    pub(crate) fn taps(&self) -> Vec<usize> {
        let [a, b, c] = &self.axes;
        let mut taps = Vec::with_capacity(a.kernel * b.kernel * c.kernel);
        for ka in 0..a.kernel {
            for kb in 0..b.kernel {
                for kc in 0..c.kernel {
                    taps.push(self.place([ka * a.dilation, kb * b.dilation, kc * c.dilation]));
                }
            }
        }
        taps
    }
}

/// Copies every `S`-th value.
#[inline(always)]
fn every<const S: usize>(source: &[f32], to: &mut [f32]) {
    let (whole, rest) = source.as_chunks::<S>();
    for (to, from) in to.iter_mut().zip(whole) {
        *to = from[0];
    }
    if let Some(&last) = rest.first() {
        to[whole.len()] = last;
    }
}

/// Outputs that [`slide`] folds at a time: 4 KiB.
const PIECE: usize = 1024;

/// Results, aligned to a cache line: vectors across two lines cost twice.
#[repr(align(64))]
struct Piece([f32; PIECE]);

/// Folds the taps of every window of one plane: from `identity`, `step` takes a result so far, the
/// weight of a tap and the value under it; `finish` takes neighbouring results on one line, and the
/// position of the first, for what is left to do.
///
/// Lines are not folded one by one but together with what lies between them in memory: results
/// that belong to no output are thrown away.
#[inline(always)]
pub(crate) fn slide(
    layout: &Layout,
    values: &[f32],
    taps: &[(usize, f32)],
    identity: f32,
    step: impl Fn(f32, f32, f32) -> f32,
    finish: impl Fn(&mut [f32], [usize; AXES]),
    out: &mut [f32],
) {
    let [_, b, c] = &layout.axes;
    let mut piece = Piece([identity; PIECE]);
    // Which positions are folded, and the first of them.
    let (mut folded, mut first) = (0, 0);
    // Where more lies between the lines than on them, each is folded by itself after all.
    let apart = layout.sizes[2] > 2 * c.output;
    let end = layout.position(layout.axes.map(|a| a.output - 1)) + 1;
    for (i, out) in out.chunks_exact_mut(c.output).enumerate() {
        let (oa, ob) = (i / b.output, i % b.output);
        let line = layout.position([oa, ob, 0]);
        let mut oc = 0;
        while oc < c.output {
            if line + oc >= first + folded {
                first = line + oc;
                folded = PIECE.min(if apart { c.output - oc } else { end - first });
                // Whole vectors, which the slack allows.
                let results = &mut piece.0[..folded.next_multiple_of(VECTOR)];
                fold(&values[first..], taps, identity, &step, results);
            }
            let from = line + oc - first;
            let len = (c.output - oc).min(folded - from);
            let results = &mut out[oc..oc + len];
            results.copy_from_slice(&piece.0[from..from + len]);
            finish(results, [oa, ob, oc]);
            oc += len;
        }
    }
}

/// Folds the taps of neighbouring windows.
#[inline(always)]
fn fold(
    values: &[f32],
    taps: &[(usize, f32)],
    identity: f32,
    step: &impl Fn(f32, f32, f32) -> f32,
    results: &mut [f32],
) {
    results.fill(identity);
    for &(tap, weight) in taps {
        for (result, &value) in results.iter_mut().zip(&values[tap..]) {
            *result = step(*result, weight, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::WindowSpec;

    /// Every value that every window sees, found both ways.
    fn check(
        input: [usize; 3],
        kernel: [usize; 3],
        strides: [usize; 3],
        dilations: [usize; 3],
        pads: [usize; 3],
    ) {
        let window = Window::new(&WindowSpec {
            input: &input,
            kernel: &kernel,
            strides: &strides,
            dilations: &dilations,
            pads_begin: &pads,
            pads_end: &pads,
            ceil_mode: true,
        })
        .unwrap();
        let planes: Vec<f32> = (0..2 * window.input_len())
            .map(|i| i as f32 + 1.0)
            .collect();
        let layout = Layout::of(&window);
        let mut written = layout.empty(2, 0.0);
        layout.write(&planes, &mut written);
        let mut sheets = vec![written];
        if layout.is_plain() {
            sheets.push(planes.clone());
        }
        for sheet in sheets {
            let taps = layout.taps();
            for i in 0..2 * window.output_len() * window.kernel_len() {
                let (tap, o) = (i % window.kernel_len(), i / window.kernel_len());
                let (plane, o) = (o / window.output_len(), o % window.output_len());
                let [a, b, c] = window.axes;
                let at = [
                    o / (b.output * c.output),
                    o / c.output % b.output,
                    o % c.output,
                ];
                let k = [
                    tap / (b.kernel * c.kernel),
                    tap / c.kernel % b.kernel,
                    tap % c.kernel,
                ];
                let inside = |n: usize| {
                    (at[n] * window.axes[n].stride + k[n] * window.axes[n].dilation)
                        .wrapping_sub(window.axes[n].begin)
                };
                let [ia, ib, ic] = [inside(0), inside(1), inside(2)];
                let expected = if ia < a.input && ib < b.input && ic < c.input {
                    planes[((plane * a.input + ia) * b.input + ib) * c.input + ic]
                } else {
                    0.0
                };
                assert_eq!(
                    sheet[plane * layout.plane() + layout.position(at) + taps[tap]],
                    expected
                );
            }
        }
    }

    #[test]
    fn offsets_of_positions_and_taps_add_up() {
        check([1, 5, 7], [1, 3, 3], [1, 1, 1], [1, 1, 1], [0, 1, 1]);
        check([1, 6, 9], [1, 3, 2], [1, 2, 2], [1, 1, 1], [0, 1, 1]);
        check([3, 4, 11], [2, 2, 3], [2, 1, 3], [1, 2, 2], [1, 0, 2]);
        check([1, 1, 13], [1, 1, 5], [1, 1, 4], [1, 1, 1], [0, 0, 3]);
        check([2, 3, 4], [1, 1, 1], [1, 1, 1], [1, 1, 1], [0, 0, 0]);
        check([1, 8, 8], [1, 1, 1], [1, 2, 2], [1, 1, 1], [0, 0, 0]);
    }
}
