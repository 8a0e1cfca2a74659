//! secp256k1 keys, as Ethereum accounts use them.

use std::fmt;

use alloy_primitives::Signature;
use k256::ecdsa::SigningKey;

use crate::{Address, B256};

/// A secp256k1 secret key. Its text forms never show the secret.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

/// Why bytes or a text are not a [`SecretKey`]. Never quotes the input, which may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a secp256k1 secret key: expected 32 bytes (64 hexadecimal digits, with or without 0x), not zero, below the group order"
)]
pub struct SecretKeyError;

impl SecretKey {
    /// The key of these 32 bytes, which must be secret and uniformly random.
    ///
    /// # Errors
    /// If they are zero or not below the group order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, SecretKeyError> {
        SigningKey::from_slice(bytes)
            .map(Self)
            .map_err(|_| SecretKeyError)
    }

    /// Parses 64 hex digits, with or without `0x`.
    ///
    /// # Errors
    /// If the text is anything else.
    pub fn from_hex(text: &str) -> Result<Self, SecretKeyError> {
        let bytes: B256 = text.trim().parse().map_err(|_| SecretKeyError)?;
        Self::from_bytes(&bytes.0)
    }

    /// The secret itself, to be written to a key file.
    #[must_use]
    pub fn to_bytes(&self) -> B256 {
        B256::from_slice(&self.0.to_bytes())
    }

    /// The account of this key.
    #[must_use]
    pub fn address(&self) -> Address {
        Address::from_public_key(self.0.verifying_key())
    }

    /// Signs a 32-byte hash: deterministic (RFC 6979), low s (EIP-2).
    ///
    /// # Panics
    /// Never for a valid key: the only failure of the algorithm has probability 2^-256.
    #[must_use]
    pub fn sign(&self, hash: B256) -> Signature {
        let (signature, recovery) = self
            .0
            .sign_prehash_recoverable(hash.as_slice())
            .expect("signing a 32-byte hash does not fail");
        Signature::from((signature, recovery))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.address())
    }
}

/// The account that signed `hash`, or `None` if the signature is malformed or its s is high: one message has one
/// signature, so nobody can make a second from it.
#[must_use]
pub fn recover(hash: B256, signature: &[u8; 65]) -> Option<Address> {
    // 27 and 28 only, as in `eth_sign` and Solidity's ecrecover.
    if !matches!(signature[64], 27 | 28) {
        return None;
    }
    let signature = Signature::from_raw_array(signature).ok()?;
    if signature.normalize_s().is_some() {
        return None;
    }
    signature.recover_address_from_prehash(&hash).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_address_and_recovery() {
        // The first development account of every Ethereum tool.
        let key = SecretKey::from_hex(
            "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
        )
        .unwrap();
        assert_eq!(
            key.address().to_string(),
            "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
        );
        let hash = B256::repeat_byte(7);
        let bytes = key.sign(hash).as_bytes();
        assert_eq!(recover(hash, &bytes), Some(key.address()));
        assert_ne!(recover(B256::repeat_byte(8), &bytes), Some(key.address()));
        assert!(!format!("{key:?}").contains("ac0974"));
    }

    #[test]
    fn the_other_signature_of_the_same_message_is_refused() {
        let key = SecretKey::from_bytes(&[1; 32]).unwrap();
        let hash = B256::repeat_byte(7);
        let signature = key.sign(hash);
        let order = alloy_primitives::uint!(
            0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141_U256
        );
        let high = Signature::new(signature.r(), order - signature.s(), !signature.v());
        assert_eq!(recover(hash, &high.as_bytes()), None);
        let mut raw = signature.as_bytes();
        raw[64] -= 27;
        assert_eq!(recover(hash, &raw), None);
    }

    #[test]
    fn bad_keys_are_refused_and_not_quoted() {
        for bad in ["", "0x00", &"0".repeat(64), &"f".repeat(64), "zz"] {
            let error = SecretKey::from_hex(bad).unwrap_err().to_string();
            assert!(bad.len() < 3 || !error.contains(bad));
        }
    }
}
