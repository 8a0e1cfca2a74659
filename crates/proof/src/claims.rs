//! Claims on tensors, and their accumulation.
//!
//! A claim says that a weighted sum of a tensor's elements has some value. Weights are products of
//! small tables over groups of the tensor's dimensions: an evaluation at a point, or a view seen
//! from a point. Every edge of the graph delivers one claim.

use lemma_graph::integer::{Factor, Relation, Source, View};
use rayon::prelude::*;

use crate::error::{Check, VerifyError, require};
use crate::field::{
    Base, Ext, LANES, PackedBase, PackedExt, PackedFieldExtension, PrimeCharacteristicRing,
    lane_sum, pack,
};
use crate::layout::{Block, Piece};
use crate::plan::{Column, Plan, log_shape, log2};
use crate::poly::{below, eq_eval, eq_table};
use p3_field::PackedValue;

/// What a claim is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Column(usize),
    Constant(usize),
    Input(usize),
}

/// The weights of a claim.
#[derive(Clone, Debug)]
pub(crate) enum Weight {
    /// `eq(point, ·)`.
    Point(Vec<Ext>),
    /// A view from a point: one part for each of its factors.
    View {
        parts: Vec<Part>,
        /// log₂ of the tensor's dimensions.
        dims: Vec<usize>,
    },
}

/// A factor of a view, with the point on its axes.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    relation: Relation,
    /// Sizes of its axes, and the point's coordinates for all of them.
    axes: Vec<usize>,
    point: Vec<Ext>,
    /// Its dimensions, and their sizes.
    dims: Vec<usize>,
    sizes: Vec<usize>,
}

/// A claim.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) target: Target,
    pub(crate) weight: Weight,
    pub(crate) value: Ext,
}

/// Places a row-major index over true sizes into the cube of rounded-up ones.
fn padded_index(mut index: usize, sizes: &[usize]) -> usize {
    let (mut place, mut shift) = (0, 0);
    for &size in sizes.iter().rev() {
        place |= (index % size) << shift;
        index /= size;
        shift += log2(size);
    }
    place
}

impl Part {
    fn new(factor: &Factor, axes: &[usize], coordinates: &[Vec<Ext>], shape: &[usize]) -> Part {
        Part {
            relation: factor.relation.clone(),
            axes: factor.axes.iter().map(|&a| axes[a]).collect(),
            point: factor
                .axes
                .iter()
                .flat_map(|&a| coordinates[a].iter().copied())
                .collect(),
            dims: factor.dims.clone(),
            sizes: factor.dims.iter().map(|&d| shape[d]).collect(),
        }
    }

    /// The weights over the cube of the dimensions.
    fn table(&self) -> Vec<Ext> {
        let rows = eq_table(&self.point);
        match &self.relation {
            // The tensor is zero beyond its true size.
            Relation::Identity => rows,
            Relation::Pairs(pairs) => {
                let bits: usize = self.sizes.iter().map(|&s| log2(s)).sum();
                let mut table = vec![Ext::ZERO; 1 << bits];
                for &(row, column) in pairs {
                    table[padded_index(column as usize, &self.sizes)] +=
                        rows[padded_index(row as usize, &self.axes)];
                }
                table
            }
        }
    }

    /// The multilinear extension of the weights.
    fn evaluate(&self, at: &[Ext]) -> Ext {
        match &self.relation {
            Relation::Identity => eq_eval(&self.point, at),
            Relation::Pairs(pairs) => {
                let (rows, columns) = (eq_table(&self.point), eq_table(at));
                pairs
                    .iter()
                    .map(|&(row, column)| {
                        rows[padded_index(row as usize, &self.axes)]
                            * columns[padded_index(column as usize, &self.sizes)]
                    })
                    .sum()
            }
        }
    }
}

/// Weights as the product of a table over the leading variables and one over the trailing ones.
struct Split {
    high: Vec<Ext>,
    low: Vec<Ext>,
}

fn outer(a: &[Ext], b: &[Ext]) -> Vec<Ext> {
    a.iter()
        .flat_map(|&x| b.iter().map(move |&y| x * y))
        .collect()
}

impl Weight {
    /// The weights of a view whose axes have these sizes and the point these coordinates.
    pub(crate) fn view(
        view: &View,
        axes: &[usize],
        coordinates: &[Vec<Ext>],
        shape: &[usize],
    ) -> Weight {
        let part = |f: &Factor| Part::new(f, axes, coordinates, shape);
        let mut parts: Vec<Part> = view.factors.iter().map(part).collect();
        parts.sort_by_key(|p| p.dims.first().copied());
        Weight::View {
            parts,
            dims: log_shape(shape),
        }
    }

    /// The multilinear extension of the weights in a piece of the tensor, at a point of the piece.
    pub(crate) fn evaluate(&self, piece: &Piece, at: &[Ext]) -> Ext {
        let at = &piece.extend(at)[..];
        match self {
            Weight::Point(point) => eq_eval(point, at),
            Weight::View { parts, dims } => {
                let start = |dim: usize| dims[..dim].iter().sum::<usize>();
                let value = |part: &Part| {
                    let own: Vec<Ext> = part
                        .dims
                        .iter()
                        .flat_map(|&d| at[start(d)..start(d) + dims[d]].iter().copied())
                        .collect();
                    part.evaluate(&own)
                };
                parts.iter().map(value).product()
            }
        }
    }

    /// The weights in a piece of the tensor.
    fn split(&self, piece: &Piece) -> Split {
        let tables: Vec<Vec<Ext>> = match self {
            Weight::Point(point) if piece.ranges.is_empty() => {
                let (high, low) = point.split_at(point.len() / 2);
                vec![eq_table(high), eq_table(low)]
            }
            Weight::Point(point) => {
                let all: Vec<usize> = (0..piece.ranges.len()).collect();
                vec![piece.restrict(eq_table(point), &all)]
            }
            Weight::View { parts, dims } => {
                let order: Vec<usize> = parts.iter().flat_map(|p| p.dims.iter().copied()).collect();
                if order.windows(2).all(|w| w[0] < w[1]) {
                    let own = |part: &Part| piece.restrict(part.table(), &part.dims);
                    parts.iter().map(own).collect()
                } else {
                    let all: Vec<usize> = (0..dims.len()).collect();
                    vec![piece.restrict(scattered(parts, dims), &all)]
                }
            }
        };
        let bits = piece.block.bits;
        // The trailing table fills registers, and has about half of the variables.
        let least = (bits / 2).max(LANES.trailing_zeros() as usize).min(bits);
        let mut low = vec![Ext::ONE];
        let mut rest = tables;
        while low.len() < 1 << least {
            match rest.pop() {
                Some(table) => low = outer(&table, &low),
                None => break,
            }
        }
        let high = rest
            .iter()
            .fold(vec![Ext::ONE], |high, table| outer(&high, table));
        Split { high, low }
    }

    /// The weights in a piece of the tensor, scaled, where they lie in a stack.
    pub(crate) fn rows(&self, scale: Ext, piece: &Piece) -> Rows {
        let Split { mut high, low } = self.split(piece);
        high.iter_mut().for_each(|h| *h *= scale);
        let start = piece.block.start;
        let low = if low.len() < LANES {
            // A block that does not fill a register: the other lanes weigh nothing.
            let own = crate::field::lane(start)..crate::field::lane(start) + low.len();
            let lane = |lane| own.contains(&lane).then(|| low[lane - own.start]);
            vec![PackedExt::from_ext_fn(|l| lane(l).unwrap_or(Ext::ZERO))]
        } else {
            pack(&low)
        };
        Rows {
            start: start / LANES,
            high,
            low,
        }
    }

    /// The weighted sum of the elements of a tensor, padded to its cube.
    pub(crate) fn sum(&self, values: &[Base]) -> Ext {
        let bits = values.len().trailing_zeros() as usize;
        self.sum_in(&Piece::whole(Block { bits, start: 0 }), values)
    }

    /// The weighted sum of the elements in a piece of a stack.
    pub(crate) fn sum_in(&self, piece: &Piece, stack: &[Base]) -> Ext {
        let values = &stack[piece.block.start..][..1 << piece.block.bits];
        let Split { high, low } = self.split(piece);
        if low.len() < LANES {
            let weights = high.iter().flat_map(|&h| low.iter().map(move |&l| h * l));
            return weights.zip(values).map(|(w, &v)| w * v).sum();
        }
        let low = pack(&low);
        let values = PackedBase::pack_slice(values);
        values
            .par_chunks(low.len())
            .with_min_len((4096 / low.len()).max(1))
            .zip(high)
            .map(|(row, h)| {
                let sum: PackedExt = row.iter().zip(&low).map(|(&v, &l)| l * v).sum();
                h * lane_sum(sum)
            })
            .sum()
    }
}

/// Weights in a stack, from the register `start` on: `low` in rows, each scaled by its element of `high`. Their number is a
/// power of two, and divides `start`.
pub(crate) struct Rows {
    pub(crate) start: usize,
    pub(crate) high: Vec<Ext>,
    pub(crate) low: Vec<PackedExt>,
}

impl Rows {
    /// How many registers they fill.
    pub(crate) fn registers(&self) -> usize {
        self.high.len() * self.low.len()
    }

    /// The rows, in several where they fill more registers than so many, a power of two.
    pub(crate) fn cut(mut self, most: usize) -> Vec<Rows> {
        let half = self.registers() / 2;
        if self.registers() <= most {
            return vec![self];
        }
        let (mut high, mut low) = (self.high.clone(), self.low.clone());
        if high.len() > 1 {
            high = self.high.split_off(self.high.len() / 2);
        } else {
            low = self.low.split_off(half);
        }
        let start = self.start + half;
        [self, Rows { start, high, low }]
            .into_iter()
            .flat_map(|half| half.cut(most))
            .collect()
    }

    /// Adds the weights in a register of the stack.
    #[inline]
    pub(crate) fn add_to(&self, register: usize, sum: &mut PackedExt) {
        let at = register.wrapping_sub(self.start);
        if let Some(&high) = self.high.get(at >> self.low.len().ilog2()) {
            *sum += self.low[at & (self.low.len() - 1)] * PackedExt::from(high);
        }
    }
}

/// The weights where the dimensions of the parts interleave.
fn scattered(parts: &[Part], dims: &[usize]) -> Vec<Ext> {
    let bits: usize = dims.iter().sum();
    let tables: Vec<Vec<Ext>> = parts.iter().map(Part::table).collect();
    (0..1usize << bits)
        .map(|index| {
            let coordinate = |dim: usize| {
                let after: usize = dims[dim + 1..].iter().sum();
                index >> after & ((1 << dims[dim]) - 1)
            };
            parts
                .iter()
                .zip(&tables)
                .map(|(part, table)| {
                    let place = part
                        .dims
                        .iter()
                        .fold(0, |p, &d| p << dims[d] | coordinate(d));
                    table[place]
                })
                .product()
        })
        .collect()
}

/// The factor by which axes that a term does not depend on count: 1 on true indices, 0 beyond.
pub(crate) fn uncovered(axes: &[usize], sizes: &[usize], coordinates: &[Vec<Ext>]) -> Ext {
    axes.iter()
        .map(|&a| below(sizes[a], &coordinates[a]))
        .product()
}

/// The coordinates of a point by axis.
pub(crate) fn by_axis(point: &[Ext], sizes: &[usize]) -> Vec<Vec<Ext>> {
    let mut rest = point;
    sizes
        .iter()
        .map(|&size| {
            let (head, tail) = rest.split_at(log2(size));
            rest = tail;
            head.to_vec()
        })
        .collect()
}

/// All claims of a proof, and how many each edge has delivered.
pub(crate) struct Accumulator {
    claims: Vec<Claim>,
    delivered: Vec<u32>,
}

impl Accumulator {
    pub(crate) fn new(edges: usize) -> Accumulator {
        Accumulator {
            claims: Vec::new(),
            delivered: vec![0; edges],
        }
    }

    /// A claim that belongs to no edge: from the lookups.
    pub(crate) fn add(&mut self, claim: Claim) {
        self.claims.push(claim);
    }

    /// The claim of an edge.
    pub(crate) fn deliver(&mut self, edge: usize, claim: Claim) {
        if let Some(count) = self.delivered.get_mut(edge) {
            *count += 1;
        }
        self.claims.push(claim);
    }

    /// All claims, once every edge has delivered exactly one.
    pub(crate) fn finish(self) -> Result<Vec<Claim>, VerifyError> {
        require(Check::Edges, self.delivered.iter().all(|&n| n == 1))?;
        Ok(self.claims)
    }
}

impl Plan {
    /// The target of a view's source. Every node has a column of values; a place that no stack has stands for one that
    /// were missing, so a claim on it could not be proved.
    pub(crate) fn target(&self, source: Source) -> Target {
        match source {
            Source::Input(i) => Target::Input(i),
            Source::Constant(i) => Target::Constant(i),
            Source::Node(i) => Target::Column(self.column(Column::Value(i)).unwrap_or(usize::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::ext_from_fn;
    use crate::poly::evaluate;

    fn challenge(seed: u32) -> Ext {
        ext_from_fn(|d| {
            Base::from_u32(seed.wrapping_mul(2_654_435_761).rotate_left(d as u32 * 5) >> 3)
        })
    }

    fn coordinates(sizes: &[usize], seed: u32) -> Vec<Vec<Ext>> {
        let mut n = seed;
        sizes
            .iter()
            .map(|&s| {
                (0..log2(s))
                    .map(|_| {
                        n += 1;
                        challenge(n)
                    })
                    .collect()
            })
            .collect()
    }

    /// All weights of a stack.
    fn unrolled(rows: impl IntoIterator<Item = Rows>, bits: usize) -> Vec<Ext> {
        let mut stack = vec![PackedExt::ZERO; (1usize << bits).div_ceil(LANES)];
        for part in rows.into_iter().flat_map(|rows| rows.cut(2)) {
            for (register, sum) in stack.iter_mut().enumerate() {
                part.add_to(register, sum);
            }
        }
        crate::field::unpack(&stack)
    }

    /// The sum, the tables and the closed form of weights say the same of random tensors.
    fn agree(view: &View, axes: &[usize], shape: &[usize]) {
        let at = coordinates(axes, 7);
        let weight = Weight::view(view, axes, &at, shape);
        let bits: usize = log_shape(shape).iter().sum();
        let total: usize = shape.iter().product();
        let mut values = vec![Base::ZERO; 1 << bits];
        let mut plain = Vec::new();
        for i in 0..total {
            plain.push(i as i32 * 37 % 251 - 100);
            values[padded_index(i, shape)] = Base::from_i32(plain[i]);
        }
        // What the view shows, at the point.
        let over: Vec<usize> = (0..axes.len()).filter(|&a| view.covers(a)).collect();
        let shown = view.gather(&plain, shape, axes, &over);
        let sizes: Vec<usize> = over.iter().map(|&a| axes[a]).collect();
        let own: Vec<Ext> = over.iter().flat_map(|&a| at[a].iter().copied()).collect();
        let mut padded = vec![Base::ZERO; 1 << own.len()];
        for (i, v) in shown.iter().enumerate() {
            padded[padded_index(i, &sizes)] = Base::from_i32(*v);
        }
        let expected = evaluate(&padded, &own);
        assert_eq!(weight.sum(&values), expected, "{view:?}");
        // The stacked weights, and their closed form.
        let block = Block {
            bits,
            start: 1 << bits,
        };
        let stack = unrolled([weight.rows(Ext::TWO, &Piece::whole(block))], bits + 1);
        let z: Vec<Ext> = (0..bits).map(|i| challenge(900 + i as u32)).collect();
        let direct: Ext = eq_table(&z)
            .into_iter()
            .zip(&stack[block.start..])
            .map(|(e, &w)| e * w)
            .sum();
        let closed = weight.evaluate(&Piece::whole(block), &z);
        assert_eq!(direct, closed.double(), "{view:?}");
        agree_in_pieces(&weight, shape, &plain, expected);
    }

    /// The same of the pieces that a tensor is cut into.
    fn agree_in_pieces(weight: &Weight, shape: &[usize], plain: &[i32], expected: Ext) {
        let (pieces, bits) = crate::layout::pieces(shape);
        let mut cells = vec![Base::ZERO; 1 << bits];
        for piece in &pieces {
            let cells = &mut cells[piece.block.start..][..1 << piece.block.bits];
            crate::layout::scatter(shape, &piece.ranges, |i, place| {
                cells[place] = Base::from_i32(plain[i]);
            });
        }
        let rows = pieces.iter().map(|piece| weight.rows(Ext::ONE, piece));
        let weights = unrolled(rows, bits);
        let by_table = weights.iter().zip(&cells).map(|(&w, &c)| w * c).sum();
        let by_piece = pieces.iter().map(|p| weight.sum_in(p, &cells)).sum();
        assert_eq!([expected; 2], [by_table, by_piece]);
        for piece in &pieces {
            let Block { bits, start } = piece.block;
            let z: Vec<Ext> = (0..bits).map(|i| challenge(700 + i as u32)).collect();
            let own = eq_table(&z).into_iter().zip(&weights[start..]);
            let direct: Ext = own.map(|(e, &w)| e * w).sum();
            assert_eq!(direct, weight.evaluate(piece, &z), "{piece:?}");
        }
    }

    fn factor(axes: &[usize], dims: &[usize], relation: Relation) -> Factor {
        Factor {
            axes: axes.to_vec(),
            dims: dims.to_vec(),
            relation,
        }
    }

    #[test]
    fn weights_agree_with_the_executor() {
        let view = |factors| View {
            source: Source::Input(0),
            factors,
        };
        let id = || Relation::Identity;
        agree(
            &view(vec![factor(&[0], &[0], id()), factor(&[1], &[1], id())]),
            &[5, 7],
            &[5, 7],
        );
        agree(
            &view(vec![factor(&[1], &[0], id()), factor(&[0], &[1], id())]),
            &[40, 33],
            &[33, 40],
        );
        // a window with padding, a sum, a selection, a repeat
        let window = Relation::Pairs(vec![(0, 0), (1, 1), (2, 0), (3, 1), (4, 2), (6, 1), (7, 2)]);
        agree(
            &view(vec![
                factor(&[0, 1], &[1], window),
                factor(&[2], &[0], id()),
            ]),
            &[3, 3, 6],
            &[6, 3],
        );
        let sum = Relation::Pairs(vec![(0, 0), (0, 1), (0, 2)]);
        agree(
            &view(vec![factor(&[], &[1], sum), factor(&[1], &[0], id())]),
            &[3, 6],
            &[6, 3],
        );
        let interleaved = Relation::Pairs(vec![(0, 1), (1, 3), (2, 0)]);
        agree(
            &view(vec![
                factor(&[0], &[0, 2], interleaved),
                factor(&[1], &[1], id()),
            ]),
            &[3, 20],
            &[2, 20, 2],
        );
    }

    #[test]
    fn every_edge_delivers_one_claim() {
        let claim = || Claim {
            target: Target::Input(0),
            weight: Weight::Point(Vec::new()),
            value: Ext::ONE,
        };
        for counts in [[1, 1], [0, 1], [2, 1], [1, 2]] {
            let mut claims = Accumulator::new(2);
            for (edge, n) in counts.into_iter().enumerate() {
                (0..n).for_each(|_| claims.deliver(edge, claim()));
            }
            assert_eq!(claims.finish().is_ok(), counts == [1, 1], "{counts:?}");
        }
    }
}
