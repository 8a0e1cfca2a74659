//! Padded planes, laid out so that a window slides over them without asking where it is.

use std::borrow::Cow;

use crate::window::{AXES, Axis, Window};

/// Planes with their padding written out and, where the innermost stride is s > 1, each line
/// split into s runs of every s-th value.
///
/// So the value under a window is found by adding two offsets, that of the
/// [output position](Sheet::position) and that of the [tap](Sheet::taps), and neighbours along the
/// innermost output axis are neighbours in memory, whatever the stride.
pub(crate) struct Sheet<'a> {
    /// All planes, then [`SLACK`] values unless borrowed.
    values: Cow<'a, [f32]>,
    plane: usize,
    axes: [Axis; AXES],
    /// Length of a line, and of one of its runs.
    line: usize,
    run: usize,
    /// Lines along the middle axis.
    lines: usize,
}

/// Values after the last plane, so that a vector may be read from any valid position.
pub(crate) const SLACK: usize = 64;

impl<'a> Sheet<'a> {
    /// Lays out `planes`, one after another, with `fill` as the padding.
    pub(crate) fn new(window: &Window, planes: &'a [f32], fill: f32) -> Sheet<'a> {
        let mut sheet = Sheet::layout(window);
        sheet.write(planes, fill);
        sheet
    }

    /// As [`Sheet::new`], but without a copy and without slack where the planes already have the
    /// right layout.
    pub(crate) fn borrow(window: &Window, planes: &'a [f32], fill: f32) -> Sheet<'a> {
        let mut sheet = Sheet::layout(window);
        if sheet.plane == window.input_len() && window.axes[2].stride == 1 {
            sheet.values = Cow::Borrowed(planes);
        } else {
            sheet.write(planes, fill);
        }
        sheet
    }

    fn layout(window: &Window) -> Sheet<'a> {
        let [outer, middle, inner] = window.axes.map(|a| a.span());
        let run = inner.div_ceil(window.axes[2].stride);
        let line = run * window.axes[2].stride;
        Sheet {
            values: Cow::Borrowed(&[]),
            plane: outer * middle * line,
            axes: window.axes,
            line,
            run,
            lines: middle,
        }
    }

    fn write(&mut self, planes: &[f32], fill: f32) {
        let [a, b, c] = self.axes;
        let count = planes.len() / (a.input * b.input * c.input);
        let mut values = vec![fill; count * self.plane + SLACK];
        for (i, source) in planes.chunks_exact(c.input).enumerate() {
            let (plane, ia, ib) = (i / (a.input * b.input), i / b.input % a.input, i % b.input);
            let start =
                plane * self.plane + ((ia + a.begin) * self.lines + ib + b.begin) * self.line;
            let line = &mut values[start..start + self.line];
            if c.stride == 1 {
                line[c.begin..c.begin + c.input].copy_from_slice(source);
                continue;
            }
            for phase in 0..c.stride {
                // The first value of this phase that lies inside: at `begin` or soon after.
                let skip = (phase + c.stride - c.begin % c.stride) % c.stride;
                let first = phase * self.run + (c.begin + skip) / c.stride;
                for (to, from) in line[first..]
                    .iter_mut()
                    .zip(source.iter().skip(skip).step_by(c.stride))
                {
                    *to = *from;
                }
            }
        }
        self.values = Cow::Owned(values);
    }

    /// The values, from those of plane `i` on to the end of the last.
    pub(crate) fn planes_from(&self, i: usize) -> &[f32] {
        &self.values[i * self.plane..]
    }

    /// Offset of the window at an output position.
    #[inline(always)]
    pub(crate) fn position(&self, [oa, ob, oc]: [usize; AXES]) -> usize {
        let [a, b, _] = &self.axes;
        (oa * a.stride * self.lines + ob * b.stride) * self.line + oc
    }

    /// Offset of each position of the window, in row-major order.
    pub(crate) fn taps(&self) -> Vec<usize> {
        let [a, b, c] = &self.axes;
        let mut taps = Vec::with_capacity(a.kernel * b.kernel * c.kernel);
        for ka in 0..a.kernel {
            for kb in 0..b.kernel {
                let line = (ka * a.dilation * self.lines + kb * b.dilation) * self.line;
                for kc in 0..c.kernel {
                    let step = kc * c.dilation;
                    taps.push(line + step % c.stride * self.run + step / c.stride);
                }
            }
        }
        taps
    }
}

/// Folds the taps of every window of one plane, `W` neighbouring outputs at a time: `step` takes
/// the sums so far, the number of the tap, and the values under it; `finish` takes the sums and
/// the position of the first of them, and gives what is written.
#[inline(always)]
pub(crate) fn slide(
    sheet: &Sheet<'_>,
    plane: usize,
    taps: &[usize],
    identity: f32,
    step: impl Fn(f32, usize, f32) -> f32,
    finish: impl Fn(f32, [usize; AXES]) -> f32,
    out: &mut [f32],
) {
    let [_, b, c] = &sheet.axes;
    let values = sheet.planes_from(plane);
    for (i, line) in out.chunks_exact_mut(c.output).enumerate() {
        let (oa, ob) = (i / b.output, i % b.output);
        let start = sheet.position([oa, ob, 0]);
        let mut oc = 0;
        while oc < c.output {
            let at = [oa, ob, oc];
            let rest = &mut line[oc..];
            let from = &values[start + oc..];
            oc += match rest.len() {
                0..=8 => vector::<8>(from, taps, identity, &step, &finish, at, rest),
                9..=16 => vector::<16>(from, taps, identity, &step, &finish, at, rest),
                _ => vector::<32>(from, taps, identity, &step, &finish, at, rest),
            };
        }
    }
}

/// Up to `W` outputs of [`slide`]: how many there were.
#[inline(always)]
fn vector<const W: usize>(
    from: &[f32],
    taps: &[usize],
    identity: f32,
    step: &impl Fn(f32, usize, f32) -> f32,
    finish: &impl Fn(f32, [usize; AXES]) -> f32,
    at: [usize; AXES],
    out: &mut [f32],
) -> usize {
    let mut sums = [identity; W];
    for (t, &tap) in taps.iter().enumerate() {
        // The slack lets a partial vector be read whole.
        let values: &[f32] = &from[tap..tap + W];
        for (sum, &v) in sums.iter_mut().zip(values) {
            *sum = step(*sum, t, v);
        }
    }
    let width = W.min(out.len());
    for (j, (out, sum)) in out.iter_mut().zip(sums).enumerate() {
        *out = finish(sum, [at[0], at[1], at[2] + j]);
    }
    width
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
        for sheet in [
            Sheet::new(&window, &planes, 0.0),
            Sheet::borrow(&window, &planes, 0.0),
        ] {
            let taps = sheet.taps();
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
                    sheet.planes_from(plane)[sheet.position(at) + taps[tap]],
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
