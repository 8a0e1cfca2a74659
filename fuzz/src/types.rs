//! Decoders of `lemma-types`.

use lemma_types::{
    Amount, Manifest, ModelName, SignedReceipt, block, tensor,
    text::{TextRequest, TextResponse},
};

/// The canonical tensor encoding: one value has one encoding.
pub fn tensors(data: &[u8]) -> bool {
    let Ok(tensors) = tensor::decode(data) else {
        return false;
    };
    assert_eq!(tensor::encode(&tensors), data);
    true
}

/// Model manifests: only canonical JSON is accepted, so the digest of the bytes is the model's.
pub fn manifest(data: &[u8]) -> bool {
    let Ok(manifest) = Manifest::decode(data) else {
        return false;
    };
    assert_eq!(manifest.encode(), data);
    true
}

/// Requests for text: only canonical JSON is accepted, so equal requests have equal commitments.
pub fn text_request(data: &[u8]) -> bool {
    let Ok(request) = TextRequest::decode(data) else {
        return false;
    };
    assert_eq!(request.encode(), data);
    true
}

/// Answers in text, likewise.
pub fn text_response(data: &[u8]) -> bool {
    let Ok(response) = TextResponse::decode(data) else {
        return false;
    };
    assert_eq!(response.encode(), data);
    true
}

/// Ethereum headers in RLP.
pub fn header(data: &[u8]) -> bool {
    let Ok(header) = block::decode_header(data) else {
        return false;
    };
    assert_eq!(alloy_rlp::encode(&header), data);
    true
}

/// Header extensions in RLP.
pub fn extension(data: &[u8]) -> bool {
    let Ok(extension) = block::Extension::decode(data) else {
        return false;
    };
    assert_eq!(extension.encode(), data);
    true
}

/// Names of models.
pub fn model_name(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let Ok(name) = text.parse::<ModelName>() else {
        return false;
    };
    assert_eq!(name.as_str(), text);
    assert!(!name.owner().is_empty() && name.as_str().len() <= ModelName::MAX_BYTES);
    true
}

/// Amounts as people type them.
pub fn amount(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let Ok(amount) = text.parse::<Amount>() else {
        return false;
    };
    assert_eq!(amount.to_string().parse(), Ok(amount));
    true
}

/// Signed receipts as they are stored.
pub fn signed_receipt(data: &[u8]) -> bool {
    let Some(signed) = SignedReceipt::decode(data) else {
        return false;
    };
    assert_eq!(signed.encode(), data);
    let _ = signed.verify_signature(8402);
    true
}
