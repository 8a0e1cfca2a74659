//! Proofs of inference: a native verifier, and which receipts have an accepted proof.
//!
//! | slot | what |
//! | --- | --- |
//! | `proof(receipt id)` | BLAKE3 of the evidence; and in the next slot the height |
//!
//! The verifier decides by integers alone: see `lemma_proof`. Its work is known before it is done and paid for
//! first.

use super::{
    abi::ILemmaProofs::{self, *},
    frame::{Frame, Stop},
    log::Slots,
    models,
};
use alloy_primitives::{Address, B256, Bytes, Keccak256, U256};
use alloy_sol_types::{SolCall, SolInterface};
use lemma_proof::Evidence;
use lemma_types::{
    Digest, Manifest, Mode, commitment,
    manifest::Format,
    receipt::{Receipt, SignedReceipt},
    tensor::{self, TensorData},
};

/// Where the module lives.
pub const ADDRESS: Address = super::PROOFS;

/// Gas of reading evidence: its tables may be larger than their encoding.
const READ_GAS: u64 = 100_000;
/// Gas of each 32-byte word of evidence or manifest beside that of all call data: it is hashed twice and parsed.
const WORD_GAS: u64 = 24;
/// Gas of each multiplication of a verifier's work: 3 to 8 ns, by measurement (`docs/proof-system.md`, 6b).
const WORK_GAS: u64 = 1;
/// Gas of recovering a receipt's signer: Ethereum's for the same.
const RECOVERY_GAS: u64 = 3_000;

pub(super) fn call(frame: &mut Frame<'_>, data: &[u8]) -> Result<Vec<u8>, Stop> {
    use ILemmaProofs::ILemmaProofsCalls as Call;
    match Call::abi_decode_validate(data).map_err(|_| Frame::no_such_method())? {
        Call::verify(call) => {
            let [inputs, outputs] = hashes(&verify(frame, call.root, &call.evidence)?);
            let hashes = verifyReturn { inputs, outputs };
            Ok(verifyCall::abi_encode_returns(&hashes))
        }
        Call::accept(call) => accept(frame, &call).map(|id| acceptCall::abi_encode_returns(&id)),
        Call::raise(call) => raise(frame, &call).map(|id| raiseCall::abi_encode_returns(&id)),
        Call::proofOf(call) => {
            let slot = frame.slot("proof", &[call.receiptId.as_slice()])?;
            let (evidence, height) = load(frame, slot)?;
            Ok(proofOfCall::abi_encode_returns(&proofOfReturn {
                evidence,
                height,
            }))
        }
    }
}

fn refused(reason: impl ToString) -> Stop {
    let reason = reason.to_string();
    Stop::error(ProofRefused { reason })
}

fn wrong_receipt(reason: impl ToString) -> Stop {
    let reason = reason.to_string();
    Stop::error(WrongReceipt { reason })
}

fn wrong_opening(reason: impl ToString) -> Stop {
    let reason = reason.to_string();
    Stop::error(WrongOpening { reason })
}

/// Checks evidence; gives what it proves.
fn verify(frame: &mut Frame<'_>, root: B256, bytes: &[u8]) -> Result<Evidence, Stop> {
    frame.charge(READ_GAS)?;
    frame.charge_words(bytes.len(), WORD_GAS)?;
    let evidence = Evidence::from_bytes(bytes).map_err(refused)?;
    if evidence.model_root() != root.0 {
        let other = B256::from(evidence.model_root());
        return Err(refused(format!("it is of model root {other}, not {root}")));
    }
    let verification = evidence.verification().map_err(refused)?;
    frame.charge(verification.work().saturating_mul(WORK_GAS))?;
    verification.run().map_err(refused)?;
    Ok(evidence)
}

/// The hashes of a proof's inputs and outputs.
fn hashes(evidence: &Evidence) -> [B256; 2] {
    let statement = &evidence.statement;
    [&statement.inputs, &statement.outputs].map(|tensors| {
        let mut hasher = Keccak256::new();
        for value in tensors.iter().flatten() {
            hasher.update(value.to_le_bytes());
        }
        hasher.finalize()
    })
}

fn accept(frame: &mut Frame<'_>, call: &acceptCall) -> Result<B256, Stop> {
    frame.writable()?;
    let (digest, manifest) = manifest(frame, &call.name, call.version, &call.manifest)?;
    let evidence = Digest::of(&call.evidence).to_b256();
    let receipt = receipt(frame, &call.receipt, digest)?;
    if receipt.mode != Mode::Proved {
        let reason = "it names no proof: its mode is another, and it can only be raised";
        return Err(wrong_receipt(reason));
    }
    if receipt.evidence != evidence {
        let named = receipt.evidence;
        let reason = format!("it names evidence {named}, not {evidence}");
        return Err(wrong_receipt(reason));
    }
    let id = receipt.id();
    let slot = free(frame, id)?;
    let proof = verify(frame, manifest.graph_root.to_b256(), &call.evidence)?;
    record(frame, slot, evidence)?;
    let [inputs, outputs] = hashes(&proof);
    frame.emit(&ProofAccepted {
        receiptId: id,
        manifest: digest.to_b256(),
        worker: receipt.worker,
        evidence,
        inputs,
        outputs,
    })?;
    Ok(id)
}

fn raise(frame: &mut Frame<'_>, call: &raiseCall) -> Result<B256, Stop> {
    frame.writable()?;
    let (digest, manifest) = manifest(frame, &call.name, call.version, &call.manifest)?;
    let receipt = receipt(frame, &call.receipt, digest)?;
    if receipt.mode == Mode::Proved {
        return Err(wrong_receipt("its mode is `proved`: it has its own proof"));
    }
    let id = receipt.id();
    let slot = free(frame, id)?;
    let requested = opened(frame, call, &receipt)?;
    let proof = verify(frame, manifest.graph_root.to_b256(), &call.evidence)?;
    is_of(frame, &proof, &requested, call.responseSalt, &receipt)?;
    let evidence = Digest::of(&call.evidence).to_b256();
    record(frame, slot, evidence)?;
    let [inputs, outputs] = hashes(&proof);
    frame.emit(&ReceiptRaised {
        receiptId: id,
        manifest: digest.to_b256(),
        worker: receipt.worker,
        evidence,
        inputs,
        outputs,
    })?;
    Ok(id)
}

/// The tensors of a receipt's request, which its commitment and salt open.
fn opened(
    frame: &mut Frame<'_>,
    call: &raiseCall,
    receipt: &Receipt,
) -> Result<Vec<TensorData>, Stop> {
    frame.charge_words(call.inputs.len(), WORD_GAS)?;
    let tensors = tensor::decode(&call.inputs).map_err(wrong_opening)?;
    let committed = commitment::tensor_request(call.requestSalt, receipt.model_root, &tensors);
    if committed != receipt.request_commitment {
        return Err(wrong_opening("these inputs are not the receipt's request"));
    }
    Ok(tensors)
}

/// Whether a proof is of a receipt's request, as the model rounds it, and of its response.
fn is_of(
    frame: &mut Frame<'_>,
    proof: &Evidence,
    requested: &[TensorData],
    salt: B256,
    receipt: &Receipt,
) -> Result<(), Stop> {
    let (statement, skeleton) = (&proof.statement, proof.key.skeleton());
    let rounded = skeleton.round(requested).map_err(wrong_opening)?;
    if rounded.samples != statement.samples || rounded.inputs != statement.inputs {
        return Err(wrong_opening("the proof is of other inputs"));
    }
    for output in &statement.outputs {
        frame.charge_words(size_of_val(&output[..]).saturating_mul(2), WORD_GAS)?;
    }
    let outputs = skeleton
        .real_outputs(&statement.outputs, statement.samples)
        .map_err(wrong_opening)?;
    if commitment::tensor_response(salt, &outputs) != receipt.response_commitment {
        return Err(wrong_opening("the proof is of another response"));
    }
    Ok(())
}

/// The manifest of a registered version, and its digest.
fn manifest(
    frame: &mut Frame<'_>,
    name: &str,
    version: u64,
    bytes: &[u8],
) -> Result<(Digest, Manifest), Stop> {
    let wrong = |reason: String| Stop::error(WrongManifest { reason });
    let registered = models::manifest_of(frame, name, version)?;
    frame.charge_words(bytes.len(), WORD_GAS)?;
    let digest = Digest::of(bytes);
    if digest.to_b256() != registered {
        let reason = format!("its digest is {digest}, registered is {registered}");
        return Err(wrong(reason));
    }
    let manifest = Manifest::decode(bytes).map_err(|error| wrong(error.to_string()))?;
    if manifest.format != Format::Integer {
        return Err(wrong("only a quantised model can be proved".into()));
    }
    Ok((digest, manifest))
}

/// A receipt that its worker signed for this model.
fn receipt(frame: &mut Frame<'_>, bytes: &Bytes, manifest: Digest) -> Result<Receipt, Stop> {
    let signed = SignedReceipt::decode(bytes)
        .ok_or_else(|| wrong_receipt("it is not a receipt with a signature"))?;
    frame.charge(RECOVERY_GAS)?;
    signed
        .verify_signature(frame.chain_id())
        .map_err(wrong_receipt)?;
    if signed.receipt.model_root != manifest {
        return Err(wrong_receipt("it is of another model"));
    }
    Ok(signed.receipt)
}

/// The slot of a receipt of which no proof was accepted yet.
fn free(frame: &mut Frame<'_>, id: B256) -> Result<U256, Stop> {
    let slot = frame.slot("proof", &[id.as_slice()])?;
    let (before, height) = load(frame, slot)?;
    if !before.is_zero() {
        return Err(Stop::error(AlreadyAccepted { height }));
    }
    Ok(slot)
}

fn record(frame: &mut Frame<'_>, slot: U256, evidence: B256) -> Result<(), Stop> {
    let height = U256::from(frame.height());
    frame.store(slot, evidence.into())?;
    frame.store(slot.wrapping_add(U256::ONE), height)
}

/// Evidence and height of an accepted proof, or zeros.
fn load(frame: &mut Frame<'_>, slot: U256) -> Result<(B256, u64), Stop> {
    let evidence = frame.load(slot)?.into();
    Ok((evidence, frame.load_u64(slot.wrapping_add(U256::ONE))?))
}
