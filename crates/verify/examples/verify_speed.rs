//! Prints how long the golden bundle takes to decode and to verify.
//!
//! ```sh
//! cargo run --release -p lemma-verify --example verify_speed
//! ```

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{hint::black_box, time::Instant};

use lemma_types::{Bytes, tensor};
use lemma_verify::{Opened, Recompute, Verdict, Verifier, decode_bundle, decode_trusted_root};

const ROUNDS: usize = 300;

fn main() {
    let bundle_json = include_bytes!("../tests/vectors/bundle.json");
    let root = decode_trusted_root(include_bytes!("../tests/vectors/trusted_root.json")).unwrap();
    let tensors = |json: &[u8]| {
        let bytes: Bytes = serde_json::from_slice(json).unwrap();
        tensor::decode(&bytes).unwrap()
    };
    let opened = Opened {
        text: None,
        inputs: Some(tensors(include_bytes!("../tests/vectors/inputs.json"))),
        outputs: Some(tensors(include_bytes!("../tests/vectors/outputs.json"))),
        recompute: Recompute::NotAsked,
        ..Opened::default()
    };
    let verifier = Verifier::new(&root).unwrap();
    assert_eq!(
        verifier.verify_bytes(bundle_json, &opened).verdict,
        Verdict::Verified
    );

    println!(
        "bundle: {} bytes, median and slowest of {ROUNDS}",
        bundle_json.len()
    );
    time("trusted root", || drop(black_box(Verifier::new(&root))));
    time("decode", || drop(black_box(decode_bundle(bundle_json))));
    let bundle = decode_bundle(bundle_json).unwrap();
    time("verify", || {
        drop(black_box(verifier.verify(&bundle, &opened)))
    });
    time("all of it", || {
        let verifier = Verifier::new(&root).unwrap();
        drop(black_box(verifier.verify_bytes(bundle_json, &opened)));
    });
}

fn time(what: &str, mut run: impl FnMut()) {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!(
        "{what:>13}: {:.3} ms, {:.3} ms",
        times[ROUNDS / 2],
        times[ROUNDS - 1]
    );
}
