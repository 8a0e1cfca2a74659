//! `eth_gasPrice` and `eth_feeHistory`.

use lemma_chain::ExecutedBlock;
use serde_json::{Value, json};

use super::{Rpc, error::RpcError, hex::quantity, params::BlockTag};

/// Most blocks in a fee history.
const MAX_BLOCKS: u64 = 1024;

impl Rpc {
    /// The base fee of the next block: no tip is needed while blocks have room.
    pub(super) fn gas_price(&self) -> Result<Value, RpcError> {
        Ok(quantity(self.chain()?.head().next_base_fee))
    }

    pub(super) fn fee_history(
        &self,
        blocks: u64,
        newest: BlockTag,
        percentiles: Option<&[f64]>,
    ) -> Result<Value, RpcError> {
        let count = blocks.min(MAX_BLOCKS);
        let newest = self.find_block(newest)?;
        let newest = newest.ok_or_else(|| RpcError::server("the newest block does not exist"))?;
        if count == 0 {
            return Ok(json!({ "oldestBlock": "0x0", "gasUsedRatio": [], "baseFeePerGas": [] }));
        }
        let oldest = (newest.number() + 1).saturating_sub(count);
        let (mut base_fees, mut ratios, mut rewards) = (Vec::new(), Vec::new(), Vec::new());
        for number in oldest..=newest.number() {
            let block = self.find_block(BlockTag::Number(number))?;
            let block =
                block.ok_or_else(|| RpcError::internal(format!("block {number} is missing")))?;
            let header = block.header();
            base_fees.push(quantity(header.base_fee_per_gas.unwrap_or_default()));
            ratios.push(header.gas_used as f64 / header.gas_limit.max(1) as f64);
            if let Some(percentiles) = percentiles {
                rewards.push(reward(&block, percentiles));
            }
        }
        base_fees.push(quantity(self.base_fee_after(&newest)?));
        let mut history = json!({
            "oldestBlock": quantity(oldest),
            "baseFeePerGas": base_fees,
            "gasUsedRatio": ratios,
        });
        if percentiles.is_some() {
            history["reward"] = Value::Array(rewards);
        }
        Ok(history)
    }

    fn base_fee_after(&self, block: &ExecutedBlock) -> Result<u64, RpcError> {
        let chain = self.chain()?;
        let next = self.find_block(BlockTag::Number(block.number() + 1))?;
        Ok(match next.and_then(|next| next.header().base_fee_per_gas) {
            Some(base_fee) => base_fee,
            None => chain.head().next_base_fee,
        })
    }
}

/// The tips at these percentiles of the block's gas, in wei per gas.
fn reward(block: &ExecutedBlock, percentiles: &[f64]) -> Value {
    let base_fee = u128::from(block.header().base_fee_per_gas.unwrap_or_default());
    let tips = block.receipts().iter().map(|receipt| {
        (
            receipt.effective_gas_price.saturating_sub(base_fee),
            receipt.gas_used,
        )
    });
    tips_at(tips.collect(), percentiles)
        .into_iter()
        .map(quantity)
        .collect()
}

fn tips_at(mut tips: Vec<(u128, u64)>, percentiles: &[f64]) -> Vec<u128> {
    tips.sort_unstable();
    let total: u64 = tips.iter().map(|(_, gas)| gas).sum();
    percentiles
        .iter()
        .map(|percentile| {
            let threshold = (total as f64 * percentile / 100.0) as u64;
            let mut sum = 0;
            let reached = tips.iter().find(|(_, gas)| {
                sum += gas;
                sum >= threshold
            });
            reached.map_or(0, |(tip, _)| *tip)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_weighted_by_gas() {
        let tips = vec![(5, 10), (1, 80), (9, 10)];
        assert_eq!(tips_at(tips, &[0.0, 50.0, 85.0, 100.0]), [1, 1, 5, 9]);
        assert_eq!(tips_at(vec![], &[0.0, 100.0]), [0, 0]);
    }
}
