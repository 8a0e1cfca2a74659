//! Runs ONNX models for the conformance suite: requests on standard input, answers on standard
//! output, each one line of JSON.
//!
//! A request is `{"model": PATH, "inputs": [TENSOR…], "outputs": FOLDER}`; a tensor is `{"name",
//! "datatype", "shape", "file"}`, the file holding its little-endian elements. The answer is
//! `{"outputs": [TENSOR…]}`, or `{"refused": REASON}` where the model is not imported, or
//! `{"failed": REASON}` where the run fails.
#![allow(clippy::print_stdout, reason = "standard output is the interface")]

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

use lemma_graph::{Folder, Limits, Model, RunOptions, Tensor};
use lemma_types::tensor::DType;
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Request {
    model: PathBuf,
    inputs: Vec<File>,
    outputs: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct File {
    name: String,
    datatype: DType,
    shape: Vec<usize>,
    file: PathBuf,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Outputs(Vec<File>),
    Refused(String),
    Failed(String),
}

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let answer = answer(&request)?;
        writeln!(out, "{}", serde_json::to_string(&answer)?)?;
        out.flush()?;
    }
    Ok(())
}

fn answer(request: &Request) -> std::io::Result<Answer> {
    let bytes = std::fs::read(&request.model)?;
    let folder = Folder::new(request.model.parent().unwrap_or(Path::new(".")));
    let model = match Model::load(bytes, &folder, &Limits::default()) {
        Ok(model) => model,
        Err(error) => return Ok(Answer::Refused(error.to_string())),
    };
    let mut inputs = Vec::new();
    for input in &request.inputs {
        let bytes = std::fs::read(&input.file)?;
        match Tensor::from_le_bytes(input.datatype, &input.shape, &bytes) {
            Ok(tensor) => inputs.push((input.name.as_str(), tensor)),
            Err(error) => return Ok(Answer::Failed(format!("input `{}`: {error}", input.name))),
        }
    }
    let run = match model.run(&inputs, &RunOptions::default()) {
        Ok(run) => run,
        Err(error) => return Ok(Answer::Failed(error.to_string())),
    };
    let mut outputs = Vec::new();
    for (index, (spec, tensor)) in model.outputs().iter().zip(run.outputs).enumerate() {
        let file = request.outputs.join(format!("output{index}"));
        std::fs::write(&file, tensor.to_le_bytes())?;
        outputs.push(File {
            name: spec.name.clone(),
            datatype: tensor.dtype(),
            shape: tensor.shape().to_vec(),
            file,
        });
    }
    Ok(Answer::Outputs(outputs))
}
