//! Forgeries of choices: another row of an embedding, another of two equal elements, another index.
//!
//! The prover runs a graph with other tables than the model's, so that everything after a forged element follows from it.

use std::path::Path;

use lemma_graph::integer::{IntegerGraph, Options, Sample, quantise};
use lemma_graph::{Limits, Model as Float, NoFiles, Tensor};

use super::{Case, Removed, without};
use crate::error::{Check, VerifyError};
use crate::profile::Weights;
use crate::transcript::Honest;
use crate::witness::Witness;

fn quantised(fixture: &str, sample: Sample) -> IntegerGraph {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../graph/tests/data/valid");
    let bytes = std::fs::read(folder.join(fixture).join("model.onnx")).expect("a fixture");
    let float = Float::load(&bytes, &NoFiles, &Limits::small()).expect("a model");
    let options = Options::default();
    let quantised = quantise(&float, &[sample], &[], &options).expect("quantises");
    quantised.graph
}

/// Proves the outputs of the graph with other tables, and expects that the lookups alone refuse it.
fn forge(case: &Case, what: &str, other: impl Fn(&[i16]) -> Option<Vec<i16>>) {
    let graph = case.model.graph();
    let mut skeleton = graph.skeleton().clone();
    let mut changed = 0;
    for table in &mut skeleton.tables {
        if let Some(entries) = other(&table.entries) {
            table.entries = entries;
            changed += 1;
        }
    }
    assert!(changed > 0, "{what}: no such table");
    let forged = IntegerGraph::new(skeleton, graph.constants().to_vec()).expect("valid");
    let trace = forged.run(&case.statement.inputs, 1).expect("runs");
    let statement = case.claiming(&trace.outputs);
    assert_ne!(statement, case.statement, "{what}: changes nothing");
    let witness = Witness::new(&case.plan, trace);
    let attempt = || {
        let proof = case.prove_with(&statement, &witness, &mut Honest);
        case.verify(&statement, &proof.expect("proves"))
    };
    let check = Check::LookupSum;
    assert_eq!(attempt(), Err(VerifyError::Rejected(check)), "{what}");
    let accepted = without(Removed::One(check), attempt);
    assert_eq!(accepted, Ok(()), "{what} without {check:?}");
}

/// Tables of zeros and ones.
fn bits(entries: &[i16]) -> bool {
    entries.contains(&1) && entries.iter().all(|e| (0..=1).contains(e))
}

#[test]
fn another_row_of_an_embedding_is_refused() {
    let indices = vec![1i64, 5, 5, 4, 1, 4];
    let sample = vec![("i".into(), Tensor::new(&[2, 3], indices).expect("fits"))];
    let graph = quantised("gather_rows", sample);
    for weights in [Weights::Succinct, Weights::Holder] {
        let case = Case::new(graph.clone(), vec![vec![1, 5, 2, 4, 0, 3]], 1, weights);
        assert_eq!(case.verify(&case.statement, &case.prove()), Ok(()));
        let shifted = |entries: &[i16], by: usize| {
            let mut entries = entries.to_vec();
            entries.rotate_right(by);
            entries
        };
        forge(&case, "the row before", |e| bits(e).then(|| shifted(e, 1)));
        forge(&case, "two rows at once", |e| {
            let other = shifted(e, 1);
            let either = e.iter().zip(&other).map(|(a, b)| a | b);
            bits(e).then(|| either.collect())
        });
        forge(&case, "no row", |e| bits(e).then(|| vec![0; e.len()]));
    }
}

#[test]
fn another_index_than_the_largest_elements_is_refused() {
    let values = vec![2.0f32; 27];
    let sample = || {
        let tensor = Tensor::new(&[3, 9], values.clone()).expect("fits");
        vec![("x".into(), tensor)]
    };
    let input = [
        [7, 9, 9, -3, 9, 0, 1, 2, 9],
        [-9, -8, -7, -6, -5, -4, -3, -2, -1],
        [5, 4, 4, 4, 4, 4, 4, 4, 4],
    ];
    for (fixture, expected) in [
        ("argmax_first_of_ties", [1, 8, 0]),
        ("argmax_last_of_ties", [8, 8, 0]),
    ] {
        let inputs = vec![input.concat()];
        let case = Case::new(quantised(fixture, sample()), inputs, 1, Weights::Holder);
        assert_eq!(case.statement.outputs, [expected]);
        assert_eq!(case.verify(&case.statement, &case.prove()), Ok(()));
        let mirrored = |e: &[i16]| -> Vec<i16> { e.iter().map(|v| 1 - v).collect() };
        forge(&case, "the smaller one", |e| bits(e).then(|| mirrored(e)));
        forge(&case, "the other of equals", |e| {
            // The first one of the table moves to its neighbour: from ≥ to >, or back.
            let first = e.iter().position(|&v| v == 1)?;
            let mut other = e.to_vec();
            if fixture == "argmax_first_of_ties" {
                other[first] = 0;
            } else {
                *other.get_mut(first.checked_sub(1)?)? = 1;
            }
            bits(e).then_some(other)
        });
        forge(&case, "an index one larger", |e| {
            let top = *e.iter().max()?;
            let counts = e.windows(2).all(|w| (0..=1).contains(&(w[1] - w[0])));
            let more = || e.iter().map(|&v| (v + 1).min(top)).collect();
            (counts && top == 8).then(more)
        });
    }
}
