//! `lemma --version`

use serde_json::json;

use crate::{error::CommandResult, shell::Shell};

/// Prints the version; as JSON with everything that fixes results.
pub(crate) fn run(shell: &mut Shell) -> CommandResult {
    let version = env!("CARGO_PKG_VERSION");
    if !shell.json() {
        return shell.line(format_args!("lemma {version}"));
    }
    shell.document(&json!({
        "name": "lemma",
        "version": version,
        "target": format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        "numeric_spec": lemma_graph::NUMERIC_SPEC_VERSION,
        "importer": lemma_graph::IMPORTER_VERSION,
    }))
}
