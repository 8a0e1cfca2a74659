//! Quantises ONNX models, registers them, proves and verifies one inference each, and prints one
//! JSON line for each model. `run.py` beside it runs EZKL on the same models and prints the table.
//!
//! usage: proof [--samples N] [--holder] [--bits112] MODEL.onnx...
//!
//! Times are CPU time of all threads; set RAYON_NUM_THREADS=1 for one core.

#![allow(clippy::print_stdout, reason = "printing is its purpose")]

use std::error::Error;
use std::fs;
use std::time::Instant;

use lemma_graph::integer::{Options, Sample, quantise};
use lemma_graph::{Limits, Model as Float, NoFiles, Tensor};
use lemma_proof::{
    Evidence, HeldWeights, Model, Profile, Proof, Security, Weights, prove_inference,
    verify_inference, verify_with_weights,
};
use lemma_types::tensor::Dim;

/// That of the binary `lemma`.
#[global_allocator]
static ALLOCATOR: lemma_kernels::LargePages = lemma_kernels::LargePages;

/// Seconds of CPU that all threads have had.
fn cpu_seconds() -> f64 {
    let tasks = fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<f64>().ok())
        .sum::<f64>()
        / 1e9
}

/// The largest resident size so far, in MiB.
fn peak_mib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM"));
    let kib = line.and_then(|l| l.split_whitespace().nth(1)?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// Lets the peak begin anew: what quantising took, with the model of floats, is not the prover's.
fn forget_peak() {
    // Where this is not allowed, the peak is that of the whole process.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// CPU time and wall time of a run, in milliseconds: the least mean of some groups of runs, each of
/// them long enough for the clock of the system; of fewer where a run takes long.
fn best<T>(mut run: impl FnMut() -> T) -> (f64, f64, T) {
    let mut result = run();
    let (mut cpu, mut wall) = (f64::MAX, f64::MAX);
    let all = Instant::now();
    for group in 0..10 {
        if group >= 3 && all.elapsed().as_secs() >= 10 {
            break;
        }
        let (start, clock) = (cpu_seconds(), Instant::now());
        let mut runs = 0;
        while runs == 0 || clock.elapsed().as_millis() < 250 {
            // The one before is given back first: large ones would count twice in the peak of memory.
            drop(result);
            result = run();
            runs += 1;
        }
        let each = 1e3 / f64::from(runs);
        wall = wall.min(clock.elapsed().as_secs_f64() * each);
        cpu = cpu.min((cpu_seconds() - start) * each);
    }
    (cpu, wall, result)
}

/// Uniform noise in −1..1, from a seed.
fn samples(model: &Float, count: usize, seed: u64) -> Result<Vec<Sample>, Box<dyn Error>> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count)
        .map(|_| {
            model
                .inputs()
                .iter()
                .map(|spec| {
                    let size = |dim: &Dim| match dim {
                        Dim::Fixed(n) => *n as usize,
                        Dim::Symbol(_) => 1,
                    };
                    let shape: Vec<usize> = spec.shape.iter().map(size).collect();
                    let values = (0..shape.iter().product()).map(|_| next()).collect();
                    Ok((spec.name.clone(), Tensor::new::<f32>(&shape, values)?))
                })
                .collect()
        })
        .collect()
}

fn measure(path: &str, count: usize, profile: Profile) -> Result<(), Box<dyn Error>> {
    let float = Float::load(&fs::read(path)?, &NoFiles, &Limits::default())?;
    let start = cpu_seconds();
    let quantised = quantise(
        &float,
        &samples(&float, 16, 1)?,
        &samples(&float, 64, 2)?,
        &Options::default(),
    )?;
    let quantise_cpu = (cpu_seconds() - start) * 1e3;
    let graph = quantised.graph;
    let inputs = (0..graph.skeleton().inputs.len())
        .map(|input| {
            let all: Vec<f32> = samples(&float, count, 3)?
                .iter()
                .flat_map(|s| s[input].1.as_slice::<f32>().unwrap_or(&[]).to_vec())
                .collect();
            Ok(all)
        })
        .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let inputs = graph.round_inputs(&inputs)?;
    drop(float);
    forget_peak();
    let (infer, _, _) = best(|| graph.run(&inputs, count));
    let (register, _, model) = best(|| Model::register(graph.clone()));
    let model = model?;
    let (prove, prove_wall, proved) =
        best(|| prove_inference(&model, inputs.clone(), count, profile));
    let (statement, proof) = proved?;
    let bytes = proof.to_bytes();
    let held = HeldWeights::new(&model);
    let (verify, _, checked) = best(|| {
        let proof = Proof::from_bytes(&bytes)?;
        match profile.weights {
            Weights::Succinct => verify_inference(model.key(), &statement, &proof, profile),
            Weights::Holder => verify_with_weights(&held, &statement, &proof, profile),
        }
    });
    let soundness = checked?;
    let evidence = Evidence {
        key: model.key().clone(),
        statement,
        proof,
    };
    let work = match profile.weights {
        Weights::Succinct => evidence.verification()?.work(),
        Weights::Holder => 0,
    };
    let accuracy = &quantised.accuracy.outputs[0];
    println!(
        "{{\"model\":\"{path}\",\"samples\":{count},\"profile\":{},\"parameters\":{},\"quantise_ms\":{quantise_cpu:.1},\"register_ms\":{register:.2},\"integer_inference_ms\":{infer:.3},\"prove_ms\":{prove:.2},\"prove_wall_ms\":{prove_wall:.2},\"verify_ms\":{verify:.2},\"verify_work\":{work},\"proof_bytes\":{},\"evidence_bytes\":{},\"proving_operations\":{},\"model_mib\":{:.1},\"parts\":\"{:?}\",\"peak_mib\":{:.0},\"bits\":{:.1},\"relative_l2\":{:.5},\"same_top\":\"{}/{}\"}}",
        profile.code(),
        model.graph().parameters(),
        bytes.len(),
        evidence.to_bytes().len(),
        model.proving_operations(count)?,
        model.memory() as f64 / f64::from(1 << 20),
        evidence.proof.sizes().map(|(_, n)| n),
        peak_mib(),
        soundness.bits,
        accuracy.relative,
        accuracy.same_top,
        accuracy.rows,
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut count = 1;
    let mut profile = Profile::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--samples" => {
                count = arguments
                    .next()
                    .ok_or("--samples needs a number")?
                    .parse()?
            }
            "--holder" => profile.weights = Weights::Holder,
            "--bits112" => profile.security = Security::Bits112,
            path => measure(path, count, profile)?,
        }
    }
    Ok(())
}
