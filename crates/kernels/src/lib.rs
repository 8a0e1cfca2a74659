//! Exact arithmetic: the kernels of the numeric specification (`docs/numeric-spec.md`).
//!
//! Every kernel has one meaning, down to the last bit, that depends neither on the instruction
//! set, nor on vector width, cache blocking, batch size, or how a caller splits the work. The
//! portable path, plain Rust over slices, *is* the specification; the AVX2 and AVX-512 paths give
//! the same bits faster, and the tests compare all of them on one machine.
//!
//! The rules that make this so:
//!
//! * Arithmetic is IEEE 754 binary32, round to nearest even, subnormals kept. A product and a sum
//!   are fused only where the specification says so.
//! * Matrix products run one fused multiply-add chain for each block of 256 along k, from +0.0;
//!   block sums are added in ascending order. Vectors run across outputs, never along k.
//! * Row reductions run in 16 strided lanes that meet in a fixed 8-4-2-1 tree.
//! * Transcendental functions are our own, from + − × ÷ sqrt, fma and integer operations.
//! * A result that is NaN is *the* NaN, [`CANONICAL_NAN`]. Minimum and maximum of anything and NaN
//!   are NaN, and −0 is smaller than +0.
//!
//! # Conventions
//!
//! Tensors are slices in row-major order. Sizes that come from outside are checked once, by the
//! constructors of [`Conv`], [`Pool`] and [`PackedB`]; a kernel that is handed a slice whose length does not
//! fit the stated shape panics, because that is a bug of the caller. Threads ([`Threads`]) split
//! outputs among them (rows, batches, channels), which never changes a bit.
//!
//! Each kernel takes an [`Isa`], a token that can only be had for an instruction set this machine
//! has:
//!
//! ```
//! use lemma_kernels::{Isa, PackedB, gemm};
//!
//! let isa = Isa::detect();
//! let b = PackedB::pack(&[1.0, 2.0, 3.0, 4.0], 2, 2, false);
//! let mut c = [0.0; 2];
//! gemm(isa, 1, &[10.0, 1.0], &b, &mut c);
//! assert_eq!(c, [13.0, 24.0]);
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod activation;
mod allocator;
mod attention;
pub mod cast;
mod chain;
mod conv;
mod elementwise;
mod epilogue;
mod gemm;
pub mod half;
pub mod int8;
mod isa;
mod lanes;
pub mod math;
mod memory;
mod norm;
mod pool;
mod quant;
mod reduce;
mod sheet;
mod threads;
mod transpose;
pub mod wide;
mod window;

pub use allocator::LargePages;
pub use attention::{
    Attention, Gate, PAGE, Rotation, Stretch, add_in_place, attention, gated, rotate, store_kv,
};
pub use chain::{Chain, Link, MAX_LINKS, Mask, Source, apply};
pub use conv::{
    Channels, Conv, ConvSpec, FiltersLast, PackedFilters, conv, conv_last, conv_last_gated,
    conv_last_gated_scratch, conv_last_scratch, conv_last_takes_gate,
};
pub use elementwise::{Binary, Unary, binary, unary, unary_in_place};
pub use gemm::{
    BLOCK_K, PackedB, Strided, gemm, gemm_with, matmul, matmul_scratch, matmul_strided, product,
};
pub use isa::Isa;
pub use math::{CANONICAL_NAN, canonical};
pub use memory::{FileMap, Room, trim};
pub use norm::{layer_norm, log_softmax, rms_norm, softmax};
pub use pool::{Pool, PoolSpec, Pooling, average_pool, max_pool, max_pool_last, pool_last};
pub use quant::{Format, Input, PackError, PackedMatrix, QuantRows};
pub use reduce::{LANES, Reduction, dot, reduce, reduce_with};
pub use threads::Threads;
pub use transpose::transpose;
pub use window::ShapeError;

/// Version of the numeric specification that these kernels implement.
pub const NUMERIC_SPEC_VERSION: u32 = 1;
