//! The byte formats as vectors: one JSON value for each file of `tests/vectors/`.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::path::PathBuf;

use alloy_consensus::Header;
use lemma_types::{
    Address, Amount, B256, Bytes, Digest, Engine, Manifest, Mode, Receipt, TrustedRoot,
    block::{Extension, LogHead, Seed, StateTarget},
    commitment::{self, Openings},
    consensus_namespace, keccak256,
    keys::SecretKey,
    manifest::{File, Format, Royalty},
    merkle, receipt,
    settlement::{BatchRecord, history_leaf, receipt_leaf},
    tensor::{self, DType, Dim, TensorData, TensorSpec},
    text::{Finish, Message, Prompt, Role, Sampling, TextRequest, TextResponse},
    to_canonical_json,
};
use serde_json::{Value, json};

/// File names and contents.
pub fn all() -> Vec<(&'static str, Value)> {
    vec![
        ("amounts.json", amounts()),
        ("batch.json", batch()),
        ("commitments.json", commitments()),
        ("engine.json", engine()),
        ("header.json", header()),
        ("manifest.json", manifests()),
        ("merkle.json", merkle_trees()),
        ("modes.json", modes()),
        ("network.json", network()),
        ("receipt.json", signed(typical_receipt(), 8402)),
        ("receipt_extremes.json", signed(extreme_receipt(), u64::MAX)),
        ("tensors.json", tensors()),
        ("text.json", texts()),
    ]
}

pub fn path(file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "vectors", file]
        .iter()
        .collect()
}

fn hex(bytes: impl AsRef<[u8]>) -> Value {
    json!(Bytes::copy_from_slice(bytes.as_ref()))
}

fn amounts() -> Value {
    let units = [
        0,
        1,
        10,
        10u128.pow(17),
        10u128.pow(18),
        125 * 10u128.pow(16),
        u64::MAX.into(),
        u128::MAX,
    ];
    let cases = units.map(|units| {
        let amount = Amount::from_units(units);
        json!({ "units": units.to_string(), "text": amount.to_string(), "json": amount })
    });
    json!(cases)
}

fn modes() -> Value {
    let cases = Mode::ALL.map(|mode| json!({ "name": mode, "code": mode.code() }));
    json!(cases)
}

fn network() -> Value {
    let cases = [1, 8402, u64::MAX].map(|chain_id| {
        json!({
            "chain_id": chain_id,
            "consensus_namespace": hex(consensus_namespace(chain_id)),
            "trusted_root": TrustedRoot::new(chain_id, B256::repeat_byte(7), vec![9; 96].into()),
        })
    });
    json!(cases)
}

fn engine() -> Value {
    let engine = Engine {
        numeric_spec: 1,
        importer: 1,
        runtime: "lemma/0.1.0".to_owned(),
    };
    json!({
        "engine": engine,
        "canonical": String::from_utf8(to_canonical_json(&engine)).unwrap(),
        "id": engine.id(),
    })
}

pub fn full_manifest() -> Manifest {
    let spec = |name: &str, dtype, shape: &[Dim]| TensorSpec {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
    };
    let file = |path: &str, size| File {
        path: path.to_owned(),
        size,
        blake3: Digest::of(path.as_bytes()),
    };
    let batch = Dim::Symbol("batch".to_owned());
    Manifest {
        schema: Manifest::SCHEMA.to_owned(),
        format: Format::Onnx,
        files: vec![
            file("model.onnx", 40_123),
            file("weights/part-1.bin", (1 << 53) - 1),
        ],
        graph_root: Digest::of(b"graph"),
        importer: 1,
        inputs: vec![
            spec(
                "image",
                DType::F32,
                &[batch.clone(), Dim::Fixed(1), Dim::Fixed(8), Dim::Fixed(8)],
            ),
            spec("mask", DType::Bool, &[]),
        ],
        outputs: vec![spec("logits", DType::F32, &[batch, Dim::Fixed(10)])],
        compute_units: 3,
        licence: "MIT OR Apache-2.0".to_owned(),
        output_licence: "CC0-1.0".to_owned(),
        // What canonical JSON escapes, and what it does not.
        description: "Ziffern: \"acht\" \\ neun\n\u{7}\u{7f} é € \u{1f600} </script>".to_owned(),
        royalty: Some(Royalty {
            payee: Address::repeat_byte(0xab),
            basis_points: 250,
        }),
        parent: Some(Digest::of(b"parent")),
    }
}

fn manifests() -> Value {
    let full = full_manifest();
    let plain = Manifest {
        files: full.files[..1].to_vec(),
        description: String::new(),
        royalty: None,
        parent: None,
        ..full.clone()
    };
    let cases = [full, plain].map(|manifest| {
        json!({
            "canonical": String::from_utf8(manifest.encode()).unwrap(),
            "root": manifest.root(),
        })
    });
    json!(cases)
}

fn batch() -> Value {
    let typical = BatchRecord {
        index: 3,
        worker: Address::repeat_byte(0x51),
        root: B256::repeat_byte(0x52),
        count: 10_000,
        compute_units: 123_456,
        fees: Amount::from_units(9_000_000_000_000),
        height: 19,
    };
    let extreme = BatchRecord {
        index: u64::MAX,
        worker: Address::repeat_byte(0xff),
        root: B256::repeat_byte(0xff),
        count: u64::MAX,
        compute_units: u64::MAX,
        fees: Amount::from_units(u128::MAX),
        height: u64::MAX,
    };
    let cases = [typical, extreme].map(|record| {
        json!({ "record": record, "encoding": hex(record.encode()), "leaf": record.leaf() })
    });
    json!(cases)
}

/// Trees over the leaves `leaf_hash(i as 8 bytes, big-endian)`.
fn merkle_trees() -> Value {
    let cases = [0u64, 1, 2, 3, 4, 5, 7, 8, 13].map(|size| {
        let leaves: Vec<B256> = (0..size)
            .map(|i| merkle::leaf_hash(&i.to_be_bytes()))
            .collect();
        let paths: Vec<_> = (0..leaves.len())
            .map(|i| merkle::prove(&leaves, i).unwrap())
            .collect();
        json!({ "size": size, "leaves": leaves, "root": merkle::root(&leaves), "paths": paths })
    });
    let word = B256::repeat_byte(0x42);
    json!({
        "trees": cases,
        "leaves_of_a_word": {
            "word": word,
            "receipt_leaf": receipt_leaf(word),
            "history_leaf": history_leaf(word),
        },
    })
}

pub fn sample_tensors() -> Vec<TensorData> {
    let every_type = DType::ALL.map(|dtype| {
        let data = (0..3 * dtype.size()).map(|i| {
            if dtype == DType::Bool {
                i as u8 % 2
            } else {
                i as u8 * 9
            }
        });
        TensorData::new(dtype.name(), dtype, vec![3, 1], data.collect()).unwrap()
    });
    let floats = [
        0.0f32,
        -0.0,
        1.5,
        f32::MIN_POSITIVE / 2.0,
        f32::NEG_INFINITY,
        f32::NAN,
    ];
    let data = floats.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut tensors = every_type.to_vec();
    tensors.push(TensorData::new("zahlen é", DType::F32, vec![2, 3], data).unwrap());
    tensors.push(TensorData::new("", DType::I64, vec![], vec![1; 8]).unwrap());
    tensors.push(TensorData::new("empty", DType::F64, vec![5, 0, 2], vec![]).unwrap());
    tensors
}

fn tensors() -> Value {
    let show = |tensor: &TensorData| {
        json!({
            "name": tensor.name(),
            "datatype": tensor.dtype(),
            "shape": tensor.shape(),
            "data": hex(tensor.data()),
            "encoding": hex(tensor::encode(std::slice::from_ref(tensor))),
        })
    };
    let tensors = sample_tensors();
    json!({
        "codes": DType::ALL.map(|dtype| json!({ "datatype": dtype, "code": dtype.code(), "bytes": dtype.size() })),
        "tensors": tensors.iter().map(show).collect::<Vec<_>>(),
        "together": hex(tensor::encode(&tensors)),
        "none": hex(tensor::encode(&[])),
    })
}

fn commitments() -> Value {
    let secret = B256::repeat_byte(0x33);
    let openings = Openings::derive(secret);
    let tensors = sample_tensors();
    let (inputs, outputs) = tensors.split_at(2);
    let model = Digest::of(b"model");
    json!({
        "plain": {
            "tag": "lemma/test",
            "salt": secret,
            "content": "content",
            "commitment": commitment::commit("lemma/test", secret, b"content"),
        },
        "secret": secret,
        "openings": openings,
        "model": model,
        "inputs": hex(tensor::encode(inputs)),
        "outputs": hex(tensor::encode(outputs)),
        "request": commitment::tensor_request(openings.request, model, inputs),
        "response": commitment::tensor_response(openings.response, outputs),
        "transcript": commitment::tensor_transcript(openings.transcript, inputs, outputs),
    })
}

fn typical_receipt() -> Receipt {
    Receipt {
        request_id: B256::repeat_byte(0x01),
        model_root: Digest::of(b"manifest"),
        engine: B256::repeat_byte(0x02),
        request_commitment: B256::repeat_byte(0x03),
        response_commitment: B256::repeat_byte(0x04),
        transcript_root: B256::repeat_byte(0x05),
        usage_in: 64,
        usage_out: 10,
        compute_units: 1,
        price: Amount::from_units(1_250_000_000_000_000),
        payer: Address::repeat_byte(0x06),
        payment: B256::repeat_byte(0x07),
        mode: Mode::Signed,
        worker: worker().address(),
        anchor_height: 17,
        anchor_hash: B256::repeat_byte(0x08),
        completed_at: 1_763_600_000_123,
        previous_receipt: B256::repeat_byte(0x09),
        evidence: B256::ZERO,
    }
}

fn extreme_receipt() -> Receipt {
    let word = B256::repeat_byte(0xff);
    Receipt {
        request_id: word,
        model_root: word.into(),
        engine: word,
        request_commitment: word,
        response_commitment: word,
        transcript_root: word,
        usage_in: u64::MAX,
        usage_out: u64::MAX,
        compute_units: u64::MAX,
        price: Amount::from_units(u128::MAX),
        payer: Address::repeat_byte(0xff),
        payment: word,
        mode: Mode::Relayed,
        worker: worker().address(),
        anchor_height: u64::MAX,
        anchor_hash: word,
        completed_at: u64::MAX,
        previous_receipt: word,
        evidence: word,
    }
}

/// The first development account of every Ethereum tool.
fn worker() -> SecretKey {
    SecretKey::from_hex("0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")
        .unwrap()
}

fn signed(receipt: Receipt, chain_id: u64) -> Value {
    let key = worker();
    let typed_data = typed_data(&receipt, chain_id);
    let (struct_hash, digest) = (receipt.id(), receipt.signing_hash(chain_id));
    let signed = receipt.sign(chain_id, &key);
    json!({
        "chain_id": chain_id,
        "receipt": signed.receipt,
        "typed_data": typed_data,
        "domain_separator": receipt::domain(chain_id).separator(),
        "struct_hash": struct_hash,
        "digest": digest,
        "signature": signed.signature,
        "encoded": hex(signed.encode()),
        "address": key.address(),
        "private_key": key.to_bytes(),
    })
}

/// The fields of the struct, in order: name, type, value. Integers are decimal strings, since JSON numbers of many tools
/// are exact only below 2^53.
fn fields(receipt: &Receipt) -> [(&'static str, &'static str, Value); 19] {
    let integer = |value: u128| json!(value.to_string());
    [
        ("requestId", "bytes32", json!(receipt.request_id)),
        ("modelRoot", "bytes32", json!(receipt.model_root.to_b256())),
        ("engine", "bytes32", json!(receipt.engine)),
        (
            "requestCommitment",
            "bytes32",
            json!(receipt.request_commitment),
        ),
        (
            "responseCommitment",
            "bytes32",
            json!(receipt.response_commitment),
        ),
        ("transcriptRoot", "bytes32", json!(receipt.transcript_root)),
        ("usageIn", "uint64", integer(receipt.usage_in.into())),
        ("usageOut", "uint64", integer(receipt.usage_out.into())),
        (
            "computeUnits",
            "uint64",
            integer(receipt.compute_units.into()),
        ),
        ("price", "uint256", integer(receipt.price.units())),
        ("payer", "address", json!(receipt.payer)),
        ("payment", "bytes32", json!(receipt.payment)),
        ("mode", "uint8", integer(receipt.mode.code().into())),
        ("worker", "address", json!(receipt.worker)),
        (
            "anchorHeight",
            "uint64",
            integer(receipt.anchor_height.into()),
        ),
        ("anchorHash", "bytes32", json!(receipt.anchor_hash)),
        (
            "completedAt",
            "uint64",
            integer(receipt.completed_at.into()),
        ),
        (
            "previousReceipt",
            "bytes32",
            json!(receipt.previous_receipt),
        ),
        ("evidence", "bytes32", json!(receipt.evidence)),
    ]
}

/// As `eth_signTypedData_v4`, eth_account and ethers take it.
fn typed_data(receipt: &Receipt, chain_id: u64) -> Value {
    let fields = fields(receipt);
    let types = fields
        .clone()
        .map(|(name, kind, _)| json!({ "name": name, "type": kind }));
    let message: serde_json::Map<String, Value> = fields
        .into_iter()
        .map(|(name, _, value)| (name.to_owned(), value))
        .collect();
    json!({
        "types": {
            "EIP712Domain": [
                { "name": "name", "type": "string" },
                { "name": "version", "type": "string" },
                { "name": "chainId", "type": "uint256" },
            ],
            "LemmaReceipt": types,
        },
        "primaryType": "LemmaReceipt",
        "domain": { "name": "Lemma", "version": "1", "chainId": chain_id.to_string() },
        "message": message,
    })
}

fn header() -> Value {
    let seed = Seed {
        epoch: 1,
        view: 200,
        signature: vec![9; 48].into(),
    };
    let with_seed = Extension {
        epoch: 1,
        view: 201,
        parent_view: 200,
        leader: B256::repeat_byte(0x44),
        timestamp_ms: 1_763_600_002_345,
        state: StateTarget {
            ops_root: B256::repeat_byte(0x55),
            start: 3,
            end: 900,
        },
        batches: LogHead {
            size: 5,
            root: B256::repeat_byte(0x56),
        },
        history: LogHead {
            size: 21,
            root: B256::repeat_byte(0x57),
        },
        seed: Some(seed),
    };
    let first = Extension {
        epoch: 0,
        view: 1,
        parent_view: 0,
        batches: LogHead::empty(),
        history: LogHead {
            size: 1,
            root: B256::repeat_byte(0x58),
        },
        seed: None,
        ..with_seed.clone()
    };
    let cases = [with_seed, first].map(|extension| {
        let randomness = extension.seed.as_ref().map_or(B256::ZERO, Seed::randomness);
        let header = Header {
            parent_hash: B256::repeat_byte(0x61),
            number: extension.history.size,
            timestamp: extension.timestamp_ms / 1000,
            gas_limit: 30_000_000,
            gas_used: 21_000,
            state_root: B256::repeat_byte(0x66),
            mix_hash: randomness,
            extra_data: extension.commitment().to_vec().into(),
            base_fee_per_gas: Some(1_000_000_000),
            ..Header::default()
        };
        let rlp = alloy_rlp::encode(&header);
        json!({
            "extension": hex(extension.encode()),
            "commitment": extension.commitment(),
            "randomness": randomness,
            "header": hex(&rlp),
            "hash": keccak256(&rlp),
        })
    });
    json!(cases)
}

pub fn text_model() -> Manifest {
    Manifest {
        format: Format::Gguf,
        files: vec![File {
            path: "model.gguf".to_owned(),
            size: 1_000_000,
            blake3: Digest::of(b"gguf"),
        }],
        inputs: vec![],
        outputs: vec![],
        ..full_manifest()
    }
}

pub fn text_requests() -> [TextRequest; 3] {
    let message = Message::new;
    let request = |prompt, sampling, stop: &[&str]| TextRequest {
        schema: TextRequest::SCHEMA.to_owned(),
        prompt,
        sampling,
        max_tokens: 256,
        stop: stop.iter().map(|stop| (*stop).to_owned()).collect(),
        form: None,
        tools: None,
        logprobs: None,
    };
    let conversation = vec![
        message(Role::System, "Answer in one word.\n"),
        message(Role::User, "Schöne Grüße, \u{1f600}"),
        message(Role::Assistant, "Hallo"),
        message(Role::User, ""),
    ];
    let sampling = Sampling {
        seed: u64::MAX,
        temperature: 0.7,
        top_k: 40,
        top_p: 0.95,
        min_p: 1e-7,
        repetition_penalty: 1.1,
        presence_penalty: -2.0,
        frequency_penalty: 0.5,
        bias: [(7, -100.0), (50_256, 1.5)].into(),
    };
    [
        request(Prompt::Messages(conversation), sampling, &["\n\n", "END"]),
        request(Prompt::Text("Once".to_owned()), Sampling::default(), &[]),
        request(
            Prompt::Tokens(vec![0, 1, u32::MAX]),
            Sampling::default(),
            &[],
        ),
    ]
}

pub fn text_responses() -> [TextResponse; 3] {
    let response = |tokens: Vec<u32>, text: &str, finish| TextResponse {
        schema: TextResponse::SCHEMA.to_owned(),
        tokens,
        text: text.to_owned(),
        finish,
        prompt_tokens: 3,
        upstream: None,
        calls: vec![],
        logprobs: vec![],
    };
    [
        response(vec![5, 2], "Hallo", Finish::Token),
        response((0..130).collect(), "\u{fffd}", Finish::Text(1)),
        response(vec![u32::MAX], "", Finish::Length),
    ]
}

fn texts() -> Value {
    let salt = B256::repeat_byte;
    let model = text_model();
    let prompt = [1, 2, 3];
    let mut cases = Vec::new();
    for (request, response) in text_requests().iter().zip(&text_responses()) {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        cases.push(json!({
            "request": text(request.encode()),
            "response": text(response.encode()),
            "request_commitment": commitment::text_request(salt(1), model.root(), request),
            "response_commitment": commitment::text_response(salt(2), response),
            "transcript": commitment::text_transcript(salt(3), request, &prompt, response),
        }));
    }
    json!({ "model": text_model(), "root": model.root(), "prompt": prompt, "cases": cases })
}
