//! `lemma infer --local`: run a model on this machine, with no network and no receipt.

use std::{
    fmt, fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::Instant,
};

use lemma_api::oip::JsonTensors;
use lemma_graph::{Limits, Model, OpenError, RunOptions, io::npy};
use lemma_types::{Digest, tensor::TensorData};
use serde::Serialize;

use super::{infer::print_tensor, push::beside};
use crate::{
    cli::Infer,
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
    input,
    shell::{Shell, paint, styles},
    text::{harmless, size},
    usage::{self, Cpu},
};

/// What a span of work cost.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Cost {
    /// Wall time, milliseconds.
    wall_ms: f64,
    /// CPU time of all threads, milliseconds.
    cpu_ms: f64,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ms wall, {:.3} ms CPU", self.wall_ms, self.cpu_ms)
    }
}

/// Does `work` and says what it cost.
pub(super) fn measured<T>(work: impl FnOnce() -> CommandResult<T>) -> CommandResult<(T, Cost)> {
    let (clock, cpu) = (Instant::now(), Cpu::now());
    let done = work()?;
    let cost = Cost {
        wall_ms: clock.elapsed().as_secs_f64() * 1e3,
        cpu_ms: cpu.elapsed().as_secs_f64() * 1e3,
    };
    Ok((done, cost))
}

/// What was done, for programs.
#[derive(Serialize)]
struct Document<'a> {
    model: &'a str,
    graph_root: Digest,
    threads: usize,
    load: Cost,
    runs: &'a [Cost],
    /// Absent where the operating system does not tell.
    peak_memory_bytes: Option<u64>,
    /// Absent if they were written to files.
    #[serde(skip_serializing_if = "Option::is_none")]
    outputs: Option<JsonTensors<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<PathBuf>,
}

/// Loads the model, runs it as often as asked, and shows or stores the outputs of the last run: all have the same bits.
pub(super) fn run(arguments: &Infer, shell: &mut Shell) -> CommandResult {
    let local = &arguments.local;
    if let Some(tokens) = &local.tokens {
        return super::local_text::run(arguments, tokens, shell);
    }
    let path = Path::new(&arguments.model);
    let (model, load) = measured(|| read_model(path))?;
    let inputs = input::read_all(&arguments.input, model.inputs())?;
    let options = RunOptions {
        threads: local.threads.get(),
        memory: local.max_memory.0,
        ..RunOptions::default()
    };
    let mut outputs = Vec::new();
    let mut runs = Vec::with_capacity(local.repeat.get());
    for _ in 0..local.repeat.get() {
        let (found, cost) = measured(|| infer(&model, &inputs, &options))?;
        outputs = found;
        runs.push(cost);
    }
    let files = match &local.output_dir {
        Some(directory) => write_arrays(directory, &outputs)?,
        None => Vec::new(),
    };
    if let Some(path) = &arguments.output {
        super::infer::write_outputs(path, &outputs)?;
    }
    let document = Document {
        model: &arguments.model,
        graph_root: model.root(),
        threads: options.threads,
        load,
        runs: &runs,
        peak_memory_bytes: usage::peak_memory(),
        outputs: files.is_empty().then_some(JsonTensors(&outputs)),
        files,
    };
    if shell.json() {
        return shell.document(&document);
    }
    show(&document, &outputs, shell)
}

fn read_model(path: &Path) -> CommandResult<Model> {
    Model::open(path, &beside(path), &Limits::default()).map_err(|error| match error {
        OpenError::File(error) => CommandError::new(
            ExitCode::NotFound,
            format!("can not read {}", path.display()),
        )
        .because(&error),
        OpenError::Import(error) => {
            CommandError::failed(format!("can not run {}", path.display())).because(&error)
        }
    })
}

fn infer(
    model: &Model,
    inputs: &[TensorData],
    options: &RunOptions,
) -> CommandResult<Vec<TensorData>> {
    model.infer(inputs, options).map_err(|error| {
        CommandError::failed("the model does not run on this input")
            .cause(harmless(&error.to_string()))
    })
}

fn show(document: &Document, outputs: &[TensorData], shell: &mut Shell) -> CommandResult {
    for file in &document.files {
        shell.line(file.display())?;
    }
    if document.files.is_empty() {
        for output in outputs {
            print_tensor(output, shell)?;
        }
    }
    shell.note(format_args!(
        "graph {} on {} thread{}",
        document.graph_root,
        document.threads,
        if document.threads == 1 { "" } else { "s" }
    ));
    shell.note(format_args!("load {}", document.load));
    for (index, run) in document.runs.iter().enumerate() {
        shell.note(format_args!("run {} {run}", index + 1));
    }
    if let Some(peak) = document.peak_memory_bytes {
        shell.note(format_args!("peak memory {}", size(peak)));
    }
    no_receipt(shell);
    Ok(())
}

/// What the answer of a model on this machine is worth.
pub(super) fn no_receipt(shell: &mut Shell) {
    shell.note(paint(
        styles::DIM,
        "no receipt: nothing was signed, and nobody but this machine has run it",
    ));
}

/// Writes each output as `NAME.npy`. Names come from the model: whatever is not plain becomes `_`, and two that then are
/// the same are refused before anything is written.
pub(super) fn write_arrays(
    directory: &Path,
    outputs: &[TensorData],
) -> CommandResult<Vec<PathBuf>> {
    let cannot = |path: &Path| format!("can not write {}", path.display());
    let mut files: Vec<(PathBuf, Vec<u8>, &[u8])> = Vec::with_capacity(outputs.len());
    for output in outputs {
        let path = directory.join(format!("{}.npy", plain(output.name())));
        if files.iter().any(|(other, ..)| *other == path) {
            return Err(CommandError::failed(cannot(&path))
                .cause("two outputs have the same name once it is made fit for a file")
                .hint("use --output FILE.json"));
        }
        let header = npy::header(output.dtype(), output.shape());
        let header = header.context(ExitCode::Failed, || cannot(&path))?;
        files.push((path, header, output.data()));
    }
    fs::create_dir_all(directory).context(ExitCode::Failed, || cannot(directory))?;
    files
        .into_iter()
        .map(|(path, header, elements)| {
            let write = || {
                let mut file = fs::File::create(&path)?;
                file.write_all(&header)?;
                file.write_all(elements)
            };
            write().context(ExitCode::Failed, || cannot(&path))?;
            Ok(path)
        })
        .collect()
}

/// A tensor's name as a file name that can not leave its folder.
fn plain(name: &str) -> String {
    let plain: String = name
        .chars()
        .take(120)
        .map(|c| match c {
            c if c.is_ascii_alphanumeric() || "-_.".contains(c) => c,
            _ => '_',
        })
        .collect();
    match plain.trim_start_matches('.') {
        "" => "output".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use lemma_types::tensor::DType;

    use super::*;

    fn tensor(name: &str) -> TensorData {
        TensorData::new(name, DType::U8, vec![1], vec![7]).unwrap()
    }

    #[test]
    fn names_of_outputs_can_not_leave_the_folder() {
        for (name, file) in [
            ("logits", "logits"),
            ("/decoder/out:0", "_decoder_out_0"),
            ("../../etc/passwd", "_.._etc_passwd"),
            ("..", "output"),
            ("", "output"),
        ] {
            assert_eq!(plain(name), file);
        }
    }

    #[test]
    fn outputs_are_written_all_or_none() {
        let directory = tempfile::tempdir().unwrap();
        let files = write_arrays(directory.path(), &[tensor("a"), tensor("b")]).unwrap();
        assert_eq!(files.len(), 2);
        let read = npy::read("a", &fs::read(&files[0]).unwrap()).unwrap();
        assert_eq!(read, tensor("a"));

        let other = directory.path().join("other");
        assert!(write_arrays(&other, &[tensor("a/b"), tensor("a:b")]).is_err());
        assert!(!other.exists());
    }
}
