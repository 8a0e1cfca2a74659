//! Decoding: what is a transaction of this network and what is not, and why.

use crate::support::*;
use alloy_consensus::{SignableTransaction, TxEip4844, TxEnvelope};
use alloy_eips::{eip2718::Encodable2718, eip2930::AccessList};
use alloy_primitives::{Address, B256, Bytes, Signature, U256, keccak256};
use lemma_ledger::{MAX_AUTHORIZATIONS, MAX_TRANSACTION_BYTES, Transaction, TransactionError};
use proptest::prelude::*;

fn decode(raw: &[u8]) -> Result<Transaction, TransactionError> {
    Transaction::decode(raw, CHAIN_ID)
}

#[test]
fn all_supported_types_decode_to_their_sender() {
    let sender = user(0);
    let draft = Draft::new(5).value(U256::from(9)).input(vec![1, 2, 3]);
    let raws = [
        (0, encode(draft.clone().legacy(Some(CHAIN_ID)), &sender)),
        (
            1,
            encode(
                draft.clone().with_access_list(AccessList::default()),
                &sender,
            ),
        ),
        (2, draft.clone().raw(&sender)),
        (
            4,
            encode(draft.delegating(&[(&user(1), 0, Address::ZERO)]), &sender),
        ),
    ];
    for (kind, raw) in raws {
        let transaction = decode(&raw).unwrap();
        assert_eq!(transaction.kind(), kind);
        assert_eq!(transaction.sender(), sender.address);
        assert_eq!(transaction.hash(), keccak256(&raw));
        assert_eq!(transaction.raw().as_ref(), raw);
        assert_eq!(
            (transaction.nonce(), transaction.value()),
            (5, U256::from(9))
        );
        assert_eq!(transaction.input().as_ref(), [1, 2, 3]);
    }
}

#[test]
fn the_wrong_chain_is_named() {
    let raw = Draft::new(0).chain(1).raw(&user(0));
    let error = decode(&raw).unwrap_err();
    assert_eq!(
        error,
        TransactionError::WrongChainId {
            expected: CHAIN_ID,
            found: 1
        }
    );
    let text = error.to_string();
    assert!(
        text.contains("chain id 1,") && text.contains("8402"),
        "{text}"
    );

    let raw = encode(Draft::new(0).legacy(Some(2)), &user(0));
    assert_eq!(
        decode(&raw),
        Err(TransactionError::WrongChainId {
            expected: CHAIN_ID,
            found: 2
        })
    );
    let raw = encode(Draft::new(0).legacy(None), &user(0));
    assert_eq!(
        decode(&raw),
        Err(TransactionError::NoChainId { expected: CHAIN_ID })
    );
}

#[test]
fn blobs_and_unknown_types_are_refused() {
    let blob = TxEip4844 {
        chain_id: CHAIN_ID,
        blob_versioned_hashes: vec![B256::with_last_byte(1)],
        ..TxEip4844::default()
    };
    let signature = user(0).key.sign(blob.signature_hash());
    let raw = TxEnvelope::from(blob.into_signed(signature)).encoded_2718();
    assert_eq!(decode(&raw), Err(TransactionError::UnsupportedType(3)));
    assert_eq!(
        decode(&[5, 0xc0]),
        Err(TransactionError::UnsupportedType(5))
    );
}

#[test]
fn sizes_are_bounded() {
    let raw = vec![2; MAX_TRANSACTION_BYTES + 1];
    assert_eq!(
        decode(&raw),
        Err(TransactionError::TooLarge(MAX_TRANSACTION_BYTES + 1))
    );
    let fits = Draft::new(0)
        .input(vec![7; MAX_TRANSACTION_BYTES - 200])
        .raw(&user(0));
    assert!(decode(&fits).is_ok());
}

#[test]
fn authorizations_are_bounded() {
    let with = |count: usize| {
        let authority = user(1);
        let list = vec![(&authority, 0, Address::ZERO); count];
        decode(&encode(Draft::new(0).delegating(&list), &user(0)))
    };
    assert!(with(MAX_AUTHORIZATIONS).is_ok());
    let over = MAX_AUTHORIZATIONS + 1;
    assert_eq!(
        with(over),
        Err(TransactionError::TooManyAuthorizations(over))
    );
}

#[test]
fn each_transaction_has_one_encoding() {
    let raw = Draft::new(0).raw(&user(0));
    let with = |bytes: &[u8]| [raw.as_slice(), bytes].concat();
    assert!(matches!(
        decode(&with(&[0])),
        Err(TransactionError::Malformed(_))
    ));
    assert!(matches!(
        decode(&raw[..raw.len() - 1]),
        Err(TransactionError::Malformed(_))
    ));
    assert!(matches!(decode(&[]), Err(TransactionError::Malformed(_))));
    // The network form wraps typed transactions in a string; it is not what is signed and hashed.
    let wrapped = alloy_rlp::encode(Bytes::from(raw));
    assert!(decode(&wrapped).is_err());
}

#[test]
fn signatures_are_not_malleable() {
    let order = U256::from_be_slice(&alloy_primitives::hex!(
        "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"
    ));
    let draft = Draft::new(0).0;
    let low = user(0).key.sign(draft.signature_hash());
    let high = Signature::new(low.r(), order - low.s(), !low.v());
    let raw = TxEnvelope::from(draft.clone().into_signed(high)).encoded_2718();
    assert_eq!(decode(&raw), Err(TransactionError::HighS));

    let none = Signature::new(U256::ZERO, U256::ZERO, false);
    let raw = TxEnvelope::from(draft.into_signed(none)).encoded_2718();
    assert_eq!(decode(&raw), Err(TransactionError::BadSignature));
}

#[test]
fn prices_follow_the_base_fee() {
    let transaction = Draft::new(0)
        .gas(100)
        .fees(10, 3)
        .value(U256::from(7))
        .sign(&user(0));
    assert_eq!(transaction.effective_gas_price(5), Some(8));
    assert_eq!(transaction.effective_tip(5), Some(3));
    assert_eq!(transaction.effective_tip(9), Some(1));
    assert_eq!(transaction.effective_tip(10), Some(0));
    assert_eq!(transaction.effective_tip(11), None);
    assert_eq!(transaction.max_cost(), U256::from(1007));
}

proptest! {
    #[test]
    fn decoding_never_panics(raw in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&raw);
    }

    /// Whatever decodes after a change has another hash or was not changed: no two forms of one transaction.
    #[test]
    fn changed_bytes_never_pass_for_the_original(at in 0usize..100, to: u8) {
        let mut raw = Draft::new(1).input(vec![9; 20]).raw(&user(0));
        let original = decode(&raw).unwrap();
        let at = at % raw.len();
        raw[at] = to;
        if let Ok(changed) = decode(&raw) {
            prop_assert_eq!(changed == original, changed.hash() == original.hash());
            prop_assert_eq!(changed.raw().as_ref() == original.raw().as_ref(), changed == original);
            prop_assert!(changed == original || changed.sender() != original.sender());
        }
    }
}
