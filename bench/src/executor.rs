//! The executor without a network: what an inference costs by itself.

use std::time::Instant;

use lemma_graph::{Limits, Model, NoFiles, RunOptions, Tensor};
use serde_json::Value;

use crate::{Result, network::EXAMPLE};

const MODEL: &[u8] = include_bytes!("../../models/digits/model.onnx");

/// Milliseconds of each of `runs` inferences of the digits example, after as many that do not count.
pub(crate) fn digits(runs: usize) -> Result<Vec<f64>> {
    let model = Model::load(MODEL, &NoFiles, &Limits::default())?;
    let example: Value = serde_json::from_str(EXAMPLE)?;
    let input = &example["inputs"][0];
    let numbers = |field: &str| -> Vec<f64> {
        input[field]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_f64)
            .collect()
    };
    let shape: Vec<usize> = numbers("shape")
        .into_iter()
        .map(|dim| dim as usize)
        .collect();
    let data: Vec<f32> = numbers("data").into_iter().map(|x| x as f32).collect();
    let name = input["name"]
        .as_str()
        .ok_or("the example's input has no name")?;
    let tensor = Tensor::new(&shape, data)?;
    let mut times = Vec::with_capacity(2 * runs);
    for _ in 0..2 * runs {
        let start = Instant::now();
        model.run(&[(name, tensor.clone())], &RunOptions::default())?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times.split_off(runs))
}
