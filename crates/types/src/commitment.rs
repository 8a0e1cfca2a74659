//! Salted commitments to what was asked and what was answered.
//!
//! A prompt is often guessable, so its bare hash would give it away. A commitment is
//! `keccak256(keccak256(tag) ‖ salt ‖ blake3(content))`; the salts go only to whoever may learn the content. BLAKE3 inside
//! lets an opening show a slice of a large content.

use serde::{Deserialize, Serialize};

use crate::{
    B256, Digest, keccak256, merkle,
    tensor::{self, TensorData},
    text::{TextRequest, TextResponse},
    to_canonical_json,
};

/// The salts of one receipt's commitments. Whoever holds them and a guess of the content can check the guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Openings {
    /// Salt of the request commitment.
    pub request: B256,
    /// Salt of the response commitment.
    pub response: B256,
    /// Salt of the transcript's leaves.
    pub transcript: B256,
}

impl Openings {
    /// Derives the three salts from one secret of 32 random bytes.
    #[must_use]
    pub fn derive(secret: B256) -> Self {
        let salt =
            |part: &str| keccak256([b"lemma/salt/1/", part.as_bytes(), secret.as_slice()].concat());
        Self {
            request: salt("request"),
            response: salt("response"),
            transcript: salt("transcript"),
        }
    }
}

/// The commitment to `content` under a tag and a salt.
#[must_use]
pub fn commit(tag: &str, salt: B256, content: &[u8]) -> B256 {
    commit_digest(tag, salt, Digest::of(content))
}

fn commit_digest(tag: &str, salt: B256, content: Digest) -> B256 {
    let mut bytes = [0; 96];
    bytes[..32].copy_from_slice(keccak256(tag).as_slice());
    bytes[32..64].copy_from_slice(salt.as_slice());
    bytes[64..].copy_from_slice(content.as_bytes());
    keccak256(bytes)
}

/// The commitment to a request for the tensors that `model` computes from `inputs`, in the order of the model's signature.
#[must_use]
pub fn tensor_request(salt: B256, model: Digest, inputs: &[TensorData]) -> B256 {
    let mut content = model.as_bytes().to_vec();
    content.extend(tensor::encode(inputs));
    commit("lemma/request/tensors/1", salt, &content)
}

/// The commitment to all outputs of a model, in the order of its signature.
#[must_use]
pub fn tensor_response(salt: B256, outputs: &[TensorData]) -> B256 {
    commit("lemma/response/tensors/1", salt, &tensor::encode(outputs))
}

/// The transcript root of a tensor inference: a Merkle tree with one salted leaf for each input, then for each output, so
/// that one tensor can be opened without the others.
#[must_use]
pub fn tensor_transcript(salt: B256, inputs: &[TensorData], outputs: &[TensorData]) -> B256 {
    let leaves: Vec<B256> = inputs
        .iter()
        .chain(outputs)
        .map(|tensor| {
            let mut bytes = Vec::new();
            tensor.encode_into(&mut bytes);
            merkle::leaf_hash(commit("lemma/transcript/tensor/1", salt, &bytes).as_slice())
        })
        .collect();
    merkle::root(&leaves)
}

/// The commitment to a request for text that `model` answers.
#[must_use]
pub fn text_request(salt: B256, model: Digest, request: &TextRequest) -> B256 {
    let mut content = model.as_bytes().to_vec();
    content.extend(request.encode());
    commit("lemma/request/text/1", salt, &content)
}

/// The commitment to the answer of a language model.
#[must_use]
pub fn text_response(salt: B256, response: &TextResponse) -> B256 {
    commit("lemma/response/text/1", salt, &response.encode())
}

/// Tokens of the answer in one leaf of a transcript of text.
pub const TEXT_CHUNK: usize = 64;

/// The transcript root of an answer in text: a Merkle tree with one salted leaf for the request, the prompt's tokens, the
/// sampling parameters, each [`TEXT_CHUNK`] tokens of the answer, and at last the answer's text and why it ended. So a
/// replay can open what it needs, and no more.
#[must_use]
pub fn text_transcript(
    salt: B256,
    request: &TextRequest,
    prompt: &[u32],
    response: &TextResponse,
) -> B256 {
    let leaf = |part: &str, content: &[u8]| {
        let tag = format!("lemma/transcript/text/{part}/1");
        merkle::leaf_hash(commit(&tag, salt, content).as_slice())
    };
    let tokens =
        |tokens: &[u32]| -> Vec<u8> { tokens.iter().flat_map(|t| t.to_le_bytes()).collect() };
    let mut leaves = vec![
        leaf("request", &request.encode()),
        leaf("prompt", &tokens(prompt)),
        leaf("sampling", &request.sampling.encode()),
    ];
    let chunks = response.tokens.chunks(TEXT_CHUNK);
    leaves.extend(chunks.map(|chunk| leaf("answer", &tokens(chunk))));
    let ending = to_canonical_json(&(&response.text, &response.finish));
    leaves.push(leaf("ending", &ending));
    merkle::root(&leaves)
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::tensor::DType;

    #[test]
    fn every_part_is_bound() {
        let x = TensorData::new("x", DType::U8, vec![2], vec![1, 2]).unwrap();
        let y = TensorData::new("y", DType::U8, vec![2], vec![1, 2]).unwrap();
        let (salt, model) = (B256::repeat_byte(1), Digest::of(b"m"));
        let request = |salt, model, x: &TensorData| tensor_request(salt, model, from_ref(x));
        let base = request(salt, model, &x);
        assert_ne!(base, request(B256::repeat_byte(2), model, &x));
        assert_ne!(base, request(salt, Digest::of(b"n"), &x));
        assert_ne!(base, request(salt, model, &y));
        assert_ne!(
            tensor_response(salt, from_ref(&x)),
            tensor_response(salt, from_ref(&y))
        );
        let transcript = |i: &[TensorData], o: &[TensorData]| tensor_transcript(salt, i, o);
        assert_ne!(
            transcript(from_ref(&x), from_ref(&y)),
            transcript(from_ref(&y), from_ref(&x))
        );
    }

    #[test]
    fn salts_differ() {
        let openings = Openings::derive(B256::repeat_byte(3));
        assert_ne!(openings.request, openings.response);
        assert_ne!(openings.response, openings.transcript);
    }
}
