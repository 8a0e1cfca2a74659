//! Prints the largest error of each transcendental function, in units of the last place, over
//! every binary32 value, or every n-th with an argument n.
//!
//! `cargo run --release -p lemma-kernels --example accuracy [n]`
#![allow(clippy::print_stdout, reason = "a program that prints measurements")]

#[path = "../tests/kernels/common/reference.rs"]
mod reference;

use reference::{FUNCTIONS, largest_error};

fn main() {
    let step = std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    for function in FUNCTIONS {
        let worst = largest_error(function, step);
        println!(
            "{:9} {:.4} ulp at {:e} ({:#010x})",
            function.name,
            worst.ulps,
            worst.x,
            worst.x.to_bits()
        );
    }
}
