//! Loads a model, runs it again and again on the same inputs, and prints one line of JSON: what
//! loading and running took, and the peak of memory. `bench/onnx` calls it beside other engines.
//!
//! `measure MODEL --input NAME=FILE.npy … [--output-dir DIR] [--threads N] [--seconds S] [--isa ISA]
//! [--unfused true]`
#![allow(clippy::print_stdout, reason = "a program that prints measurements")]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lemma_graph::io::npy;
use lemma_graph::{Folder, Isa, Limits, Model, RunOptions, Tensor};
use rustix::time::{ClockId, clock_gettime};

/// As in the `lemma` binary, which is what is measured.
#[global_allocator]
static ALLOCATOR: lemma_kernels::LargePages = lemma_kernels::LargePages;

type Error = Box<dyn std::error::Error>;

struct Arguments {
    model: PathBuf,
    inputs: Vec<(String, PathBuf)>,
    outputs: Option<PathBuf>,
    options: RunOptions,
    seconds: f64,
}

fn arguments() -> Result<Arguments, Error> {
    let mut words = std::env::args().skip(1);
    let mut parsed = Arguments {
        model: words.next().ok_or("which model?")?.into(),
        inputs: Vec::new(),
        outputs: None,
        options: RunOptions::default(),
        seconds: 1.0,
    };
    while let Some(word) = words.next() {
        let value = words.next().ok_or(format!("{word} needs a value"))?;
        match word.as_str() {
            "--input" => {
                let (name, file) = value.split_once('=').ok_or("an input is NAME=FILE.npy")?;
                parsed.inputs.push((name.to_owned(), file.into()));
            }
            "--output-dir" => parsed.outputs = Some(value.into()),
            "--threads" => parsed.options.threads = value.parse()?,
            "--unfused" => parsed.options.trace = value.parse()?,
            "--seconds" => parsed.seconds = value.parse()?,
            "--isa" => {
                parsed.options.isa = Isa::named(&value).ok_or("this machine lacks that set")?;
            }
            _ => return Err(format!("{word} is not known").into()),
        }
    }
    Ok(parsed)
}

/// Processor time of this process, all threads.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    )
}

/// A line of `/proc/self/status`, in bytes.
fn memory(field: &str) -> Result<u64, Error> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix(field))
        .ok_or("no such line")?;
    let number = line.trim_start_matches(':').trim().trim_end_matches(" kB");
    Ok(number.parse::<u64>()? << 10)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Writes a tensor piece by piece, so that no copy of it counts as memory of the engine.
fn write(path: &Path, tensor: &Tensor) -> Result<(), Error> {
    let shape: Vec<u64> = tensor.shape().iter().map(|&d| d as u64).collect();
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&npy::header(tensor.dtype(), &shape)?)?;
    tensor.write_le_bytes(&mut file)?;
    Ok(file.flush()?)
}

fn main() -> Result<(), Error> {
    let arguments = arguments()?;
    let mut inputs = Vec::new();
    for (name, file) in &arguments.inputs {
        let data = npy::read(name, &std::fs::read(file)?)?;
        inputs.push((name.as_str(), Tensor::from_data(&data)?));
    }
    let folder = Folder::new(arguments.model.parent().ok_or("a model lies in a folder")?);
    let before = memory("VmRSS")?;
    let (start, start_cpu) = (Instant::now(), cpu());
    let model = Model::open(&arguments.model, &folder, &Limits::default())?;
    let (load, load_cpu) = (start.elapsed(), cpu() - start_cpu);
    let first = model.run(&inputs, &arguments.options)?;
    if let Some(folder) = &arguments.outputs {
        for (spec, tensor) in model.outputs().iter().zip(&first.outputs) {
            write(&folder.join(format!("{}.npy", spec.name)), tensor)?;
        }
    }
    drop(first);
    let (mut wall, mut spent, mut runs) = (Duration::MAX, Duration::MAX, 0u32);
    let begin = Instant::now();
    while runs < 3 || begin.elapsed().as_secs_f64() < arguments.seconds {
        let (start, start_cpu) = (Instant::now(), cpu());
        model.run(&inputs, &arguments.options)?;
        spent = spent.min(cpu() - start_cpu);
        wall = wall.min(start.elapsed());
        runs += 1;
    }
    println!(
        "{{\"load_ms\":{:.3},\"load_cpu_ms\":{:.3},\"wall_ms\":{:.4},\"cpu_ms\":{:.4},\"runs\":{runs},\"peak\":{}}}",
        milliseconds(load),
        milliseconds(load_cpu),
        milliseconds(wall),
        milliseconds(spent),
        memory("VmHWM")?.saturating_sub(before),
    );
    Ok(())
}
