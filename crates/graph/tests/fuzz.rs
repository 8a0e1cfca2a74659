//! Random and damaged files: refused or run, never a panic, never more memory than allowed. A process of their own, for they
//! measure what it takes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

#[path = "graph/common/mod.rs"]
mod common;

use common::mutate::{Choices, mutate};
use common::{fixtures, read};
use lemma_graph::{Limits, Model, NoFiles, RunOptions, Tensor, import};
use lemma_types::tensor::{DType, Dim};
use proptest::prelude::*;

fn limits() -> Limits {
    Limits {
        constant_bytes: 4 << 20,
        constant_operations: 10_000_000,
        elements: 1 << 20,
        nodes: 1000,
        ..Limits::small()
    }
}

fn options() -> RunOptions {
    RunOptions {
        memory: 4 << 20,
        cost: 10_000_000,
        ..RunOptions::default()
    }
}

/// An input of small numbers for a declared shape, if that is small.
fn input(dtype: DType, dims: &[Dim], symbol: usize) -> Option<Tensor> {
    let shape: Vec<usize> = dims
        .iter()
        .map(|d| match d {
            Dim::Fixed(n) => usize::try_from(*n).unwrap_or(usize::MAX),
            Dim::Symbol(_) => symbol,
        })
        .collect();
    let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    if count > 1 << 16 {
        return None;
    }
    let bytes: Vec<u8> = (0..count * dtype.size()).map(|i| (i % 2) as u8).collect();
    Tensor::from_le_bytes(dtype, &shape, &bytes).ok()
}

/// Imports and, where that succeeds, runs.
fn exercise(bytes: &[u8]) {
    let Ok(model) = Model::load(bytes, &NoFiles, &limits()) else {
        return;
    };
    for symbol in [1, 3] {
        let inputs: Option<Vec<(&str, Tensor)>> = model
            .inputs()
            .iter()
            .map(|spec| Some((spec.name.as_str(), input(spec.dtype, &spec.shape, symbol)?)))
            .collect();
        if let Some(inputs) = inputs
            && let Ok(run) = model.run(&inputs, &options())
        {
            assert_eq!(run.outputs.len(), model.outputs().len());
        }
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let folders = [fixtures("valid"), fixtures("hostile")].concat();
    folders
        .iter()
        .map(|f| read(&f.join("model.onnx")))
        .collect()
}

fn good() -> Vec<Vec<u8>> {
    fixtures("valid")
        .iter()
        .map(|f| read(&f.join("model.onnx")))
        .collect()
}

/// Address space that this process has used at its peak, bytes.
#[cfg(target_os = "linux")]
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmPeak:")).unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        << 10
}

#[test]
#[cfg(target_os = "linux")]
fn no_file_of_the_corpus_makes_the_importer_allocate_what_it_claims() {
    let before = peak();
    for bytes in corpus() {
        exercise(&bytes);
    }
    let grown = peak() - before;
    assert!(grown < 512 << 20, "the address space grew by {grown} bytes");
}

#[test]
fn every_truncation_is_refused_or_runs() {
    for bytes in corpus().into_iter().filter(|b| b.len() < 2000).step_by(9) {
        for end in 0..bytes.len() {
            exercise(&bytes[..end]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = import(&bytes, &NoFiles, &limits());
    }

    #[test]
    fn damaged_files_never_panic(
        which in any::<proptest::sample::Index>(),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
    ) {
        thread_local! {
            static CORPUS: Vec<Vec<u8>> = corpus();
        }
        CORPUS.with(|corpus| {
            let mut bytes = corpus[which.index(corpus.len())].clone();
            if bytes.is_empty() || bytes.len() > 100_000 {
                return;
            }
            for (place, value) in &edits {
                let place = place.index(bytes.len());
                bytes[place] = *value;
            }
            exercise(&bytes);
        });
    }

    #[test]
    fn models_with_something_changed_never_panic(seed in any::<u64>(), changes in 1..4) {
        thread_local! {
            static CORPUS: Vec<Vec<u8>> = good();
        }
        CORPUS.with(|corpus| {
            let mut choices = Choices(seed);
            let mut bytes = corpus[choices.below(corpus.len())].clone();
            for _ in 0..changes {
                bytes = mutate(&bytes, &mut choices);
            }
            exercise(&bytes);
        });
    }
}
