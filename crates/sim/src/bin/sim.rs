//! Runs the simulation from many seeds: `sim --seed 1 --seeds 100`. A seed that fails replays exactly.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for a terminal"
)]

use std::{process::ExitCode, time::Instant};

use clap::{Parser, ValueEnum};
use lemma_sim::{Fault, Lie, Violation};

/// Runs the ledger's network with faults, from seeds.
#[derive(Parser)]
struct Arguments {
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, counting up
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// What is played
    #[arg(long, value_enum, default_value_t = Scene::Story)]
    scene: Scene,
    /// Plays the story twice from each seed and compares
    #[arg(long)]
    twice: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scene {
    /// Traffic, a partition, crashes of one, of two and of all
    Story,
    /// All stop in order, again and again
    Stops,
    /// A transaction waits that nobody can pay for
    Unaffordable,
    /// One transaction is passed on
    Gossip,
    /// One of four lies
    Lies,
    /// All crash at a write, again and again
    Crashes,
}

impl Scene {
    /// Plays it, and says what came of it.
    fn play(self, seed: u64) -> Result<String, Violation> {
        match self {
            Self::Story => lemma_sim::run(seed).map(|report| {
                let audit = &report.auditor[1];
                let (height, told) = (report.height, report.acknowledged);
                format!("{height} blocks, {told} transactions, audit {audit}")
            }),
            Self::Stops => lemma_sim::stops(seed, 2).map(|()| "2 stops".to_owned()),
            Self::Unaffordable => lemma_sim::unaffordable(seed)
                .map(|(blocks, beats)| format!("{blocks} blocks in {beats} heartbeats")),
            Self::Gossip => lemma_sim::gossip(seed).map(|sent| format!("{sent} messages")),
            Self::Lies => {
                let mut counts = Vec::new();
                for lie in Lie::ALL {
                    counts.push(format!("{lie:?} {}", lemma_sim::lies(seed, lie)?));
                }
                Ok(format!("lies told: {}", counts.join(", ")))
            }
            Self::Crashes => {
                let faults = [Fault::Write, Fault::Sync].repeat(4);
                let told = lemma_sim::crashes(seed, &faults)?;
                Ok(format!("{} crashes, {told} transactions", faults.len()))
            }
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut failed = 0u64;
    for seed in arguments.seed..arguments.seed.saturating_add(arguments.seeds) {
        let begun = Instant::now();
        let same = || lemma_sim::run(seed) == lemma_sim::run(seed);
        if arguments.twice && !same() {
            failed += 1;
            eprintln!("seed {seed}: two runs differ");
            continue;
        }
        match arguments.scene.play(seed) {
            Ok(outcome) => {
                println!(
                    "seed {seed}: {outcome}, {:.1} s",
                    begun.elapsed().as_secs_f64()
                );
            }
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
