//! Where tensors lie in the stacks that are committed to.

use std::borrow::Cow;

use lemma_graph::integer::Skeleton;

use crate::field::{Ext, PrimeCharacteristicRing};
use crate::plan::{log_shape, log2, variables};

/// Fewest variables of a committed polynomial.
pub(crate) const MIN_VARIABLES: usize = 10;

/// Most pieces into which constants are cut, so that a small skeleton does not take much memory.
const MAX_PIECES: usize = 1 << 12;

/// A cube inside a larger one: `bits` variables at an aligned place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) bits: usize,
    pub(crate) start: usize,
}

/// Cubes packed into the smallest cube, larger ones first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stack {
    pub(crate) blocks: Vec<Block>,
    pub(crate) bits: usize,
}

impl Stack {
    pub(crate) fn new(sizes: &[usize], least: usize) -> Stack {
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        order.sort_by_key(|&i| (std::cmp::Reverse(sizes[i]), i));
        let mut blocks = vec![Block { bits: 0, start: 0 }; sizes.len()];
        let mut end = 0usize;
        for i in order {
            blocks[i] = Block {
                bits: sizes[i],
                start: end,
            };
            end += 1 << sizes[i];
        }
        Stack {
            blocks,
            bits: log2(end.max(1)).max(least),
        }
    }
}

/// An aligned range of a dimension: 2^`bits` indices from `number` · 2^`bits` on, of 2^`of`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) bits: usize,
    pub(crate) number: usize,
    pub(crate) of: usize,
}

impl Range {
    /// The ranges whose lengths are the powers of two that a size is the sum of, longest first.
    fn cut(size: usize) -> Vec<Range> {
        let mut start = 0;
        let set = (0..usize::BITS as usize).rev();
        set.filter(|bits| size >> bits & 1 == 1)
            .map(|bits| {
                let number = start >> bits;
                start += 1 << bits;
                let of = log2(size);
                Range { bits, number, of }
            })
            .collect()
    }

    /// Its indices.
    pub(crate) fn indices(self) -> std::ops::Range<usize> {
        let start = self.number << self.bits;
        start..start + (1 << self.bits)
    }
}

/// A tensor in a stack, or a part of it: the elements in a range of each of its dimensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) block: Block,
    /// Empty if the piece is the whole cube of the tensor.
    pub(crate) ranges: Vec<Range>,
}

impl Piece {
    /// A whole tensor.
    pub(crate) fn whole(block: Block) -> Piece {
        let ranges = Vec::new();
        Piece { block, ranges }
    }

    /// A point of the piece's cube as one of the tensor's.
    pub(crate) fn extend<'a>(&self, at: &'a [Ext]) -> Cow<'a, [Ext]> {
        if self.ranges.is_empty() {
            return Cow::Borrowed(at);
        }
        let (mut rest, mut point) = (at, Vec::new());
        for range in &self.ranges {
            let above = (0..range.of - range.bits).rev();
            point.extend(above.map(|bit| Ext::from_bool(range.number >> bit & 1 == 1)));
            let (own, after) = rest.split_at(range.bits);
            point.extend(own);
            rest = after;
        }
        Cow::Owned(point)
    }

    /// Of a table over some of the tensor's dimensions what belongs to the piece.
    pub(crate) fn restrict(&self, table: Vec<Ext>, dims: &[usize]) -> Vec<Ext> {
        if self.ranges.is_empty() {
            return table;
        }
        let mut places = vec![0usize];
        for range in dims.iter().map(|&d| self.ranges[d]) {
            let longer = places
                .iter()
                .flat_map(|&p| range.indices().map(move |i| p << range.of | i));
            places = longer.collect();
        }
        places.into_iter().map(|place| table[place]).collect()
    }
}

/// Where the constants of a model are: most in a committed stack; small ones that would double the
/// stack, if they are an eighth of it at most, in the verifying key.
///
/// Each is in one piece, its dimensions rounded up to powers of two; or all are cut into pieces without padding, if the stack is
/// smaller then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConstantLayout {
    pub(crate) stack: Stack,
    /// The pieces of each constant; none of those in the key.
    pub(crate) pieces: Vec<Vec<Piece>>,
}

impl ConstantLayout {
    pub(crate) fn new(skeleton: &Skeleton) -> ConstantLayout {
        let shapes = || skeleton.constants.iter().map(|c| &c.shape[..]);
        let one = |shape: &[usize]| vec![(variables(shape), Vec::new())];
        let whole = ConstantLayout::of(shapes().map(one).collect());
        let count = |shape: &[usize]| -> usize {
            let each = shape.iter().map(|size| size.count_ones() as usize);
            each.fold(1, usize::saturating_mul)
        };
        if shapes().map(count).fold(0, usize::saturating_add) > MAX_PIECES {
            return whole;
        }
        let cut = ConstantLayout::of(shapes().map(cut).collect());
        if cut.stack.bits < whole.stack.bits {
            cut
        } else {
            whole
        }
    }

    /// Stacks pieces, of which variables and ranges are given.
    fn of(parts: Vec<Vec<(usize, Vec<Range>)>>) -> ConstantLayout {
        let cells = |parts: &Vec<(usize, Vec<Range>)>| parts.iter().map(|(b, _)| 1u64 << b).sum();
        let sizes: Vec<u64> = parts.iter().map(cells).collect();
        let keyed = keyed(&sizes);
        let committed = || parts.iter().zip(&keyed).filter(|(_, keyed)| !**keyed);
        let bits: Vec<usize> = committed()
            .flat_map(|(parts, _)| parts.iter().map(|(bits, _)| *bits))
            .collect();
        let stack = Stack::new(&bits, MIN_VARIABLES);
        let mut blocks = stack.blocks.iter().copied();
        let pieces = parts.into_iter().zip(&keyed).map(|(parts, &keyed)| {
            let parts = if keyed { Vec::new() } else { parts };
            let placed = parts.into_iter().zip(blocks.by_ref());
            placed
                .map(|((_, ranges), block)| Piece { block, ranges })
                .collect()
        });
        ConstantLayout {
            pieces: pieces.collect(),
            stack,
        }
    }

    /// Whether a constant is in the key.
    pub(crate) fn is_keyed(&self, constant: usize) -> bool {
        self.pieces[constant].is_empty()
    }
}

/// The pieces of a shape: variables and ranges of each.
fn cut(shape: &[usize]) -> Vec<(usize, Vec<Range>)> {
    let mut parts = vec![(0, Vec::new())];
    for &size in shape {
        let ranges = Range::cut(size);
        let longer = parts.iter().flat_map(|(bits, before)| {
            ranges.iter().map(move |&range| {
                let with = before.iter().copied().chain([range]).collect();
                (bits + range.bits, with)
            })
        });
        parts = longer.collect();
    }
    parts
}

/// Which constants of these numbers of cells go into the key: the smallest ones, if the others' stack is smaller then, and
/// they are an eighth of all at most.
fn keyed(sizes: &[u64]) -> Vec<bool> {
    let total: u64 = sizes.iter().sum();
    // A stack has no gaps: its size is the sum of its blocks', rounded up.
    let bits = |cells: u64| log2(cells.max(1) as usize).max(MIN_VARIABLES);
    let mut ascending: Vec<usize> = (0..sizes.len()).collect();
    ascending.sort_by_key(|&i| (sizes[i], i));
    let (mut keyed, mut removed) = (vec![false; sizes.len()], 0);
    for i in ascending {
        removed += sizes[i];
        if removed > total / 8 {
            break;
        }
        keyed[i] = true;
        if bits(total - removed) < bits(total) {
            return keyed;
        }
    }
    vec![false; sizes.len()]
}

/// Calls `each` with the row-major index of every element in some ranges of a tensor's dimensions, or in all of the tensor if
/// there are none, and its place in their cube.
pub(crate) fn scatter(shape: &[usize], ranges: &[Range], mut each: impl FnMut(usize, usize)) {
    let logs = log_shape(shape);
    let whole = |(&size, &bits): (&usize, &usize)| (0..size, bits);
    let ranges: Vec<(std::ops::Range<usize>, usize)> = match ranges {
        [] => shape.iter().zip(&logs).map(whole).collect(),
        ranges => ranges.iter().map(|r| (r.indices(), r.bits)).collect(),
    };
    let total: usize = ranges.iter().map(|(r, _)| r.len()).product();
    let strides: Vec<usize> = (0..shape.len())
        .map(|a| shape[a + 1..].iter().product())
        .collect();
    let places: Vec<usize> = (0..shape.len())
        .map(|a| 1 << ranges[a + 1..].iter().map(|(_, bits)| bits).sum::<usize>())
        .collect();
    let mut index = vec![0usize; shape.len()];
    let mut from: usize = ranges
        .iter()
        .zip(&strides)
        .map(|((r, _), s)| r.start * s)
        .sum();
    let mut place = 0;
    for _ in 0..total {
        each(from, place);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            from += strides[axis];
            place += places[axis];
            let length = ranges[axis].0.len();
            if index[axis] < length {
                break;
            }
            from -= length * strides[axis];
            place -= length * places[axis];
            index[axis] = 0;
        }
    }
}

/// The pieces that a tensor is cut into, alone in a stack of so many variables.
#[cfg(test)]
pub(crate) fn pieces(shape: &[usize]) -> (Vec<Piece>, usize) {
    let parts = cut(shape);
    let sizes: Vec<usize> = parts.iter().map(|(bits, _)| *bits).collect();
    let Stack { blocks, bits } = Stack::new(&sizes, 0);
    let placed = parts.into_iter().zip(blocks);
    let pieces = placed.map(|((_, ranges), block)| Piece { block, ranges });
    (pieces.collect(), bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_aligned_and_cover_a_dimension() {
        for size in (1..200).chain([768, 3072, 50_257, 1 << 20]) {
            let ranges = Range::cut(size);
            assert_eq!(ranges.len(), size.count_ones() as usize);
            let mut next = 0;
            for range in ranges {
                assert_eq!(range.indices().start, next, "{size}");
                assert!(range.bits <= range.of && range.of == log2(size));
                next = range.indices().end;
            }
            assert_eq!(next, size);
        }
    }

    #[test]
    fn pieces_have_each_element_once_and_no_padding() {
        for shape in [&[7][..], &[5, 12], &[1, 3, 6], &[4, 8], &[]] {
            let total: usize = shape.iter().product();
            let (pieces, bits) = pieces(shape);
            assert_eq!(bits, log2(total), "{shape:?}");
            let mut seen = vec![0; total];
            for piece in &pieces {
                let mut places = vec![0; 1 << piece.block.bits];
                scatter(shape, &piece.ranges, |i, place| {
                    seen[i] += 1;
                    places[place] += 1;
                });
                assert!(places.iter().all(|&n| n == 1), "{shape:?}");
            }
            assert!(seen.iter().all(|&n| n == 1), "{shape:?}");
        }
    }

    /// 12 blocks of width 768 and a vocabulary of 50,257 fill a commitment of 2²⁷ cells.
    #[test]
    fn the_shape_of_gpt2_fits() {
        let block: &[&[usize]] = &[&[768, 768], &[768, 3072], &[3072, 768], &[768], &[3072]];
        let each = [4, 1, 1, 9, 1];
        let cells = |shape: &[usize]| {
            pieces(shape)
                .0
                .iter()
                .map(|p| 1usize << p.block.bits)
                .sum::<usize>()
        };
        let blocks: usize = block.iter().zip(each).map(|(s, n)| 12 * n * cells(s)).sum();
        let all = blocks + cells(&[768, 50_257]) + 2 * cells(&[768]);
        assert_eq!(all, 123_653_376);
        assert_eq!(log2(all), 27);
    }
}
