//! How receipts reach the ledger: in batches, a root and totals for each.

use alloy_sol_types::{SolValue, sol};
use serde::{Deserialize, Serialize};

use crate::{Address, Amount, B256, U256, merkle};

sol! {
    #[derive(Debug)]
    struct LemmaBatch {
        uint64 index;
        address worker;
        bytes32 root;
        uint64 count;
        uint64 computeUnits;
        uint256 fees;
        uint64 height;
    }
}

/// One settled batch: a leaf of the ledger's append-only batch log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchRecord {
    /// Position in the log.
    pub index: u64,
    /// Who settled it.
    pub worker: Address,
    /// Root of the tree over the receipts' ids.
    pub root: B256,
    /// Number of receipts.
    pub count: u64,
    /// Sum of their compute units.
    pub compute_units: u64,
    /// Sum of their prices.
    pub fees: Amount,
    /// Height of the block that settled it.
    pub height: u64,
}

impl BatchRecord {
    /// `abi.encode` of the record: seven words.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        LemmaBatch {
            index: self.index,
            worker: self.worker,
            root: self.root,
            count: self.count,
            computeUnits: self.compute_units,
            fees: U256::from(self.fees.units()),
            height: self.height,
        }
        .abi_encode()
    }

    /// The record's leaf in the batch log.
    #[must_use]
    pub fn leaf(&self) -> B256 {
        merkle::leaf_hash(&self.encode())
    }
}

/// The leaf of a receipt in its batch.
#[must_use]
pub fn receipt_leaf(receipt_id: B256) -> B256 {
    merkle::leaf_hash(receipt_id.as_slice())
}

/// The leaf of a block in the history log; its index is the block's height.
#[must_use]
pub fn history_leaf(block_hash: B256) -> B256 {
    merkle::leaf_hash(block_hash.as_slice())
}
