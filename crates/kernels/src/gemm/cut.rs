//! How a product is cut into tasks. Only who computes what, and when, depends on it.

use std::iter::successors;
use std::ops::Range;

use super::{PANEL, group};
use crate::chain::Chain;

/// Multiply-accumulates that are worth a task of their own.
const WORTH_A_TASK: usize = 1 << 18;

/// Bytes of a result that a chain finds in the second-level cache.
const HELD_RESULT: usize = 256 << 10;

/// Bytes of a result that a chain finds in the first-level cache, beside as many others.
const HELD_NEAR: usize = 16 << 10;

/// Groups of rows, and for each the same parts of all panels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    m: usize,
    /// Rows of a group.
    group: usize,
    n: usize,
    /// Panels of a part.
    together: usize,
}

impl Cut {
    /// For `threads`, an `m × k` matrix whose rows bring `weight` values each, a `k × n` one, and what follows.
    pub(super) fn of(
        threads: usize,
        [m, k, n]: [usize; 3],
        weight: usize,
        chain: &Chain<'_>,
    ) -> Cut {
        let panels = n.div_ceil(PANEL);
        let mut most = group(weight);
        if !chain.is_empty() && k * n * size_of::<f32>() <= 2 * HELD_NEAR {
            // The panels are read again at no cost: what the chain works on may be little.
            let near = HELD_NEAR / (n * size_of::<f32>()) / 6 * 6;
            most = most.min(near.max(12));
        }
        // Alone a thread fills its tiles; several had better have equally much to do.
        let tiles = if threads == 1 { 6 } else { 1 };
        let cut = |groups: usize, parts: usize| Cut {
            m,
            group: m.div_ceil(groups).next_multiple_of(tiles).min(most),
            n,
            together: panels.div_ceil(parts),
        };
        let groups = m.div_ceil(most);
        let fewest = if chain.by_rows() || chain.is_empty() {
            1
        } else {
            // A chain finds its values in the cache.
            let held = cut(groups, 1).group.min(m) * n * size_of::<f32>();
            held.div_ceil(HELD_RESULT).min(panels)
        };
        let wanted = (m * k * n / WORTH_A_TASK).clamp(1, 4 * threads);
        if threads == 1 || wanted == 1 {
            return cut(groups, fewest);
        }
        let highest = match chain.by_rows() {
            true => 1,
            false => panels.min(8 * threads).max(fewest),
        };
        // Few groups, so that the panels are read few times, and few parts; but all threads have work to the end.
        let cuts = counts(m, groups..groups.max(2 * wanted) + 1)
            .flat_map(|groups| {
                counts(panels, fewest..highest + 1).map(move |parts| (groups, parts))
            })
            .map(|(groups, parts)| cut(groups, parts))
            .filter(|cut| cut.tasks() >= wanted.min(2 * threads));
        let mut best: Option<(usize, Cut)> = None;
        for cut in cuts {
            let better = |span: usize| best.is_none_or(|(least, _)| span < least);
            // What may be better is looked at more closely.
            if better(cut.estimate(threads)) {
                let span = cut.span(threads);
                if better(span) {
                    best = Some((span, cut));
                }
            }
            let even = |(least, _)| least * threads * 32 <= m * n * 33;
            if cut.tasks() >= wanted && best.is_some_and(even) {
                break;
            }
        }
        best.map_or(cut(groups, highest), |(_, cut)| cut)
    }

    /// Results of the thread that has most to do, if each task goes to who has done least.
    fn span(&self, threads: usize) -> usize {
        let tasks = self.tasks();
        if tasks > 4 * threads {
            return self.estimate(threads);
        }
        let mut done = vec![0; threads];
        for (rows, columns) in (0..tasks).map(|task| self.task(task)) {
            if let Some(least) = done.iter_mut().min() {
                *least += rows.len() * columns.len();
            }
        }
        done.into_iter().max().unwrap_or(0)
    }

    /// The same, about and at once: tasks of the whole size, or of nearly that, go round; smaller ones
    /// fill the last round and then come evenly.
    fn estimate(&self, threads: usize) -> usize {
        let (rows, columns) = (self.group.min(self.m), self.width().min(self.n));
        let pieces = |total: usize, size: usize| total / size + (2 * (total % size) / size);
        let (whole, size) = (
            pieces(self.m, rows) * pieces(self.n, columns),
            rows * columns,
        );
        let rounds = whole.div_ceil(threads);
        let smaller = (self.m * self.n).saturating_sub(whole * size);
        let free = (rounds * threads - whole) * size;
        rounds * size + smaller.saturating_sub(free).div_ceil(threads)
    }

    /// Columns of a part.
    fn width(&self) -> usize {
        self.together * PANEL
    }

    fn parts(&self) -> usize {
        self.n.div_ceil(self.width())
    }

    pub(super) fn tasks(&self) -> usize {
        self.m.div_ceil(self.group) * self.parts()
    }

    /// The rows and the columns of a task.
    pub(super) fn task(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let (group, part) = (task / self.parts(), task % self.parts());
        let rows = group * self.group..self.m.min((group + 1) * self.group);
        (
            rows,
            part * self.width()..self.n.min((part + 1) * self.width()),
        )
    }
}

/// The numbers of pieces within `range` that cut `total` into pieces of different sizes each: the least number for each
/// size, so that a search costs little.
fn counts(total: usize, range: Range<usize>) -> impl Iterator<Item = usize> + Clone {
    let next = move |count: &usize| {
        let size = total.div_ceil(*count);
        (size > 1).then(|| total.div_ceil(size - 1))
    };
    successors(Some(range.start), next).take_while(move |count| *count < range.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_have_about_as_equally_much_to_do_as_can_be() {
        let shapes = [
            [49, 160, 960],
            [49, 960, 160],
            [196, 576, 96],
            [197, 768, 3072],
            [3136, 64, 256],
            [128, 768, 768],
            [512, 512, 512],
        ];
        for [m, k, n] in shapes {
            for threads in [2, 3, 4, 8, 16] {
                let found = Cut::of(threads, [m, k, n], k, &Chain::NONE);
                let panels = n.div_ceil(PANEL);
                let all = (m.div_ceil(group(k))..=m.min(128)).flat_map(|groups| {
                    (1..=panels).map(move |parts| Cut {
                        m,
                        group: m.div_ceil(groups),
                        n,
                        together: panels.div_ceil(parts),
                    })
                });
                let wanted = (m * k * n / WORTH_A_TASK).clamp(1, 2 * threads);
                let allowed = all.filter(|cut| cut.tasks() >= wanted);
                let least = allowed.map(|cut| cut.span(threads)).min().unwrap();
                let ratio = found.span(threads) as f64 / least as f64;
                assert!(
                    ratio < 1.2,
                    "{m} {k} {n}, {threads} threads: {ratio} {found:?}"
                );
            }
        }
    }

    #[test]
    fn counts_are_the_least_for_each_size() {
        for total in 1..200usize {
            let found: Vec<usize> = counts(total, 1..total + 1).collect();
            let sizes: Vec<usize> = found.iter().map(|count| total.div_ceil(*count)).collect();
            let mut all: Vec<usize> = (1..=total).map(|count| total.div_ceil(count)).collect();
            all.dedup();
            assert_eq!(sizes, all, "{total}");
        }
    }

    #[test]
    fn few_are_tried() {
        assert!(counts(50_257usize.div_ceil(PANEL), 1..129).count() <= 128);
        assert!(counts(15, 1..121).count() <= 7);
        assert!(counts(49, 1..129).count() <= 13);
    }
}
