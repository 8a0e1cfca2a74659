//! The base fee from block to block.

use crate::Genesis;
use alloy_eips::eip1559::{BaseFeeParams, calc_next_block_base_fee};

/// The base fee (wei per gas) of the block after a parent: EIP-1559 with Ethereum's parameters
/// (target half of the limit, at most an eighth up or down), never below the genesis' floor.
///
/// The first block (height 1) takes [`Genesis::base_fee`].
pub fn next_base_fee(
    genesis: &Genesis,
    parent_gas_used: u64,
    parent_gas_limit: u64,
    parent_base_fee: u64,
) -> u64 {
    calc_next_block_base_fee(
        parent_gas_used,
        parent_gas_limit,
        parent_base_fee,
        BaseFeeParams::ethereum(),
    )
    .max(genesis.min_base_fee)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn follows_demand_and_keeps_the_floor() {
        let mut genesis = Genesis::development(1, 0, BTreeMap::new());
        genesis.min_base_fee = 900;
        let limit = 30_000_000;
        assert_eq!(next_base_fee(&genesis, limit / 2, limit, 1000), 1000);
        assert_eq!(next_base_fee(&genesis, limit, limit, 1000), 1125);
        assert_eq!(next_base_fee(&genesis, 0, limit, 1100), 963);
        assert_eq!(next_base_fee(&genesis, 0, limit, 1000), 900);
    }
}
