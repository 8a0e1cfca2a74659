//! The reference executor. What it computes is what a proof proves, element for element.

use std::borrow::Cow;

use super::{Expression, IntegerError, IntegerGraph, Node, Skeleton, Source, Table, Term, View};

/// The axes of a product by the operands that depend on them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SplitAxes {
    /// Axes of the result on which both depend.
    pub batch: Vec<usize>,
    /// Axes of the result on which only the left operand depends.
    pub left: Vec<usize>,
    /// Axes of the result on which only the right operand depends.
    pub right: Vec<usize>,
    /// Axes of the result on which neither depends.
    pub neither: Vec<usize>,
    /// Axes that are summed over.
    pub contracted: Vec<usize>,
}

/// Splits the axes of a product; those from `rank` to `axes` are contracted.
#[must_use]
pub fn split_axes(left: &View, right: &View, rank: usize, axes: usize) -> SplitAxes {
    let mut split = SplitAxes {
        contracted: (rank..axes).collect(),
        ..SplitAxes::default()
    };
    for axis in 0..rank {
        match (left.covers(axis), right.covers(axis)) {
            (true, true) => split.batch.push(axis),
            (true, false) => split.left.push(axis),
            (false, true) => split.right.push(axis),
            (false, false) => split.neither.push(axis),
        }
    }
    split
}

/// Everything that one execution computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// For each node its sums, offset included.
    pub sums: Vec<Vec<u32>>,
    /// For each node its elements.
    pub values: Vec<Vec<i32>>,
    /// For each output its elements.
    pub outputs: Vec<Vec<i32>>,
}

impl IntegerGraph {
    /// Executes the graph on `count` samples: `inputs` holds for each input the elements of all
    /// samples, one after the other.
    ///
    /// # Errors
    /// When an input has the wrong number of elements, or an element outside its range; or the
    /// batch is too large.
    pub fn run(&self, inputs: &[Vec<i32>], count: usize) -> Result<Trace, IntegerError> {
        let skeleton = self.skeleton().batched(count)?;
        skeleton.check_inputs(inputs)?;
        let mut run = Execution {
            skeleton: &skeleton,
            inputs,
            constants: self.constants(),
            values: Vec::with_capacity(skeleton.nodes.len()),
        };
        let mut sums = Vec::with_capacity(skeleton.nodes.len());
        for node in &skeleton.nodes {
            let sum = run.node_sums(node);
            run.values
                .push(apply(node, &skeleton.tables[node.table], &sum));
            sums.push(sum);
        }
        let outputs = skeleton
            .outputs
            .iter()
            .map(|(_, e)| run.evaluate(e).into_iter().map(|v| v as i32).collect())
            .collect();
        Ok(Trace {
            sums,
            values: run.values,
            outputs,
        })
    }

    /// Rounds real inputs to the graph's integers: the nearest multiple of the scale, ties to
    /// even, clamped to the range.
    ///
    /// # Errors
    /// When their number or lengths do not fit.
    pub fn round_inputs(&self, inputs: &[&[f32]]) -> Result<Vec<Vec<i32>>, IntegerError> {
        let declared = &self.skeleton().inputs;
        if inputs.len() != declared.len() {
            return Err(IntegerError::Input {
                name: declared[0].0.name.clone(),
                reason: format!("is one of {}, {} were given", declared.len(), inputs.len()),
            });
        }
        let round = |(values, (port, range)): (&&[f32], &(super::Port, super::TensorRange))| {
            if values.len() % range.len() != 0 {
                return Err(IntegerError::Input {
                    name: port.name.clone(),
                    reason: format!(
                        "has {} elements, not a multiple of {}",
                        values.len(),
                        range.len()
                    ),
                });
            }
            Ok(values
                .iter()
                .map(|&v| super::ports::round(v, port, range))
                .collect())
        };
        inputs.iter().zip(declared).map(round).collect()
    }
}

impl Skeleton {
    /// Checks that inputs have the shapes and ranges that the graph declares.
    ///
    /// # Errors
    /// Which input does not.
    pub fn check_inputs(&self, inputs: &[Vec<i32>]) -> Result<(), IntegerError> {
        let wrong = |index: usize, reason: String| IntegerError::Input {
            name: self
                .inputs
                .get(index)
                .map_or_else(|| format!("{index}"), |(port, _)| port.name.clone()),
            reason,
        };
        if inputs.len() != self.inputs.len() {
            let reason = format!(
                "is one of {}, {} were given",
                self.inputs.len(),
                inputs.len()
            );
            return Err(wrong(0, reason));
        }
        for (index, (values, (_, range))) in inputs.iter().zip(&self.inputs).enumerate() {
            if values.len() != range.len() {
                let reason = format!("has {} elements instead of {}", values.len(), range.len());
                return Err(wrong(index, reason));
            }
            if let Some(v) = values
                .iter()
                .find(|v| !(range.low..=range.high).contains(v))
            {
                let reason = format!("holds {v}, outside of {}..={}", range.low, range.high);
                return Err(wrong(index, reason));
            }
        }
        Ok(())
    }
}

/// The elements of a node whose sums are known.
fn apply(node: &Node, table: &Table, sums: &[u32]) -> Vec<i32> {
    sums.iter()
        .map(|s| i32::from(table.entries[(s >> node.shift) as usize]))
        .collect()
}

/// The state of an execution, also of one that is still being written by the quantiser.
pub(super) struct Execution<'a> {
    pub(super) skeleton: &'a Skeleton,
    pub(super) inputs: &'a [Vec<i32>],
    pub(super) constants: &'a [Vec<i32>],
    pub(super) values: Vec<Vec<i32>>,
}

impl Execution<'_> {
    fn values(&self, source: Source) -> &[i32] {
        match source {
            Source::Input(i) => &self.inputs[i],
            Source::Constant(i) => &self.constants[i],
            Source::Node(i) => &self.values[i],
        }
    }

    /// The sums of a node, offset included; interval analysis has shown that they fit.
    fn node_sums(&self, node: &Node) -> Vec<u32> {
        self.evaluate(&node.expression)
            .into_iter()
            .map(|v| (v + i64::from(node.offset)) as u32)
            .collect()
    }

    /// The sums of an expression.
    pub(super) fn evaluate(&self, expression: &Expression) -> Vec<i64> {
        let total: usize = expression.shape.iter().product();
        let mut sums = vec![0i64; total];
        for term in &expression.terms {
            match term {
                Term::Linear { coefficient, view } => {
                    let over: Vec<usize> = (0..expression.shape.len()).collect();
                    let shown = self.shown(view, &expression.shape, &over);
                    for (sum, v) in sums.iter_mut().zip(&*shown) {
                        *sum += i64::from(*coefficient) * i64::from(*v);
                    }
                }
                Term::Product {
                    coefficient,
                    left,
                    right,
                    contracted,
                } => self.add_product(
                    &mut sums,
                    i64::from(*coefficient),
                    (left, right),
                    &[&expression.shape[..], contracted].concat(),
                    expression.shape.len(),
                ),
            }
        }
        sums
    }

    fn shown(&self, view: &View, axes: &[usize], over: &[usize]) -> Cow<'_, [i32]> {
        let dims = self.skeleton.shape(view.source);
        view.gather(self.values(view.source), dims, axes, over)
    }

    fn add_product(
        &self,
        sums: &mut [i64],
        coefficient: i64,
        (left, right): (&View, &View),
        axes: &[usize],
        rank: usize,
    ) {
        let split = split_axes(left, right, rank, axes.len());
        let operand = |view: &View, own: &[usize]| {
            let over = [&split.batch[..], own, &split.contracted].concat();
            self.shown(view, axes, &over)
        };
        let size = |members: &[usize]| -> usize { members.iter().map(|&a| axes[a]).product() };
        let (m, n, k) = (
            size(&split.left),
            size(&split.right),
            size(&split.contracted),
        );
        let (a, b) = (operand(left, &split.left), operand(right, &split.right));
        let places = |members: &[usize]| places(members, &axes[..rank]);
        let (batch, rows, columns, repeats) = (
            places(&split.batch),
            places(&split.left),
            places(&split.right),
            places(&split.neither),
        );
        for (s, start) in batch.iter().enumerate() {
            let (a, b) = (&a[s * m * k..][..m * k], &b[s * n * k..][..n * k]);
            multiply(a, b, k, |i, j, dot| {
                for repeat in &repeats {
                    sums[start + rows[i] + columns[j] + repeat] += coefficient * i64::from(dot);
                }
            });
        }
    }
}

/// Offsets into the row-major result of every index over some of its axes.
fn places(members: &[usize], shape: &[usize]) -> Vec<usize> {
    members.iter().fold(vec![0], |places, &axis| {
        let stride: usize = shape[axis + 1..].iter().product();
        places
            .iter()
            .flat_map(|p| (0..shape[axis]).map(move |i| p + i * stride))
            .collect()
    })
}

/// Scalar products of the rows of `a` and `b`, of length `k`; interval analysis has shown that
/// they fit.
fn multiply(a: &[i32], b: &[i32], k: usize, mut each: impl FnMut(usize, usize, i32)) {
    let short = |values: &[i32]| -> Option<Vec<i16>> {
        values.iter().map(|&v| i16::try_from(v).ok()).collect()
    };
    match (short(a), short(b)) {
        (Some(a), Some(b)) => {
            for (i, x) in a.chunks(k).enumerate() {
                for (j, y) in b.chunks(k).enumerate() {
                    let dot = x
                        .iter()
                        .zip(y)
                        .map(|(&x, &y)| i32::from(x) * i32::from(y))
                        .sum();
                    each(i, j, dot);
                }
            }
        }
        _ => {
            for (i, x) in a.chunks(k).enumerate() {
                for (j, y) in b.chunks(k).enumerate() {
                    each(i, j, x.iter().zip(y).map(|(x, y)| x * y).sum());
                }
            }
        }
    }
}
