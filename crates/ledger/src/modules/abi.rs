//! The modules' interfaces, generated from the Solidity files: encode calls, decode results, events and
//! errors with these types.

use alloy_sol_types::{Panic, Revert, SolError, SolInterface, sol};

sol!(
    #[sol(all_derives)]
    "../../contracts/ILemmaModels.sol"
);
sol!(
    #[sol(all_derives)]
    "../../contracts/ILemmaNodes.sol"
);
sol!(
    #[sol(all_derives)]
    "../../contracts/ILemmaReceipts.sol"
);
sol!(
    #[sol(all_derives)]
    "../../contracts/ILemmaHistory.sol"
);
sol!(
    #[sol(all_derives)]
    "../../contracts/ILemmaProofs.sol"
);

/// What revert data says in words: a module's error, Solidity's `Error(string)` or `Panic`.
pub fn explain(output: &[u8]) -> Option<String> {
    models_error(output)
        .or_else(|| nodes_error(output))
        .or_else(|| receipts_error(output))
        .or_else(|| history_error(output))
        .or_else(|| proofs_error(output))
        .or_else(|| solidity_error(output))
}

fn solidity_error(output: &[u8]) -> Option<String> {
    let revert = Revert::abi_decode_validate(output).map(|revert| revert.reason);
    revert
        .or_else(|_| Panic::abi_decode_validate(output).map(|panic| panic.to_string()))
        .ok()
}

fn models_error(output: &[u8]) -> Option<String> {
    use ILemmaModels::ILemmaModelsErrors as E;
    Some(match E::abi_decode_validate(output).ok()? {
        E::InvalidName(e) => format!("not a model name: {}", e.reason),
        E::NotNamespaceOwner(e) => format!("namespace {} belongs to {}", e.namespace, e.owner),
        E::EmptyManifest(_) => "the manifest's digest is all zeros".into(),
        E::ManifestUnchanged(e) => format!("version {} has this manifest already", e.version),
        E::UnknownModel(e) => format!("no model is registered as {}", e.name),
        E::UnknownVersion(e) => {
            format!(
                "there is no version {}; the newest is {}",
                e.version, e.newest
            )
        }
        E::IndexOutOfRange(e) => out_of_range(e.index, e.count),
    })
}

fn nodes_error(output: &[u8]) -> Option<String> {
    use ILemmaNodes::ILemmaNodesErrors as E;
    Some(match E::abi_decode_validate(output).ok()? {
        E::InvalidEndpoint(e) => format!("not an endpoint: {}", e.reason),
        E::ZeroPayee(_) => "the payee is the zero address".into(),
        E::AlreadyRegistered(_) => "the node is registered already; update it instead".into(),
        E::NotRegistered(e) => format!("{} is not a registered node", e.node),
        E::IndexOutOfRange(e) => out_of_range(e.index, e.count),
    })
}

fn receipts_error(output: &[u8]) -> Option<String> {
    use ILemmaReceipts::ILemmaReceiptsErrors as E;
    Some(match E::abi_decode_validate(output).ok()? {
        E::NotActiveNode(e) => format!("{} is not a registered node", e.sender),
        E::EmptyBatch(_) => "a batch needs a root and at least one receipt".into(),
        E::AlreadySettled(e) => format!("this root was settled before, as batch {}", e.index),
        E::FeesTooLarge(e) => format!("fees of {} wei do not fit in 128 bits", e.fees),
        E::TotalsOverflow(_) => "the worker's totals would overflow".into(),
        E::IndexOutOfRange(e) => out_of_range(e.index, e.count),
    })
}

fn history_error(output: &[u8]) -> Option<String> {
    use ILemmaHistory::ILemmaHistoryErrors as E;
    Some(match E::abi_decode_validate(output).ok()? {
        E::UnknownBlock(e) => format!("block {} is not among the recent ones", e.height),
    })
}

fn proofs_error(output: &[u8]) -> Option<String> {
    use ILemmaProofs::ILemmaProofsErrors as E;
    Some(match E::abi_decode_validate(output).ok()? {
        E::ProofRefused(e) => format!("the proof is refused: {}", e.reason),
        E::WrongManifest(e) => format!("not the model's manifest: {}", e.reason),
        E::WrongReceipt(e) => format!("not a receipt of this proof: {}", e.reason),
        E::WrongOpening(e) => format!("the receipt is not opened: {}", e.reason),
        E::AlreadyAccepted(e) => {
            format!("the receipt's proof was accepted at height {}", e.height)
        }
    })
}

fn out_of_range(index: u64, count: u64) -> String {
    format!("index {index} is out of range: there are {count} entries")
}
