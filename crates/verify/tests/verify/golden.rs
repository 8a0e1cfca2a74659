//! A bundle that was written once must verify forever, with the same report.

use lemma_types::{Bytes, tensor};
use lemma_verify::{
    CheckName, Opened, Outcome, Recompute, Recomputed, Verdict, Verifier, decode_bundle,
    decode_trusted_root,
};

const BUNDLE: &[u8] = include_bytes!("../vectors/bundle.json");
const ROOT: &[u8] = include_bytes!("../vectors/trusted_root.json");

fn tensors(json: &[u8]) -> Vec<tensor::TensorData> {
    let bytes: Bytes = serde_json::from_slice(json).unwrap();
    tensor::decode(&bytes).unwrap()
}

#[test]
fn the_golden_bundle_verifies() {
    let bundle = decode_bundle(BUNDLE).unwrap();
    let outputs = tensors(include_bytes!("../vectors/outputs.json"));
    let opened = Opened {
        inputs: Some(tensors(include_bytes!("../vectors/inputs.json"))),
        outputs: Some(outputs.clone()),
        recompute: Recompute::Done(Recomputed {
            graph_root: bundle.manifest.graph_root,
            numeric_spec: 1,
            outputs,
        }),
        ..Opened::default()
    };
    let verifier = Verifier::new(&decode_trusted_root(ROOT).unwrap()).unwrap();
    let report = verifier.verify_bytes(BUNDLE, &opened);
    assert_eq!(report.verdict, Verdict::Verified, "{report}");
    for name in CheckName::ALL {
        let expected = match name {
            CheckName::Proof => Outcome::NotAsked,
            _ => Outcome::Ok,
        };
        assert_eq!(report.outcome(name), Some(expected));
    }
    assert_eq!(report.render(), include_str!("../vectors/report.txt"));
}

/// What is written is what was read: no field is lost, renamed or reordered.
#[test]
fn the_golden_bundle_is_written_as_it_was_read() {
    let again = serde_json::to_string_pretty(&decode_bundle(BUNDLE).unwrap()).unwrap() + "\n";
    assert_eq!(again.as_bytes(), BUNDLE);
    let again = serde_json::to_string_pretty(&decode_trusted_root(ROOT).unwrap()).unwrap() + "\n";
    assert_eq!(again.as_bytes(), ROOT);
}

#[test]
fn the_golden_bundle_is_small() {
    let compact = serde_json::to_vec(&decode_bundle(BUNDLE).unwrap()).unwrap();
    assert!(compact.len() <= 16 << 10, "{} bytes", compact.len());
}
