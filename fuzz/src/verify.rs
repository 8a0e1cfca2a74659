//! The offline verifier.

use std::sync::LazyLock;

use lemma_types::{B256, block, bundle::Bundle, keccak256};
use lemma_verify::{
    Opened, Verdict, Verifier,
    certificate::{NetworkKey, Proposal},
    decode_bundle, decode_trusted_root,
};

const BUNDLE: &[u8] = include_bytes!("../../crates/verify/tests/vectors/bundle.json");
const ROOT: &[u8] = include_bytes!("../../crates/verify/tests/vectors/trusted_root.json");

/// What the golden network's quorum signed.
struct Golden {
    bundle: Bundle,
    verifier: Verifier,
    key: NetworkKey,
    proposal: Proposal,
}

static GOLDEN: LazyLock<Golden> = LazyLock::new(|| {
    let root = decode_trusted_root(ROOT).expect("a golden vector");
    let bundle = decode_bundle(BUNDLE).expect("a golden vector");
    let settlement = bundle.settlement.as_ref().expect("it is settled");
    let extension = block::Extension::decode(&settlement.extension).expect("a golden vector");
    Golden {
        verifier: Verifier::new(&root).expect("a golden vector"),
        key: NetworkKey::new(root.chain_id, &root.network_key).expect("a golden vector"),
        proposal: Proposal {
            epoch: extension.epoch,
            view: extension.view,
            parent_view: extension.parent_view,
            block: keccak256(&settlement.header),
        },
        bundle,
    }
});

/// Bundles: nothing but the golden bundle verifies under the golden root. Salts may differ, since no content is opened.
pub fn bundle(data: &[u8]) -> bool {
    let report = GOLDEN.verifier.verify_bytes(data, &Opened::default());
    assert!(!report.render().is_empty());
    if report.verdict != Verdict::Verified {
        return false;
    }
    let accepted = decode_bundle(data).expect("what verifies can be read");
    let expected = Bundle {
        openings: accepted.openings,
        ..GOLDEN.bundle.clone()
    };
    assert_eq!(accepted, expected);
    true
}

/// Certificates: a quorum's signature over one block has one encoding.
pub fn certificate(data: &[u8]) -> bool {
    let golden = &*GOLDEN;
    let settlement = golden.bundle.settlement.as_ref().expect("it is settled");
    let accepted = golden
        .key
        .verify_finalization(&golden.proposal, data)
        .is_ok();
    assert_eq!(accepted, data == settlement.finalization.as_ref());
    let other = Proposal {
        block: B256::ZERO,
        ..golden.proposal
    };
    assert!(golden.key.verify_finalization(&other, data).is_err());
    accepted
}

/// Trusted roots: a key is accepted only if it is a point of the group.
pub fn trusted_root(data: &[u8]) -> bool {
    let Ok(root) = decode_trusted_root(data) else {
        return false;
    };
    if Verifier::new(&root).is_err() {
        return false;
    }
    assert_eq!(root.network_key.len(), 96);
    true
}
