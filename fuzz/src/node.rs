//! Decoders of `lemma-node`.

use lemma_node::protocol::{WorkRequest, decode_answer, encode_answer};

/// Requests that reach a worker: one request has one encoding.
pub fn work_request(data: &[u8]) -> bool {
    let Ok(request) = WorkRequest::decode(data) else {
        return false;
    };
    assert_eq!(request.encode(), data);
    true
}

/// Answers that reach a gateway: what is read survives the way back.
pub fn work_answer(data: &[u8]) -> bool {
    let Ok((signed, outputs)) = decode_answer(data) else {
        return false;
    };
    let again = decode_answer(&encode_answer(&signed, &outputs)).expect("what was written is read");
    assert_eq!(again, (signed, outputs));
    true
}
