//! The fuzz targets of `lemma-types` and `lemma-verify` over their seeds and mutations of them.

#![allow(unreachable_pub)]

#[path = "../../../fuzz/src/smoke.rs"]
mod smoke;
#[path = "../../../fuzz/src/types.rs"]
mod types;
#[path = "../../../fuzz/src/verify.rs"]
mod verify;

use std::{collections::BTreeSet, fs, path::Path};

#[test]
fn amount() {
    smoke::run("amount", types::amount);
}

#[test]
fn bundle() {
    smoke::run("bundle", verify::bundle);
}

#[test]
fn certificate() {
    smoke::run("certificate", verify::certificate);
}

#[test]
fn text_request() {
    smoke::run("text_request", types::text_request);
}

#[test]
fn text_response() {
    smoke::run("text_response", types::text_response);
}

#[test]
fn extension() {
    smoke::run("extension", types::extension);
}

#[test]
fn header() {
    smoke::run("header", types::header);
}

#[test]
fn manifest() {
    smoke::run("manifest", types::manifest);
}

#[test]
fn model_name() {
    smoke::run("model_name", types::model_name);
}

#[test]
fn signed_receipt() {
    smoke::run("signed_receipt", types::signed_receipt);
}

#[test]
fn tensors() {
    smoke::run("tensors", types::tensors);
}

#[test]
fn trusted_root() {
    smoke::run("trusted_root", verify::trusted_root);
}

/// Names of the entries in a folder, without extensions.
fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder)
        .expect("a readable folder")
        .map(|entry| entry.expect("a readable entry").path())
        .map(|path| {
            path.file_stem()
                .expect("a name")
                .to_string_lossy()
                .into_owned()
        })
        .collect()
}

/// A target without seeds, without a line in the manifest or without a run in some test suite is a target forgotten.
#[test]
fn every_target_is_complete() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let targets = names(&root.join("fuzz/targets"));
    assert_eq!(targets, names(&root.join("fuzz/seeds")));
    let manifest = fs::read_to_string(root.join("fuzz/Cargo.toml")).expect("a manifest");
    let suites: String = fs::read_dir(root.join("crates"))
        .expect("crates/")
        .map(|krate| {
            krate
                .expect("a readable entry")
                .path()
                .join("tests/fuzz_smoke.rs")
        })
        .filter_map(|suite| fs::read_to_string(suite).ok())
        .collect();
    for target in targets {
        assert!(
            manifest.contains(&format!("name = \"{target}\"")),
            "{target} is not built"
        );
        assert!(
            suites.contains(&format!("smoke::run(\"{target}\"")),
            "{target} runs in no test suite"
        );
    }
}
