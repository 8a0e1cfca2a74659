//! Measures a local network from outside, as its users meet it, and prints each figure beside its goal.
//!
//! ```sh
//! cargo build --release -p lemma -p lemma-bench && target/release/network
//! ```
//!
//! `network first-token` measures that alone; `network memory MODEL.gguf` what a worker takes to serve a language model.
//!
//! It starts `lemma up` beside its own executable in a temporary directory, on free ports, and stops it at the end. Run it
//! on an otherwise idle machine. Nothing here passes or fails: a benchmark prints what it saw.

#![allow(clippy::print_stdout)]

mod executor;
mod figures;
mod network;
mod process;
mod text;

use std::{error::Error, path::Path, time::Duration};

use figures::{Figure, median};
use network::Network;
use serde_json::json;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    println!("{:<58} {:>14}   goal", "figure", "measured");
    match arguments[..] {
        [] => everything().await,
        ["first-token"] => {
            let network = Network::start(&[])?;
            first_token(&network).await?;
            network.stop()
        }
        ["memory", model] => memory(model.as_ref()).await,
        _ => Err("usage: network [first-token | memory MODEL.gguf]".into()),
    }
}

async fn everything() -> Result<()> {
    let network = Network::start(&[])?;
    Figure::new(
        "lemma up: start to ready",
        network.ready_after.as_secs_f64(),
        "s",
        "under 5",
    )
    .print();
    idle(&network)?;
    finality(&network).await?;
    let bundle = inference(&network).await?;
    first_token(&network).await?;
    verification(&network, &bundle)?;
    network.stop()?;
    settlement().await
}

/// CPU and memory of the whole process while nobody asks for anything.
fn idle(network: &Network) -> Result<()> {
    std::thread::sleep(Duration::from_secs(5));
    let before = network.process.cpu_seconds()?;
    let window = Duration::from_secs(20);
    std::thread::sleep(window);
    let used = network.process.cpu_seconds()? - before;
    let share = 100.0 * used / window.as_secs_f64();
    Figure::new("idle: CPU of everything", share, "% of a core", "under 6").print();
    Figure::new(
        "idle: resident memory of everything",
        network.process.resident_mb()?,
        "MB",
        "under 300",
    )
    .print();
    Ok(())
}

/// From handing in a transfer to its receipt being there, which is after its block's certificate.
async fn finality(network: &Network) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..40 {
        times.push(milliseconds(network.transfer().await?));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Figure::new(
        "finality: transfer to final receipt, median of 40",
        median(&mut times),
        "ms",
        "under 100",
    )
    .print();
    Ok(())
}

/// What the network adds to the bare executor, on one connection, one request after another.
async fn inference(network: &Network) -> Result<String> {
    let bare = median(&mut executor::digits(1_000)?);
    let mut http = Vec::new();
    for _ in 0..500 {
        http.push(milliseconds(network.infer_digits().await?.1));
    }
    let http = median(&mut http);
    Figure::new("digits: bare executor, median of 1000", bare, "ms", "").print();
    Figure::new(
        "digits: over HTTP with receipt, median of 500",
        http,
        "ms",
        "",
    )
    .print();
    Figure::new(
        "digits: overhead of HTTP and receipt",
        http - bare,
        "ms",
        "at most 2",
    )
    .print();
    let (receipt, _) = network.infer_digits().await?;
    let bundle = network.bundle(&receipt).await?;
    Figure::new(
        "digits: bundle",
        bundle.len() as f64 / 1024.0,
        "KiB",
        "at most 16",
    )
    .print();
    Ok(bundle)
}

/// What the network adds to a prefill before the first token of an answer arrives.
async fn first_token(network: &Network) -> Result<()> {
    let bare = median(&mut text::first_tokens(101)?);
    let mut http = Vec::new();
    for number in 0..101 {
        http.push(milliseconds(network.first_token(number).await?));
    }
    let http = median(&mut http);
    for (name, value, goal) in [
        ("engine alone", bare, ""),
        ("over HTTP, streamed", http, ""),
        ("overhead of HTTP", http - bare, "at most 3"),
    ] {
        let name = format!("nano, first token: {name}, median of 101");
        Figure::new(&name, value, "ms", goal).print();
    }
    Ok(())
}

/// What a language model takes of memory while it is loaded and answers, beside the size of its file.
async fn memory(model: &Path) -> Result<()> {
    let network = Network::start(&["--workers", "1"])?;
    network.push(model, "bench/model")?;
    let before = network.process.resident_mb()?;
    network.process.forget_peak()?;
    let answer = json!({"model": "bench/model", "prompt": "The", "max_tokens": 64});
    network.post("/v1/completions", &answer).await?;
    let peak = network.process.peak_mb()? - before;
    let held = network.process.resident_mb()? - before;
    let file = std::fs::metadata(model)?.len() as f64 / 1e6;
    for (name, value, unit, goal) in [
        ("file", file, "MB", ""),
        ("most while it loads and answers", peak, "MB", ""),
        ("held afterwards", held, "MB", ""),
        (
            "most, for each byte of the file",
            peak / file,
            "",
            "at most 1.3",
        ),
    ] {
        Figure::new(&format!("serving a model: {name}"), value, unit, goal).print();
    }
    network.stop()
}

/// `lemma verify` as a whole process, and the checks alone.
fn verification(network: &Network, bundle: &str) -> Result<()> {
    let file = network.directory().join("bundle.json");
    std::fs::write(&file, bundle)?;
    let mut whole = Vec::new();
    for _ in 0..21 {
        whole.push(milliseconds(network.verify(&file)?));
    }
    Figure::new(
        "lemma verify: whole process, median of 21",
        median(&mut whole),
        "ms",
        "at most 20",
    )
    .print();
    let mut checks = Vec::new();
    for _ in 0..101 {
        checks.push(milliseconds(network.check(bundle.as_bytes())?));
    }
    Figure::new(
        "lemma verify: the checks alone, median of 101",
        median(&mut checks),
        "ms",
        "at most 5",
    )
    .print();
    Ok(())
}

/// Ledger bytes for each receipt, in batches of growing size, each settled by one transaction.
async fn settlement() -> Result<()> {
    // Few receipts settle when their time is up, 10,000 at once.
    for (interval, counts) in [("5s", [1, 10, 100, 1_000].as_slice()), ("10m", &[10_000])] {
        let network = Network::start(&["--workers", "1", "--settle-interval", interval])?;
        for count in counts {
            settle(&network, *count).await?;
        }
        network.stop()?;
    }
    Ok(())
}

async fn settle(network: &Network, count: u64) -> Result<()> {
    let before = network.ledger_usage().await?;
    network.infer_many(count).await?;
    let after = network.settled(&before, count).await?;
    let transactions = after.settlements - before.settlements;
    Figure::new(
        &format!("settling {count} receipts: transactions"),
        transactions as f64,
        "",
        "1",
    )
    .print();
    let bytes = (after.settlement_bytes - before.settlement_bytes) as f64 / count as f64;
    Figure::new(
        &format!("settling {count} receipts: ledger bytes for each"),
        bytes,
        "B",
        "falls as 1/n",
    )
    .print();
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
