//! A bundle's JSON text, damaged in every way that can be tried: it is refused, or it still means the same.

use std::sync::LazyLock;

use crate::support::Case;
use lemma_types::bundle::Bundle;
use lemma_verify::{Opened, Verdict, Verifier, decode_bundle};
use proptest::prelude::*;

struct Target {
    json: Vec<u8>,
    bundle: Bundle,
    verifier: Verifier,
    opened: Opened,
}

impl Target {
    fn new() -> Self {
        let case = Case::new();
        Self {
            json: serde_json::to_vec(&case.bundle).unwrap(),
            verifier: case.verifier(),
            opened: case.opened(),
            bundle: case.bundle,
        }
    }

    /// The bundle that the text means, if it means one and another than the target.
    fn other(&self, json: &[u8]) -> Option<Bundle> {
        decode_bundle(json)
            .ok()
            .filter(|bundle| *bundle != self.bundle)
    }

    /// Another bundle never verifies.
    #[track_caller]
    fn assert_refused(&self, bundle: &Bundle) {
        let report = self.verifier.verify(bundle, &self.opened);
        // Evidence that was cut out whole is missing, not wrong.
        let cut = bundle.openings.is_none() || bundle.settlement.is_none();
        assert!(
            report.verdict == Verdict::Wrong || cut && report.verdict == Verdict::Inconclusive,
            "{}\n{report}",
            serde_json::to_string(bundle).unwrap()
        );
    }
}

/// Every bit of every byte is flipped. Where several flips give other bundles (a digit of a hash becomes another digit),
/// one of them is verified, a different one from place to place.
fn flip_every_byte(first: usize) {
    let target = Target::new();
    let mut json = target.json.clone();
    let mut verified = 0;
    for position in (first..json.len()).step_by(2) {
        let mut others = Vec::new();
        for bit in 0..8 {
            json[position] ^= 1 << bit;
            others.extend(target.other(&json));
            json[position] ^= 1 << bit;
        }
        if !others.is_empty() {
            target.assert_refused(&others[position / 2 % others.len()]);
            verified += 1;
        }
    }
    assert!(verified > 1_000, "only {verified} flips were verified");
}

#[test]
fn every_even_byte_flipped() {
    flip_every_byte(0);
}

#[test]
fn every_odd_byte_flipped() {
    flip_every_byte(1);
}

#[test]
fn every_truncation_is_malformed() {
    let target = Target::new();
    for end in 0..target.json.len() {
        assert!(
            decode_bundle(&target.json[..end]).is_err(),
            "{end} bytes were accepted"
        );
        assert!(
            decode_bundle(&target.json[end + 1..]).is_err(),
            "from {end} was accepted"
        );
    }
}

#[test]
fn every_removed_byte_is_noticed() {
    let target = Target::new();
    for position in 0..target.json.len() {
        let mut json = target.json.clone();
        json.remove(position);
        if let Some(other) = target.other(&json) {
            target.assert_refused(&other);
        }
    }
}

#[test]
fn another_spelling_of_the_same_bundle_verifies() {
    let target = Target::new();
    let pretty = serde_json::to_vec_pretty(&target.bundle).unwrap();
    let report = target.verifier.verify_bytes(&pretty, &target.opened);
    assert_eq!(report.verdict, Verdict::Verified);
}

#[test]
fn deep_nesting_is_refused() {
    let target = Target::new();
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    let report = target.verifier.verify_bytes(&deep, &target.opened);
    assert_eq!(report.verdict, Verdict::Wrong);
}

/// Replaces, removes or doubles one value anywhere in a JSON tree.
fn mutate(value: &mut serde_json::Value, choice: &mut u64, replacement: &serde_json::Value) {
    use serde_json::Value;
    let take = |choice: &mut u64, count: usize| {
        let index = *choice % count.max(1) as u64;
        *choice /= count.max(1) as u64;
        index as usize
    };
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            let key = fields
                .keys()
                .nth(take(choice, fields.len()))
                .unwrap()
                .clone();
            match take(choice, 5) {
                0 => drop(fields.remove(&key)),
                _ => mutate(&mut fields[&key], choice, replacement),
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let index = take(choice, items.len());
            match take(choice, 5) {
                0 => drop(items.remove(index)),
                1 => items.push(items[index].clone()),
                2 => items.reverse(),
                _ => mutate(&mut items[index], choice, replacement),
            }
        }
        Value::Number(number) if take(choice, 2) == 0 => {
            *value = number.as_u64().unwrap_or(0).wrapping_add(1).into();
        }
        _ => *value = replacement.clone(),
    }
}

fn replacement() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        "(0x)?[0-9a-f]{0,64}".prop_map(Into::into),
        "0x[0-9a-f]{64}".prop_map(Into::into),
        ".{0,20}".prop_map(Into::into),
        Just(serde_json::json!([])),
        Just(serde_json::json!({})),
    ]
}

fn target() -> &'static Target {
    static TARGET: LazyLock<Target> = LazyLock::new(Target::new);
    &TARGET
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_trees_are_noticed(
        choices in proptest::collection::vec((any::<u64>(), replacement()), 1..3),
    ) {
        let target = target();
        let mut tree = serde_json::to_value(&target.bundle).unwrap();
        for (mut choice, replacement) in choices {
            mutate(&mut tree, &mut choice, &replacement);
        }
        if let Some(other) = target.other(&serde_json::to_vec(&tree).unwrap()) {
            target.assert_refused(&other);
        }
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let target = target();
        let report = target.verifier.verify_bytes(&bytes, &target.opened);
        prop_assert_eq!(report.verdict, Verdict::Wrong);
    }
}
