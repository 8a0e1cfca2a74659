//! Model folders on this machine's disk.

use std::{fs, path::Path, thread};

use lemma_llm::Compute;
use lemma_node::files::{self, ModelFiles};

use crate::{
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
};

/// The names of the files in a folder that are weights or among `others`, sorted.
pub(super) fn names(folder: &Path, others: &[&str]) -> CommandResult<Vec<String>> {
    let cannot = || format!("can not read {}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).context(ExitCode::NotFound, cannot)? {
        let name = entry.context(ExitCode::Failed, cannot)?.file_name();
        let Some(name) = name.to_str() else { continue };
        if others.contains(&name) || name.ends_with(".safetensors") {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Files in a folder; weights are mapped.
pub(super) fn open(folder: &Path, names: Vec<String>) -> CommandResult<ModelFiles> {
    ModelFiles::open(folder, names).map_err(|(name, error)| {
        let message = format!("can not read {}", folder.join(name).display());
        CommandError::new(ExitCode::NotFound, message).cause(error.to_string())
    })
}

/// The last part of a path.
pub(super) fn file_name(path: &Path) -> CommandResult<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or_else(|| {
        CommandError::failed(format!("can not read {}", path.display()))
            .cause("a name is not UTF-8")
    })
}

/// Whether a path names a GGUF file.
pub(super) fn is_gguf(path: &Path) -> bool {
    files::is_gguf(&path.to_string_lossy())
}

/// All cores: how many changes no bit.
pub(super) fn compute() -> Compute {
    Compute::new(thread::available_parallelism().map_or(1, usize::from))
}
