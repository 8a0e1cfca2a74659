//! The identity of a model: a digest over a canonical listing of its configuration and tensors.

use lemma_kernels::{Format, Threads};

use crate::tensors::Tensors;

/// A BLAKE3 digest.
pub type Root = [u8; 32];

/// Version of the listing that roots are digests of.
pub const ROOT_VERSION: u32 = 1;

/// Chapter 7 of the numeric specification for language models: `configuration` has the entries
/// that decide how tensors are used.
pub(crate) fn root(threads: &Threads, configuration: &str, tensors: &Tensors<'_>) -> Root {
    let mut listing = format!("lemma language model {ROOT_VERSION}\n{configuration}");
    let all: Vec<_> = tensors.iter().collect();
    let mut digests = vec![Root::default(); all.len()];
    threads.chunks(&mut digests, 1, |i, digest| {
        digest.fill(*blake3::hash(all[i].1.data).as_bytes());
        tensors.release(all[i].1.data);
    });
    for ((name, tensor), digest) in all.iter().zip(digests) {
        let format = match tensor.format {
            Format::F32 => "F32",
            Format::F16 => "F16",
            Format::BF16 => "BF16",
            Format::Q8_0 => "Q8_0",
            Format::Q4_0 => "Q4_0",
            Format::Q4K => "Q4_K",
            Format::Q5K => "Q5_K",
            Format::Q6K => "Q6_K",
        };
        listing += &format!("tensor {}:{name} {format}", name.len());
        for size in &tensor.shape {
            listing += &format!(" {size}");
        }
        listing += &format!(" {}\n", blake3::Hash::from_bytes(digest).to_hex());
    }
    *blake3::hash(listing.as_bytes()).as_bytes()
}
