//! Runs the simulation from many seeds: `sim --seed 1 --seeds 100`. A seed that fails replays exactly.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for a terminal"
)]

use std::{process::ExitCode, time::Instant};

use clap::Parser;

/// Runs the ledger's network with faults, from seeds.
#[derive(Parser)]
struct Arguments {
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, counting up
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Runs each seed twice and compares
    #[arg(long)]
    twice: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut failed = 0u64;
    for seed in arguments.seed..arguments.seed.saturating_add(arguments.seeds) {
        let begun = Instant::now();
        match lemma_sim::run(seed) {
            Ok(report) if arguments.twice && lemma_sim::run(seed).as_ref() != Ok(&report) => {
                failed += 1;
                eprintln!("seed {seed}: two runs differ");
            }
            Ok(report) => println!(
                "seed {seed}: {} blocks, {} transactions, {:.1} s, audit {}",
                report.height,
                report.acknowledged,
                begun.elapsed().as_secs_f64(),
                report.auditor[1]
            ),
            Err(violation) => {
                failed += 1;
                eprintln!("seed {seed}: {violation}");
            }
        }
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
