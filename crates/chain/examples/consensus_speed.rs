//! Measures a local network of four validators in one process: start, idle cost, finality, throughput.
//!
//! `cargo run --release -p lemma-chain --example consensus_speed`
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for a terminal"
)]

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use alloy_consensus::TxEip1559;
use lemma_chain::{
    ChainHandle, Pace, Peer, PoolLimits, Validator, ValidatorConfig, ValidatorKeys,
    reserve_addresses,
};
use lemma_ledger::Genesis;
use lemma_types::{Address, B256, Bytes, U256, keys::SecretKey, transaction::sign_eip1559};

const CHAIN_ID: u64 = 31_337;
const IDLE: Duration = Duration::from_secs(20);
const TRANSFERS: u64 = 200;
const BURST_SENDERS: u8 = 20;
const BURST_EACH: u64 = 100;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let validators = start(dir.path());
    let spawned = begun.elapsed();
    let chains: Vec<_> = validators
        .iter()
        .map(|validator| validator.handle().clone())
        .collect();
    chains[0].ready().await.unwrap();
    println!(
        "start: answering after {spawned:?}, first block final after {:?}",
        begun.elapsed()
    );

    tokio::time::sleep(Duration::from_secs(2)).await;
    let (cpu, height, since) = (cpu_seconds(), chains[0].head().number, Instant::now());
    tokio::time::sleep(IDLE).await;
    let elapsed = since.elapsed().as_secs_f64();
    println!(
        "idle: {:.1} % of a core, {} MB resident, {:.2} blocks/s",
        (cpu_seconds() - cpu) / elapsed * 100.0,
        resident_megabytes(),
        (chains[0].head().number - height) as f64 / elapsed
    );

    let cpu = cpu_seconds();
    let mut times = Vec::new();
    for nonce in 0..TRANSFERS {
        times.push(transfer(&chains[(nonce % 4) as usize], nonce).await);
    }
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "finality, from submitting to reading the receipt: p50 {:?}, p90 {:?}, p99 {:?}; {:.0} ms CPU each",
        at(0.5),
        at(0.9),
        at(0.99),
        (cpu_seconds() - cpu) * 1000.0 / TRANSFERS as f64
    );
    burst(&chains).await;
    println!(
        "in the end: {} MB resident, {} blocks",
        resident_megabytes(),
        chains[0].head().number
    );
    let mut validators = validators;
    validators.remove(3).kill();
    let mut times = Vec::new();
    for nonce in TRANSFERS..TRANSFERS + 50 {
        times.push(transfer(&chains[(nonce % 3) as usize], nonce).await);
    }
    times.sort();
    println!(
        "one of four killed: finality p50 {:?}, p90 {:?}, worst {:?}",
        times[24], times[44], times[49]
    );
    let begun = Instant::now();
    drop(validators);
    println!("stop: {:?}", begun.elapsed());
}

fn start(dir: &std::path::Path) -> Vec<Validator> {
    let keys = ValidatorKeys::deal(4).unwrap();
    let addresses = reserve_addresses(4).unwrap();
    let peers: Vec<_> = keys
        .iter()
        .zip(&addresses)
        .map(|(keys, address)| Peer {
            id: keys.id(),
            address: *address,
        })
        .collect();
    let funds = U256::from(10).pow(U256::from(24));
    let alloc: BTreeMap<_, _> = (1..=BURST_SENDERS + 1)
        .map(|n| (key(n).address(), funds))
        .collect();
    let started: Vec<_> = keys
        .into_iter()
        .enumerate()
        .map(|(index, keys)| {
            let config = ValidatorConfig {
                keys,
                peers: peers.clone(),
                listen: addresses[index],
                data_dir: dir.join(index.to_string()),
                genesis: Genesis::development(CHAIN_ID, 1_700_000_000, alloc.clone()),
                beneficiary: Address::ZERO,
                pace: Pace::default(),
                pool: PoolLimits::default(),
            };
            std::thread::spawn(move || Validator::spawn(config).unwrap())
        })
        .collect();
    started
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect()
}

fn key(number: u8) -> SecretKey {
    SecretKey::from_bytes(&[number; 32]).unwrap()
}

fn signed(sender: u8, nonce: u64) -> Bytes {
    let transaction = TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: 100_000_000_000,
        max_priority_fee_per_gas: 1,
        to: Address::repeat_byte(9).into(),
        value: U256::from(1),
        ..TxEip1559::default()
    };
    sign_eip1559(transaction, &key(sender))
}

async fn transfer(chain: &ChainHandle, nonce: u64) -> Duration {
    let raw = signed(1, nonce);
    let begun = Instant::now();
    let hash = chain.submit(&raw).await.unwrap();
    chain.included(hash).await.unwrap();
    let elapsed = begun.elapsed();
    // Not in step with the blocks.
    tokio::time::sleep(Duration::from_millis(20 + nonce * 7 % 50)).await;
    elapsed
}

async fn burst(chains: &[ChainHandle]) {
    let raw: Vec<_> = (0..BURST_EACH)
        .flat_map(|nonce| {
            (2..=BURST_SENDERS + 1).map(move |sender| (sender, signed(sender, nonce)))
        })
        .collect();
    let (begun, cpu, height) = (Instant::now(), cpu_seconds(), chains[0].head().number);
    let mut hashes: Vec<B256> = Vec::new();
    for (sender, raw) in raw {
        hashes.push(chains[sender as usize % 4].submit(&raw).await.unwrap());
    }
    let submitted = begun.elapsed();
    for hash in &hashes {
        chains[0].included(*hash).await.unwrap();
    }
    println!(
        "burst: {} transfers submitted in {submitted:?}, final after {:?}, in {} blocks, {:.2} s CPU",
        hashes.len(),
        begun.elapsed(),
        chains[0].head().number - height,
        cpu_seconds() - cpu
    );
}

fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

fn resident_megabytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1024
}
