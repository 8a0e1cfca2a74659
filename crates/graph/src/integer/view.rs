//! Views: how the elements of a tensor appear in a term.
//!
//! A view is a matrix of zeros and ones between the indices of a term and those of a tensor, which
//! is the product of small matrices, each between a few axes of the term and a few dimensions of
//! the tensor. So a convolution window is a product of one relation for each spatial axis, and
//! whoever evaluates a view at a point never enumerates all of its indices.

use std::borrow::Cow;
use std::collections::BTreeSet;

/// What a view reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// An input, by number.
    Input(usize),
    /// A constant, by number.
    Constant(usize),
    /// A node, by number.
    Node(usize),
}

/// Which indices of a factor's axes read which indices of its dimensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relation {
    /// One axis and one dimension of equal size: index for index.
    Identity,
    /// Pairs (index over the axes, index over the dimensions), both row-major, strictly ascending.
    /// An index without a pair reads zero; one with several reads their sum.
    Pairs(Vec<(u32, u32)>),
}

/// One factor of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Factor {
    /// Axes of the term.
    pub axes: Vec<usize>,
    /// Dimensions of the tensor.
    pub dims: Vec<usize>,
    /// The matrix between them.
    pub relation: Relation,
}

/// A view of a tensor. Every dimension of the tensor belongs to one factor; an axis that belongs
/// to none has no influence: the view repeats along it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// What is read.
    pub source: Source,
    /// The factors.
    pub factors: Vec<Factor>,
}

fn group(sizes: &[usize], members: &[usize]) -> usize {
    members.iter().map(|&m| sizes[m]).product()
}

impl View {
    /// Whether the view depends on an axis.
    #[must_use]
    pub fn covers(&self, axis: usize) -> bool {
        self.factors.iter().any(|f| f.axes.contains(&axis))
    }

    /// Whether the view over these axes is the tensor as it lies.
    #[must_use]
    pub fn is_straight(&self, over: &[usize], rank: usize) -> bool {
        let same = |dim: usize, axis: usize| {
            self.factors
                .iter()
                .any(|f| f.relation == Relation::Identity && f.axes == [axis] && f.dims == [dim])
        };
        over.len() == rank && over.iter().enumerate().all(|(dim, &axis)| same(dim, axis))
    }

    /// Checks the view against the sizes of the term's axes and of the tensor's dimensions.
    pub(crate) fn check(&self, axes: &[usize], dims: &[usize]) -> Result<(), String> {
        let mut seen_axes = BTreeSet::new();
        let mut seen_dims = BTreeSet::new();
        for factor in &self.factors {
            let inside = factor
                .axes
                .iter()
                .all(|&a| a < axes.len() && seen_axes.insert(a))
                && factor
                    .dims
                    .iter()
                    .all(|&d| d < dims.len() && seen_dims.insert(d));
            if !inside {
                return Err("a view names an axis twice, or one that is not there".into());
            }
            let (rows, columns) = (group(axes, &factor.axes), group(dims, &factor.dims));
            let single = factor.axes.len() == 1 && factor.dims.len() == 1;
            match &factor.relation {
                Relation::Identity if single && rows == columns => {}
                Relation::Identity => return Err("a view equates different sizes".into()),
                Relation::Pairs(pairs) => {
                    let ascending = pairs.windows(2).all(|w| w[0] < w[1]);
                    let fits = |&(r, c): &(u32, u32)| (r as usize) < rows && (c as usize) < columns;
                    if !ascending || !pairs.iter().all(fits) {
                        return Err("pairs of a view are out of order or range".into());
                    }
                    if single && rows == columns && is_identity(pairs, rows) {
                        return Err("a view writes an identity as pairs".into());
                    }
                }
            }
        }
        if seen_dims.len() != dims.len() {
            return Err("a view leaves a dimension of its tensor open".into());
        }
        Ok(())
    }

    /// The elements that the view shows at every index of `over`, some of the term's axes in any
    /// order, row-major; the values themselves where the view is straight. Axes that the view covers must be among them.
    ///
    /// # Panics
    /// When `values`, `axes` and `dims` are not what the view was checked against.
    #[must_use]
    pub fn gather<'v>(
        &self,
        values: &'v [i32],
        dims: &[usize],
        axes: &[usize],
        over: &[usize],
    ) -> Cow<'v, [i32]> {
        if self.is_straight(over, dims.len()) {
            return Cow::Borrowed(values);
        }
        let sizes: Vec<usize> = over.iter().map(|&a| axes[a]).collect();
        let total: usize = sizes.iter().product();
        let rows: Vec<Rows> = self
            .factors
            .iter()
            .map(|f| Rows::new(f, axes, dims))
            .collect();
        // For each factor, what one step along each axis of `over` adds to its row number.
        let steps: Vec<Vec<usize>> = self
            .factors
            .iter()
            .map(|f| over.iter().map(|a| step(f, axes, *a)).collect())
            .collect();
        let simple = rows.iter().all(Rows::single_valued);
        let mut index = vec![0usize; over.len()];
        let mut row = vec![0usize; rows.len()];
        let mut out = Vec::with_capacity(total);
        for _ in 0..total {
            out.push(if simple {
                let mut place = Some(0usize);
                for (rows, &r) in rows.iter().zip(&row) {
                    place = place.and_then(|p| rows.get(r).first().map(|o| p + *o as usize));
                }
                place.map_or(0, |p| values[p])
            } else {
                sum(&rows, &row, values, 0)
            });
            advance(&mut index, &sizes, |position, change| {
                for (r, steps) in row.iter_mut().zip(&steps) {
                    *r = r.wrapping_add_signed(change * steps[position].cast_signed());
                }
            });
        }
        Cow::Owned(out)
    }
}

fn sum(rows: &[Rows], row: &[usize], values: &[i32], place: usize) -> i32 {
    match rows.split_first() {
        None => values[place],
        Some((first, rest)) => first
            .get(row[0])
            .iter()
            .map(|o| sum(rest, &row[1..], values, place + *o as usize))
            .sum(),
    }
}

/// Steps a row-major index on by one, reporting every change of a coordinate.
fn advance(index: &mut [usize], sizes: &[usize], mut changed: impl FnMut(usize, isize)) {
    for position in (0..index.len()).rev() {
        if index[position] + 1 < sizes[position] {
            index[position] += 1;
            changed(position, 1);
            return;
        }
        changed(position, -index[position].cast_signed());
        index[position] = 0;
    }
}

fn step(factor: &Factor, axes: &[usize], axis: usize) -> usize {
    match factor.axes.iter().position(|&a| a == axis) {
        None => 0,
        Some(at) => factor.axes[at + 1..].iter().map(|&a| axes[a]).product(),
    }
}

/// The pairs of a factor by row, as offsets into the tensor.
struct Rows {
    starts: Vec<u32>,
    offsets: Vec<u32>,
}

impl Rows {
    fn new(factor: &Factor, axes: &[usize], dims: &[usize]) -> Rows {
        let rows = group(axes, &factor.axes);
        let offset = |column: usize| -> u32 {
            let (mut rest, mut place) = (column, 0usize);
            for &dim in factor.dims.iter().rev() {
                let stride: usize = dims[dim + 1..].iter().product();
                place += rest % dims[dim] * stride;
                rest /= dims[dim];
            }
            place as u32
        };
        let mut starts = vec![0u32; rows + 1];
        let offsets = match &factor.relation {
            Relation::Identity => {
                starts
                    .iter_mut()
                    .enumerate()
                    .for_each(|(i, s)| *s = i as u32);
                (0..rows).map(offset).collect()
            }
            Relation::Pairs(pairs) => {
                for &(row, _) in pairs {
                    starts[row as usize + 1] += 1;
                }
                for i in 0..rows {
                    starts[i + 1] += starts[i];
                }
                pairs.iter().map(|&(_, c)| offset(c as usize)).collect()
            }
        };
        Rows { starts, offsets }
    }

    fn get(&self, row: usize) -> &[u32] {
        &self.offsets[self.starts[row] as usize..self.starts[row + 1] as usize]
    }

    fn single_valued(&self) -> bool {
        self.starts.windows(2).all(|w| w[1] - w[0] <= 1)
    }
}

/// Whether pairs are the identity of a size.
pub(crate) fn is_identity(pairs: &[(u32, u32)], size: usize) -> bool {
    pairs.len() == size
        && pairs
            .iter()
            .enumerate()
            .all(|(i, &(a, b))| a == b && a as usize == i)
}

/// Marks an index that reads nothing.
pub(crate) const NOTHING: u32 = u32::MAX;

/// Writes a map from the indices of `axes` to the indices of `dims` (or [`NOTHING`]), both
/// row-major, as a product of factors that are as small as possible; then sums over the axes for
/// which `reduced` holds, if each element is read at most once for what remains.
///
/// Axes are numbered without the reduced ones. `None` if that sum reads an element repeatedly.
pub(crate) fn factorise(
    map: &[u32],
    axes: &[usize],
    dims: &[usize],
    reduced: &[bool],
) -> Option<Vec<Factor>> {
    let mut factors = separate(map, axes, dims)
        .unwrap_or_else(|| vec![((0..axes.len()).collect(), (0..dims.len()).collect())]);
    factors.sort();
    let kept: Vec<usize> = (0..axes.len()).filter(|&a| !reduced[a]).collect();
    let covered: BTreeSet<usize> = factors.iter().flat_map(|f| f.0.iter().copied()).collect();
    if (0..axes.len()).any(|a| reduced[a] && axes[a] > 1 && !covered.contains(&a)) {
        return None;
    }
    factors
        .into_iter()
        .map(|(group_axes, group_dims)| {
            let mut pairs = Vec::new();
            for (row, column) in project(map, axes, dims, &group_axes, &group_dims) {
                let row = drop_axes(row, axes, &group_axes, reduced);
                pairs.push((row, column));
            }
            pairs.sort_unstable();
            let before = pairs.len();
            pairs.dedup();
            if pairs.len() != before {
                return None;
            }
            let group_axes: Vec<usize> = group_axes
                .iter()
                .filter(|a| !reduced[**a])
                .filter_map(|a| kept.iter().position(|k| k == a))
                .collect();
            let kept_axes: Vec<usize> = kept.iter().map(|&a| axes[a]).collect();
            let size = group(&kept_axes, &group_axes);
            let single = group_axes.len() == 1 && group_dims.len() == 1;
            let identity = single && size == group(dims, &group_dims) && is_identity(&pairs, size);
            Some(Factor {
                axes: group_axes,
                dims: group_dims,
                relation: if identity {
                    Relation::Identity
                } else {
                    Relation::Pairs(pairs)
                },
            })
        })
        .collect()
}

/// The row number without its reduced axes.
fn drop_axes(row: u32, axes: &[usize], group_axes: &[usize], reduced: &[bool]) -> u32 {
    let (mut rest, mut stride, mut out) = (row as usize, 1, 0);
    for &axis in group_axes.iter().rev() {
        let at = rest % axes[axis];
        rest /= axes[axis];
        if !reduced[axis] {
            out += at * stride;
            stride *= axes[axis];
        }
    }
    out as u32
}

fn coordinates(mut flat: usize, sizes: &[usize], out: &mut [usize]) {
    for (place, &size) in out.iter_mut().zip(sizes).rev() {
        *place = flat % size;
        flat /= size;
    }
}

fn flatten(index: &[usize], sizes: &[usize], members: &[usize]) -> u32 {
    members.iter().fold(0, |n, &m| n * sizes[m] + index[m]) as u32
}

/// The distinct pairs that a map has between a few axes and a few dimensions.
fn project(
    map: &[u32],
    axes: &[usize],
    dims: &[usize],
    group_axes: &[usize],
    group_dims: &[usize],
) -> BTreeSet<(u32, u32)> {
    let mut index = vec![0; axes.len()];
    let mut place = vec![0; dims.len()];
    let mut pairs = BTreeSet::new();
    for &target in map {
        if target != NOTHING {
            coordinates(target as usize, dims, &mut place);
            pairs.insert((
                flatten(&index, axes, group_axes),
                flatten(&place, dims, group_dims),
            ));
        }
        advance(&mut index, axes, |_, _| {});
    }
    pairs
}

/// Groups of axes and dimensions between which the map is a product; `None` if it is none.
#[allow(clippy::type_complexity)]
fn separate(map: &[u32], axes: &[usize], dims: &[usize]) -> Option<Vec<(Vec<usize>, Vec<usize>)>> {
    // One set for each axis and dimension, joined where one depends on the other.
    let mut parent: Vec<usize> = (0..axes.len() + dims.len()).collect();
    fn find(parent: &mut [usize], mut i: usize) -> usize {
        while parent[i] != i {
            parent[i] = parent[parent[i]];
            i = parent[i];
        }
        i
    }
    let (mut here, mut there) = (vec![0; dims.len()], vec![0; dims.len()]);
    for axis in 0..axes.len() {
        let stride: usize = axes[axis + 1..].iter().product();
        for start in 0..map.len() {
            if !(start / stride).is_multiple_of(axes[axis]) {
                continue;
            }
            let line = (0..axes[axis]).map(|i| map[start + i * stride]);
            let mut last = NOTHING;
            for target in line.filter(|&t| t != NOTHING) {
                if last != NOTHING && last != target {
                    coordinates(last as usize, dims, &mut here);
                    coordinates(target as usize, dims, &mut there);
                    for dim in 0..dims.len() {
                        if here[dim] != there[dim] {
                            let (a, b) =
                                (find(&mut parent, axis), find(&mut parent, axes.len() + dim));
                            parent[a] = b;
                        }
                    }
                }
                last = target;
            }
        }
    }
    let mut groups: Vec<(Vec<usize>, Vec<usize>)> = Vec::new();
    let mut roots: Vec<usize> = Vec::new();
    for item in 0..axes.len() + dims.len() {
        let root = find(&mut parent, item);
        let at = roots.iter().position(|&r| r == root).unwrap_or_else(|| {
            roots.push(root);
            groups.push(Default::default());
            roots.len() - 1
        });
        if item < axes.len() {
            groups[at].0.push(item);
        } else {
            groups[at].1.push(item - axes.len());
        }
    }
    groups.retain(|(_, dims)| !dims.is_empty());
    is_product(map, axes, dims, &groups).then_some(groups)
}

fn is_product(
    map: &[u32],
    axes: &[usize],
    dims: &[usize],
    groups: &[(Vec<usize>, Vec<usize>)],
) -> bool {
    let mut columns: Vec<Vec<Option<u32>>> = Vec::new();
    for (group_axes, group_dims) in groups {
        let mut column = vec![None; group(axes, group_axes)];
        for (row, target) in project(map, axes, dims, group_axes, group_dims) {
            if column[row as usize].replace(target).is_some() {
                return false;
            }
        }
        columns.push(column);
    }
    let mut index = vec![0; axes.len()];
    let mut place = vec![0; dims.len()];
    for &target in map {
        let mut defined = true;
        for ((group_axes, group_dims), column) in groups.iter().zip(&columns) {
            let Some(mut at) = column[flatten(&index, axes, group_axes) as usize] else {
                defined = false;
                break;
            };
            for &dim in group_dims.iter().rev() {
                place[dim] = at as usize % dims[dim];
                at /= dims[dim] as u32;
            }
        }
        let all: Vec<usize> = (0..dims.len()).collect();
        let expected = if defined {
            flatten(&place, dims, &all)
        } else {
            NOTHING
        };
        if expected != target {
            return false;
        }
        advance(&mut index, axes, |_, _| {});
    }
    true
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
