//! Decoders of `lemma-node`.

use lemma_node::{
    protocol::{
        WorkRequest, decode_answer, encode_answer,
        text::{Frames, TextWork},
    },
    worker::{Relay, read_stream},
};
use lemma_types::{
    limits,
    text::{Prompt, TextRequest},
};

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
    let Ok(answer) = decode_answer(data) else {
        return false;
    };
    let again = decode_answer(&encode_answer(&answer)).expect("what was written is read");
    assert_eq!(again, answer);
    true
}

/// Requests for text that reach a worker: one request has one encoding.
pub fn text_work(data: &[u8]) -> bool {
    let Ok(work) = TextWork::decode(data) else {
        return false;
    };
    assert_eq!(work.encode(), data);
    true
}

/// Frames that reach a gateway: however they are cut, the same ones arrive, and each survives the way back.
pub fn text_frames(data: &[u8]) -> bool {
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut frames, mut found) = (Frames::default(), Vec::new());
        for piece in pieces {
            frames.push(piece);
            loop {
                match frames.pop() {
                    Ok(Some(frame)) => found.push(frame),
                    Ok(None) => break,
                    Err(_) => return (found, false),
                }
            }
        }
        (found, true)
    };
    let (frames, good) = read(&mut std::iter::once(data));
    assert_eq!(read(&mut data.chunks(3)), (frames.clone(), good));
    for frame in &frames {
        let (again, _) = read(&mut std::iter::once(frame.encode().as_slice()));
        assert_eq!(again, std::slice::from_ref(frame));
    }
    good && !frames.is_empty()
}

/// The stream of a server that a worker fronts: however it is cut, it says the same, no more than was asked for, and ends at
/// most once.
pub fn upstream_stream(data: &[u8]) -> bool {
    let request = TextRequest {
        tools: Some("[]".to_owned()),
        logprobs: Some(2),
        ..TextRequest::new(Prompt::Text("Once".to_owned()), 4)
    };
    let (news, complete) = read_stream(&request, std::iter::once(data));
    assert_eq!(
        read_stream(&request, data.chunks(3)),
        (news.clone(), complete)
    );
    let mut length = 0;
    let (mut scored, mut ends) = (0, 0);
    for one in &news {
        match one {
            Relay::Text(text) => length += text.len(),
            Relay::Call(call) => length += call.name.len() + call.arguments.len(),
            Relay::Scored(one) => {
                assert!(one.top.len() <= 2 && one.chosen.logprob.is_finite());
                scored += 1;
            }
            Relay::Finished { .. } => ends += 1,
        }
    }
    assert!(length <= limits::TEXT_RESPONSE_BYTES && scored <= 4 && ends <= 1);
    complete
}
