//! `lemma models push`: import, describe, upload, register.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use alloy_sol_types::SolCall as _;
use lemma_graph::{Files, Folder, Limits, Model};
use lemma_ledger::modules::{MODELS, abi::ILemmaModels};
use lemma_node::model;
use lemma_types::{Digest, Manifest, ModelName, manifest::File, tensor::TensorSpec};
use serde::Deserialize;
use serde_json::json;

use super::{block_on, embedding, language, models::describe_spec, quantized};
use crate::{
    cli::Push,
    client::{Client, Mined, Transaction},
    config::Config,
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
    progress,
    shell::{Shell, paint, styles},
    text::{grouped, harmless, size},
    wallet,
};

/// Largest `lemma.json`, bytes.
const MAX_TERMS_BYTES: u64 = 64 << 10;

/// What the model's file can not say of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Terms {
    pub(super) description: String,
    pub(super) licence: String,
    pub(super) output_licence: String,
}

impl Terms {
    /// The terms of a manifest.
    pub(super) fn of(manifest: &Manifest) -> Self {
        Self {
            description: manifest.description.clone(),
            licence: manifest.licence.clone(),
            output_licence: manifest.output_licence.clone(),
        }
    }

    /// As manifests take them.
    pub(super) fn stated(&self) -> model::Terms {
        model::Terms {
            description: self.description.clone(),
            licence: self.licence.clone(),
            output_licence: self.output_licence.clone(),
            ..model::Terms::default()
        }
    }

    /// What the flags say, and for the rest `lemma.json` beside the model.
    fn gather(arguments: &Push) -> CommandResult<Self> {
        let beside = match arguments.path.is_dir() {
            true => arguments.path.join("lemma.json"),
            false => arguments.path.with_file_name("lemma.json"),
        };
        let terms: Self = match fs::metadata(&beside) {
            Ok(metadata) if metadata.is_file() && metadata.len() <= MAX_TERMS_BYTES => {
                let wrong = || format!("can not use {}", beside.display());
                let text = fs::read(&beside).context(ExitCode::Failed, wrong)?;
                serde_json::from_slice(&text).context(ExitCode::Failed, wrong)?
            }
            _ => Self::default(),
        };
        let or = |flag: &Option<String>, file: String| flag.clone().unwrap_or(file);
        Ok(Self {
            description: or(&arguments.description, terms.description),
            licence: or(&arguments.licence, terms.licence),
            output_licence: or(&arguments.output_licence, terms.output_licence),
        })
    }
}

/// Publishes a model.
pub(super) fn run(arguments: &Push, config: &Config, shell: &mut Shell) -> CommandResult {
    let manifest = derive(&arguments.path, &Terms::gather(arguments)?)?;
    let client = Client::new(config)?;
    let folder = folder_of(&arguments.path);
    shell.note(format_args!(
        "imported {}: {}",
        arguments.path.display(),
        describe(&manifest)
    ));
    let registered = block_on(publish(
        &client,
        config,
        &arguments.name,
        &manifest,
        &folder,
        shell,
    ))?;
    report(&arguments.name, &manifest, &registered, shell)
}

fn describe(manifest: &Manifest) -> String {
    if manifest.format.is_text() {
        let units = grouped(manifest.compute_units);
        return format!("a language model, {units} compute units a token");
    }
    let list = |specs: &[TensorSpec]| {
        let specs: Vec<String> = specs.iter().map(describe_spec).collect();
        specs.join(", ")
    };
    format!("{} -> {}", list(&manifest.inputs), list(&manifest.outputs))
}

/// What the ledger says after a push.
enum Registered {
    /// A new version in a final block.
    Now(Mined),
    /// The name pointed to this manifest already.
    Before,
}

fn report(
    name: &ModelName,
    manifest: &Manifest,
    registered: &Registered,
    shell: &mut Shell,
) -> CommandResult {
    let root = manifest.root();
    if shell.json() {
        let (transaction, height) = match registered {
            Registered::Now(mined) => (Some(mined.hash), Some(mined.height)),
            Registered::Before => (None, None),
        };
        return shell.document(&json!({
            "name": name,
            "root": root,
            "graph_root": manifest.graph_root,
            "compute_units": manifest.compute_units,
            "transaction": transaction,
            "height": height,
        }));
    }
    shell.line(format_args!("{} {root}", paint(styles::HEADING, name)))?;
    match registered {
        Registered::Now(mined) => {
            shell.note(format_args!(
                "registered in block {}, transaction {}",
                grouped(mined.height),
                mined.hash
            ));
        }
        Registered::Before => shell.note("this version was registered already"),
    }
    let command = match manifest.format.is_text() {
        true => format!("lemma run {name} 'Hello'"),
        false => format!("lemma infer {name} --input FILE"),
    };
    shell.hint(format_args!("run it: {}", paint(styles::COMMAND, command)));
    Ok(())
}

async fn publish(
    client: &Client,
    config: &Config,
    name: &ModelName,
    manifest: &Manifest,
    folder: &Path,
    shell: &mut Shell,
) -> CommandResult<Registered> {
    // Before anything is uploaded: is there somebody to sign, and is the name free to take?
    let signer = wallet::signer(config, client).await?;
    upload(client, manifest, folder, shell).await?;
    client.publish(manifest).await?;
    if resolve(client, name).await? == Some(manifest.root()) {
        return Ok(Registered::Before);
    }
    if signer.development {
        shell.note("signed by a development account of the local network");
    }
    let call = ILemmaModels::registerCall {
        name: name.to_string(),
        manifest: manifest.root().to_b256(),
    };
    let transaction = Transaction {
        to: MODELS,
        value: lemma_types::U256::ZERO,
        input: call.abi_encode().into(),
    };
    client
        .transact(transaction, &signer.key)
        .await
        .map(Registered::Now)
}

/// What the ledger says that the name points to.
pub(super) async fn resolve(client: &Client, name: &ModelName) -> CommandResult<Option<Digest>> {
    let call = ILemmaModels::resolveCall {
        name: name.to_string(),
    };
    let Some(output) = client.call(MODELS, &call.abi_encode().into()).await? else {
        return Ok(None);
    };
    let resolved = ILemmaModels::resolveCall::abi_decode_returns(&output)
        .context(ExitCode::Failed, || {
            "the models module did not answer as it should".to_owned()
        })?;
    Ok(Some(resolved.manifest.into()))
}

async fn upload(
    client: &Client,
    manifest: &Manifest,
    folder: &Path,
    shell: &mut Shell,
) -> CommandResult {
    let total = manifest.files.iter().map(|file| file.size).sum();
    let bar = Arc::new(progress::bytes("uploading", total, shell));
    let mut uploaded = 0;
    for file in &manifest.files {
        if client.has_blob(file.blake3).await? {
            bar.inc(file.size);
            continue;
        }
        uploaded += file.size;
        let counter = bar.clone();
        client
            .put_blob(
                file.blake3,
                &folder.join(&file.path),
                file.size,
                move |bytes| counter.inc(bytes),
            )
            .await?;
    }
    bar.finish_and_clear();
    if uploaded > 0 {
        shell.note(format_args!("uploaded {}", size(uploaded)));
    }
    Ok(())
}

/// The files beside a model.
pub(super) fn beside(path: &Path) -> Folder {
    Folder::new(folder_of(path))
}

pub(super) fn folder_of(path: &Path) -> PathBuf {
    if path.is_dir() {
        return path.to_owned();
    }
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Imports a model and describes it. What can be derived is derived; only the terms are taken on trust.
pub(super) fn derive(path: &Path, terms: &Terms) -> CommandResult<Manifest> {
    if quantized::is_one(path) {
        return quantized::derive(path, terms);
    }
    if embedding::is_one(path) {
        return embedding::derive(path, terms);
    }
    match language::format_of(path) {
        Some(format) => language::derive(path, format, terms),
        None => derive_graph(path, terms),
    }
}

fn derive_graph(path: &Path, terms: &Terms) -> CommandResult<Manifest> {
    let limits = Limits::default();
    let cannot = || format!("can not import {}", path.display());
    let metadata = fs::metadata(path).context(ExitCode::NotFound, || {
        format!("can not read {}", path.display())
    })?;
    if !metadata.is_file() || metadata.len() > limits.model_bytes {
        return Err(CommandError::failed(cannot()).cause(format!(
            "it is no file of at most {}",
            size(limits.model_bytes)
        )));
    }
    let bytes = fs::read(path).context(ExitCode::Failed, || {
        format!("can not read {}", path.display())
    })?;
    let folder = folder_of(path);
    let beside = Recorder::new(beside(path));
    let model = Model::load(bytes, &beside, &limits).map_err(|error| {
        CommandError::failed(cannot())
            .cause(harmless(&error.to_string()))
            .hint("docs/operator-spec.md lists what is supported")
    })?;
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| CommandError::failed(cannot()).cause("its name is not UTF-8"))?;
    let mut files = vec![describe_file(&folder, name)?];
    for external in beside.into_paths() {
        files.push(describe_file(&folder, &external)?);
    }
    model::manifest(&model, files, terms.stated()).context(ExitCode::Failed, cannot)
}

pub(super) fn describe_file(folder: &Path, path: &str) -> CommandResult<File> {
    let full = folder.join(path);
    let cannot = || format!("can not read {}", full.display());
    let file = fs::File::open(&full).context(ExitCode::Failed, cannot)?;
    let mut hasher = blake3::Hasher::new();
    hasher
        .update_reader(&file)
        .context(ExitCode::Failed, cannot)?;
    Ok(File {
        path: path.to_owned(),
        size: hasher.count(),
        blake3: Digest::new(*hasher.finalize().as_bytes()),
    })
}

/// Files beside a model, and which of them it used.
struct Recorder {
    files: Folder,
    used: RefCell<BTreeSet<String>>,
}

impl Recorder {
    fn new(files: Folder) -> Self {
        Self {
            files,
            used: RefCell::default(),
        }
    }

    fn into_paths(self) -> BTreeSet<String> {
        self.used.into_inner()
    }
}

impl Files for Recorder {
    fn size(&self, path: &str) -> Result<u64, String> {
        self.used.borrow_mut().insert(path.to_owned());
        self.files.size(path)
    }

    fn read(&self, path: &str, offset: u64, length: usize) -> Result<Vec<u8>, String> {
        self.used.borrow_mut().insert(path.to_owned());
        self.files.read(path, offset, length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digits() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/digits/model.onnx")
    }

    #[test]
    fn a_manifest_follows_from_the_file() {
        let terms = Terms {
            licence: "MIT".to_owned(),
            ..Terms::default()
        };
        let manifest = derive(&digits(), &terms).unwrap();
        assert_eq!(
            describe_spec(&manifest.inputs[0]),
            "image FP32 [N, 1, 8, 8]"
        );
        assert_eq!(manifest.files.len(), 1);
        assert_eq!(manifest.files[0].size, 74_459);
        assert_eq!(
            manifest.files[0].blake3,
            Digest::of(&fs::read(digits()).unwrap())
        );
        assert_eq!(manifest.licence, "MIT");
        assert!(manifest.compute_units > 0);
        assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest);
    }

    #[test]
    fn what_is_no_model_is_refused_with_the_path_and_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.onnx");
        fs::write(&path, b"not a model").unwrap();
        let error = derive(&path, &Terms::default()).unwrap_err();
        assert_eq!(error.code(), ExitCode::Failed);
        assert!(
            error.message().contains("x.onnx") && !error.causes().is_empty(),
            "{error}"
        );
        let absent = derive(&dir.path().join("y.onnx"), &Terms::default()).unwrap_err();
        assert_eq!(absent.code(), ExitCode::NotFound);
        assert!(derive(dir.path(), &Terms::default()).is_err());
    }
}
