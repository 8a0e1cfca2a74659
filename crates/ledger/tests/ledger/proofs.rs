//! The verifier of proofs: what it accepts, what it refuses and why, and what it costs.

use crate::support::*;
use alloy_primitives::{B256, Bytes, TxKind, U256, keccak256};
use alloy_sol_types::{SolCall, SolEvent};
use lemma_graph::integer::IntegerGraph;
use lemma_ledger::{
    Call, CallRequest, CallResult, Estimate, MAX_TRANSACTION_BYTES,
    modules::{
        MODELS, PROOFS,
        abi::{ILemmaModels, ILemmaProofs::*},
    },
};
use lemma_proof::{Evidence, Model, Profile, Weights, prove_inference};
use lemma_types::{
    Amount, Digest, Manifest, Mode,
    commitment::{Openings, tensor_request, tensor_response},
    keys::SecretKey,
    manifest::{File, Format},
    receipt::{Receipt, SignedReceipt},
    tensor::{self, Dim, TensorData},
};
use std::sync::OnceLock;

const NAME: &str = "lemma/digits-int8";

fn model() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| {
        let bytes = include_bytes!("../../../../models/digits-int8/model.integer");
        Model::register(IntegerGraph::from_bytes(bytes).unwrap()).unwrap()
    })
}

fn proved(weights: Weights) -> Evidence {
    let input = (0..64).map(|i| i * 5 % 127).collect();
    let profile = Profile {
        weights,
        ..Profile::default()
    };
    let (statement, proof) = prove_inference(model(), vec![input], 1, profile).unwrap();
    Evidence {
        key: model().key().clone(),
        statement,
        proof,
    }
}

fn evidence() -> &'static [u8] {
    static EVIDENCE: OnceLock<Vec<u8>> = OnceLock::new();
    EVIDENCE.get_or_init(|| proved(Weights::Succinct).to_bytes())
}

fn root() -> B256 {
    model().root().into()
}

fn manifest() -> Manifest {
    let skeleton = model().graph().skeleton();
    Manifest {
        schema: Manifest::SCHEMA.into(),
        format: Format::Integer,
        files: vec![File {
            path: "model.integer".into(),
            size: 1,
            blake3: Digest::of(b"model"),
        }],
        graph_root: Digest::new(model().root()),
        importer: 1,
        inputs: skeleton.input_specs(),
        outputs: skeleton.output_specs(),
        compute_units: 1,
        licence: String::new(),
        output_licence: String::new(),
        description: String::new(),
        royalty: None,
        parent: None,
    }
}

fn worker() -> SecretKey {
    SecretKey::from_bytes(&[7; 32]).unwrap()
}

fn receipt(change: impl FnOnce(&mut Receipt)) -> SignedReceipt {
    let word = B256::repeat_byte;
    let mut receipt = Receipt {
        request_id: word(1),
        model_root: manifest().root(),
        engine: word(2),
        request_commitment: word(3),
        response_commitment: word(4),
        transcript_root: word(5),
        usage_in: 64,
        usage_out: 10,
        compute_units: 1,
        price: Amount::from_units(0),
        payer: Default::default(),
        payment: word(0),
        mode: Mode::Proved,
        worker: worker().address(),
        anchor_height: 1,
        anchor_hash: word(6),
        completed_at: 1_700_000_000_000,
        previous_receipt: word(0),
        evidence: Digest::of(evidence()).to_b256(),
    };
    change(&mut receipt);
    receipt.sign(CHAIN_ID, &worker())
}

fn accept(receipt: &SignedReceipt) -> acceptCall {
    acceptCall {
        name: NAME.into(),
        version: 1,
        manifest: manifest().encode().into(),
        receipt: receipt.encode().into(),
        evidence: Bytes::from_static(evidence()),
    }
}

/// The request that the proof is of, as real numbers.
#[allow(clippy::float_arithmetic, reason = "a client's, not the ledger's")]
fn request() -> Vec<TensorData> {
    let evidence = Evidence::from_bytes(evidence()).unwrap();
    let (port, _) = &evidence.key.skeleton().inputs[0];
    let values = evidence.statement.inputs[0].iter();
    // A third of a step beside each multiple: what is rounded is not what was asked.
    let data = values.flat_map(|&v| ((v as f32 + 0.3) * port.scale).to_le_bytes());
    let spec = &manifest().inputs[0];
    let shape = spec.shape.iter().map(|dim| match dim {
        Dim::Fixed(size) => *size,
        Dim::Symbol(_) => 1,
    });
    let tensor = TensorData::new(&*spec.name, spec.dtype, shape.collect(), data.collect());
    vec![tensor.unwrap()]
}

/// The model's answer to it.
fn response() -> Vec<TensorData> {
    let evidence = Evidence::from_bytes(evidence()).unwrap();
    let outputs = &evidence.statement.outputs;
    evidence.key.skeleton().real_outputs(outputs, 1).unwrap()
}

/// A receipt of mode `signed` of request and response.
fn signed(change: impl FnOnce(&mut Receipt)) -> SignedReceipt {
    receipt(|r| {
        let salts = salts();
        r.mode = Mode::Signed;
        r.evidence = B256::ZERO;
        r.request_commitment = tensor_request(salts.request, r.model_root, &request());
        r.response_commitment = tensor_response(salts.response, &response());
        change(r);
    })
}

fn salts() -> Openings {
    Openings::derive(B256::repeat_byte(9))
}

fn raise(receipt: &SignedReceipt) -> raiseCall {
    let acceptCall {
        name,
        version,
        manifest,
        receipt,
        evidence,
    } = accept(receipt);
    raiseCall {
        name,
        version,
        manifest,
        receipt,
        inputs: tensor::encode(&request()).into(),
        requestSalt: salts().request,
        responseSalt: salts().response,
        evidence,
    }
}

/// A chain on which the model is registered.
fn chain() -> Chain {
    let mut chain = Chain::started();
    let register = ILemmaModels::registerCall {
        name: NAME.into(),
        manifest: manifest().root().to_b256(),
    };
    chain.transact(&user(0), MODELS, register).unwrap();
    chain
}

fn to_proofs(call: impl SolCall) -> CallRequest {
    CallRequest {
        to: Some(PROOFS),
        input: call.abi_encode().into(),
        ..Default::default()
    }
}

fn verify(evidence: &[u8]) -> verifyCall {
    verifyCall {
        root: root(),
        evidence: evidence.to_vec().into(),
    }
}

fn little_endian(tensors: &[Vec<i32>]) -> Vec<u8> {
    tensors
        .iter()
        .flatten()
        .flat_map(|v| v.to_le_bytes())
        .collect()
}

/// Sends with as much gas as a transaction may have.
fn send(chain: &mut Chain, call: &impl SolCall) -> lemma_ledger::Receipt {
    let nonce = chain.account(user(0).address).nonce;
    let draft = Draft::new(nonce).to(PROOFS).gas(16_000_000);
    chain.include(&draft.input(call.abi_encode()).sign(&user(0)))
}

/// The same, of what must be accepted.
fn sent(chain: &mut Chain, call: &impl SolCall) -> lemma_ledger::Receipt {
    let done = send(chain, call);
    assert!(
        done.success,
        "{:?}",
        lemma_ledger::modules::explain(&done.output)
    );
    done
}

/// That the proof of a receipt was accepted at a height, by an event with these hashes.
fn is_known(chain: &Chain, id: B256, height: u64, [inputs, outputs]: [B256; 2]) {
    let hashes = chain.view(PROOFS, verify(evidence()));
    assert_eq!((inputs, outputs), (hashes.inputs, hashes.outputs));
    let known = chain.view(PROOFS, proofOfCall { receiptId: id });
    let digest = Digest::of(evidence()).to_b256();
    assert_eq!((known.evidence, known.height), (digest, height));
}

#[test]
fn a_call_checks_a_proof() {
    let chain = Chain::started();
    let hashes = chain.view(PROOFS, verify(evidence()));
    let statement = Evidence::from_bytes(evidence()).unwrap().statement;
    assert_eq!(hashes.inputs, keccak256(little_endian(&statement.inputs)));
    assert_eq!(hashes.outputs, keccak256(little_endian(&statement.outputs)));
}

#[test]
fn a_transaction_makes_a_receipts_proof_known() {
    let mut chain = chain();
    let receipt = receipt(|_| {});
    let call = accept(&receipt);
    let id = receipt.receipt.id();
    let none = chain.view(PROOFS, proofOfCall { receiptId: id });
    assert_eq!((none.evidence, none.height), (B256::ZERO, 0));

    let height = chain.context().number;
    let done = sent(&mut chain, &call);
    assert_eq!(
        acceptCall::abi_decode_returns_validate(&done.output).unwrap(),
        id
    );
    let event = ProofAccepted::decode_log(&done.logs[0]).unwrap();
    let digest = Digest::of(evidence()).to_b256();
    assert_eq!((event.receiptId, event.evidence), (id, digest));
    assert_eq!(event.manifest, manifest().root().to_b256());
    assert_eq!(event.worker, worker().address());
    is_known(&chain, id, height, [event.inputs, event.outputs]);
    let again = chain.view_error(PROOFS, call);
    assert_eq!(
        again,
        format!("the receipt's proof was accepted at height {height}")
    );
}

#[test]
fn a_receipt_is_raised_once_its_request_is_opened() {
    let mut chain = chain();
    let receipt = signed(|_| {});
    let call = raise(&receipt);
    let height = chain.context().number;
    let done = sent(&mut chain, &call);
    let id = receipt.receipt.id();
    let event = ReceiptRaised::decode_log(&done.logs[0]).unwrap();
    assert_eq!((event.receiptId, event.worker), (id, worker().address()));
    assert_eq!(event.manifest, manifest().root().to_b256());
    is_known(&chain, id, height, [event.inputs, event.outputs]);
    let again = chain.view_error(PROOFS, call);
    assert_eq!(
        again,
        format!("the receipt's proof was accepted at height {height}")
    );
}

#[test]
fn a_receipt_is_not_raised_by_a_proof_of_something_else() {
    let chain = chain();
    let refuse = |call: raiseCall, expected: &str| {
        let reason = chain.view_error(PROOFS, call);
        assert!(reason.contains(expected), "{reason}");
    };
    let honest = || raise(&signed(|_| {}));
    refuse(raise(&receipt(|_| {})), "it has its own proof");
    let other = Digest::of(b"another");
    refuse(raise(&signed(|r| r.model_root = other)), "of another model");
    let stranger = user(3).address;
    refuse(
        raise(&signed(|r| r.worker = stranger)),
        "not by the receipt's worker",
    );

    let (not_opened, salt) = ("not the receipt's request", B256::repeat_byte(1));
    let request_salt = salt;
    refuse(
        raiseCall {
            requestSalt: request_salt,
            ..honest()
        },
        not_opened,
    );
    let mut inputs = honest().inputs.to_vec();
    *inputs.last_mut().unwrap() ^= 1;
    let inputs = Bytes::from(inputs);
    refuse(raiseCall { inputs, ..honest() }, not_opened);
    for inputs in [Bytes::new(), Bytes::from_static(&[0xff; 40])] {
        refuse(
            raiseCall { inputs, ..honest() },
            "the receipt is not opened",
        );
    }
    let response_salt = salt;
    refuse(
        raiseCall {
            responseSalt: response_salt,
            ..honest()
        },
        "of another response",
    );

    // Receipts of another request and of another response, opened as they are.
    let mut data = request()[0].data().to_vec();
    data[7] ^= 0x80;
    let asked = &request()[0];
    let other = TensorData::new(asked.name(), asked.dtype(), asked.shape().to_vec(), data);
    let other = vec![other.unwrap()];
    let receipt = signed(|r| {
        r.request_commitment = tensor_request(salts().request, r.model_root, &other);
    });
    refuse(
        raiseCall {
            inputs: tensor::encode(&other).into(),
            ..raise(&receipt)
        },
        "of other inputs",
    );
    let receipt = signed(|r| {
        r.response_commitment = tensor_response(salts().response, &request());
    });
    refuse(raise(&receipt), "of another response");

    let mut evidence = evidence().to_vec();
    *evidence.last_mut().unwrap() ^= 1;
    let evidence = Bytes::from(evidence);
    refuse(
        raiseCall {
            evidence,
            ..honest()
        },
        "the proof is refused",
    );
}

#[test]
fn damaged_evidence_is_refused() {
    let chain = Chain::started();
    let honest = evidence();
    let refuse = |evidence: &[u8], what: &str| {
        let reason = chain.view_error(PROOFS, verify(evidence));
        assert!(
            reason.starts_with("the proof is refused: "),
            "{what}: {reason}"
        );
    };
    for at in (0..honest.len()).step_by(honest.len() / 40) {
        let mut damaged = honest.to_vec();
        damaged[at] ^= 1;
        refuse(&damaged, &format!("byte {at}"));
        refuse(&honest[..at], &format!("cut at {at}"));
    }
    refuse(&[honest, &[0]].concat(), "longer");
    refuse(&[], "nothing");
    refuse(&proved(Weights::Holder).to_bytes(), "for holders");

    let mut forged = Evidence::from_bytes(honest).unwrap();
    forged.statement.outputs[0][0] += 1;
    refuse(&forged.to_bytes(), "another output");
    let mut forged = Evidence::from_bytes(honest).unwrap();
    forged.statement.inputs[0][0] += 1;
    refuse(&forged.to_bytes(), "another input");

    let other = verifyCall {
        root: B256::repeat_byte(1),
        evidence: Bytes::from_static(honest),
    };
    let reason = chain.view_error(PROOFS, other);
    assert!(reason.contains("it is of model root"), "{reason}");
}

#[test]
fn noise_is_refused() {
    let chain = Chain::started();
    for seed in 0..200u64 {
        let mut noise = b"lemmaev1".to_vec();
        let mut state = keccak256(seed.to_be_bytes());
        for _ in 0..seed {
            state = keccak256(state);
            noise.extend(state);
        }
        let request = to_proofs(verify(&noise));
        let result = chain.call(request);
        assert!(matches!(result, CallResult::Revert { .. }), "{result:?}");
    }
}

#[test]
fn what_is_not_of_the_receipt_is_refused() {
    let chain = chain();
    let honest = || accept(&receipt(|_| {}));
    let refuse = |call: acceptCall, expected: &str| {
        let reason = chain.view_error(PROOFS, call);
        assert!(reason.contains(expected), "{reason}");
    };
    refuse(
        accept(&receipt(|r| r.mode = Mode::Signed)),
        "its mode is another",
    );
    let other = Digest::of(b"another");
    refuse(
        accept(&receipt(|r| r.model_root = other)),
        "of another model",
    );
    let other = other.to_b256();
    refuse(
        accept(&receipt(|r| r.evidence = other)),
        "it names evidence",
    );
    let stranger = user(3).address;
    refuse(
        accept(&receipt(|r| r.worker = stranger)),
        "not by the receipt's worker",
    );
    let mut changed = receipt(|_| {});
    changed.receipt.usage_in += 1;
    refuse(accept(&changed), "not a receipt of this proof");
    let receipt = Bytes::from_static(&[1; 100]);
    refuse(
        acceptCall {
            receipt,
            ..honest()
        },
        "not a receipt with a signature",
    );

    let manifest = Manifest {
        format: Format::Onnx,
        ..manifest()
    };
    let manifest = Bytes::from(manifest.encode());
    refuse(
        acceptCall {
            manifest,
            ..honest()
        },
        "its digest is",
    );
    refuse(
        acceptCall {
            version: 2,
            ..honest()
        },
        "there is no version 2",
    );
    let name = "no/model".into();
    refuse(acceptCall { name, ..honest() }, "no model is registered");

    // Through a static call, nothing can be accepted.
    let mut chain = chain;
    let caller = chain.deploy(&user(0), CALLER);
    let data = honest().abi_encode().into();
    let forward = Caller::forwardStaticCall { to: PROOFS, data };
    let reason = chain.view_error(caller, forward);
    assert!(reason.contains("can not be called statically"), "{reason}");
}

#[test]
fn only_a_quantised_models_manifest_will_do() {
    let mut chain = Chain::started();
    let other = Manifest {
        format: Format::Onnx,
        ..manifest()
    };
    let register = ILemmaModels::registerCall {
        name: NAME.into(),
        manifest: other.root().to_b256(),
    };
    chain.transact(&user(0), MODELS, register).unwrap();
    let call = acceptCall {
        manifest: other.encode().into(),
        ..accept(&receipt(|_| {}))
    };
    let reason = chain.view_error(PROOFS, call);
    assert!(reason.contains("only a quantised model"), "{reason}");
}

#[test]
fn a_proof_fits_a_transaction_and_its_check_is_paid_for_first() {
    let chain = chain();
    let call = accept(&receipt(|_| {}));
    let raw = Draft::new(1).to(PROOFS).gas(16_000_000);
    let raw = raw.input(call.abi_encode()).raw(&user(0));
    assert!(raw.len() < MAX_TRANSACTION_BYTES, "{} bytes", raw.len());

    let mut estimate = chain.prepare(to_proofs(call.clone()));
    let Estimate::Gas(gas) = chain.run(&mut estimate, Call::estimate) else {
        panic!("fails")
    };
    // Half of a block at most: what the base fee aims at.
    assert!(gas < 15_000_000, "{gas}");

    // A damaged proof, by a contract that gives the check only so much gas: not enough for its work, and nothing is
    // found; a little more than enough, and the damage is.
    let work = Evidence::from_bytes(evidence()).unwrap();
    let work = work.verification().unwrap().work();
    assert!(gas > work, "{gas} {work}");
    let mut damaged = evidence().to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let reading = 100_000 + 40 * damaged.len().div_ceil(32) as u64;
    assert_eq!(answer_within(reading + work / 2, &damaged), 0);
    assert_ne!(answer_within(reading + work + 10_000, &damaged), 0);
}

/// The length of what the module returns to a contract that calls it with this gas.
fn answer_within(gas: u64, evidence: &[u8]) -> u64 {
    let mut chain = Chain::started();
    // CALLDATACOPY of all, STATICCALL with it, RETURNDATASIZE as the result.
    let [_, _, _, _, _, a, b, c] = gas.to_be_bytes();
    let head = [0x36, 0x5f, 0x5f, 0x37, 0x5f, 0x5f, 0x36, 0x5f, 0x73];
    let tail = [
        0x62, a, b, c, 0xfa, 0x50, 0x3d, 0x5f, 0x52, 0x60, 0x20, 0x5f, 0xf3,
    ];
    let code = [&head[..], PROOFS.as_slice(), &tail].concat();
    let deployed = chain.send(&user(0), TxKind::Create, deployer(&code));
    let request = CallRequest {
        to: deployed.contract_address,
        input: verify(evidence).abi_encode().into(),
        ..Default::default()
    };
    let CallResult::Success { output, .. } = chain.call(request) else {
        panic!("fails")
    };
    U256::from_be_slice(&output).to()
}
