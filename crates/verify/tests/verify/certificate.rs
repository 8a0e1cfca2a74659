//! The certificate check accepts and refuses what the consensus engine itself accepts and refuses.

use crate::support::{
    CHAIN_ID,
    validators::{Round, Validators, engine_accepts},
};
use lemma_types::B256;
use lemma_verify::certificate::{CertificateError, NetworkKey, Proposal};
use proptest::prelude::*;

const ROUND: Round = Round {
    epoch: 0,
    view: 300,
    parent: 299,
};
const BLOCK: B256 = B256::repeat_byte(0xb1);

/// Our judgement, which must be the engine's.
fn check(
    chain_id: u64,
    identity: &[u8],
    round: Round,
    block: B256,
    bytes: &[u8],
) -> Result<(), CertificateError> {
    let proposal = Proposal {
        epoch: round.epoch,
        view: round.view,
        parent_view: round.parent,
        block,
    };
    let key = NetworkKey::new(chain_id, identity).unwrap();
    let ours = key.verify_finalization(&proposal, bytes);
    let engine = engine_accepts(chain_id, identity, round, block, bytes);
    assert_eq!(
        ours.is_ok(),
        engine,
        "ours: {ours:?}, the engine accepts: {engine}"
    );
    ours
}

#[test]
fn real_finalizations_are_accepted() {
    for count in [1, 4, 7] {
        let validators = Validators::deal(CHAIN_ID, count, count);
        let bytes = validators.finalize(ROUND, BLOCK);
        assert_eq!(
            check(CHAIN_ID, &validators.identity(), ROUND, BLOCK, &bytes),
            Ok(())
        );
    }
}

#[test]
fn every_length_of_round_is_encoded_as_the_engine_does() {
    let validators = Validators::deal(CHAIN_ID, 4, 1);
    let lengths = [
        0,
        1,
        0x7f,
        0x80,
        0x3fff,
        0x4000,
        1 << 35,
        u64::MAX - 1,
        u64::MAX,
    ];
    for (index, view) in lengths.into_iter().enumerate() {
        let epoch = lengths[lengths.len() - 1 - index];
        let round = Round {
            epoch,
            view,
            parent: view / 2,
        };
        let bytes = validators.finalize(round, BLOCK);
        assert_eq!(
            check(CHAIN_ID, &validators.identity(), round, BLOCK, &bytes),
            Ok(())
        );
    }
}

#[test]
fn another_key_or_network_is_refused() {
    let (ours, theirs) = (
        Validators::deal(CHAIN_ID, 4, 1),
        Validators::deal(CHAIN_ID, 4, 2),
    );
    let bytes = ours.finalize(ROUND, BLOCK);
    let forged = Err(CertificateError::Forged("vote"));
    assert_eq!(
        check(CHAIN_ID, &theirs.identity(), ROUND, BLOCK, &bytes),
        forged
    );
    assert_eq!(
        check(CHAIN_ID + 1, &ours.identity(), ROUND, BLOCK, &bytes),
        forged
    );
}

#[test]
fn a_notarization_is_no_finalization() {
    let validators = Validators::deal(CHAIN_ID, 4, 1);
    let bytes = validators.notarize(ROUND, BLOCK);
    let result = check(CHAIN_ID, &validators.identity(), ROUND, BLOCK, &bytes);
    assert_eq!(result, Err(CertificateError::Forged("vote")));
}

#[test]
fn another_block_or_round_is_refused() {
    let validators = Validators::deal(CHAIN_ID, 4, 1);
    let bytes = validators.finalize(ROUND, BLOCK);
    let refuse =
        |round, block| check(CHAIN_ID, &validators.identity(), round, block, &bytes).unwrap_err();
    assert!(matches!(
        refuse(ROUND, B256::ZERO),
        CertificateError::OtherBlock { .. }
    ));
    for round in [
        Round { epoch: 1, ..ROUND },
        Round { view: 301, ..ROUND },
        Round {
            parent: 298,
            ..ROUND
        },
    ] {
        assert!(matches!(
            refuse(round, BLOCK),
            CertificateError::OtherRound(_)
        ));
    }
}

#[test]
fn each_signature_is_checked() {
    let validators = Validators::deal(CHAIN_ID, 4, 1);
    let bytes = validators.finalize(ROUND, BLOCK);
    let identity = validators.identity();
    let refuse = |bytes: &[u8]| check(CHAIN_ID, &identity, ROUND, BLOCK, bytes).unwrap_err();
    let (proposal, signatures) = bytes.split_at(bytes.len() - 96);
    let (vote, seed) = signatures.split_at(48);

    let later = Round { view: 301, ..ROUND };
    let other_seed = [proposal, vote, &validators.seed(later)].concat();
    assert_eq!(refuse(&other_seed), CertificateError::Forged("seed"));
    let swapped = [proposal, seed, vote].concat();
    assert_eq!(refuse(&swapped), CertificateError::Forged("vote"));
    let twice = [proposal, vote, vote].concat();
    assert_eq!(refuse(&twice), CertificateError::Forged("seed"));

    let mut infinity = [0; 48];
    infinity[0] = 0xc0;
    assert_eq!(
        refuse(&[proposal, &infinity, seed].concat()),
        CertificateError::Malformed("vote")
    );
    assert_eq!(
        refuse(&[proposal, vote, &infinity].concat()),
        CertificateError::Malformed("seed")
    );
}

/// Errors in the two signatures that cancel out in their sum must not cancel out here.
#[test]
fn shifted_signatures_do_not_cancel_out() {
    use blst::min_sig::{AggregateSignature, Signature};
    let validators = Validators::deal(CHAIN_ID, 4, 1);
    let bytes = validators.finalize(ROUND, BLOCK);
    let point = |bytes: &[u8]| Signature::uncompress(bytes).unwrap();
    let (proposal, signatures) = bytes.split_at(bytes.len() - 96);
    let (vote, seed) = signatures.split_at(48);
    let shift = validators.seed(Round { view: 9, ..ROUND });
    let mut negative = shift.clone();
    negative[0] ^= 0x20; // the sign of y
    let add = |a: &[u8], b: &[u8]| {
        let sum = AggregateSignature::aggregate(&[&point(a), &point(b)], true).unwrap();
        sum.to_signature().compress()
    };
    let shifted = [proposal, &add(vote, &shift), &add(seed, &negative)].concat();
    let result = check(CHAIN_ID, &validators.identity(), ROUND, BLOCK, &shifted);
    assert_eq!(result, Err(CertificateError::Forged("vote")));
}

#[test]
fn every_flipped_bit_and_truncation_is_refused() {
    let validators = Validators::deal(CHAIN_ID, 4, 1);
    let (bytes, identity) = (validators.finalize(ROUND, BLOCK), validators.identity());
    let key = NetworkKey::new(CHAIN_ID, &identity).unwrap();
    let proposal = Proposal {
        epoch: 0,
        view: 300,
        parent_view: 299,
        block: BLOCK,
    };
    for bit in 0..bytes.len() * 8 {
        let mut forged = bytes.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        assert!(
            key.verify_finalization(&proposal, &forged).is_err(),
            "bit {bit}"
        );
    }
    for end in 0..bytes.len() {
        assert!(
            key.verify_finalization(&proposal, &bytes[..end]).is_err(),
            "{end} bytes"
        );
        assert!(
            key.verify_finalization(&proposal, &bytes[end + 1..])
                .is_err(),
            "from {end}"
        );
    }
    assert!(
        key.verify_finalization(&proposal, &[&bytes[..], &[0]].concat())
            .is_err()
    );
    assert!(
        key.verify_finalization(&proposal, &[&[0], &bytes[..]].concat())
            .is_err()
    );
}

#[test]
fn bad_network_keys_are_refused() {
    let identity = Validators::deal(CHAIN_ID, 4, 1).identity();
    assert!(NetworkKey::new(CHAIN_ID, &identity).is_ok());
    let mut infinity = vec![0; 96];
    infinity[0] = 0xc0;
    let uncompressed = blst::min_sig::PublicKey::uncompress(&identity)
        .unwrap()
        .serialize();
    for bad in [
        &[][..],
        &identity[1..],
        &[0; 96],
        &[0xff; 96],
        &infinity,
        &uncompressed,
    ] {
        assert!(NetworkKey::new(CHAIN_ID, bad).is_err(), "{bad:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_certificates_are_judged_as_the_engine_does(
        mutations in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        view in 0..1_000u64,
    ) {
        let validators = Validators::deal(CHAIN_ID, 4, 1);
        let round = Round { epoch: 0, view, parent: view / 3 };
        let mut bytes = validators.finalize(round, BLOCK);
        for (index, byte) in mutations {
            let position = index.index(bytes.len());
            bytes[position] = byte;
        }
        let _ = check(CHAIN_ID, &validators.identity(), round, BLOCK, &bytes);
    }
}
