//! What must hold in every run.

use lemma_chain::{BlockId, ChainHandle};
use lemma_types::{B256, U256};

use crate::{
    client::{Clients, locate},
    cluster::{Cluster, Durable, VALIDATORS},
};

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Hashes over all events before and after the crash of everything: equal for runs of the same seed.
    pub auditor: [String; 2],
    /// Height that all validators have reached.
    pub height: u64,
    /// Hash of the block there.
    pub hash: B256,
    /// Root of the state there.
    pub state_root: B256,
    /// Transactions that clients were told are final.
    pub acknowledged: usize,
}

/// What must never be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Nothing happened in time.
    #[error("{0}: heights {1:?}")]
    Stuck(&'static str, Vec<u64>),
    /// Blocks became final without a quorum.
    #[error("blocks became final with two of four validators: heights {0:?}, then {1:?}")]
    NoQuorum(Vec<u64>, Vec<u64>),
    /// Two validators have different blocks.
    #[error("block {number} is {one} at one validator and {other} at another")]
    Fork {
        /// The height.
        number: u64,
        /// A validator's block.
        one: B256,
        /// Another's.
        other: B256,
    },
    /// A block is missing in a validator's history.
    #[error("validator {0} has no block {1}, but a higher head")]
    Gap(usize, u64),
    /// A validator forgot what it, or another, had shown as final.
    #[error("{0}")]
    Lost(Box<Lost>),
    /// Money came out of nothing, or went there.
    #[error(
        "the supply is {found} wei, but should be {expected} wei after {burned} wei were burned"
    )]
    Supply {
        /// All balances together.
        found: U256,
        /// What they should be.
        expected: U256,
        /// Base fees paid.
        burned: U256,
    },
    /// Validators went on although nothing could be written.
    #[error("no write has failed: heights {0:?}, then {1:?}")]
    NoFault(Vec<u64>, Vec<u64>),
    /// A validator does not answer.
    #[error("validator {0} is not running")]
    Down(usize),
    /// A block became final that no honest validator may vote for.
    #[error("block {0} is final, but it is not right")]
    Deceived(u64),
}

/// A transaction that was final and is not, or is elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("transaction {hash} was final in {told:?}, but validator {validator} has it in {found:?}")]
pub struct Lost {
    /// The transaction.
    pub hash: B256,
    /// Who has lost it.
    pub validator: usize,
    /// Where it was final: height and block.
    pub told: (u64, B256),
    /// Where it is now.
    pub found: Option<(u64, B256)>,
}

/// Checks everything at the end of a run, when nobody submits and these validators run.
///
/// Returns the height up to which they agree.
pub(crate) async fn judge(
    cluster: &Cluster,
    validators: &[usize],
    clients: &Clients,
    durable: &Durable,
) -> Result<u64, Violation> {
    let handles = validators
        .iter()
        .map(|index| cluster.handle(*index).ok_or(Violation::Down(*index)))
        .collect::<Result<Vec<_>, _>>()?;
    let height = handles
        .iter()
        .map(|handle| handle.head().number)
        .min()
        .unwrap_or(0);
    for number in 0..=height {
        one_block(&handles, number)?;
    }
    for (hash, told) in &clients.acknowledged {
        for (validator, handle) in handles.iter().enumerate() {
            let found = locate(handle, *hash);
            if found != Some(*told) {
                let (hash, told) = (*hash, *told);
                return Err(Violation::Lost(Box::new(Lost {
                    hash,
                    validator,
                    told,
                    found,
                })));
            }
        }
    }
    for handle in &handles {
        supply(handle, clients, durable).await?;
    }
    Ok(height)
}

/// All have the same block at a height; its hash covers the state's root.
fn one_block(handles: &[ChainHandle], number: u64) -> Result<(), Violation> {
    let mut first = None;
    for (index, handle) in handles.iter().enumerate() {
        let block = handle
            .block(BlockId::Number(number))
            .expect("an index in memory can be read");
        let other = block.ok_or(Violation::Gap(index, number))?.hash();
        let one = *first.get_or_insert(other);
        if one != other {
            return Err(Violation::Fork { number, one, other });
        }
    }
    Ok(())
}

/// All balances together are the genesis allocation less the base fees, which are burned.
async fn supply(
    handle: &ChainHandle,
    clients: &Clients,
    durable: &Durable,
) -> Result<(), Violation> {
    let mut burned = U256::ZERO;
    for number in 1..=handle.head().number {
        let block = handle
            .block(BlockId::Number(number))
            .expect("an index in memory can be read");
        let block = block.ok_or(Violation::Gap(0, number))?;
        let base_fee = block.header().base_fee_per_gas.unwrap_or_default();
        burned += U256::from(base_fee) * U256::from(block.header().gas_used);
    }
    let mut found = U256::ZERO;
    let holders = clients
        .addresses()
        .into_iter()
        .chain((0..VALIDATORS).map(Durable::beneficiary));
    for address in holders {
        found += handle
            .balance(address)
            .await
            .map_err(|_| Violation::Down(0))?;
    }
    let expected = durable.genesis.supply().unwrap_or_default() - burned;
    if found == expected {
        Ok(())
    } else {
        Err(Violation::Supply {
            found,
            expected,
            burned,
        })
    }
}
