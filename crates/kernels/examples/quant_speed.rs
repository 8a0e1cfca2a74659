//! Prints the speed of products with quantised weights, one thread: a matrix that fits no cache by
//! one row, in gigabytes of weights a second, beside a plain read of as much memory; and a small one
//! by many rows, in billions of multiplications a second.
//!
//! `cargo run --release -p lemma-kernels --example quant_speed [FORMAT]`
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program that prints measurements"
)]

use std::hint::black_box;
use std::time::Instant;

use lemma_kernels::{Format, Input, Isa, PackedMatrix, QuantRows, Threads};

/// Nanoseconds of the fastest of many calls.
fn best(mut call: impl FnMut()) -> f64 {
    let (start, mut best, mut calls) = (Instant::now(), f64::MAX, 0);
    while calls < 8 || start.elapsed().as_secs_f64() < 1.0 {
        let begin = Instant::now();
        call();
        best = best.min(begin.elapsed().as_nanos() as f64);
        calls += 1;
    }
    best
}

fn matrix(format: Format, n: usize, k: usize) -> PackedMatrix {
    let len = format.row_bytes(k).unwrap() * n;
    // Bytes that are small numbers as binary16, too.
    let bytes: Vec<u8> = (0..len).map(|i| ((i * 7919) >> 3) as u8 & 0x1f).collect();
    PackedMatrix::pack(&Threads::single(), format, n, k, &bytes).unwrap()
}

fn main() {
    let only = std::env::args().nth(1).unwrap_or_default();
    let (isa, threads) = (Isa::detect(), Threads::single());
    let plain: Vec<u64> = (0..20_000_000).collect();
    let time = best(|| {
        let mut sums = [0u64; 32];
        for run in black_box(&plain).chunks_exact(32) {
            for (sum, v) in sums.iter_mut().zip(run) {
                *sum ^= v;
            }
        }
        black_box(sums);
    });
    println!("plain read: {:.1} GB/s", plain.len() as f64 * 8.0 / time);
    drop(plain);
    for format in [
        Format::Q8_0,
        Format::Q4_0,
        Format::Q4K,
        Format::Q5K,
        Format::Q6K,
    ] {
        if !format!("{format:?}").contains(&only) {
            continue;
        }
        let (k, mut x) = (1024, QuantRows::new());
        let values: Vec<f32> = (0..512 * k)
            .map(|i| (i * 31 % 97) as f32 * 0.01 - 0.5)
            .collect();
        let large = matrix(format, 1 << 17, k);
        let mut out = vec![0.0; large.n()];
        x.quantise(isa, &threads, &values[..k], k);
        let time = best(|| large.multiply(isa, &threads, Input::Quantised(&x), &mut out));
        print!("{format:?}: 1 row {:.1} GB/s", large.bytes() as f64 / time);
        drop(large);
        let small = matrix(format, 2048, k);
        for m in [8, 32, 64, 512] {
            let mut out = vec![0.0; m * small.n()];
            x.quantise(isa, &threads, &values[..m * k], k);
            let time = best(|| small.multiply(isa, &threads, Input::Quantised(&x), &mut out));
            print!(", {m} rows {:.0}", (m * k * small.n()) as f64 / time);
        }
        println!(" G/s");
    }
}
