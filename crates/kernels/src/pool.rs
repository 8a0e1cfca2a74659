//! Pooling over one to three spatial axes.

use crate::isa::{Isa, Kernel};
use crate::math;
use crate::sheet::{Layout, slide};
use crate::threads::Threads;
use crate::window::{AXES, Axis, ShapeError, Window, WindowSpec, product};

/// What a pooling geometry is built from. Every list has one entry for each spatial axis,
/// outermost first (`[height, width]`).
#[derive(Clone, Copy, Debug)]
pub struct PoolSpec<'a> {
    /// Number of planes: batch × channels.
    pub planes: usize,
    /// Spatial sizes of the input.
    pub input: &'a [usize],
    /// Spatial sizes of the window.
    pub kernel: &'a [usize],
    /// Steps between windows.
    pub strides: &'a [usize],
    /// Steps between the positions of one window.
    pub dilations: &'a [usize],
    /// Positions added before each axis.
    pub pads_begin: &'a [usize],
    /// Positions added after each axis.
    pub pads_end: &'a [usize],
    /// Whether a last window that is only partly inside counts.
    pub ceil_mode: bool,
}

/// A checked pooling geometry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    planes: usize,
    window: Window,
    padded_len: usize,
}

impl Pool {
    /// Checks a geometry.
    ///
    /// # Errors
    /// Where sizes are zero or overflow, lists do not match, the window exceeds the padded input,
    /// or a padding is not smaller than the window.
    pub fn new(spec: &PoolSpec<'_>) -> Result<Pool, ShapeError> {
        let window = Window::new(&WindowSpec {
            input: spec.input,
            kernel: spec.kernel,
            strides: spec.strides,
            dilations: spec.dilations,
            pads_begin: spec.pads_begin,
            pads_end: spec.pads_end,
            ceil_mode: spec.ceil_mode,
        })?;
        for (i, axis) in window.axes[AXES - window.rank..].iter().enumerate() {
            let pad = axis.begin.max(axis.end);
            if pad >= axis.extent() {
                return Err(ShapeError::Padding {
                    axis: i,
                    pad,
                    window: axis.extent(),
                });
            }
        }
        let padded_len = window.padded_len(1)?;
        product([spec.planes, window.input_len()])?;
        product([spec.planes, window.output_len()])?;
        Ok(Pool {
            planes: spec.planes,
            window,
            padded_len,
        })
    }

    /// Spatial sizes of the output, outermost first.
    #[must_use]
    pub fn output_shape(&self) -> Vec<usize> {
        self.window.output_shape()
    }

    /// The geometry of one of `count` equal shares of the planes.
    #[must_use]
    pub fn share(&self, count: usize) -> Option<Pool> {
        let planes = self.planes.checked_div(count)?;
        (planes * count == self.planes).then(|| Pool {
            planes,
            ..self.clone()
        })
    }

    /// Number of input values: planes × spatial sizes.
    #[must_use]
    pub fn input_len(&self) -> usize {
        self.planes * self.window.input_len()
    }

    /// Bound on the values of one plane with its padding written out, which a pool holds in memory
    /// while it works on that plane: see [`Conv::padded_len`](crate::Conv::padded_len).
    #[must_use]
    pub fn padded_len(&self) -> usize {
        self.padded_len
    }

    /// Number of output values: planes × spatial sizes of the output.
    #[must_use]
    pub fn output_len(&self) -> usize {
        self.planes * self.window.output_len()
    }
}

/// The largest value of each window; padding takes no part. A window without a single value
/// inside gives −∞.
///
/// # Panics
/// If `x` or `y` has another length than the geometry says.
pub fn max_pool(isa: Isa, pool: &Pool, x: &[f32], y: &mut [f32]) {
    check("max_pool", pool, x, y);
    isa.run(MaxPool { pool, x, y });
}

/// The mean of each window: values inside are added in order from +0, then divided by their
/// number, or with `count_include_pad` by the number of window positions that lie in the padded
/// input.
///
/// # Panics
/// If `x` or `y` has another length than the geometry says.
pub fn average_pool(isa: Isa, pool: &Pool, count_include_pad: bool, x: &[f32], y: &mut [f32]) {
    check("average_pool", pool, x, y);
    isa.run(AveragePool {
        pool,
        count_include_pad,
        x,
        y,
    });
}

/// What [`pool_last`] makes of each window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// As [`max_pool`].
    Max,
    /// As [`average_pool`].
    Average {
        /// Whether positions of the padding count.
        include_pad: bool,
    },
}

/// [`max_pool`] or [`average_pool`] of values whose `channels` lie last, `[batch, …, channels]`.
///
/// # Panics
/// If `x` or `y` has another length than the geometry says, or its planes are no whole number of
/// images.
pub fn pool_last(
    isa: Isa,
    threads: &Threads,
    pool: &Pool,
    pooling: Pooling,
    channels: usize,
    x: &[f32],
    y: &mut [f32],
) {
    each_line("pool_last", threads, pool, channels, x, y, |line| {
        isa.run(LineLast { line, pooling });
    });
}

/// [`max_pool`] of 8-bit integers whose `channels` lie last; a window without a single value inside
/// gives the least integer.
///
/// # Panics
/// As [`pool_last`].
pub fn max_pool_last<T: Copy + Ord + Default + Send + Sync>(
    isa: Isa,
    threads: &Threads,
    pool: &Pool,
    channels: usize,
    least: T,
    x: &[T],
    y: &mut [T],
) {
    each_line("max_pool_last", threads, pool, channels, x, y, |line| {
        isa.run(LargestLast { line, least });
    });
}

/// Calls `run` with each line of windows of values whose channels lie last.
fn each_line<T: Send + Sync>(
    what: &str,
    threads: &Threads,
    pool: &Pool,
    channels: usize,
    x: &[T],
    y: &mut [T],
    run: impl Fn(Line<'_, T>) + Sync,
) {
    check(what, pool, x, y);
    assert!(
        channels > 0 && pool.planes.is_multiple_of(channels),
        "{what}: {} planes are no images of {channels} channels",
        pool.planes
    );
    let window = &pool.window;
    let line = window.axes[2].output * channels;
    if line > 0 {
        threads.chunks(y, line, |index, y| {
            run(Line {
                window,
                channels,
                index,
                x,
                y,
            });
        });
    }
}

/// One line of windows, all channels.
struct Line<'a, T> {
    window: &'a Window,
    channels: usize,
    index: usize,
    x: &'a [T],
    y: &'a mut [T],
}

impl<T: Copy> Line<'_, T> {
    /// The outer places of the line.
    #[inline(always)]
    fn outer(&self) -> [usize; 2] {
        let [a, b, _] = &self.window.axes;
        [self.index / b.output % a.output, self.index % b.output]
    }

    /// Folds the values inside each window; `finish` is told which window it was.
    #[inline(always)]
    fn fold(self, fold: &impl Fold<T>, finish: impl Fn(&mut [T], usize)) {
        let [a, b, _] = &self.window.axes;
        let len = self.window.input_len() * self.channels;
        let image = &self.x[self.index / (a.output * b.output) * len..][..len];
        let [oa, ob] = self.outer();
        for (oc, out) in self.y.chunks_exact_mut(self.channels).enumerate() {
            let seen = Seen {
                window: self.window,
                channels: self.channels,
                image,
                at: [oa, ob, oc],
            };
            // Many channels at a time, in registers, then fewer.
            let (many, rest) = out.as_chunks_mut::<64>();
            let (some, one) = rest.as_chunks_mut::<16>();
            let mut channel = 0;
            for out in many {
                *out = fold.fold(&seen, channel);
                channel += out.len();
            }
            for out in some {
                *out = fold.fold(&seen, channel);
                channel += out.len();
            }
            for out in one {
                [*out] = fold.fold(&seen, channel);
                channel += 1;
            }
            finish(out, oc);
        }
    }
}

/// What a window sees.
struct Seen<'a, T> {
    window: &'a Window,
    channels: usize,
    image: &'a [T],
    /// Which window it is, along each axis.
    at: [usize; AXES],
}

impl<T: Copy> Seen<'_, T> {
    /// Calls `take` with some channels of each place inside it.
    #[inline(always)]
    fn each<const W: usize>(&self, channel: usize, mut take: impl FnMut(&[T; W])) {
        let [a, b, c] = &self.window.axes;
        let [oa, ob, oc] = self.at;
        let ((fa, la), (fb, lb), (fc, lc)) = (a.inside(oa), b.inside(ob), c.inside(oc));
        let place =
            |axis: &Axis, o: usize, k: usize| o * axis.stride + k * axis.dilation - axis.begin;
        for ka in fa..la {
            for kb in fb..lb {
                let line = (place(a, oa, ka) * b.input + place(b, ob, kb)) * c.input;
                for kc in fc..lc {
                    let first = (line + place(c, oc, kc)) * self.channels + channel;
                    take(
                        self.image[first..]
                            .first_chunk()
                            .expect("a place has all channels"),
                    );
                }
            }
        }
    }
}

/// What becomes of the values inside a window.
trait Fold<T> {
    /// That of some channels.
    fn fold<const W: usize>(&self, seen: &Seen<'_, T>, channel: usize) -> [T; W];
}

/// Beginning with the first, each value in its turn.
struct InTurn<T, F>(T, F);

impl<T: Copy, F: Fn(T, T) -> T> Fold<T> for InTurn<T, F> {
    #[inline(always)]
    fn fold<const W: usize>(&self, seen: &Seen<'_, T>, channel: usize) -> [T; W] {
        let mut folded = [self.0; W];
        seen.each(channel, |values: &[T; W]| {
            for i in 0..W {
                folded[i] = (self.1)(folded[i], values[i]);
            }
        });
        folded
    }
}

/// The largest value, by [`math::max`]; −∞ where there is none.
///
/// Found among the bits as integers, which takes three instructions for each value: of values above −0 the largest has the
/// largest bits, signed; of those below, the smallest; and a NaN below exceeds all others without a sign.
struct Largest;

impl Fold<f32> for Largest {
    #[inline(always)]
    fn fold<const W: usize>(&self, seen: &Seen<'_, f32>, channel: usize) -> [f32; W] {
        let none = f32::NEG_INFINITY.to_bits();
        let (mut above, mut below, mut farthest) =
            ([none.cast_signed(); W], [none.cast_signed(); W], [none; W]);
        seen.each(channel, |values: &[f32; W]| {
            for i in 0..W {
                let bits = values[i].to_bits();
                above[i] = above[i].max(bits.cast_signed());
                below[i] = below[i].min(bits.cast_signed());
                farthest[i] = farthest[i].max(bits);
            }
        });
        std::array::from_fn(|i| {
            let largest = if above[i] >= 0 { above[i] } else { below[i] };
            let nan = farthest[i] > none;
            math::canonical(match nan {
                true => f32::NAN,
                false => f32::from_bits(largest.cast_unsigned()),
            })
        })
    }
}

/// The largest integers of one line of windows.
struct LargestLast<'a, T> {
    line: Line<'a, T>,
    least: T,
}

impl<T: Copy + Ord> Kernel for LargestLast<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.line.fold(&InTurn(self.least, Ord::max), |_, _| {});
    }
}

/// What one line of windows comes to.
struct LineLast<'a> {
    line: Line<'a, f32>,
    pooling: Pooling,
}

impl Kernel for LineLast<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Pooling::Average { include_pad } = self.pooling else {
            return self.line.fold(&Largest, |_, _| {});
        };
        let ([a, b, c], [oa, ob]) = (&self.line.window.axes, self.line.outer());
        let outer = positions(a, oa, include_pad) * positions(b, ob, include_pad);
        let finish = |sums: &mut [f32], oc: usize| {
            let count = (outer * positions(c, oc, include_pad)) as f32;
            for sum in sums {
                *sum = math::canonical(*sum / count);
            }
        };
        self.line.fold(&InTurn(0.0, |sum, v| sum + v), finish);
    }
}

fn check<T>(what: &str, pool: &Pool, x: &[T], y: &[T]) {
    assert_eq!(x.len(), pool.input_len(), "{what}: input length");
    assert_eq!(y.len(), pool.output_len(), "{what}: output length");
}

struct MaxPool<'a> {
    pool: &'a Pool,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for MaxPool<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let step = |best, _, v| math::max(best, v);
        each_plane(
            self.pool,
            self.x,
            self.y,
            f32::NEG_INFINITY,
            step,
            |_, _| {},
        );
    }
}

struct AveragePool<'a> {
    pool: &'a Pool,
    count_include_pad: bool,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for AveragePool<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let counts = self.pool.window.axes.map(|axis| {
            let count = |o| positions(&axis, o, self.count_include_pad);
            (0..axis.output).map(count).collect::<Vec<usize>>()
        });
        let [a, b, c] = &counts;
        // A sum that begins with +0 is never −0, so padding of +0 leaves it as it is.
        let step = |sum, _, v| sum + v;
        let finish = |sums: &mut [f32], [oa, ob, oc]: [usize; AXES]| {
            for (sum, &count) in sums.iter_mut().zip(&c[oc..]) {
                *sum = math::canonical(*sum / (a[oa] * b[ob] * count) as f32);
            }
        };
        each_plane(self.pool, self.x, self.y, 0.0, step, finish);
    }
}

/// Number of window positions that count at output `o` of one axis.
fn positions(axis: &Axis, o: usize, include_pad: bool) -> usize {
    if include_pad {
        let padded = axis.begin + axis.input + axis.end;
        (padded - o * axis.stride)
            .div_ceil(axis.dilation)
            .min(axis.kernel)
    } else {
        let (first, last) = axis.inside(o);
        last - first
    }
}

/// Folds the windows of every plane.
#[inline(always)]
fn each_plane(
    pool: &Pool,
    x: &[f32],
    y: &mut [f32],
    identity: f32,
    step: impl Fn(f32, f32, f32) -> f32,
    finish: impl Fn(&mut [f32], [usize; AXES]),
) {
    let window = &pool.window;
    let layout = Layout::of(window);
    let mut sheet = layout.empty(1, identity);
    let taps: Vec<(usize, f32)> = layout.taps().into_iter().map(|tap| (tap, 1.0)).collect();
    let planes = x.chunks_exact(window.input_len());
    for (plane, out) in planes.zip(y.chunks_exact_mut(window.output_len())) {
        layout.write(plane, &mut sheet);
        slide(&layout, &sheet, &taps, identity, &step, &finish, out);
    }
}
