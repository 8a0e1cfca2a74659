//! The root commits to what a model computes: not to names or orders in its file, and to
//! everything else.

use crate::common::onnx::{Field, decode, edit_graph, encode, rename};
use crate::common::{fixtures, read};
use lemma_graph::{Limits, NoFiles, import};
use lemma_types::Digest;

fn root(bytes: &[u8]) -> Digest {
    import(bytes, &NoFiles, &Limits::small()).unwrap()
}

/// Names and files of the valid fixtures.
fn models() -> Vec<(String, Vec<u8>)> {
    fixtures("valid")
        .into_iter()
        .map(|folder| {
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            (name, read(&folder.join("model.onnx")))
        })
        .collect()
}

/// A reproducible shuffle.
fn shuffle<T>(items: &mut [T], mut seed: u64) {
    for i in (1..items.len()).rev() {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        items.swap(i, (seed >> 33) as usize % (i + 1));
    }
}

#[test]
fn roots_of_networks_are_frozen() {
    let found: Vec<String> = models()
        .iter()
        .filter(|(name, _)| name.starts_with("network_"))
        .map(|(name, bytes)| format!("{name} {}", root(bytes)))
        .collect();
    assert_eq!(
        found.join("\n"),
        include_str!("../data/networks.golden").trim_end()
    );
}

#[test]
fn orders_and_inner_names_do_not_change_the_root() {
    for (name, bytes) in models() {
        let expected = root(&bytes);
        for seed in 0..4 {
            let changed = edit_graph(&bytes, |graph| {
                // Inputs and outputs have an order that counts; nodes and initializers do not.
                let movable = |f: &Field| matches!(f.number(), 1 | 5);
                let (mut moved, kept): (Vec<Field>, Vec<Field>) =
                    graph.iter().cloned().partition(movable);
                shuffle(&mut moved, seed);
                *graph = [moved, kept].concat();
                rename(graph);
            });
            assert_eq!(root(&changed), expected, "{name}, seed {seed}");
        }
    }
}

#[test]
fn what_no_output_needs_does_not_change_the_root() {
    let (_, bytes) = models().remove(0);
    let node = |inputs: &str, output: &str| {
        let text = |number, text: &str| Field::Bytes(number, text.as_bytes().to_vec());
        Field::Bytes(
            1,
            encode(&[text(1, inputs), text(2, output), text(4, "Relu")]),
        )
    };
    let with = |extra: Option<Field>| {
        edit_graph(&bytes, |graph| {
            let first_input = graph.iter().find_map(|f| match f {
                Field::Bytes(11, info) => decode(info).into_iter().find_map(|f| match f {
                    Field::Bytes(1, name) => String::from_utf8(name).ok(),
                    _ => None,
                }),
                _ => None,
            });
            if extra.is_some() {
                graph.push(node(&first_input.unwrap(), "dead"));
            }
        })
    };
    assert_eq!(root(&with(None)), root(&bytes));
    assert_eq!(root(&with(Some(node("", "")))), root(&bytes));
}

#[test]
fn only_models_of_one_meaning_share_a_root() {
    let mut by_root = std::collections::BTreeMap::<Digest, Vec<String>>::new();
    for (name, bytes) in models() {
        by_root.entry(root(&bytes)).or_default().push(name);
    }
    let mut shared: Vec<String> = by_root
        .into_values()
        .filter(|names| names.len() > 1)
        .map(|names| names.join(" "))
        .collect();
    shared.sort();
    assert_eq!(shared, SAME);
}

/// Fixtures that say the same in different ways.
const SAME: [&str; 2] = [
    "dropout dropout_ratio identity",
    "reducemean_last reducemean_opset18",
];

#[test]
fn every_bit_of_a_weight_counts() {
    let (_, bytes) = models()
        .into_iter()
        .find(|(n, _)| n == "network_mlp")
        .unwrap();
    let expected = root(&bytes);
    let changed = edit_graph(&bytes, |graph| {
        let weights = graph.iter_mut().find_map(|f| match f {
            Field::Bytes(5, bytes) => Some(bytes),
            _ => None,
        });
        let weights = weights.unwrap();
        let mut inside = decode(weights);
        for field in &mut inside {
            if let Field::Bytes(4 | 9, raw) = field {
                raw[0] ^= 1;
            }
        }
        *weights = encode(&inside);
    });
    assert_ne!(root(&changed), expected);
}
