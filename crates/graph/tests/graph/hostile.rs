//! Files with a fault: refused with a message that names it, without a panic.

use crate::common::{fixtures, json, read, tensors};
use lemma_graph::{Folder, Limits, Model, RunOptions, Tensor};

#[test]
fn files_with_a_fault_are_refused_with_a_message_that_names_it() {
    let mut failures = Vec::new();
    for folder in fixtures("hostile") {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let fault = json(&folder.join("fault.json"));
        match refusal(&folder, &fault) {
            None => failures.push(format!("{name} ({}): accepted", fault["fault"])),
            Some(message) => {
                let names = fault["names"].as_array().cloned().unwrap_or_default();
                let missing: Vec<&str> = names
                    .iter()
                    .filter_map(|n| n.as_str())
                    .filter(|n| !message.contains(n))
                    .collect();
                if !missing.is_empty() {
                    failures.push(format!(
                        "{name} ({}): `{message}` does not name {missing:?}",
                        fault["fault"]
                    ));
                }
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// The message of the importer or, where the fault shows only then, of a run.
fn refusal(folder: &std::path::Path, fault: &serde_json::Value) -> Option<String> {
    let bytes = read(&folder.join("model.onnx"));
    let model = match Model::load(bytes, &Folder::new(folder), &Limits::small()) {
        Ok(model) => model,
        Err(error) => return Some(error.to_string()),
    };
    let inputs = fault.get("inputs").map(tensors)?;
    let inputs: Vec<(&str, Tensor)> = inputs
        .iter()
        .map(|(n, t)| (n.as_str(), t.clone()))
        .collect();
    let options = RunOptions {
        memory: 64 << 20,
        cost: 1 << 32,
        ..RunOptions::default()
    };
    model
        .run(&inputs, &options)
        .err()
        .map(|error| error.to_string())
}
