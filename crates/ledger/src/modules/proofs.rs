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
    Digest, Manifest, Mode,
    manifest::Format,
    receipt::{Receipt, SignedReceipt},
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
            let [inputs, outputs] = verify(frame, call.root, &call.evidence)?;
            let hashes = verifyReturn { inputs, outputs };
            Ok(verifyCall::abi_encode_returns(&hashes))
        }
        Call::accept(call) => accept(frame, &call).map(|id| acceptCall::abi_encode_returns(&id)),
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
    Stop::error(ProofRefused {
        reason: reason.to_string(),
    })
}

/// Checks evidence; gives the hashes of its inputs and outputs.
fn verify(frame: &mut Frame<'_>, root: B256, bytes: &[u8]) -> Result<[B256; 2], Stop> {
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
    let statement = &evidence.statement;
    Ok([&statement.inputs, &statement.outputs].map(|tensors| hash(tensors)))
}

fn hash(tensors: &[Vec<i32>]) -> B256 {
    let mut hasher = Keccak256::new();
    for value in tensors.iter().flatten() {
        hasher.update(value.to_le_bytes());
    }
    hasher.finalize()
}

fn accept(frame: &mut Frame<'_>, call: &acceptCall) -> Result<B256, Stop> {
    frame.writable()?;
    let (digest, manifest) = manifest(frame, call)?;
    let evidence = Digest::of(&call.evidence).to_b256();
    let receipt = receipt(frame, &call.receipt, digest, evidence)?;
    let id = receipt.id();
    let slot = frame.slot("proof", &[id.as_slice()])?;
    let (before, height) = load(frame, slot)?;
    if !before.is_zero() {
        return Err(Stop::error(AlreadyAccepted { height }));
    }
    let [inputs, outputs] = verify(frame, manifest.graph_root.to_b256(), &call.evidence)?;
    let height = U256::from(frame.height());
    frame.store(slot, evidence.into())?;
    frame.store(slot.wrapping_add(U256::ONE), height)?;
    frame.emit(&ProofAccepted {
        receiptId: id,
        manifest: digest,
        worker: receipt.worker,
        evidence,
        inputs,
        outputs,
    })?;
    Ok(id)
}

/// The manifest of a registered version, by its digest.
fn manifest(frame: &mut Frame<'_>, call: &acceptCall) -> Result<(B256, Manifest), Stop> {
    let wrong = |reason: String| Stop::error(WrongManifest { reason });
    let registered = models::manifest_of(frame, &call.name, call.version)?;
    frame.charge_words(call.manifest.len(), WORD_GAS)?;
    let digest = Digest::of(&call.manifest).to_b256();
    if digest != registered {
        let reason = format!("its digest is {digest}, registered is {registered}");
        return Err(wrong(reason));
    }
    let manifest = Manifest::decode(&call.manifest).map_err(|error| wrong(error.to_string()))?;
    if manifest.format != Format::Integer {
        return Err(wrong("only a quantised model can be proved".into()));
    }
    Ok((digest, manifest))
}

/// A receipt that its worker signed for this model and evidence.
fn receipt(
    frame: &mut Frame<'_>,
    bytes: &Bytes,
    manifest: B256,
    evidence: B256,
) -> Result<Receipt, Stop> {
    let wrong = |reason: String| Stop::error(WrongReceipt { reason });
    let signed = SignedReceipt::decode(bytes)
        .ok_or_else(|| wrong("it is not a receipt with a signature".into()))?;
    frame.charge(RECOVERY_GAS)?;
    signed
        .verify_signature(frame.chain_id())
        .map_err(|error| wrong(error.to_string()))?;
    let receipt = signed.receipt;
    if receipt.mode != Mode::Proved {
        return Err(wrong("it names no proof: its mode is another".into()));
    }
    if receipt.model_root.to_b256() != manifest {
        return Err(wrong("it is of another model".into()));
    }
    if receipt.evidence != evidence {
        let named = receipt.evidence;
        return Err(wrong(format!("it names evidence {named}, not {evidence}")));
    }
    Ok(receipt)
}

/// Evidence and height of an accepted proof, or zeros.
fn load(frame: &mut Frame<'_>, slot: U256) -> Result<(B256, u64), Stop> {
    let evidence = frame.load(slot)?.into();
    Ok((evidence, frame.load_u64(slot.wrapping_add(U256::ONE))?))
}
