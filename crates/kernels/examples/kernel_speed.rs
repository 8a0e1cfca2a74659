//! Prints the speed of the kernels, one thread, for each instruction set of this machine (which
//! should do nothing else meanwhile).
//!
//! `cargo run --release -p lemma-kernels --example kernel_speed [FILTER]`
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program that prints measurements"
)]

use std::hint::black_box;
use std::time::Instant;

use lemma_kernels::int8::{self, FiltersInt8Last, Int8, Output, Quantised};
use lemma_kernels::{
    Binary, Chain, Channels, Conv, ConvSpec, FiltersLast, Isa, Link, PackedB, PackedFilters,
    Source, Threads, Unary,
};

/// Values in (−1, 1), the same in each run.
fn values(n: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// Work of one call, per nanosecond, in the fastest of many.
fn rate(work: f64, mut call: impl FnMut()) -> f64 {
    call();
    let (start, mut best, mut calls) = (Instant::now(), f64::MAX, 0);
    while calls < 5 || start.elapsed().as_secs_f64() < 0.3 {
        let begin = Instant::now();
        call();
        best = best.min(begin.elapsed().as_nanos() as f64);
        calls += 1;
    }
    work / best
}

fn products(isa: Isa) {
    for (m, k, n) in [
        (512, 512, 512),
        (1024, 1024, 1024),
        (2048, 2048, 2048),
        (128, 768, 3072),
        (64, 64, 64),
        (16, 4096, 4096),
        (8, 4096, 4096),
        (4, 4096, 4096),
        (2, 4096, 4096),
        (1, 768, 3072),
        (1, 4096, 4096),
    ] {
        let (a, b, mut c) = (values(m * k), values(k * n), vec![0.0; m * n]);
        let flops = 2.0 * (m * k * n) as f64;
        let packed = PackedB::pack(&b, k, n, false);
        let ready = rate(flops, || lemma_kernels::gemm(isa, m, &a, &packed, &mut c));
        let unpacked = rate(flops, || {
            lemma_kernels::matmul(isa, 1, m, k, n, &a, &b, false, &mut c);
        });
        black_box(&c);
        println!("{isa:8} product {m}x{k}x{n}: {ready:.1} GFLOP/s, unpacked {unpacked:.1}");
    }
}

fn convolutions(isa: Isa) {
    for (name, channels, out, groups, size, kernel, stride) in [
        ("stem", 3, 64, 1, 224, 7, 2),
        ("3x3", 64, 64, 1, 56, 3, 1),
        ("3x3", 512, 512, 1, 7, 3, 1),
        ("1x1", 256, 64, 1, 56, 1, 1),
        ("1x1", 960, 160, 1, 7, 1, 1),
        ("depthwise", 144, 144, 144, 56, 3, 1),
        ("depthwise", 96, 96, 96, 112, 3, 2),
        ("depthwise", 960, 960, 960, 7, 3, 1),
    ] {
        let pad = kernel / 2;
        let shape = Conv::new(&ConvSpec {
            batch: 1,
            in_channels: channels,
            out_channels: out,
            groups,
            input: &[size, size],
            kernel: &[kernel, kernel],
            strides: &[stride, stride],
            dilations: &[1, 1],
            pads_begin: &[pad, pad],
            pads_end: &[pad, pad],
        })
        .unwrap();
        let x = values(shape.input_len());
        let filters = PackedFilters::pack(&shape, &values(shape.filter_len()));
        let mut y = vec![0.0; shape.output_len()];
        let flops = 2.0 * (shape.output_len() * channels / groups * kernel * kernel) as f64;
        let speed = rate(flops, || {
            lemma_kernels::conv(isa, &shape, &x, &filters, None, &mut y);
        });
        let last = FiltersLast::pack(&shape, &values(shape.filter_len())).unwrap();
        let single = Threads::single();
        let last = rate(flops, || {
            lemma_kernels::conv_last(
                isa,
                &single,
                &shape,
                Channels::Last,
                &x,
                &last,
                &Chain::NONE,
                &mut y,
            );
        });
        let integers: Vec<i8> = values(shape.filter_len())
            .iter()
            .map(|v| (v * 127.0) as i8)
            .collect();
        let filters = FiltersInt8Last::pack(isa, &shape, Int8::Signed(&integers), &[0]).unwrap();
        let bytes: Vec<u8> = x.iter().map(|v| (v * 127.0 + 128.0) as u8).collect();
        let bytes = Int8::Unsigned(&bytes);
        let scales = values(out);
        let links = [Link::Binary(
            Binary::Mul,
            Source::Value(0),
            Source::columns(&scales),
        )];
        let chain = Chain::new(&links);
        let mut narrow = vec![0u8; y.len()];
        let int8 = rate(flops, || {
            let to = Output::Quantised {
                y: Quantised::Unsigned(&mut narrow),
                scale: 0.1,
                zero: 3,
            };
            int8::conv_int8_last(isa, &single, &shape, bytes, 128, &filters, &chain, to);
        });
        println!(
            "{isa:8} conv {name} {channels}->{out} of {size}x{size}: {speed:.1} GFLOP/s, channels last {last:.1}, int8 {int8:.1}"
        );
    }
}

fn elementwise(isa: Isa) {
    let x: Vec<f32> = values(1 << 16).iter().map(|v| v * 4.0).collect();
    let mut y = vec![0.0; x.len()];
    for op in [
        Unary::Relu,
        Unary::Exp,
        Unary::Log,
        Unary::Tanh,
        Unary::Erf,
        Unary::Sigmoid,
        Unary::Gelu,
        Unary::Softplus,
        Unary::Sin,
    ] {
        let speed = rate(x.len() as f64, || {
            lemma_kernels::unary(isa, op, &x, &mut y);
        });
        println!("{isa:8} {op:?}: {speed:.2} Gvalue/s");
    }
    let speed = rate(x.len() as f64, || {
        lemma_kernels::binary(isa, lemma_kernels::Binary::Pow, &x, &[3.0], &mut y);
    });
    println!("{isa:8} Pow: {speed:.2} Gvalue/s");
}

fn rows(isa: Isa) {
    let x = values(512 * 768);
    let scale = values(768);
    let mut y = vec![0.0; x.len()];
    let n = x.len() as f64;
    let softmax = rate(n, || lemma_kernels::softmax(isa, 768, &x, &mut y));
    let layer = rate(n, || {
        lemma_kernels::layer_norm(isa, 1e-5, &scale, Some(&scale), &x, &mut y);
    });
    let rms = rate(n, || lemma_kernels::rms_norm(isa, 1e-5, &scale, &x, &mut y));
    println!("{isa:8} softmax {softmax:.2}, layer norm {layer:.2}, RMS norm {rms:.2} Gvalue/s");
}

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    type Part = (&'static str, fn(Isa));
    let parts: [Part; 4] = [
        ("product", products),
        ("conv", convolutions),
        ("elementwise", elementwise),
        ("rows", rows),
    ];
    for isa in Isa::available() {
        if isa == Isa::PORTABLE && !filter.contains("portable") && filter != "all" {
            continue;
        }
        for (name, part) in parts {
            if filter.is_empty() || filter.contains(name) || filter == "all" {
                part(isa);
            }
        }
    }
}
