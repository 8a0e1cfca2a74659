//! Answers in text: what opens a receipt, what does not, and what a replay adds.

use lemma_types::{
    Address, Amount, B256, Digest, Engine, Manifest, Mode, Receipt,
    bundle::Bundle,
    commitment::{self, Openings},
    keys::SecretKey,
    manifest::{File, Format},
    text::{Finish, Prompt, Sampling, TextRequest, TextResponse, Transcript, Upstream},
};
use lemma_verify::{
    CheckName, Opened, Outcome, Recompute, Recomputed, Replayed, Report, verify_answer,
};

const CHAIN: u64 = 8402;

#[derive(Clone)]
struct Case {
    mode: Mode,
    manifest: Manifest,
    transcript: Transcript,
    openings: Openings,
    /// Complete but for what follows from the rest.
    usage: (u64, u64),
    /// What the receipt commits to.
    committed: Transcript,
}

impl Case {
    fn new() -> Self {
        let transcript = Transcript {
            request: TextRequest {
                schema: TextRequest::SCHEMA.to_owned(),
                prompt: Prompt::Text("abc".to_owned()),
                sampling: Sampling::default(),
                max_tokens: 3,
                stop: vec![],
                form: None,
                tools: None,
                logprobs: None,
            },
            prompt: vec![1, 2, 3],
            response: TextResponse {
                schema: TextResponse::SCHEMA.to_owned(),
                tokens: vec![7, 8],
                text: "xy".to_owned(),
                finish: Finish::Token,
                prompt_tokens: 3,
                upstream: None,
                calls: vec![],
                logprobs: vec![],
            },
        };
        let file = File {
            path: "model.gguf".to_owned(),
            size: 1,
            blake3: Digest::of(b"file"),
        };
        let manifest = Manifest {
            schema: Manifest::SCHEMA.to_owned(),
            format: Format::Gguf,
            files: vec![file],
            graph_root: Digest::of(b"graph"),
            importer: 1,
            inputs: vec![],
            outputs: vec![],
            compute_units: 1,
            licence: String::new(),
            output_licence: String::new(),
            description: String::new(),
            royalty: None,
            parent: None,
        };
        Self {
            mode: Mode::Signed,
            manifest,
            committed: transcript.clone(),
            transcript,
            openings: Openings::derive(B256::repeat_byte(1)),
            usage: (3, 2),
        }
    }

    fn bundle(&self) -> Bundle {
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        let engine = Engine {
            numeric_spec: 1,
            importer: 1,
            runtime: "test".to_owned(),
        };
        let (openings, root) = (self.openings, self.manifest.root());
        let Transcript {
            request,
            prompt,
            response,
        } = &self.committed;
        let receipt = Receipt {
            request_id: B256::repeat_byte(2),
            model_root: root,
            engine: engine.id(),
            request_commitment: commitment::text_request(openings.request, root, request),
            response_commitment: commitment::text_response(openings.response, response),
            transcript_root: commitment::text_transcript(
                openings.transcript,
                request,
                prompt,
                response,
            ),
            usage_in: self.usage.0,
            usage_out: self.usage.1,
            compute_units: 5,
            price: Amount::ZERO,
            payer: Address::ZERO,
            payment: B256::ZERO,
            mode: self.mode,
            worker: key.address(),
            anchor_height: 1,
            anchor_hash: B256::repeat_byte(3),
            completed_at: 1,
            previous_receipt: B256::ZERO,
            evidence: B256::ZERO,
        };
        Bundle {
            schema: Bundle::SCHEMA.to_owned(),
            chain_id: CHAIN,
            receipt: receipt.sign(CHAIN, &key),
            engine,
            manifest: self.manifest.clone(),
            openings: Some(openings),
            settlement: None,
            proof: None,
        }
    }

    fn verify(&self, recompute: Recompute) -> Report {
        let opened = Opened {
            text: Some(self.transcript.clone()),
            recompute,
            ..Opened::default()
        };
        verify_answer(&self.bundle(), CHAIN, &opened)
    }

    fn replayed(&self) -> Replayed {
        Replayed {
            graph_root: self.manifest.graph_root,
            numeric_spec: 1,
            difference: None,
        }
    }
}

/// How request, response, transcript and recomputation came out.
fn outcomes(report: &Report) -> [Outcome; 4] {
    [
        CheckName::Request,
        CheckName::Response,
        CheckName::Transcript,
        CheckName::Recomputation,
    ]
    .map(|name| report.outcome(name).unwrap())
}

use Outcome::{Failed, Missing, NotAsked, Ok as Holds};

#[test]
fn an_honest_answer_holds_and_what_is_not_supplied_is_not_checked() {
    let case = Case::new();
    let report = case.verify(Recompute::Replayed(case.replayed()));
    assert_eq!(outcomes(&report), [Holds; 4], "{report}");
    let report = case.verify(Recompute::NotAsked);
    assert_eq!(outcomes(&report), [Holds, Holds, Holds, NotAsked]);
    let nothing = verify_answer(&case.bundle(), CHAIN, &Opened::default());
    assert_eq!(outcomes(&nothing), [NotAsked; 4]);
    let mut unsalted = case.bundle();
    unsalted.openings = None;
    let opened = Opened {
        text: Some(case.transcript.clone()),
        ..Opened::default()
    };
    let report = verify_answer(&unsalted, CHAIN, &opened);
    assert_eq!(outcomes(&report), [Missing, Missing, Missing, NotAsked]);
}

#[test]
fn whatever_is_changed_does_not_open_the_receipt() {
    type Change = fn(&mut Case);
    let cases: [(&str, Change, [Outcome; 3]); 8] = [
        (
            "the seed",
            |case| case.transcript.request.sampling.seed = 1,
            [Failed, Holds, Failed],
        ),
        (
            "a token of the prompt",
            |case| case.transcript.prompt[0] = 9,
            [Holds, Holds, Failed],
        ),
        (
            "a token of the answer",
            |case| case.transcript.response.tokens[0] = 9,
            [Holds, Failed, Failed],
        ),
        (
            "the text",
            |case| case.transcript.response.text.push('!'),
            [Holds, Failed, Failed],
        ),
        (
            "the ending",
            |case| case.transcript.response.finish = Finish::Length,
            [Holds, Failed, Failed],
        ),
        (
            "tokens that the receipt did not count in",
            |case| case.usage.0 = 4,
            [Failed, Holds, Holds],
        ),
        (
            "tokens that the receipt did not count out",
            |case| case.usage.1 = 1,
            [Holds, Failed, Holds],
        ),
        (
            "an answer that can not be",
            |case| case.transcript.response.prompt_tokens = 5,
            [Failed, Failed, Failed],
        ),
    ];
    for (what, change, expected) in cases {
        let mut case = Case::new();
        change(&mut case);
        let report = case.verify(Recompute::NotAsked);
        assert_eq!(outcomes(&report)[..3], expected, "{what}: {report}");
    }
}

#[test]
fn a_replay_counts_only_for_this_model_and_this_answer() {
    let case = Case::new();
    let replay = |change: fn(&mut Replayed)| {
        let mut replayed = case.replayed();
        change(&mut replayed);
        outcomes(&case.verify(Recompute::Replayed(replayed)))[3]
    };
    assert_eq!(replay(|_| {}), Holds);
    assert_eq!(replay(|r| r.graph_root = Digest::of(b"other")), Failed);
    assert_eq!(replay(|r| r.numeric_spec = 2), Missing);
    assert_eq!(
        replay(|r| r.difference = Some("token 1".to_owned())),
        Failed
    );
    let unable = case.verify(Recompute::Unable("no".to_owned()));
    assert_eq!(outcomes(&unable)[3], Missing);
    let tensors = Recomputed {
        graph_root: case.manifest.graph_root,
        numeric_spec: 1,
        outputs: vec![],
    };
    assert_eq!(outcomes(&case.verify(Recompute::Done(tensors)))[3], Missing);

    // A replay of what the receipt does not commit to says nothing of the receipt.
    let mut other = case.clone();
    other.transcript.response.tokens[0] = 9;
    let report = other.verify(Recompute::Replayed(other.replayed()));
    assert_eq!(outcomes(&report)[3], Failed);
    let mut other = case.clone();
    other.transcript.prompt[0] = 9;
    let report = other.verify(Recompute::Replayed(other.replayed()));
    assert_eq!(outcomes(&report)[3], Failed);
    let mut other = case;
    other.transcript.request.sampling.seed = 9;
    let report = other.verify(Recompute::Replayed(other.replayed()));
    assert_eq!(outcomes(&report)[3], Missing);
}

/// An answer that an upstream server gave.
fn relayed() -> Case {
    let mut case = Case::new();
    case.mode = Mode::Relayed;
    case.manifest.format = Format::Upstream;
    case.transcript.prompt = vec![];
    case.transcript.response.tokens = vec![];
    case.transcript.response.prompt_tokens = 0;
    case.transcript.response.upstream = Some(Upstream {
        model: "big".to_owned(),
        prompt_tokens: 3,
        completion_tokens: 2,
    });
    case.committed = case.transcript.clone();
    case
}

#[test]
fn a_relayed_answer_is_never_shown_as_anything_else() {
    let mode = |report: &Report| report.outcome(CheckName::Mode).unwrap();
    let case = relayed();
    let report = case.verify(Recompute::NotAsked);
    assert_eq!(mode(&report), Holds, "{report}");
    assert_eq!(
        outcomes(&report),
        [Holds, Holds, Holds, NotAsked],
        "{report}"
    );
    let text = report.render();
    assert!(text.contains("which model ran"), "{text}");
    assert!(!text.contains("Verified"), "{text}");
    // Nobody can run it again, whatever they have run.
    let report = case.verify(Recompute::Replayed(case.replayed()));
    assert_eq!(outcomes(&report)[3], Missing);

    // Signed as if the worker had run a model, which is none; or the other way round.
    let mut signed = relayed();
    signed.mode = Mode::Signed;
    let report = signed.verify(Recompute::NotAsked);
    assert_eq!(
        (mode(&report), outcomes(&report)[..2].to_vec()),
        (Failed, vec![Failed; 2])
    );
    let mut own = Case::new();
    own.mode = Mode::Relayed;
    let report = own.verify(Recompute::NotAsked);
    assert_eq!(
        (mode(&report), outcomes(&report)[..2].to_vec()),
        (Failed, vec![Failed; 2])
    );
    // A model with files whose worker passes on another's answer.
    let mut passed_on = relayed();
    passed_on.mode = Mode::Signed;
    passed_on.manifest.format = Format::Gguf;
    let report = passed_on.verify(Recompute::NotAsked);
    assert_eq!(
        (mode(&report), outcomes(&report)[..2].to_vec()),
        (Holds, vec![Failed; 2])
    );
}
