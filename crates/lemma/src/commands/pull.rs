//! `lemma models pull`: the files of a model from a hub to this disk.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::json;

use super::{block_on, embedding::POOLING, language::FOLDER};
use crate::{
    cli::Pull,
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
    hub::{Hub, HubModel, Listed, Listing, RemoteFile},
    progress,
    shell::{Shell, paint, styles},
    text::{harmless, size},
};

/// Names that a message lists before it leaves out the rest.
const SHOWN: usize = 20;

/// What a pull did.
struct Pulled {
    listing: Listing,
    files: Vec<RemoteFile>,
    /// Bytes that were not there yet.
    fetched: u64,
}

/// Pulls a model.
pub(super) fn run(arguments: &Pull, shell: &mut Shell) -> CommandResult {
    let hub = Hub::from_environment()?;
    let model = &arguments.model;
    let folder = match &arguments.output {
        Some(folder) => folder.clone(),
        None => PathBuf::from(model.name()),
    };
    let pulled = block_on(pull(&hub, arguments, &folder, shell))?;
    describe(&hub, model, &pulled.listing, &folder)?;
    report(&pulled, &folder, shell)
}

async fn pull(
    hub: &Hub,
    arguments: &Pull,
    folder: &Path,
    shell: &mut Shell,
) -> CommandResult<Pulled> {
    let model = &arguments.model;
    let listing = hub.list(model).await?;
    let wanted = wanted(&listing.files, arguments.file.as_deref())?;
    let mut files = Vec::with_capacity(wanted.len());
    for file in wanted {
        files.push(hub.describe(model, &listing.commit, file).await?);
    }
    let total = files
        .iter()
        .fold(0u64, |sum, file| sum.saturating_add(file.size));
    if total > arguments.max_size.0 {
        let message = format!("{model} has {}", size(total));
        return Err(CommandError::failed(message).hint("allow more with --max-size"));
    }
    fs::create_dir_all(folder).context(ExitCode::Failed, || {
        format!("can not write {}", folder.display())
    })?;
    let bar = Arc::new(progress::bytes("fetching", total, shell));
    let mut fetched = 0;
    for file in &files {
        let counter = Arc::clone(&bar);
        let count = move |bytes| counter.inc(bytes);
        fetched += hub
            .fetch(model, &listing.commit, file, folder, &count)
            .await?;
    }
    bar.finish_and_clear();
    Ok(Pulled {
        listing,
        files,
        fetched,
    })
}

/// The files of a model that can be hosted: what `lemma models push` takes.
fn wanted<'a>(files: &'a [Listed], only: Option<&str>) -> CommandResult<Vec<&'a Listed>> {
    let find = |name: &str| files.iter().find(|file| file.name == name);
    let ending = |end: &str| -> Vec<&Listed> {
        files
            .iter()
            .filter(|file| file.name.ends_with(end))
            .collect()
    };
    let names = |found: &[&Listed]| {
        let names: Vec<String> = found
            .iter()
            .take(SHOWN)
            .map(|file| harmless(&file.name))
            .collect();
        names.join(", ")
    };
    if let Some(name) = only {
        let found = find(name).ok_or_else(|| {
            let message = format!("the model has no file `{}`", harmless(name));
            let all: Vec<&Listed> = files.iter().collect();
            CommandError::new(ExitCode::NotFound, message).hint(format!("it has {}", names(&all)))
        })?;
        return Ok(vec![found]);
    }
    let weights = ending(".safetensors");
    if find("config.json").is_some() && !weights.is_empty() {
        let mut found: Vec<&Listed> = FOLDER
            .iter()
            .chain([&POOLING])
            .filter_map(|name| find(name))
            .collect();
        found.extend(shards(weights));
        return Ok(found);
    }
    let gguf = ending(".gguf");
    match gguf.as_slice() {
        [only] => Ok(vec![only]),
        [] => Err(
            CommandError::failed("the model has no files that can be hosted")
                .cause("neither config.json with safetensors, nor a GGUF file")
                .hint("an ONNX model's file can be chosen with --file"),
        ),
        several => Err(
            CommandError::new(ExitCode::Usage, "the model has several GGUF files")
                .hint(format!("choose one with --file: {}", names(several))),
        ),
    }
}

/// Weights often lie there in several arrangements: the one file, or else the numbered ones, or else all.
fn shards(weights: Vec<&Listed>) -> Vec<&Listed> {
    let whole = |file: &&Listed| file.name == "model.safetensors";
    let numbered = |file: &&Listed| file.name.starts_with("model-") && file.name.contains("-of-");
    for choice in [&whole as &dyn Fn(&&Listed) -> bool, &numbered] {
        let chosen: Vec<&Listed> = weights.iter().copied().filter(choice).collect();
        if !chosen.is_empty() {
            return chosen;
        }
    }
    weights
}

/// Writes where the model is from beside it, for `lemma models push`; what is there already stays.
fn describe(hub: &Hub, model: &HubModel, listing: &Listing, folder: &Path) -> CommandResult {
    let path = folder.join("lemma.json");
    if path.exists() {
        return Ok(());
    }
    // The hub's word for a licence, where there is an SPDX expression for it.
    let licence = match listing.licence.as_deref() {
        Some("apache-2.0") => "Apache-2.0",
        Some("mit") => "MIT",
        Some("bsd-3-clause") => "BSD-3-Clause",
        Some("cc-by-4.0") => "CC-BY-4.0",
        Some("cc0-1.0") => "CC0-1.0",
        _ => "",
    };
    let terms = json!({
        "description": format!("{model} at {} of {}", listing.commit, hub.address()),
        "licence": licence,
    });
    fs::write(&path, format!("{terms:#}\n")).context(ExitCode::Failed, || {
        format!("can not write {}", path.display())
    })
}

fn report(pulled: &Pulled, folder: &Path, shell: &mut Shell) -> CommandResult {
    // A single file is pushed as such, a folder as a whole.
    let path = match pulled.files.as_slice() {
        [only] => folder.join(&only.name),
        _ => folder.to_owned(),
    };
    if shell.json() {
        let file = |file: &RemoteFile| json!({ "name": file.name, "size": file.size, "hash": file.hash.to_string() });
        return shell.document(&json!({
            "path": path,
            "commit": pulled.listing.commit,
            "files": pulled.files.iter().map(file).collect::<Vec<_>>(),
            "fetched": pulled.fetched,
        }));
    }
    shell.line(path.display())?;
    shell.note(format_args!(
        "commit {}: {} files, every hash checked, {} fetched",
        pulled.listing.commit,
        pulled.files.len(),
        size(pulled.fetched)
    ));
    let command = format!("lemma models push {} --name OWNER/MODEL", path.display());
    shell.hint(format_args!("host it: {}", paint(styles::COMMAND, command)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str], only: Option<&str>) -> Result<Vec<String>, String> {
        let files: Vec<Listed> = names.iter().map(|name| Listed::named(name)).collect();
        let found = wanted(&files, only).map_err(|error| error.message().to_owned())?;
        Ok(found.iter().map(|file| file.name.clone()).collect())
    }

    #[test]
    fn what_push_takes_is_chosen() {
        let folder = [
            "README.md",
            "config.json",
            "tokenizer.json",
            "model.safetensors",
        ];
        let expected = ["config.json", "tokenizer.json", "model.safetensors"].map(str::to_owned);
        assert_eq!(chosen(&folder, None).unwrap(), expected);
        let with = |more: &[&'static str]| [&folder[..], more].concat();
        let both = with(&["model-00001-of-00001.safetensors", "model.fp16.safetensors"]);
        assert_eq!(chosen(&both, None).unwrap(), expected);
        let sharded = [
            "config.json",
            "consolidated.safetensors",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ];
        assert_eq!(
            chosen(&sharded, None).unwrap(),
            [sharded[0], sharded[2], sharded[3]]
        );
        assert_eq!(chosen(&["a.gguf", "x.bin"], None).unwrap(), ["a.gguf"]);
        assert_eq!(
            chosen(&["a.gguf", "b.gguf"], Some("b.gguf")).unwrap(),
            ["b.gguf"]
        );
        assert!(
            chosen(&["a.gguf", "b.gguf"], None)
                .unwrap_err()
                .contains("several")
        );
        assert!(
            chosen(&["a.gguf"], Some("../x"))
                .unwrap_err()
                .contains("no file")
        );
        assert!(chosen(&["config.json", "pytorch_model.bin"], None).is_err());
    }
}
