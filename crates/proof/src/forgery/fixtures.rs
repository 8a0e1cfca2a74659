//! Small models for the harness.

use lemma_graph::integer::{
    Expression, Factor, IntegerGraph, Node, Port, Relation, Skeleton, Source, Table, TensorRange,
    Term, View,
};

pub(super) fn port(name: &str) -> Port {
    Port::real(name, 1.0)
}

pub(super) fn range(shape: &[usize], top: i32) -> TensorRange {
    TensorRange {
        shape: shape.to_vec(),
        low: -top,
        high: top,
    }
}

/// Small numbers that look like noise.
pub(super) fn noise(seed: u32, count: usize, top: i32) -> Vec<i32> {
    let mut state = u64::from(seed) * 2 + 1;
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as i32 % (2 * top + 1) - top
        })
        .collect()
}

/// A view whose axes are the dimensions of its source, in order, on these axes of the term.
pub(super) fn straight(source: Source, axes: &[usize]) -> View {
    View {
        source,
        factors: axes
            .iter()
            .enumerate()
            .map(|(dim, &axis)| Factor {
                axes: vec![axis],
                dims: vec![dim],
                relation: Relation::Identity,
            })
            .collect(),
    }
}

/// `x · wᵀ + b` with x of one row.
pub(super) fn dense(
    input: Source,
    weights: usize,
    bias: usize,
    inputs: usize,
    outputs: usize,
) -> Expression {
    Expression {
        shape: vec![outputs],
        terms: vec![
            Term::Product {
                coefficient: 1,
                left: straight(input, &[1]),
                right: straight(Source::Constant(weights), &[0, 1]),
                contracted: vec![inputs],
            },
            Term::Linear {
                coefficient: 1,
                view: straight(Source::Constant(bias), &[0]),
            },
        ],
    }
}

/// A table that rounds by `ratio`, clamps to ±127, and rectifies.
pub(super) fn relu(bits: u32, ratio: i32) -> Table {
    let entry = |i: i32| ((i - (1 << (bits - 1))) / ratio).clamp(0, 127) as i16;
    Table {
        entries: (0..1 << bits).map(entry).collect(),
    }
}

pub(super) fn node(
    label: &str,
    expression: Expression,
    shift: u32,
    table: usize,
    bits: u32,
) -> Node {
    Node {
        label: label.into(),
        expression,
        offset: (1 << (bits - 1 + shift)) + ((1 << shift) >> 1),
        shift,
        table,
    }
}

/// A perceptron of these widths, whose hidden layers share one table.
pub(super) fn mlp(widths: &[usize]) -> IntegerGraph {
    let (bits, shift) = (10, 10);
    let mut constants = Vec::new();
    let mut declared = Vec::new();
    let mut nodes = Vec::new();
    let mut outputs = Vec::new();
    for (layer, pair) in widths.windows(2).enumerate() {
        let (inputs, width) = (pair[0], pair[1]);
        declared.push(range(&[width, inputs], 127));
        constants.push(noise(layer as u32, width * inputs, 127));
        declared.push(range(&[width], 5000));
        constants.push(noise(layer as u32 + 50, width, 5000));
        let input = match layer {
            0 => Source::Input(0),
            n => Source::Node(n - 1),
        };
        let expression = dense(input, 2 * layer, 2 * layer + 1, inputs, width);
        if layer + 2 < widths.len() {
            nodes.push(node(&format!("layer {layer}"), expression, shift, 0, bits));
        } else {
            outputs.push((port("y"), expression));
        }
    }
    let skeleton = Skeleton {
        inputs: vec![(port("x"), range(&[widths[0]], 127))],
        constants: declared,
        tables: vec![relu(bits, 1)],
        nodes,
        outputs,
    };
    IntegerGraph::new(skeleton, constants).expect("a valid graph")
}
