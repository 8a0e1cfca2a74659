//! The plan of a proof: which columns a witness has, where they lie, and which lookups there are.
//! It follows from the skeleton and the number of samples alone.

use lemma_graph::integer::{
    Expression, IntegerError, Node, Skeleton, Source, Term, View, split_axes,
};

use crate::layout::{ConstantLayout, MIN_VARIABLES, Stack};
use crate::transcript::{Schedule, Step};

/// Widths of limbs that are tried.
const LIMB_BITS: std::ops::RangeInclusive<u32> = 4..=13;

/// log₂ of a dimension, rounded up.
pub(crate) fn log2(size: usize) -> usize {
    size.next_power_of_two().trailing_zeros() as usize
}

/// log₂ of each dimension.
pub(crate) fn log_shape(shape: &[usize]) -> Vec<usize> {
    shape.iter().map(|&d| log2(d)).collect()
}

/// What a column of the witness holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    /// Table indices of a node.
    Index(usize),
    /// Low bits of a node's sums, by limb, least significant first.
    Limb(usize, usize),
    /// Elements of a node.
    Value(usize),
    /// How often each entry of a table is looked up.
    TableCount(usize),
    /// How often each value of this many bits is looked up.
    RangeCount(u32),
}

/// A group of lookups into one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// Index and value of every element of a node.
    Node(usize),
    /// A limb of every element of a node.
    Limb(usize, usize),
    /// The entries of a table.
    Table(usize),
    /// All values of this many bits.
    Range(u32),
}

/// The plan.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The batched skeleton.
    pub(crate) skeleton: Skeleton,
    pub(crate) limb_bits: u32,
    pub(crate) columns: Vec<Column>,
    /// Where the columns of each node begin, and those after the last.
    places: Vec<usize>,
    pub(crate) stack: Stack,
    pub(crate) lookups: Vec<Lookup>,
    pub(crate) leaves: Stack,
    /// Constants of the model, stacked.
    pub(crate) constants: ConstantLayout,
}

/// The variables of a tensor.
pub(crate) fn variables(shape: &[usize]) -> usize {
    log_shape(shape).iter().sum()
}

/// Widths of the limbs of a shift, least significant first.
pub(crate) fn limbs(shift: u32, limb_bits: u32) -> Vec<u32> {
    let whole = shift / limb_bits;
    let rest = shift % limb_bits;
    let mut limbs = vec![limb_bits; whole as usize];
    if rest > 0 {
        limbs.push(rest);
    }
    limbs
}

/// The widths of all limbs, ascending.
fn widths(nodes: &[Node], limb_bits: u32) -> Vec<u32> {
    let mut widths: Vec<u32> = nodes
        .iter()
        .flat_map(|n| limbs(n.shift, limb_bits))
        .collect();
    widths.sort_unstable();
    widths.dedup();
    widths
}

/// The width of limbs with the least work: lookups and range tables, both in cells.
fn best_limb_bits(nodes: &[Node]) -> u32 {
    let cost = |bits: u32| -> u64 {
        let lookups: u64 = nodes
            .iter()
            .map(|n| (limbs(n.shift, bits).len() as u64) << variables(&n.expression.shape))
            .sum();
        let tables: u64 = widths(nodes, bits).iter().map(|w| 1u64 << w).sum();
        lookups + tables
    };
    LIMB_BITS
        .min_by_key(|&bits| (cost(bits), bits))
        .unwrap_or(8)
}

impl Plan {
    pub(crate) fn new(skeleton: &Skeleton, count: usize) -> Result<Plan, IntegerError> {
        let constants = ConstantLayout::new(skeleton);
        let skeleton = skeleton.batched(count)?;
        let limb_bits = best_limb_bits(&skeleton.nodes);
        let mut columns = Vec::new();
        let mut lookups = Vec::new();
        let mut places = Vec::with_capacity(skeleton.nodes.len() + 1);
        for (index, node) in skeleton.nodes.iter().enumerate() {
            places.push(columns.len());
            columns.push(Column::Index(index));
            columns.push(Column::Value(index));
            lookups.push(Lookup::Node(index));
            for limb in 0..limbs(node.shift, limb_bits).len() {
                columns.push(Column::Limb(index, limb));
                lookups.push(Lookup::Limb(index, limb));
            }
        }
        places.push(columns.len());
        for table in 0..skeleton.tables.len() {
            columns.push(Column::TableCount(table));
            lookups.push(Lookup::Table(table));
        }
        for width in widths(&skeleton.nodes, limb_bits) {
            columns.push(Column::RangeCount(width));
            lookups.push(Lookup::Range(width));
        }
        let node_bits = |i: usize| variables(&skeleton.nodes[i].expression.shape);
        let table_bits = |t: usize| skeleton.tables[t].bits() as usize;
        let column_bits: Vec<usize> = columns
            .iter()
            .map(|c| match *c {
                Column::Index(i) | Column::Limb(i, _) | Column::Value(i) => node_bits(i),
                Column::TableCount(t) => table_bits(t),
                Column::RangeCount(w) => w as usize,
            })
            .collect();
        let leaf_bits: Vec<usize> = lookups
            .iter()
            .map(|l| match *l {
                Lookup::Node(i) | Lookup::Limb(i, _) => node_bits(i),
                Lookup::Table(t) => table_bits(t),
                Lookup::Range(w) => w as usize,
            })
            .collect();
        Ok(Plan {
            stack: Stack::new(&column_bits, MIN_VARIABLES),
            leaves: Stack::new(&leaf_bits, MIN_VARIABLES),
            skeleton,
            limb_bits,
            columns,
            places,
            lookups,
            constants,
        })
    }

    /// The place of a column.
    pub(crate) fn column(&self, column: Column) -> Option<usize> {
        let nodes = self.skeleton.nodes.len();
        let place = match column {
            Column::Index(i) => *self.places.get(i)?,
            Column::Value(i) => self.places.get(i)? + 1,
            Column::Limb(i, limb) => self.places.get(i)? + 2 + limb,
            Column::TableCount(table) => self.places.get(nodes)? + table,
            Column::RangeCount(_) => {
                let first = self.places.get(nodes)? + self.skeleton.tables.len();
                let found = self.columns.get(first..)?.iter().position(|c| *c == column);
                first + found?
            }
        };
        (self.columns.get(place) == Some(&column)).then_some(place)
    }

    /// The limbs of a node.
    pub(crate) fn limbs(&self, node: usize) -> Vec<u32> {
        limbs(self.skeleton.nodes[node].shift, self.limb_bits)
    }

    /// The tag of a table in its lookups; 0 is the tag of padding.
    pub(crate) fn table_tag(&self, table: usize) -> u32 {
        table as u32 + 1
    }

    /// The tag of the range of a width.
    pub(crate) fn range_tag(&self, width: u32) -> u32 {
        self.skeleton.tables.len() as u32 + 1 + width
    }

    /// Lookups altogether, padding included.
    pub(crate) fn lookup_count(&self) -> u64 {
        self.lookups
            .iter()
            .zip(&self.leaves.blocks)
            .filter(|(l, _)| matches!(l, Lookup::Node(_) | Lookup::Limb(..)))
            .map(|(_, b)| 1u64 << b.bits)
            .sum()
    }

    /// Lookups of padding cells.
    pub(crate) fn padding_count(&self) -> u64 {
        self.lookups
            .iter()
            .map(|l| match *l {
                Lookup::Node(i) | Lookup::Limb(i, _) => {
                    let shape = &self.skeleton.nodes[i].expression.shape;
                    (1u64 << variables(shape)) - shape.iter().product::<usize>() as u64
                }
                _ => 0,
            })
            .sum()
    }

    /// Expressions in the order in which they are proved: nodes, then outputs.
    pub(crate) fn expressions(&self) -> impl Iterator<Item = &Expression> {
        let nodes = self.skeleton.nodes.iter().map(|n| &n.expression);
        nodes.chain(self.skeleton.outputs.iter().map(|(_, e)| e))
    }

    /// Edges of the graph: views in all terms.
    pub(crate) fn edges(&self) -> usize {
        self.expressions()
            .flat_map(|e| &e.terms)
            .map(|t| t.views().len())
            .sum()
    }

    /// Whether any edge reads a committed constant.
    pub(crate) fn reads_constants(&self) -> bool {
        self.expressions()
            .flat_map(|e| &e.terms)
            .flat_map(|t| t.views())
            .any(|v| matches!(v.source, Source::Constant(i) if !self.constants.is_keyed(i)))
    }

    /// Evaluations of columns that the lookups leave.
    pub(crate) fn leaf_evaluations(&self) -> usize {
        self.lookups
            .iter()
            .map(|l| if matches!(l, Lookup::Node(_)) { 2 } else { 1 })
            .sum()
    }

    /// The steps of the protocol.
    pub(crate) fn schedule(&self, succinct: bool) -> Schedule {
        let mut s = Schedule::default();
        s.push(Step::Bind("profile"));
        s.push(Step::Bind("model root"));
        s.push(Step::Bind("samples"));
        s.push(Step::Bind("inputs"));
        s.push(Step::Bind("outputs"));
        s.push(Step::Root("witness"));
        s.push(Step::Draw("lookup challenges", 2));
        crate::fractions::schedule(self.leaves.bits, &mut s);
        s.push(Step::Send("lookup columns", self.leaf_evaluations()));
        for node in &self.skeleton.nodes {
            expression_steps(&node.expression, &mut s);
        }
        for (_, expression) in &self.skeleton.outputs {
            s.push(Step::Draw("output point", variables(&expression.shape)));
            expression_steps(expression, &mut s);
        }
        batch_steps(self.stack.bits, &mut s);
        let model = succinct && self.reads_constants();
        if model {
            batch_steps(self.constants.stack.bits, &mut s);
        }
        s.push(Step::Opening("witness opening"));
        if model {
            s.push(Step::Opening("model opening"));
        }
        s
    }
}

fn batch_steps(bits: usize, s: &mut Schedule) {
    s.push(Step::Draw("claim batching", 1));
    s.sumcheck(bits);
    s.push(Step::Send("committed value", 1));
}

fn expression_steps(expression: &Expression, s: &mut Schedule) {
    s.push(Step::Send("terms", expression.terms.len()));
    for term in &expression.terms {
        if let Term::Product {
            left,
            right,
            contracted,
            ..
        } = term
        {
            s.sumcheck(Product::new(expression, left, right, contracted).variables());
            s.push(Step::Send("operands", 2));
        }
    }
}

/// The axes of a product, and the variables of its sumcheck: batch, then contracted.
pub(crate) struct Product {
    /// Sizes of all axes, contracted ones last.
    pub(crate) axes: Vec<usize>,
    pub(crate) split: lemma_graph::integer::SplitAxes,
}

impl Product {
    pub(crate) fn new(
        expression: &Expression,
        left: &View,
        right: &View,
        contracted: &[usize],
    ) -> Product {
        let rank = expression.shape.len();
        Product {
            axes: [&expression.shape[..], contracted].concat(),
            split: split_axes(left, right, rank, rank + contracted.len()),
        }
    }

    fn bits(&self, axes: &[usize]) -> usize {
        axes.iter().map(|&a| log2(self.axes[a])).sum()
    }

    pub(crate) fn batch_bits(&self) -> usize {
        self.bits(&self.split.batch)
    }

    pub(crate) fn variables(&self) -> usize {
        self.batch_bits() + self.bits(&self.split.contracted)
    }
}
