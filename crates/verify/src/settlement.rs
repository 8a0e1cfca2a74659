//! From a receipt to a finality certificate.

use lemma_types::{
    B256, Receipt,
    block::{self, Extension},
    bundle::Settlement,
    keccak256, limits, merkle,
    settlement::{history_leaf, receipt_leaf},
};

use crate::{
    certificate::{NetworkKey, Proposal},
    report::{CheckName, Checks, Final, Finding, Problem},
};

/// The checks that settlement consists of, in their order.
const CHECKS: [CheckName; 6] = [
    CheckName::Batch,
    CheckName::Header,
    CheckName::BatchLog,
    CheckName::Anchor,
    CheckName::Heights,
    CheckName::Finality,
];

/// A header that decodes, with its extension.
struct Block {
    number: u64,
    hash: B256,
    extension: Extension,
    /// Whether the header commits to the extension.
    bound: bool,
}

/// Records all six checks as not made, for one reason.
pub(crate) fn skip(checks: &mut Checks, problem: &Problem) {
    for name in CHECKS {
        checks.record(name, Err(problem.clone()));
    }
}

/// Follows the receipt to the certificate. Returns the final block if header and certificate hold.
pub(crate) fn check(
    checks: &mut Checks,
    receipt: &Receipt,
    settlement: &Settlement,
    key: &NetworkKey,
    genesis: B256,
) -> Option<Final> {
    checks.record(CheckName::Batch, in_batch(receipt, settlement));
    let block = match decode(settlement) {
        Ok(block) => block,
        Err(problem) => {
            checks.record(CheckName::Header, Err(problem));
            let unreadable = Problem::Missing("the header cannot be read".to_owned());
            for name in &CHECKS[2..] {
                checks.record(*name, Err(unreadable.clone()));
            }
            return None;
        }
    };
    let header_holds = checks.record(CheckName::Header, belong_together(&block));
    checks.record(CheckName::BatchLog, in_batch_log(settlement, &block));
    checks.record(
        CheckName::Anchor,
        anchored(receipt, settlement, &block, genesis),
    );
    checks.record(CheckName::Heights, in_order(receipt, settlement, &block));
    let is_final = checks.record(CheckName::Finality, finalised(settlement, &block, key));
    (header_holds && is_final).then_some(Final {
        height: block.number,
        block: block.hash,
        timestamp_ms: block.extension.timestamp_ms,
    })
}

fn in_batch(receipt: &Receipt, settlement: &Settlement) -> Finding {
    let batch = &settlement.batch;
    if batch.worker != receipt.worker {
        return Err(Problem::Failed(format!(
            "the batch is of worker {}, the receipt of {}",
            batch.worker, receipt.worker
        )));
    }
    let leaf = receipt_leaf(receipt.id());
    let (index, path) = (settlement.receipt_index, &settlement.receipt_path);
    if !merkle::verify(leaf, index, batch.count, path, batch.root) {
        return Err(Problem::Failed(format!(
            "the path does not prove that the receipt is number {index} of {} in the batch",
            batch.count
        )));
    }
    if receipt.price > batch.fees || receipt.compute_units > batch.compute_units {
        return Err(Problem::Failed(
            "the receipt's price or compute units are more than the whole batch's".to_owned(),
        ));
    }
    Ok(format!(
        "number {index} of {} in the worker's batch",
        batch.count
    ))
}

fn decode(settlement: &Settlement) -> Result<Block, Problem> {
    let header = block::decode_header(&settlement.header)
        .map_err(|error| Problem::Failed(format!("the header is {error}")))?;
    let extension = Extension::decode(&settlement.extension)
        .map_err(|error| Problem::Failed(format!("the header's extension is {error}")))?;
    Ok(Block {
        number: header.number,
        // Decoding refuses every encoding but one, so these bytes are the header's RLP.
        hash: keccak256(&settlement.header),
        bound: block::header_commits_to(&header, &extension),
        extension,
    })
}

fn belong_together(block: &Block) -> Finding {
    if block.bound {
        return Ok(format!("block {} commits to its extension", block.number));
    }
    Err(Problem::Failed(
        "the header does not commit to the extension, or they differ in time, height or randomness"
            .to_owned(),
    ))
}

fn in_batch_log(settlement: &Settlement, block: &Block) -> Finding {
    let (batch, log) = (&settlement.batch, block.extension.batches);
    if merkle::verify(
        batch.leaf(),
        batch.index,
        log.size,
        &settlement.batch_path,
        log.root,
    ) {
        Ok(format!(
            "batch {} of {} in the ledger's log",
            batch.index, log.size
        ))
    } else {
        Err(Problem::Failed(format!(
            "the path does not prove that the batch is number {} of {} in the ledger's log",
            batch.index, log.size
        )))
    }
}

fn anchored(receipt: &Receipt, settlement: &Settlement, block: &Block, genesis: B256) -> Finding {
    let (height, hash, log) = (
        receipt.anchor_height,
        receipt.anchor_hash,
        block.extension.history,
    );
    if height == 0 && hash != genesis {
        return Err(Problem::Failed(format!(
            "the anchor is block 0 with hash {hash}, the trusted root's genesis is {genesis}"
        )));
    }
    let path = &settlement.anchor_path;
    if merkle::verify(history_leaf(hash), height, log.size, path, log.root) {
        Ok(format!("made after block {height} of this ledger"))
    } else {
        Err(Problem::Failed(format!(
            "the path does not prove that block {height} of the ledger is {hash}"
        )))
    }
}

/// A batch commits to its receipts, and a receipt to its anchor's hash: the anchor came strictly before.
fn in_order(receipt: &Receipt, settlement: &Settlement, block: &Block) -> Finding {
    let (anchor, batch, header) = (receipt.anchor_height, settlement.batch.height, block.number);
    if anchor < batch && batch <= header {
        Ok(format!("anchor {anchor}, settled {batch}, header {header}"))
    } else {
        Err(Problem::Failed(format!(
            "anchor {anchor}, settled {batch}, header {header}: the anchor must come before the batch and the \
             batch not after the header"
        )))
    }
}

fn finalised(settlement: &Settlement, block: &Block, key: &NetworkKey) -> Finding {
    if settlement.finalization.len() > limits::CERTIFICATE_BYTES {
        return Err(Problem::Failed(format!(
            "a certificate of {} bytes: at most {} are accepted",
            settlement.finalization.len(),
            limits::CERTIFICATE_BYTES
        )));
    }
    let proposal = Proposal {
        epoch: block.extension.epoch,
        view: block.extension.view,
        parent_view: block.extension.parent_view,
        block: block.hash,
    };
    key.verify_finalization(&proposal, &settlement.finalization)
        .map_err(Problem::failed)?;
    Ok(format!(
        "block {} is final: a quorum of validators signed it",
        block.number
    ))
}
