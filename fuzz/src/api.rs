//! Decoders of `lemma-api`: the Open Inference Protocol over HTTP, with the binary tensor data extension.

use lemma_api::{
    oip::{Request, Response, decode_tensors},
    openai::request::{chat, completion},
};
use lemma_types::text::TextRequest;

/// The first two bytes are the length of the JSON header, little-endian; 65,535 stands for a body that is all JSON.
fn split(data: &[u8]) -> Option<(&[u8], Option<usize>)> {
    let (length, body) = data.split_first_chunk()?;
    let length = u16::from_le_bytes(*length);
    Some((body, (length != u16::MAX).then_some(length.into())))
}

/// Requests that reach a gateway: what is read survives the way through the binary form.
pub fn http_request(data: &[u8]) -> bool {
    let Some((body, header_length)) = split(data) else {
        return false;
    };
    let Ok(request) = Request::decode(body, header_length) else {
        return false;
    };
    let written = request.encode();
    let again = Request::decode(&written.bytes, written.header_length);
    assert_eq!(again.expect("what was written is read"), request);
    true
}

/// Responses that reach a client: what is read survives the way back, unless it has no form in JSON (NaN, infinities).
pub fn http_response(data: &[u8]) -> bool {
    let Some((body, header_length)) = split(data) else {
        return false;
    };
    let Ok(response) = Response::decode(body, header_length) else {
        return false;
    };
    if let Ok(written) = response.encode() {
        let again = Response::decode(&written.bytes, written.header_length);
        assert_eq!(again.expect("what was written is read"), response);
    }
    true
}

/// Files with tensors, as the command line takes them.
pub fn tensor_file(data: &[u8]) -> bool {
    decode_tensors(data).is_ok()
}

/// Bodies of Ethereum JSON-RPC: one call or a batch, each with its parameters parsed.
pub fn json_rpc(data: &[u8]) -> bool {
    lemma_api::rpc_holds_a_call(data)
}

/// Requests of OpenAI's clients: what is understood is a canonical request.
pub fn openai_request(data: &[u8]) -> bool {
    let mut accepted = false;
    for asked in [chat(data, 7), completion(data, 7)].into_iter().flatten() {
        let again = TextRequest::decode(&asked.request.encode());
        assert_eq!(again.expect("it was checked"), asked.request);
        accepted = true;
    }
    accepted
}
