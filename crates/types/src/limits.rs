//! Bounds on everything that arrives from outside. A decoder checks the bound before it allocates.

/// Most files in one model.
pub const MANIFEST_FILES: usize = 4_096;
/// Largest manifest in canonical JSON, bytes.
pub const MANIFEST_BYTES: usize = 1 << 20;
/// Most input or output tensors in a model's signature, and most tensors in one request.
pub const TENSORS: usize = 256;
/// Most dimensions of a tensor.
pub const RANK: usize = 16;
/// Longest name of a tensor, bytes.
pub const TENSOR_NAME_BYTES: usize = 512;
/// Longest free text in a manifest (description, licence expression), bytes.
pub const TEXT_BYTES: usize = 4_096;
/// Longest encoded block header or extension, bytes.
pub const HEADER_BYTES: usize = 4_096;
/// Longest finality certificate, bytes.
pub const CERTIFICATE_BYTES: usize = 4_096;
/// Most hashes in a Merkle path: a tree of 2^64 leaves.
pub const MERKLE_PATH: usize = 64;
/// Largest bundle file, bytes.
pub const BUNDLE_BYTES: usize = 8 << 20;
/// Largest proof with its statement and key, bytes: in hexadecimal it leaves room for the rest of a bundle.
pub const PROOF_BYTES: usize = 3 << 20;
/// Largest request body over HTTP, bytes.
pub const HTTP_BODY_BYTES: usize = 32 << 20;
/// Longest canonical request to a language model, bytes.
pub const TEXT_REQUEST_BYTES: usize = 8 << 20;
/// Longest canonical answer of a language model, bytes.
pub const TEXT_RESPONSE_BYTES: usize = 32 << 20;
/// Most tokens of a prompt, and of an answer.
pub const TEXT_TOKENS: u32 = 1 << 20;
/// Longest JSON of the tools of a request, and longest schema of an answer, bytes.
pub const TEXT_FORM_BYTES: usize = 256 << 10;
/// Most calls of tools in one answer, and in one message.
pub const TEXT_CALLS: usize = 128;
/// Most of the best tokens with which each token of an answer is given.
pub const TEXT_LOGPROBS: u32 = 20;
/// Most tokens of an answer with logarithms of probabilities.
pub const TEXT_LOGPROBS_TOKENS: u32 = 1 << 14;
/// Most messages of a conversation.
pub const TEXT_MESSAGES: usize = 4_096;
/// Most texts that end an answer.
pub const TEXT_STOPS: usize = 16;
/// Longest text that ends an answer, bytes.
pub const TEXT_STOP_BYTES: usize = 1_024;
/// Most tokens whose logits a request shifts.
pub const TEXT_BIAS: usize = 1_024;
