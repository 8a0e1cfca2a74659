//! Mode `proved`, and receipts that a later proof raises to it: bundles with real proofs, and what is wrong with others.

use std::sync::{Arc, OnceLock};

use crate::support::{Case, Plan, floats};
use lemma_graph::integer::IntegerGraph;
use lemma_proof::{Evidence, HeldWeights, Model, Profile, Weights, prove_inference};
use lemma_types::{
    B256, Digest, Manifest, Mode, bundle::Bundle, manifest::Format, tensor::TensorData,
};
use lemma_verify::{CheckName, Opened, Outcome, Report, Verdict, Verifier, Weight};

fn model() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| {
        let bytes = include_bytes!("../../../../models/digits-int8/model.integer");
        Model::register(IntegerGraph::from_bytes(bytes).unwrap()).unwrap()
    })
}

fn image(seed: u64) -> Vec<TensorData> {
    vec![floats("image", &[1, 1, 8, 8], |i| ((i * seed) % 17) as f32)]
}

fn evidence(inputs: &[TensorData], weights: Weights) -> Vec<u8> {
    let rounded = model().graph().skeleton().round(inputs).unwrap();
    let profile = Profile {
        weights,
        ..Profile::default()
    };
    let (statement, proof) =
        prove_inference(model(), rounded.inputs, rounded.samples, profile).unwrap();
    Evidence {
        key: model().key().clone(),
        statement,
        proof,
    }
    .to_bytes()
}

/// Evidence of the image of every test, made once.
fn honest() -> &'static [u8] {
    static HONEST: OnceLock<Vec<u8>> = OnceLock::new();
    HONEST.get_or_init(|| evidence(&image(3), Weights::Succinct))
}

fn manifest() -> Manifest {
    let skeleton = model().graph().skeleton();
    Manifest {
        format: Format::Integer,
        graph_root: Digest::new(model().root()),
        inputs: skeleton.input_specs(),
        outputs: skeleton.output_specs(),
        ..crate::support::manifest()
    }
}

/// A settled receipt of the model in this mode, with this proof in its bundle; in mode `proved` the receipt names it.
fn case(mode: Mode, proof: Option<&[u8]>) -> Case {
    let proof = proof.map(<[u8]>::to_vec);
    let named = match (&proof, mode) {
        (Some(proof), Mode::Proved) => Digest::of(proof).to_b256(),
        (None, Mode::Proved) => B256::repeat_byte(1),
        _ => B256::ZERO,
    };
    Plan {
        manifest: manifest(),
        inputs: image(3),
        outputs: model().graph().infer(&image(3)).unwrap(),
        receipt: Box::new(move |receipt| {
            receipt.mode = mode;
            receipt.evidence = named;
        }),
        bundle: Box::new(move |bundle| bundle.proof = proof.clone().map(Into::into)),
        ..Plan::default()
    }
    .build()
}

fn verify(case: &Case, opened: &Opened) -> Report {
    let bytes = serde_json::to_vec(&case.bundle).unwrap();
    Verifier::new(&case.root)
        .unwrap()
        .verify_bytes(&bytes, opened)
}

fn with_inputs() -> Opened {
    Opened {
        inputs: Some(image(3)),
        ..Opened::default()
    }
}

#[track_caller]
fn wrong(report: &Report, expected: &[CheckName]) {
    let failed: Vec<CheckName> = report.failures().map(|check| check.name).collect();
    assert_eq!(failed, expected, "{report}");
}

#[test]
fn a_proof_stands_for_the_outputs() {
    let proved = case(Mode::Proved, Some(honest()));
    let report = verify(&proved, &with_inputs());
    assert_eq!(report.verdict, Verdict::Verified, "{report}");
    for name in [CheckName::Proof, CheckName::Response, CheckName::Transcript] {
        assert_eq!(report.outcome(name), Some(Outcome::Ok), "{report}");
    }
    let text = report.render();
    assert!(
        text.contains("not zero-knowledge") && text.contains("the integer model"),
        "{text}"
    );
    assert!(text.contains("keep their bounds") && text.ends_with("Verified in mode `proved`.\n"));

    let held = Opened {
        weights: Some(Weight(Arc::new(HeldWeights::new(model())))),
        ..with_inputs()
    };
    let text = verify(&proved, &held).render();
    assert!(!text.contains("keep their bounds"), "{text}");
}

#[test]
fn a_later_proof_raises_a_signed_receipt() {
    let raised = case(Mode::Signed, Some(honest()));
    let report = verify(&raised, &with_inputs());
    assert_eq!(report.verdict, Verdict::Verified, "{report}");
    assert!(report.raised() && report.render().contains("raised to `proved`"));
    let plain = verify(&case(Mode::Signed, None), &with_inputs());
    assert!(!plain.raised() && plain.verdict == Verdict::Verified);
}

#[test]
fn what_is_not_there_is_missing() {
    for (case, opened) in [
        (case(Mode::Proved, None), with_inputs()),
        (case(Mode::Proved, Some(honest())), Opened::default()),
        (case(Mode::Signed, Some(honest())), Opened::default()),
    ] {
        let report = verify(&case, &opened);
        assert_eq!(report.verdict, Verdict::Inconclusive, "{report}");
        assert_eq!(report.outcome(CheckName::Proof), Some(Outcome::Missing));
    }
    let mut unopened = case(Mode::Proved, Some(honest()));
    unopened.bundle.openings = None;
    let report = verify(&unopened, &with_inputs());
    assert_eq!(report.outcome(CheckName::Proof), Some(Outcome::Missing));
}

#[test]
fn a_proof_for_holders_needs_the_model() {
    let held = evidence(&image(3), Weights::Holder);
    let held = case(Mode::Proved, Some(&held));
    let report = verify(&held, &with_inputs());
    assert_eq!(report.outcome(CheckName::Proof), Some(Outcome::Missing));
    let opened = Opened {
        weights: Some(Weight(Arc::new(HeldWeights::new(model())))),
        ..with_inputs()
    };
    let report = verify(&held, &opened);
    assert_eq!(report.verdict, Verdict::Verified, "{report}");
}

#[test]
fn a_proof_of_something_else_is_wrong() {
    let edit = |change: fn(&mut Bundle)| {
        let mut case = case(Mode::Proved, Some(honest()));
        change(&mut case.bundle);
        verify(&case, &with_inputs())
    };
    // Another proof of the same, than the receipt names.
    wrong(
        &edit(|b| b.proof = Some(evidence(&image(3), Weights::Holder).into())),
        &[CheckName::Proof],
    );
    // A proof of another image, which the receipt names.
    let other = evidence(&image(5), Weights::Succinct);
    for mode in [Mode::Proved, Mode::Signed] {
        let report = verify(&case(mode, Some(&other)), &with_inputs());
        wrong(&report, &[CheckName::Proof]);
    }
    // The worker answers something else than it proves.
    let mut lie = Plan {
        manifest: manifest(),
        inputs: image(3),
        outputs: model().graph().infer(&image(5)).unwrap(),
        ..Plan::default()
    };
    lie.receipt = Box::new(|receipt| {
        receipt.mode = Mode::Proved;
        receipt.evidence = Digest::of(honest()).to_b256();
    });
    lie.bundle = Box::new(|bundle| bundle.proof = Some(honest().to_vec().into()));
    wrong(&verify(&lie.build(), &with_inputs()), &[CheckName::Proof]);
    // A model of another root; and one that is not quantised.
    let models: [fn(&mut Manifest); 2] = [
        |manifest| manifest.graph_root = Digest::of(b"other"),
        |manifest| manifest.format = Format::Onnx,
    ];
    for change in models {
        let mut plan = Plan {
            manifest: manifest(),
            inputs: image(3),
            outputs: model().graph().infer(&image(3)).unwrap(),
            ..Plan::default()
        };
        change(&mut plan.manifest);
        plan.bundle = Box::new(|bundle| bundle.proof = Some(honest().to_vec().into()));
        wrong(&verify(&plan.build(), &with_inputs()), &[CheckName::Proof]);
    }
}

#[test]
fn mode_proved_names_its_evidence() {
    let mut plan = Plan {
        manifest: manifest(),
        inputs: image(3),
        outputs: model().graph().infer(&image(3)).unwrap(),
        ..Plan::default()
    };
    plan.receipt = Box::new(|receipt| receipt.mode = Mode::Proved);
    plan.bundle = Box::new(|bundle| bundle.proof = Some(honest().to_vec().into()));
    let report = verify(&plan.build(), &with_inputs());
    wrong(&report, &[CheckName::Mode, CheckName::Proof]);
}

/// Nothing but the signature's hash would notice where the receipt names no proof: the proof itself has to.
#[test]
fn no_changed_byte_is_accepted() {
    let mut raised = case(Mode::Signed, Some(honest()));
    let length = honest().len();
    // Header, lengths, and a sample of the rest.
    for place in (0..64).chain((0..96).map(|i| i * (length - 1) / 95)) {
        let mut bytes = honest().to_vec();
        bytes[place] ^= 1 << (place % 8);
        raised.bundle.proof = Some(bytes.into());
        let report = verify(&raised, &with_inputs());
        wrong(&report, &[CheckName::Proof]);
    }
    for length in [0, 8, 12, 100, length - 1] {
        raised.bundle.proof = Some(honest()[..length].to_vec().into());
        wrong(&verify(&raised, &with_inputs()), &[CheckName::Proof]);
    }
    raised.bundle.proof = Some([honest(), &[0]].concat().into());
    wrong(&verify(&raised, &with_inputs()), &[CheckName::Proof]);
}
