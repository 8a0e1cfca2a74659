//! `lemma models ls|show|verify`

use std::path::Path;

use lemma_types::{
    Manifest,
    tensor::{Dim, TensorSpec},
};
use serde_json::{Value, json};

use super::{block_on, push};
use crate::{
    cli::Models,
    client::{Client, ModelInfo},
    config::Config,
    error::{CommandError, CommandResult},
    exit::ExitCode,
    shell::{Shell, paint, styles},
    table::Table,
    text::{grouped, harmless, size},
};

/// Looks at models.
pub(super) fn run(command: &Models, config: &Config, shell: &mut Shell) -> CommandResult {
    let client = Client::new(config)?;
    match command {
        Models::Ls(_) => list(&client, shell),
        Models::Show {
            model, manifest, ..
        } => {
            let info = block_on(client.model(model))?;
            if *manifest {
                let mut bytes = info.manifest.encode();
                // A terminal wants a line break; the hash does not.
                if !shell.json() {
                    bytes.push(b'\n');
                }
                return shell.bytes(&bytes);
            }
            show(&info, shell)
        }
        Models::Verify { path, model, .. } => {
            let info = block_on(client.model(model))?;
            verify(path, &info, shell)
        }
        Models::Pull(_) | Models::Push(_) | Models::Quantize(_) => Err(CommandError::new(
            ExitCode::Internal,
            "another command's affair",
        )),
    }
}

fn list(client: &Client, shell: &mut Shell) -> CommandResult {
    let models = block_on(client.models())?;
    if shell.json() {
        let data: Vec<Value> = models
            .iter()
            .map(|model| json!({ "name": model.id, "root": model.root, "author": model.author }))
            .collect();
        return shell.document(&json!({ "models": data }));
    }
    let mut table = Table::new(&["name", "root", "author"]);
    for model in &models {
        table.row([
            model.id.to_string(),
            model.root.to_string(),
            model.author.to_string(),
        ]);
    }
    shell.table(&table)
}

fn show(info: &ModelInfo, shell: &mut Shell) -> CommandResult {
    let ModelInfo { id, root, manifest } = info;
    if shell.json() {
        return shell.document(&json!({ "name": id, "root": root, "manifest": manifest }));
    }
    let or_none = |text: &str| {
        if text.is_empty() {
            "none given".to_owned()
        } else {
            harmless(text)
        }
    };
    shell.line(paint(styles::HEADING, id))?;
    if !manifest.description.is_empty() {
        shell.line(harmless(&manifest.description))?;
    }
    let rows = [
        ("root", root.to_string()),
        ("graph", manifest.graph_root.to_string()),
        ("importer", manifest.importer.to_string()),
        (
            "compute",
            format!(
                "{} {} for one {}",
                grouped(manifest.compute_units),
                if manifest.compute_units == 1 {
                    "unit"
                } else {
                    "units"
                },
                if manifest.format.is_text() {
                    "token"
                } else {
                    "row"
                },
            ),
        ),
        ("receipts", manifest.format.mode().to_string()),
        ("licence", or_none(&manifest.licence)),
        ("outputs", or_none(&manifest.output_licence)),
    ];
    for (name, value) in rows {
        shell.line(format_args!("  {name:<10}{value}"))?;
    }
    signature("input", &manifest.inputs, shell)?;
    signature("output", &manifest.outputs, shell)?;
    for file in &manifest.files {
        shell.line(format_args!(
            "  {:<10}{}  {}  {}",
            "file",
            harmless(&file.path),
            size(file.size),
            file.blake3
        ))?;
    }
    Ok(())
}

fn signature(kind: &str, specs: &[TensorSpec], shell: &mut Shell) -> CommandResult {
    for spec in specs {
        shell.line(format_args!("  {kind:<10}{}", describe_spec(spec)))?;
    }
    Ok(())
}

/// A tensor of a signature in one line: `image FP32 [N, 1, 8, 8]`.
pub(super) fn describe_spec(spec: &TensorSpec) -> String {
    let shape: Vec<String> = spec.shape.iter().map(Dim::to_string).collect();
    harmless(&format!(
        "{} {} [{}]",
        spec.name,
        spec.dtype,
        shape.join(", ")
    ))
}

/// Derives everything that follows from the file again and compares it with the manifest.
fn verify(path: &Path, info: &ModelInfo, shell: &mut Shell) -> CommandResult {
    let derived = push::derive(path, &push::Terms::of(&info.manifest))?;
    let difference = difference(&derived, &info.manifest);
    if shell.json() {
        shell.document(&json!({
            "name": info.id,
            "root": info.root,
            "path": path,
            "same": difference.is_none(),
            "difference": difference,
        }))?;
    }
    match difference {
        Some(what) => Err(CommandError::new(
            ExitCode::VerificationFailed,
            format!("{} is not the model `{}`", path.display(), info.id),
        )
        .cause(what)),
        None if shell.json() => Ok(()),
        None => shell.line(format_args!(
            "{} is `{}`, root {}",
            path.display(),
            info.id,
            info.root
        )),
    }
}

fn difference(derived: &Manifest, registered: &Manifest) -> Option<String> {
    if derived.graph_root != registered.graph_root {
        return Some(format!(
            "its graph has root {}, the registered model's has {}",
            derived.graph_root, registered.graph_root
        ));
    }
    let digests = |manifest: &Manifest| {
        manifest
            .files
            .iter()
            .map(|file| file.blake3)
            .collect::<Vec<_>>()
    };
    if digests(derived) != digests(registered) {
        return Some("it means the same, but its bytes differ".to_owned());
    }
    (derived.inputs != registered.inputs || derived.outputs != registered.outputs)
        .then(|| "its signature differs".to_owned())
}
