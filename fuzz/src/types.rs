//! Decoders of `lemma-types`.

use lemma_types::{Amount, Manifest, ModelName, block, tensor};

/// The canonical tensor encoding: one value has one encoding.
pub fn tensors(data: &[u8]) {
    if let Ok(tensors) = tensor::decode(data) {
        assert_eq!(tensor::encode(&tensors), data);
    }
}

/// Model manifests: only canonical JSON is accepted, so the digest of the bytes is the model's.
pub fn manifest(data: &[u8]) {
    if let Ok(manifest) = Manifest::decode(data) {
        assert_eq!(manifest.encode(), data);
    }
}

/// Ethereum headers in RLP.
pub fn header(data: &[u8]) {
    if let Ok(header) = block::decode_header(data) {
        assert_eq!(alloy_rlp::encode(&header), data);
    }
}

/// Header extensions in RLP.
pub fn extension(data: &[u8]) {
    if let Ok(extension) = block::Extension::decode(data) {
        assert_eq!(extension.encode(), data);
    }
}

/// Names of models.
pub fn model_name(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(name) = text.parse::<ModelName>() {
        assert_eq!(name.as_str(), text);
        assert!(!name.owner().is_empty() && name.as_str().len() <= ModelName::MAX_BYTES);
    }
}

/// Amounts as people type them.
pub fn amount(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(amount) = text.parse::<Amount>() {
        assert_eq!(amount.to_string().parse(), Ok(amount));
    }
}
