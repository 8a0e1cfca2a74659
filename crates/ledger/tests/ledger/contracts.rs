//! The Solidity files, the committed ABIs and the Rust types say the same.

use alloy_primitives::{Address, keccak256};
use alloy_sol_types::SolInterface;
use lemma_ledger::modules::{
    self,
    abi::{
        ILemmaHistory::{ILemmaHistoryCalls, ILemmaHistoryErrors},
        ILemmaModels::{ILemmaModelsCalls, ILemmaModelsErrors, ILemmaModelsEvents},
        ILemmaNodes::{ILemmaNodesCalls, ILemmaNodesErrors, ILemmaNodesEvents},
        ILemmaProofs::{ILemmaProofsCalls, ILemmaProofsErrors, ILemmaProofsEvents},
        ILemmaReceipts::{ILemmaReceiptsCalls, ILemmaReceiptsErrors, ILemmaReceiptsEvents},
    },
};
use serde_json::Value;
use std::collections::BTreeSet;

type Selectors = BTreeSet<Vec<u8>>;

/// Selectors of all functions, errors, and topics of all events of a compiled interface.
fn compiled(json: &str) -> [Selectors; 3] {
    let entries: Vec<Value> = serde_json::from_str(json).unwrap();
    ["function", "error", "event"].map(|kind| {
        let entries = entries.iter().filter(|entry| entry["type"] == kind);
        let length = if kind == "event" { 32 } else { 4 };
        entries
            .map(|entry| keccak256(signature(entry))[..length].to_vec())
            .collect()
    })
}

fn signature(entry: &Value) -> String {
    let inputs = entry["inputs"].as_array().unwrap();
    let types: Vec<_> = inputs
        .iter()
        .map(|input| input["type"].as_str().unwrap())
        .collect();
    format!("{}({})", entry["name"].as_str().unwrap(), types.join(","))
}

fn selectors<I: SolInterface>() -> Selectors {
    (0..I::COUNT)
        .map(|i| I::selector_at(i).unwrap().to_vec())
        .collect()
}

fn topics(selectors: &[[u8; 32]]) -> Selectors {
    selectors.iter().map(|topic| topic.to_vec()).collect()
}

#[test]
fn committed_abis_match_the_types() {
    assert_eq!(
        compiled(include_str!("../../../../contracts/abi/ILemmaModels.json")),
        [
            selectors::<ILemmaModelsCalls>(),
            selectors::<ILemmaModelsErrors>(),
            topics(ILemmaModelsEvents::SELECTORS),
        ]
    );
    assert_eq!(
        compiled(include_str!("../../../../contracts/abi/ILemmaNodes.json")),
        [
            selectors::<ILemmaNodesCalls>(),
            selectors::<ILemmaNodesErrors>(),
            topics(ILemmaNodesEvents::SELECTORS),
        ]
    );
    assert_eq!(
        compiled(include_str!(
            "../../../../contracts/abi/ILemmaReceipts.json"
        )),
        [
            selectors::<ILemmaReceiptsCalls>(),
            selectors::<ILemmaReceiptsErrors>(),
            topics(ILemmaReceiptsEvents::SELECTORS),
        ]
    );
    assert_eq!(
        compiled(include_str!("../../../../contracts/abi/ILemmaHistory.json")),
        [
            selectors::<ILemmaHistoryCalls>(),
            selectors::<ILemmaHistoryErrors>(),
            topics(&[])
        ]
    );
    assert_eq!(
        compiled(include_str!("../../../../contracts/abi/ILemmaProofs.json")),
        [
            selectors::<ILemmaProofsCalls>(),
            selectors::<ILemmaProofsErrors>(),
            topics(ILemmaProofsEvents::SELECTORS),
        ]
    );
}

#[test]
fn solidity_has_the_same_addresses() {
    let source = include_str!("../../../../contracts/LemmaAddresses.sol");
    for (name, address) in [
        ("MODELS", modules::MODELS),
        ("NODES", modules::NODES),
        ("RECEIPTS", modules::RECEIPTS),
        ("HISTORY", modules::HISTORY),
        ("PROOFS", modules::PROOFS),
    ] {
        let line = source
            .lines()
            .find(|line| line.contains(&format!("{name} =")))
            .unwrap();
        let literal = line.rsplit(' ').next().unwrap().trim_end_matches(';');
        assert_eq!(literal.parse::<Address>().unwrap(), address);
        assert_eq!(literal, address.to_checksum(None));
    }
}
