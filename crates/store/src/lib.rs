//! Content-addressed blobs: a store on disk, and verified, resumable transfer from many sources.
//!
//! A blob is named by its BLAKE3 [`Digest`](lemma_types::Digest). [`BlobStore`] keeps blobs in a directory; [`Fetcher`]
//! brings them from any web server that understands HTTP ranges. What makes a transfer safe is the blob's
//! [`Outline`]: the BLAKE3 chaining values of its groups of [`GROUP_BYTES`]. It is checked against the digest first, and
//! then each group can be checked on its own before it is kept, whoever sent it. The format is in
//! `docs/blob-transfer.md`.

mod blob_store;
mod fetch;
pub mod http;
mod outline;
mod partial;
mod source;
mod writer;

pub use blob_store::{BlobReader, BlobStore, StoreError};
pub use fetch::{FetchConfig, FetchError, FetchReport, Fetcher, Progress};
pub use outline::{GROUP_BYTES, Outline, OutlineError};
pub use source::{Source, SourceError};
pub use writer::BlobWriter;
