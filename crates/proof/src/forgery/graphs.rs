//! Random graphs: what the executor computes is accepted, and nothing else.

use lemma_graph::integer::{
    Expression, Factor, IntegerGraph, Node, Relation, Skeleton, Source, Table, Term, View,
};

use super::Case;
use super::fixtures::{noise, port, range};
use crate::profile::Weights;

/// A stream of small numbers.
struct Noise(Vec<i32>);

impl Noise {
    fn below(&mut self, n: usize) -> usize {
        let v = self.0.pop().expect("enough noise");
        v.unsigned_abs() as usize % n
    }
}

/// A random view of a matrix over axes of these sizes, of which `both` must be covered.
fn view(
    noise: &mut Noise,
    source: Source,
    shape: &[usize],
    axes: &[usize],
    must: &[usize],
) -> View {
    let mut factors = Vec::new();
    let mut free: Vec<usize> = (0..axes.len()).filter(|a| !must.contains(a)).collect();
    for (dim, &size) in shape.iter().enumerate() {
        let axis = match must.get(dim) {
            Some(&a) => Some(a),
            None if !free.is_empty() && noise.below(4) > 0 => {
                Some(free.remove(noise.below(free.len())))
            }
            None => None,
        };
        let rows = axis.map_or(1, |a| axes[a]);
        let mut pairs: Vec<(u32, u32)> = (0..rows)
            .flat_map(|r| {
                let count = noise.below(3);
                (0..count)
                    .map(|_| (r as u32, noise.below(size) as u32))
                    .collect::<Vec<_>>()
            })
            .collect();
        pairs.sort_unstable();
        pairs.dedup();
        let identity = axis.is_some() && rows == size && noise.below(2) == 0;
        let written = rows == size && pairs.len() == size && pairs.iter().all(|(a, b)| a == b);
        factors.push(Factor {
            axes: axis.into_iter().collect(),
            dims: vec![dim],
            relation: if identity || (axis.is_some() && written) {
                Relation::Identity
            } else {
                Relation::Pairs(pairs)
            },
        });
    }
    View { source, factors }
}

/// A random graph of a few nodes over one input and two constants.
fn graph(seed: u32) -> Option<IntegerGraph> {
    let mut noise_stream = Noise(noise(seed + 1000, 6000, 1 << 20));
    let n = &mut noise_stream;
    let input = vec![n.below(4) + 1, n.below(5) + 1];
    let shapes: Vec<Vec<usize>> = (0..2)
        .map(|_| vec![n.below(4) + 1, n.below(6) + 1])
        .collect();
    let constants: Vec<Vec<i32>> = shapes
        .iter()
        .enumerate()
        .map(|(i, s)| noise(seed * 3 + i as u32, s.iter().product(), 90))
        .collect();
    let mut nodes: Vec<Node> = Vec::new();
    let mut outputs = Vec::new();
    for index in 0..4 {
        let shape = vec![n.below(3) + 1, n.below(5) + 1];
        let source = |n: &mut Noise, nodes: &[Node]| -> (Source, Vec<usize>) {
            match n.below(4) {
                0 => (Source::Input(0), input.clone()),
                1 => (Source::Constant(0), shapes[0].clone()),
                2 => (Source::Constant(1), shapes[1].clone()),
                _ if nodes.is_empty() => (Source::Input(0), input.clone()),
                _ => {
                    let i = n.below(nodes.len());
                    (Source::Node(i), nodes[i].expression.shape.clone())
                }
            }
        };
        let mut terms = Vec::new();
        for _ in 0..n.below(2) + 1 {
            let coefficient = n.below(9) as i32 - 4;
            let (a, a_shape) = source(n, &nodes);
            if n.below(2) == 0 {
                terms.push(Term::Linear {
                    coefficient,
                    view: view(n, a, &a_shape, &shape, &[]),
                });
            } else {
                let (b, b_shape) = source(n, &nodes);
                let contracted = if n.below(3) == 0 {
                    vec![]
                } else {
                    vec![n.below(6) + 1]
                };
                let axes = [&shape[..], &contracted].concat();
                let must: Vec<usize> = (2..axes.len()).collect();
                terms.push(Term::Product {
                    coefficient,
                    left: view(n, a, &a_shape, &axes, &must),
                    right: view(n, b, &b_shape, &axes, &must),
                    contracted,
                });
            }
        }
        let expression = Expression { shape, terms };
        if index == 3 {
            outputs.push((port("y"), expression));
        } else {
            let (bits, shift) = (8, 14 + n.below(4) as u32);
            nodes.push(Node {
                label: format!("node {index}"),
                expression,
                offset: 1 << (bits - 1 + shift),
                shift,
                table: 0,
            });
        }
    }
    let skeleton = Skeleton {
        inputs: vec![(port("x"), range(&input, 100))],
        constants: shapes.iter().map(|s| range(s, 90)).collect(),
        tables: vec![Table {
            entries: noise(seed, 256, 100).iter().map(|&v| v as i16).collect(),
        }],
        nodes,
        outputs,
    };
    // Some sums are too wide for the table: those graphs are refused.
    IntegerGraph::new(skeleton, constants).ok()
}

#[test]
fn random_graphs_are_proved_exactly() {
    let (mut proved, mut seed) = (0, 0);
    while proved < 40 {
        seed += 1;
        assert!(seed < 400, "too few valid graphs: {proved}");
        let Some(graph) = graph(seed) else { continue };
        let samples = seed as usize % 3 + 1;
        let elements = graph.skeleton().inputs[0].1.len() * samples;
        let weights = if seed % 2 == 0 {
            Weights::Holder
        } else {
            Weights::Succinct
        };
        let case = Case::new(graph, vec![noise(seed, elements, 100)], samples, weights);
        let proof = case.prove();
        case.verify(&case.statement, &proof)
            .unwrap_or_else(|e| panic!("graph {seed}: {e}"));
        let mut other = case.statement.clone();
        other.outputs[0][0] += 1;
        let forged = case
            .prove_with(&other, &case.witness, &mut crate::transcript::Honest)
            .expect("proves");
        assert!(case.verify(&other, &forged).is_err(), "graph {seed}");
        proved += 1;
    }
}
