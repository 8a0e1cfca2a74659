//! Canonical graphs: ONNX import, shape inference, executor and commitments.
//!
//! A [`Model`] is imported from an ONNX file into a canonical graph, whose root commits to what it
//! computes, and is run by the exact kernels of `lemma-kernels`: the same inputs give the same
//! bits on any machine, with any instruction set, number of threads or batch size.
//!
//! ```no_run
//! use lemma_graph::{Limits, Model, NoFiles, RunOptions, Tensor};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let bytes = Vec::new();
//! let model = Model::load(bytes, &NoFiles, &Limits::default())?;
//! let image = Tensor::new(&[1, 1, 8, 8], vec![0f32; 64])?;
//! let run = model.run(&[("image", image)], &RunOptions::default())?;
//! println!("{} {:?}", model.root(), run.outputs);
//! # Ok(())
//! # }
//! ```
//!
//! The crate is pure: no async, no environment, no sockets, and files only through [`Files`].

pub mod commit;
mod control;
mod dynamic;
mod error;
mod exec;
mod fact;
mod files;
mod graph;
pub mod integer;
pub mod io;
mod limits;
mod model;
mod onnx;
mod operator;
mod ops;
mod plan;
mod prepare;
mod tensor;

pub use error::{ImportError, OpError, OpenError, RunError, TensorError};
#[cfg(not(target_arch = "wasm32"))]
pub use files::Folder;
pub use files::{Files, NoFiles};
pub use lemma_kernels::{Isa, NUMERIC_SPEC_VERSION};
pub use limits::Limits;
pub use model::{Model, Run, RunOptions, import};
pub use onnx::OPSETS;
pub use tensor::{Bf16, Element, F16, MAX_RANK, Storage, Tensor, element_count};

/// Version of the importer: which operators it knows and what it makes of them. Part of the engine
/// id of every receipt.
pub const IMPORTER_VERSION: u32 = 1;

/// Operations in one compute unit.
pub const OPERATIONS_PER_COMPUTE_UNIT: u64 = 1_000_000;

/// Compute units of a number of operations (see [`Model::cost`]), rounded up.
#[must_use]
pub fn compute_units(operations: u64) -> u64 {
    operations.div_ceil(OPERATIONS_PER_COMPUTE_UNIT)
}
