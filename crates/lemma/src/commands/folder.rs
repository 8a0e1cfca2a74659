//! Model folders on this machine's disk.

use std::{fs, path::Path, thread};

use lemma_llm::Compute;

use crate::{
    error::{CommandResult, Context as _},
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

/// Names and contents of files in a folder.
pub(super) fn read(folder: &Path, names: Vec<String>) -> CommandResult<Vec<(String, Vec<u8>)>> {
    let one = |name: String| {
        let file = folder.join(&name);
        let bytes = fs::read(&file).context(ExitCode::NotFound, || {
            format!("can not read {}", file.display())
        })?;
        Ok((name, bytes))
    };
    names.into_iter().map(one).collect()
}

/// All cores: how many changes no bit.
pub(super) fn compute() -> Compute {
    Compute::new(thread::available_parallelism().map_or(1, usize::from))
}
