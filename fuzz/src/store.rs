//! Decoders of `lemma-store`.

use lemma_store::Outline;
use lemma_types::Digest;

/// Outlines of blobs, after 32 bytes of digest and 8 bytes of size: an outline that merges to the digest has one encoding.
pub fn outline(data: &[u8]) -> bool {
    let Some((digest, rest)) = data.split_first_chunk::<32>() else {
        return false;
    };
    let Some((size, bytes)) = rest.split_first_chunk::<8>() else {
        return false;
    };
    let size = u64::from_le_bytes(*size);
    let Ok(outline) = Outline::decode(Digest::new(*digest), size, bytes) else {
        return false;
    };
    assert_eq!(outline.encode(), bytes);
    true
}
