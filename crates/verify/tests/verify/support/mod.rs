//! Complete bundles with real keys, real Merkle trees and real certificates of a dealt validator set.
//!
//! A [`Plan`] says how to build one; a test changes one thing before it builds, so that all the rest stays consistent with
//! the change and exactly one check has something to find.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

pub mod validators;

use alloy_consensus::Header;
use lemma_types::{
    Address, Amount, B256, Digest, Engine, Manifest, Mode, Receipt, SignedReceipt, TrustedRoot,
    block::{Extension, LogHead, Seed, StateTarget},
    bundle::{Bundle, Settlement},
    commitment::{self, Openings},
    keccak256,
    keys::SecretKey,
    manifest::{File, Format},
    merkle,
    settlement::{BatchRecord, history_leaf, receipt_leaf},
    tensor::{DType, Dim, TensorData, TensorSpec},
};
use lemma_verify::{Opened, Recompute, Recomputed, Report, Verifier};
use validators::{Round, Validators};

pub const CHAIN_ID: u64 = 8402;
/// Number of the header through which receipts are proved.
pub const HEIGHT: u64 = 21;
/// Where the ledger settled the batch.
pub const SETTLED: u64 = 19;
/// Where the receipt is anchored.
pub const ANCHOR: u64 = 17;
/// Leaves of the batch log, and which is the receipt's batch.
const BATCHES: u64 = 5;
const BATCH: u64 = 3;
/// Receipts of the batch, and which is ours.
const RECEIPTS: u64 = 9;
const RECEIPT: u64 = 6;

type Edit<T> = Box<dyn Fn(&mut T)>;
type Certify = Box<dyn Fn(&Validators, Round, B256) -> Vec<u8>>;

fn keep<T>() -> Edit<T> {
    Box::new(|_| ())
}

/// How to build a bundle. Edits run where the builder makes the thing, before anything is derived from it.
pub struct Plan {
    pub validators: Validators,
    pub worker: SecretKey,
    pub signer: SecretKey,
    pub signed_for: u64,
    pub engine: Engine,
    pub manifest: Manifest,
    pub inputs: Vec<TensorData>,
    pub outputs: Vec<TensorData>,
    pub receipt: Edit<Receipt>,
    pub batch: Edit<BatchRecord>,
    pub extension: Edit<Extension>,
    pub header: Edit<Header>,
    /// Makes the certificate; gets what the header needs.
    pub certify: Certify,
    /// Changes the finished bundle.
    pub bundle: Edit<Bundle>,
}

/// A bundle with what its owner knows.
pub struct Case {
    pub bundle: Bundle,
    pub root: TrustedRoot,
    pub inputs: Vec<TensorData>,
    pub outputs: Vec<TensorData>,
}

impl Default for Plan {
    fn default() -> Self {
        let worker = SecretKey::from_bytes(&[0x51; 32]).unwrap();
        Self {
            validators: Validators::deal(CHAIN_ID, 4, 1),
            signer: worker.clone(),
            worker,
            signed_for: CHAIN_ID,
            engine: Engine {
                numeric_spec: 1,
                importer: 1,
                runtime: "lemma/0.1.0".to_owned(),
            },
            manifest: manifest(),
            inputs: inputs(),
            outputs: outputs(),
            receipt: keep(),
            batch: keep(),
            extension: keep(),
            header: keep(),
            certify: Box::new(|validators, round, block| validators.finalize(round, block)),
            bundle: keep(),
        }
    }
}

/// A digits classifier: 8x8 pixels in, ten logits out.
pub fn manifest() -> Manifest {
    let batch = Dim::Symbol("batch".to_owned());
    let spec = |name: &str, dims: &[u64]| TensorSpec {
        name: name.to_owned(),
        dtype: DType::F32,
        shape: std::iter::once(batch.clone())
            .chain(dims.iter().map(|dim| Dim::Fixed(*dim)))
            .collect(),
    };
    Manifest {
        schema: Manifest::SCHEMA.to_owned(),
        format: Format::Onnx,
        files: vec![File {
            path: "model.onnx".to_owned(),
            size: 40_123,
            blake3: Digest::of(b"the model file"),
        }],
        graph_root: Digest::of(b"the canonical graph"),
        importer: 1,
        inputs: vec![spec("image", &[1, 8, 8])],
        outputs: vec![spec("logits", &[10])],
        compute_units: 1,
        licence: "MIT OR Apache-2.0".to_owned(),
        output_licence: "CC0-1.0".to_owned(),
        description: "A convolutional network that reads handwritten digits".to_owned(),
        royalty: None,
        parent: None,
    }
}

pub fn floats(name: &str, shape: &[u64], value: impl Fn(u64) -> f32) -> TensorData {
    let elements: u64 = shape.iter().product();
    let data = (0..elements).flat_map(|i| value(i).to_le_bytes()).collect();
    TensorData::new(name, DType::F32, shape.to_vec(), data).unwrap()
}

pub fn inputs() -> Vec<TensorData> {
    vec![floats("image", &[1, 1, 8, 8], |i| (i % 17) as f32 / 16.0)]
}

pub fn outputs() -> Vec<TensorData> {
    vec![floats("logits", &[1, 10], |i| i as f32 * 1.5 - 7.0)]
}

/// The hash of a made-up block.
pub fn block_hash(height: u64) -> B256 {
    keccak256([b"block ".as_slice(), &height.to_be_bytes()].concat())
}

impl Plan {
    pub fn build(self) -> Case {
        let openings = Openings::derive(B256::repeat_byte(0x33));
        let receipt = self.make_receipt(&openings);
        let receipts: Vec<B256> = (0..RECEIPTS)
            .map(|i| {
                if i == RECEIPT {
                    receipt.id()
                } else {
                    block_hash(1_000 + i)
                }
            })
            .map(receipt_leaf)
            .collect();
        let batch = self.make_batch(&receipt, merkle::root(&receipts));
        let batches: Vec<B256> = (0..BATCHES)
            .map(|i| {
                if i == BATCH {
                    batch.leaf()
                } else {
                    block_hash(2_000 + i)
                }
            })
            .collect();
        let history: Vec<B256> = (0..HEIGHT).map(|i| history_leaf(block_hash(i))).collect();
        let extension = self.make_extension(&batches, &history);
        let header = alloy_rlp::encode(self.make_header(&extension));
        let round = Round {
            epoch: extension.epoch,
            view: extension.view,
            parent: extension.parent_view,
        };
        let settlement = Settlement {
            batch,
            receipt_index: RECEIPT,
            receipt_path: merkle::prove(&receipts, RECEIPT as usize).unwrap(),
            batch_path: merkle::prove(&batches, BATCH as usize).unwrap(),
            anchor_path: merkle::prove(&history, ANCHOR as usize).unwrap(),
            finalization: (self.certify)(&self.validators, round, keccak256(&header)).into(),
            header: header.into(),
            extension: extension.encode().into(),
        };
        let mut bundle = Bundle {
            schema: Bundle::SCHEMA.to_owned(),
            chain_id: CHAIN_ID,
            receipt: receipt.sign(self.signed_for, &self.signer),
            engine: self.engine,
            manifest: self.manifest,
            openings: Some(openings),
            settlement: Some(settlement),
            proof: None,
        };
        (self.bundle)(&mut bundle);
        Case {
            bundle,
            root: TrustedRoot::new(CHAIN_ID, block_hash(0), self.validators.identity().into()),
            inputs: self.inputs,
            outputs: self.outputs,
        }
    }

    fn make_receipt(&self, openings: &Openings) -> Receipt {
        let elements = |tensors: &[TensorData]| tensors.iter().map(TensorData::elements).sum();
        let model_root = self.manifest.root();
        let (inputs, outputs) = (&self.inputs, &self.outputs);
        let mut receipt = Receipt {
            request_id: B256::repeat_byte(0x11),
            model_root,
            engine: self.engine.id(),
            request_commitment: commitment::tensor_request(openings.request, model_root, inputs),
            response_commitment: commitment::tensor_response(openings.response, outputs),
            transcript_root: commitment::tensor_transcript(openings.transcript, inputs, outputs),
            usage_in: elements(inputs),
            usage_out: elements(outputs),
            compute_units: 1,
            price: Amount::from_units(1_000_000_000_000),
            payer: Address::repeat_byte(0x77),
            payment: B256::ZERO,
            mode: Mode::Signed,
            worker: self.worker.address(),
            anchor_height: ANCHOR,
            anchor_hash: block_hash(ANCHOR),
            completed_at: 1_763_600_000_000,
            previous_receipt: B256::repeat_byte(0x22),
            evidence: B256::ZERO,
        };
        (self.receipt)(&mut receipt);
        receipt
    }

    fn make_batch(&self, receipt: &Receipt, root: B256) -> BatchRecord {
        let mut batch = BatchRecord {
            index: BATCH,
            worker: receipt.worker,
            root,
            count: RECEIPTS,
            compute_units: 9,
            fees: Amount::from_units(9_000_000_000_000),
            height: SETTLED,
        };
        (self.batch)(&mut batch);
        batch
    }

    fn make_extension(&self, batches: &[B256], history: &[B256]) -> Extension {
        let parent = Round {
            epoch: 0,
            view: 200,
            parent: 0,
        };
        let log = |leaves: &[B256]| LogHead {
            size: leaves.len() as u64,
            root: merkle::root(leaves),
        };
        let mut extension = Extension {
            epoch: 0,
            view: 201,
            parent_view: 200,
            leader: B256::repeat_byte(0x44),
            timestamp_ms: 1_763_600_002_345,
            state: StateTarget {
                ops_root: B256::repeat_byte(0x55),
                start: 3,
                end: 900,
            },
            batches: log(batches),
            history: log(history),
            seed: Some(Seed {
                epoch: parent.epoch,
                view: parent.view,
                signature: self.validators.seed(parent).into(),
            }),
        };
        (self.extension)(&mut extension);
        extension
    }

    fn make_header(&self, extension: &Extension) -> Header {
        let mut header = Header {
            parent_hash: block_hash(HEIGHT - 1),
            number: HEIGHT,
            timestamp: extension.timestamp_ms / 1000,
            gas_limit: 30_000_000,
            state_root: B256::repeat_byte(0x66),
            mix_hash: extension.seed.as_ref().map_or(B256::ZERO, Seed::randomness),
            extra_data: extension.commitment().to_vec().into(),
            base_fee_per_gas: Some(1_000_000_000),
            ..Header::default()
        };
        (self.header)(&mut header);
        header
    }
}

impl Case {
    pub fn new() -> Self {
        Plan::default().build()
    }

    pub fn verifier(&self) -> Verifier {
        Verifier::new(&self.root).unwrap()
    }

    /// What an owner opens who also ran the model again.
    pub fn opened(&self) -> Opened {
        Opened {
            inputs: Some(self.inputs.clone()),
            outputs: Some(self.outputs.clone()),
            recompute: Recompute::Done(self.recomputed()),
            ..Opened::default()
        }
    }

    pub fn recomputed(&self) -> Recomputed {
        Recomputed {
            graph_root: self.bundle.manifest.graph_root,
            numeric_spec: self.bundle.engine.numeric_spec,
            outputs: self.outputs.clone(),
        }
    }

    /// The report with everything opened.
    pub fn verify(&self) -> Report {
        self.verifier().verify(&self.bundle, &self.opened())
    }

    pub fn settlement(&mut self) -> &mut Settlement {
        self.bundle.settlement.as_mut().unwrap()
    }

    pub fn signed(&mut self) -> &mut SignedReceipt {
        &mut self.bundle.receipt
    }
}
