//! Whether a transcript of text is what a receipt commits to.

use lemma_types::{
    Mode, Receipt,
    commitment::{self, Openings},
    text::Transcript,
};

use crate::{
    Opened,
    report::{Finding, Problem},
    verifier::opens,
};

pub(crate) fn supplied(opened: &Opened) -> Result<&Transcript, Problem> {
    let transcript = opened.text.as_ref().ok_or_else(|| {
        Problem::NotAsked("no transcript of request and answer was supplied".to_owned())
    })?;
    transcript.check().map_err(Problem::failed)?;
    Ok(transcript)
}

pub(crate) fn request(receipt: &Receipt, transcript: &Transcript, openings: &Openings) -> Finding {
    relayed(receipt, transcript)?;
    same_usage("prompt", transcript.response.usage().0, receipt.usage_in)?;
    let (salt, request) = (openings.request, &transcript.request);
    let commitment = commitment::text_request(salt, receipt.model_root, request);
    opens(
        "request and sampling",
        commitment,
        receipt.request_commitment,
    )
}

pub(crate) fn response(receipt: &Receipt, transcript: &Transcript, openings: &Openings) -> Finding {
    let response = &transcript.response;
    relayed(receipt, transcript)?;
    same_usage("answer", response.usage().1, receipt.usage_out)?;
    let commitment = commitment::text_response(openings.response, response);
    opens(
        "answer and its ending",
        commitment,
        receipt.response_commitment,
    )
}

pub(crate) fn transcript(
    receipt: &Receipt,
    transcript: &Transcript,
    openings: &Openings,
) -> Finding {
    let Transcript {
        request,
        prompt,
        response,
    } = transcript;
    let root = commitment::text_transcript(openings.transcript, request, prompt, response);
    opens("tokens of prompt and answer", root, receipt.transcript_root)
}

/// An answer of an upstream server is `relayed`, and no other is.
fn relayed(receipt: &Receipt, transcript: &Transcript) -> Result<(), Problem> {
    let upstream = transcript.response.upstream.is_some();
    match upstream == (receipt.mode == Mode::Relayed) {
        true => Ok(()),
        false => Err(Problem::Failed(format!(
            "the receipt's mode is `{}`, but the answer is {} upstream server's",
            receipt.mode,
            if upstream { "an" } else { "no" }
        ))),
    }
}

fn same_usage(what: &str, tokens: u64, usage: u64) -> Result<(), Problem> {
    if tokens == usage {
        return Ok(());
    }
    Err(Problem::Failed(format!(
        "the {what} has {tokens} tokens, the receipt counts {usage}"
    )))
}
