//! The kernels as the engines see them: every result by its definition, and the same bits everywhere.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod accuracy;
mod attention;
mod common;
mod convolutions;
mod depthwise;
mod elementwise;
mod fused;
mod golden;
mod int8;
mod int8_ends;
mod int8_last;
mod int8_near;
mod products;
mod quant;
mod rows;
mod spec;
mod units;
mod vectors;
