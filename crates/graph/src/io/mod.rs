//! Tensors as files and as JSON.

pub mod npy;
pub mod oip;
