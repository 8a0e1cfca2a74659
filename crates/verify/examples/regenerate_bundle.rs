//! Writes the golden bundle of `tests/vectors/` anew, with new keys if the dealer changed. Run it only when the bundle
//! format gets a new version: the bundle that is there must verify forever.
//!
//! ```sh
//! cargo run -p lemma-verify --example regenerate_bundle
//! ```

#![allow(clippy::unwrap_used)]

#[path = "../tests/verify/support/mod.rs"]
mod support;

use std::path::PathBuf;

use lemma_types::{Bytes, tensor};
use serde::Serialize;

fn main() -> std::io::Result<()> {
    let case = support::Case::new();
    write("bundle.json", &case.bundle)?;
    write("trusted_root.json", &case.root)?;
    write("inputs.json", &Bytes::from(tensor::encode(&case.inputs)))?;
    write("outputs.json", &Bytes::from(tensor::encode(&case.outputs)))?;
    std::fs::write(folder().join("report.txt"), case.verify().render())
}

fn write(file: &str, value: &impl Serialize) -> std::io::Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    std::fs::write(folder().join(file), text)
}

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "vectors"]
        .iter()
        .collect()
}
