//! What the tests share: fixtures and tensors written as JSON.
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part"
)]

pub mod mutate;
pub mod onnx;

use std::path::{Path, PathBuf};

use lemma_graph::{F16, Isa, Model, RunOptions, Tensor};
use serde_json::Value;

/// Folders below `tests/data/KIND`, in order.
pub fn fixtures(kind: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(kind);
    let mut found: Vec<PathBuf> = std::fs::read_dir(&root)
        .unwrap_or_else(|error| panic!("{}: {error}", root.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no fixtures in {}", root.display());
    found
}

pub fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn json(path: &Path) -> Value {
    serde_json::from_slice(&read(path)).unwrap()
}

fn float(value: &Value) -> f64 {
    match value {
        Value::String(text) => match text.as_str() {
            "NaN" => f64::NAN,
            "Infinity" => f64::INFINITY,
            "-Infinity" => f64::NEG_INFINITY,
            other => panic!("no number: {other}"),
        },
        number => number.as_f64().unwrap(),
    }
}

/// A tensor of a case file.
pub fn tensor(value: &Value) -> Tensor {
    let shape: Vec<usize> = serde_json::from_value(value["shape"].clone()).unwrap();
    let data = value["data"].as_array().unwrap();
    macro_rules! ints {
        ($t:ty) => {
            Tensor::new(
                &shape,
                data.iter()
                    .map(|v| serde_json::from_value::<$t>(v.clone()).unwrap())
                    .collect::<Vec<$t>>(),
            )
        };
    }
    match value["dtype"].as_str().unwrap() {
        "FP32" => Tensor::new(
            &shape,
            data.iter().map(|v| float(v) as f32).collect::<Vec<f32>>(),
        ),
        "FP64" => Tensor::new(&shape, data.iter().map(float).collect::<Vec<f64>>()),
        // The narrowing is exact: the file holds a number of this type.
        "FP16" => Tensor::new(
            &shape,
            data.iter()
                .map(|v| F16(lemma_kernels::half::f32_to_f16(float(v) as f32)))
                .collect::<Vec<F16>>(),
        ),
        "BOOL" => Tensor::new(
            &shape,
            data.iter()
                .map(|v| v.as_bool().or(v.as_u64().map(|n| n != 0)).unwrap())
                .collect::<Vec<bool>>(),
        ),
        "UINT8" => ints!(u8),
        "INT8" => ints!(i8),
        "UINT16" => ints!(u16),
        "INT16" => ints!(i16),
        "UINT32" => ints!(u32),
        "INT32" => ints!(i32),
        "UINT64" => ints!(u64),
        "INT64" => ints!(i64),
        other => panic!("no such type: {other}"),
    }
    .unwrap()
}

/// Named tensors of a case file.
pub fn tensors(value: &Value) -> Vec<(String, Tensor)> {
    let object = value.as_object().unwrap();
    object
        .iter()
        .map(|(name, v)| (name.clone(), tensor(v)))
        .collect()
}

/// The elements as f64.
pub fn numbers(tensor: &Tensor) -> Vec<f64> {
    if let Some(v) = tensor.as_slice::<f32>() {
        return v.iter().map(|&x| f64::from(x)).collect();
    }
    if let Some(v) = tensor.as_slice::<f64>() {
        return v.to_vec();
    }
    if let Some(v) = tensor.as_slice::<bool>() {
        return v.iter().map(|&x| f64::from(u8::from(x))).collect();
    }
    if let Some(v) = tensor.as_slice::<i64>() {
        return v.iter().map(|&x| x as f64).collect();
    }
    if let Some(v) = tensor.as_slice::<F16>() {
        let wide = |x: &F16| f64::from(lemma_kernels::half::f16_to_f32(x.0));
        return v.iter().map(wide).collect();
    }
    macro_rules! exact {
        ($($t:ty),+) => {$(
            if let Some(v) = tensor.as_slice::<$t>() {
                return v.iter().map(|&x| f64::from(x)).collect();
            }
        )+};
    }
    exact!(i32, u32, u8, i8, u16, i16);
    panic!("no numbers: {tensor:?}")
}

/// Why two tensors are not close, if they are not.
pub fn difference(found: &Tensor, expected: &Tensor, rtol: f64, atol: f64) -> Option<String> {
    if found.dtype() != expected.dtype() || found.shape() != expected.shape() {
        return Some(format!("found {found:?}, expected {expected:?}"));
    }
    let pairs = numbers(found)
        .into_iter()
        .zip(numbers(expected))
        .enumerate();
    pairs
        .filter(|(_, (a, b))| {
            let same = a == b || (a.is_nan() && b.is_nan());
            let near = b.is_finite() && (a - b).abs() <= atol + rtol * b.abs();
            !same && !near
        })
        .map(|(i, (a, b))| format!("element {i} is {a}, expected {b}"))
        .next()
}

/// Runs a model of one input `x` operator by operator, then fused on every instruction set and with these numbers of threads:
/// all of them have to give the bits of the first, which are returned. `what` names the case.
pub fn plain_and_fused(model: &Model, x: &Tensor, threads: &[usize], what: &str) -> Vec<Tensor> {
    let run = |isa, threads, trace| {
        let options = RunOptions {
            isa,
            threads,
            trace,
            ..RunOptions::default()
        };
        let run = model.run(&[("x", x.clone())], &options);
        run.unwrap_or_else(|e| panic!("{what} fails: {e}")).outputs
    };
    let plain = run(Isa::PORTABLE, 1, true);
    for isa in Isa::available() {
        for &threads in threads {
            // Twice: the second run finds the memory of the first.
            for _ in 0..2 {
                let fused = run(isa, threads, false);
                for (i, (a, b)) in plain.iter().zip(&fused).enumerate() {
                    assert!(
                        a.same_bits(b),
                        "{what}: output {i} on {isa} with {threads} threads"
                    );
                }
            }
        }
    }
    plain
}
