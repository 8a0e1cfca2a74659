//! Receipts: what a worker signs for each inference.
//!
//! A receipt is a fixed-size EIP-712 struct, so ethers, viem, eth_account or a contract on any EVM chain check it with
//! their own tools. Its id is its EIP-712 struct hash; it is never edited. Later facts are separate statements that point
//! to the id.

use alloy_sol_types::{Eip712Domain, SolStruct, SolValue, eip712_domain, sol};
use serde::{Deserialize, Serialize};

use crate::{Address, Amount, B256, Bytes, Digest, Mode, U256, keys, keys::SecretKey};

sol! {
    /// The signed struct. Field order and names are frozen: they are part of the EIP-712 type hash.
    #[derive(Debug)]
    struct LemmaReceipt {
        bytes32 requestId;
        bytes32 modelRoot;
        bytes32 engine;
        bytes32 requestCommitment;
        bytes32 responseCommitment;
        bytes32 transcriptRoot;
        uint64 usageIn;
        uint64 usageOut;
        uint64 computeUnits;
        uint256 price;
        address payer;
        bytes32 payment;
        uint8 mode;
        address worker;
        uint64 anchorHeight;
        bytes32 anchorHash;
        uint64 completedAt;
        bytes32 previousReceipt;
        bytes32 evidence;
    }
}

/// What a worker states about one inference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// Chosen by the client or its gateway; unique for each worker: two receipts with one id are equivocation.
    pub request_id: B256,
    /// BLAKE3 of the model's manifest.
    pub model_root: Digest,
    /// Id of the [`Engine`](crate::Engine).
    pub engine: B256,
    /// Salted commitment to the canonical request.
    pub request_commitment: B256,
    /// Salted commitment to the canonical response.
    pub response_commitment: B256,
    /// Root of the salted transcript, which a replay opens piece by piece.
    pub transcript_root: B256,
    /// What came in: elements of tensors, or tokens.
    pub usage_in: u64,
    /// What went out: elements of tensors, or tokens.
    pub usage_out: u64,
    /// Work, in units of 10^6 operations of the canonical graph, rounded up.
    pub compute_units: u64,
    /// Price of the whole request.
    pub price: Amount,
    /// Who pays; zero if nobody does.
    pub payer: Address,
    /// Reference to the payment; zero if there is none.
    pub payment: B256,
    /// What backs the result.
    pub mode: Mode,
    /// Who ran it: the account of the signing key.
    pub worker: Address,
    /// Height of a recent finalised block.
    pub anchor_height: u64,
    /// Hash of that block: the receipt was not made before it.
    pub anchor_hash: B256,
    /// When the worker says that it completed, milliseconds since the Unix epoch.
    pub completed_at: u64,
    /// Id of the worker's receipt before this one, zero for its first: omissions show.
    pub previous_receipt: B256,
    /// keccak-256 of the evidence beside the receipt, zero if the mode has none.
    pub evidence: B256,
}

/// The EIP-712 domain of receipts on the network with this chain id.
#[must_use]
pub fn domain(chain_id: u64) -> Eip712Domain {
    eip712_domain! { name: "Lemma", version: "1", chain_id: chain_id, }
}

impl Receipt {
    /// The struct as Solidity sees it.
    #[must_use]
    pub fn to_sol(&self) -> LemmaReceipt {
        LemmaReceipt {
            requestId: self.request_id,
            modelRoot: self.model_root.to_b256(),
            engine: self.engine,
            requestCommitment: self.request_commitment,
            responseCommitment: self.response_commitment,
            transcriptRoot: self.transcript_root,
            usageIn: self.usage_in,
            usageOut: self.usage_out,
            computeUnits: self.compute_units,
            price: U256::from(self.price.units()),
            payer: self.payer,
            payment: self.payment,
            mode: self.mode.code(),
            worker: self.worker,
            anchorHeight: self.anchor_height,
            anchorHash: self.anchor_hash,
            completedAt: self.completed_at,
            previousReceipt: self.previous_receipt,
            evidence: self.evidence,
        }
    }

    /// The receipt that Solidity's struct stands for; `None` if a price or mode is none of ours.
    #[must_use]
    pub fn from_sol(receipt: &LemmaReceipt) -> Option<Self> {
        Some(Self {
            request_id: receipt.requestId,
            model_root: receipt.modelRoot.into(),
            engine: receipt.engine,
            request_commitment: receipt.requestCommitment,
            response_commitment: receipt.responseCommitment,
            transcript_root: receipt.transcriptRoot,
            usage_in: receipt.usageIn,
            usage_out: receipt.usageOut,
            compute_units: receipt.computeUnits,
            price: Amount::from_units(receipt.price.try_into().ok()?),
            payer: receipt.payer,
            payment: receipt.payment,
            mode: Mode::from_code(receipt.mode)?,
            worker: receipt.worker,
            anchor_height: receipt.anchorHeight,
            anchor_hash: receipt.anchorHash,
            completed_at: receipt.completedAt,
            previous_receipt: receipt.previousReceipt,
            evidence: receipt.evidence,
        })
    }

    /// The receipt's id: its EIP-712 struct hash. Leaf of the batch tree.
    #[must_use]
    pub fn id(&self) -> B256 {
        self.to_sol().eip712_hash_struct()
    }

    /// The 32 bytes that are signed (EIP-712 §"Specification", `encode`).
    #[must_use]
    pub fn signing_hash(&self, chain_id: u64) -> B256 {
        self.to_sol().eip712_signing_hash(&domain(chain_id))
    }

    /// Signs with the worker's key.
    #[must_use]
    pub fn sign(self, chain_id: u64, key: &SecretKey) -> SignedReceipt {
        let signature = key.sign(self.signing_hash(chain_id)).as_bytes();
        SignedReceipt {
            receipt: self,
            signature: signature.to_vec().into(),
        }
    }
}

/// A receipt and the worker's signature over it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedReceipt {
    /// What was signed.
    pub receipt: Receipt,
    /// 65 bytes: r, s (low), v (27 or 28).
    pub signature: Bytes,
}

/// Why a signature does not stand for a receipt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not 65 bytes with a low s and v of 27 or 28.
    #[error("the signature is malformed: expected 65 bytes r, s, v with low s and v of 27 or 28")]
    Malformed,
    /// Another key signed, or the receipt was changed after it was signed.
    #[error(
        "signed by {signer}, not by the receipt's worker {worker}: another key, another network, or a changed receipt"
    )]
    WrongSigner {
        /// Who signed.
        signer: Address,
        /// Who should have.
        worker: Address,
    },
}

impl SignedReceipt {
    /// Length of [`encode`](Self::encode): nineteen words and a signature.
    pub const ENCODED_BYTES: usize = 19 * 32 + 65;

    /// The compact form for storage: `abi.encode` of the struct, then the signature.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.receipt.to_sol().abi_encode();
        bytes.extend_from_slice(&self.signature);
        bytes
    }

    /// Decodes what [`encode`](Self::encode) wrote; `None` for anything else. Does not check the signature.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::ENCODED_BYTES {
            return None;
        }
        let (words, signature) = bytes.split_at(Self::ENCODED_BYTES - 65);
        let receipt = Receipt::from_sol(&LemmaReceipt::abi_decode_validate(words).ok()?)?;
        Some(Self {
            receipt,
            signature: signature.to_vec().into(),
        })
    }

    /// Checks that the receipt's worker signed it for this network.
    ///
    /// # Errors
    /// See [`SignatureError`].
    pub fn verify_signature(&self, chain_id: u64) -> Result<(), SignatureError> {
        let signature = self
            .signature
            .as_ref()
            .try_into()
            .map_err(|_| SignatureError::Malformed)?;
        let signer = keys::recover(self.receipt.signing_hash(chain_id), signature)
            .ok_or(SignatureError::Malformed)?;
        if signer != self.receipt.worker {
            return Err(SignatureError::WrongSigner {
                signer,
                worker: self.receipt.worker,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compact_form_round_trips_and_is_strict() {
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        let word = B256::repeat_byte;
        let receipt = Receipt {
            request_id: word(1),
            model_root: Digest::of(b"model"),
            engine: word(2),
            request_commitment: word(3),
            response_commitment: word(4),
            transcript_root: word(5),
            usage_in: 64,
            usage_out: 10,
            compute_units: u64::MAX,
            price: Amount::from_units(u128::MAX),
            payer: Address::repeat_byte(6),
            payment: word(7),
            mode: Mode::Signed,
            worker: key.address(),
            anchor_height: 8,
            anchor_hash: word(9),
            completed_at: 1_700_000_000_000,
            previous_receipt: word(10),
            evidence: B256::ZERO,
        };
        let signed = receipt.sign(1, &key);
        let bytes = signed.encode();
        assert_eq!(bytes.len(), SignedReceipt::ENCODED_BYTES);
        assert_eq!(SignedReceipt::decode(&bytes), Some(signed));
        for length in [0, bytes.len() - 1] {
            assert_eq!(SignedReceipt::decode(&bytes[..length]), None);
        }
        let mut bad = bytes;
        bad[12 * 32 + 31] = 0; // the mode's code
        assert_eq!(SignedReceipt::decode(&bad), None);
    }
}
