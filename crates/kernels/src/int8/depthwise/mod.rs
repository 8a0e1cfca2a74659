//! Convolution of each channel by its own filter, with the channels last.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod fold;
mod portable;
#[cfg(target_arch = "x86_64")]
mod under;

#[cfg(target_arch = "x86_64")]
use super::avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use super::input::Input;
use super::pack::COLUMNS;
#[cfg(target_arch = "x86_64")]
use super::vnni::Vnni;
use super::walk::{Finish, InLines, Place, ROWS, Tile};
use super::{Finished, Int8, Output};
use crate::chain::Chain;
use crate::conv::Conv;
use crate::isa::Isa;
use crate::threads::Threads;

/// Filters of one channel each.
#[derive(Clone, Debug)]
pub(super) struct Filters {
    /// Tap after tap, each a value for every channel, less its zero point.
    taps: Vec<i32>,
    wider: Wider,
}

/// The taps as wider instructions read them.
#[derive(Clone, Debug)]
enum Wider {
    No,
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Pairs),
    #[cfg(target_arch = "x86_64")]
    Vnni(avx512::Taps),
}

impl Wider {
    #[cfg(target_arch = "x86_64")]
    fn pack(isa: Isa, taps: &[i32], channels: usize) -> Wider {
        let packed = if Vnni::on(isa).is_some() {
            avx512::Taps::pack(taps, channels).map(Wider::Vnni)
        } else if Avx2::on(isa).is_some() {
            avx2::Pairs::pack(taps, channels).map(Wider::Avx2)
        } else {
            None
        };
        packed.unwrap_or(Wider::No)
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn pack(_: Isa, _: &[i32], _: usize) -> Wider {
        Wider::No
    }
}

impl Filters {
    /// Packs filters, channel after channel, with one zero point or one for each.
    pub(super) fn pack(isa: Isa, conv: &Conv, filters: Int8<'_>, zeros: &[i32]) -> Filters {
        let [channels, _, depth] = conv.filter_shape();
        let tap = |i: usize| {
            let (tap, channel) = (i / channels, i % channels);
            filters.at(channel * depth + tap) - zeros[channel % zeros.len()]
        };
        let taps: Vec<i32> = (0..filters.len()).map(tap).collect();
        let wider = Wider::pack(isa, &taps, channels);
        Filters { taps, wider }
    }

    /// Bytes that packed filters occupy, at most.
    pub(super) fn bytes(conv: &Conv) -> u64 {
        let [channels, _, depth] = conv.filter_shape();
        // As taps of 32 bits; and of 8, for as many channels as registers have, which may be repeated, or of 16, with a sum for
        // each channel.
        let wide = (4 * channels).next_multiple_of(COLUMNS) as u64;
        4 * conv.filter_len() as u64 + wide * (4 + depth.next_multiple_of(4) as u64)
    }

    /// Convolution of `x`, whose channels lie last, less its zero point, which is raised if `x` has a sign.
    pub(super) fn conv(
        &self,
        isa: Isa,
        threads: &Threads,
        conv: &Conv,
        (x, zero): (Int8<'_>, u8),
        chain: &Chain<'_>,
        y: Output<'_>,
    ) {
        let n = conv.out_channels();
        match &self.wider {
            #[cfg(target_arch = "x86_64")]
            Wider::Avx2(taps) if let Some(avx2) = Avx2::on(isa) => {
                let depthwise = avx2::Depthwise::new(avx2, conv, taps, x, zero);
                depthwise.run(threads, &Finished::of_sums(isa, n, chain, y));
            }
            #[cfg(target_arch = "x86_64")]
            Wider::Vnni(taps) if let Some(vnni) = Vnni::on(isa) => {
                let mut copy = Vec::new();
                let (x, fold) = match taps.folds(conv) && fold::repeats(chain) {
                    true => {
                        let input = Input::padded(threads, conv, &x, zero, &mut copy);
                        (Int8::Unsigned(input.places()), taps.fold)
                    }
                    false => (x, 1),
                };
                let depthwise = avx512::Depthwise::new(vnni, conv, taps, x, zero, fold);
                fold::repeated(chain, n, fold, |chain| {
                    depthwise.run(threads, &Finished::of_sums(isa, n * fold, chain, y));
                });
            }
            _ => self.plain(
                isa,
                threads,
                conv,
                (x, zero),
                &Finished::of_sums(isa, n, chain, y),
            ),
        }
    }

    /// [`conv`](Filters::conv) on every instruction set.
    fn plain(
        &self,
        isa: Isa,
        threads: &Threads,
        conv: &Conv,
        (x, zero): (Int8<'_>, u8),
        out: &impl Finish,
    ) {
        let (n, width) = (conv.out_channels(), conv.window().axes[2].output);
        let x_zero = i32::from(zero) - x.raised_by();
        each_line(threads, conv, |line, tile| {
            for at in places(line, width, n) {
                isa.run(portable::Depthwise {
                    conv,
                    x,
                    x_zero,
                    taps: &self.taps,
                    at,
                    tile,
                });
                // SAFETY: each line is one task's.
                unsafe { out.finish(at, tile) };
            }
        });
    }
}

/// Calls `f` once for each line of the outputs, with a tile to use; those of a task are at least some thousand values.
fn each_line(threads: &Threads, conv: &Conv, f: impl Fn(usize, &mut Tile) + Sync) {
    let [a, b, c] = &conv.window().axes;
    let lines = conv.batch() * a.output * b.output;
    let together = (8192 / (c.output * conv.out_channels())).max(1);
    threads.run(lines.div_ceil(together), |task| {
        let InLines(tile) = &mut InLines::new();
        for line in task * together..lines.min((task + 1) * together) {
            f(line, tile);
        }
    });
}

/// The tiles of a line of outputs.
fn places(line: usize, width: usize, n: usize) -> impl Iterator<Item = Place> {
    (0..n).step_by(COLUMNS).flat_map(move |column| {
        (0..width).step_by(ROWS).map(move |first| Place {
            row: line * width + first,
            count: ROWS.min(width - first),
            column,
            width: COLUMNS.min(n - column),
        })
    })
}
