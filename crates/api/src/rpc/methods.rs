//! What each method does, except for calls and fees.

use std::sync::Arc;

use alloy_primitives::{Address, B256, keccak256};
use lemma_chain::{BlockId, ChainError, ChainHandle, ExecutedBlock, LogFilter, LogLimits};
use lemma_ledger::Transaction;
use serde_json::{Value, json};

use super::{
    Rpc,
    calls::{Call, StateItem},
    error::RpcError,
    filter::{Blocks, Filter},
    hex::{data, quantity},
    objects::{self, Place},
    params::BlockTag,
};

/// Bounds of `eth_getLogs`.
const LOG_LIMITS: LogLimits = LogLimits {
    blocks: 10_000,
    logs: 10_000,
};

/// What the server calls itself.
fn client_version() -> String {
    format!(
        "lemma/v{}/{}-{}/rust",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        std::env::consts::OS
    )
}

impl Rpc {
    /// Carries a call out.
    pub(super) async fn carry_out(&self, call: Call) -> Result<Value, RpcError> {
        match call {
            Call::ClientVersion => Ok(json!(client_version())),
            Call::Keccak(bytes) => Ok(json!(keccak256(bytes))),
            Call::NetworkVersion => Ok(json!(self.chain_id.to_string())),
            Call::Listening => Ok(json!(true)),
            Call::ChainId => Ok(quantity(self.chain_id)),
            Call::Syncing => Ok(json!(false)),
            Call::Accounts => Ok(json!([])),
            Call::BlockNumber => Ok(quantity(self.chain()?.head().number)),
            Call::GasPrice => self.gas_price(),
            Call::PriorityFee => Ok(quantity(0u64)),
            Call::FeeHistory {
                blocks,
                newest,
                percentiles,
            } => self.fee_history(blocks, newest, percentiles.as_deref()),
            Call::State { address, item, at } => self.state(address, item, at).await,
            Call::Run { request, at } => self.run(request, at).await,
            Call::EstimateGas { request, at } => self.estimate_gas(request, at).await,
            Call::Send(raw) => self.send(&raw).await,
            Call::Transaction(hash) => self.transaction(hash),
            Call::TransactionAt { block, index } => self.transaction_at(block, index),
            Call::Receipt(hash) => self.receipt(hash),
            Call::Logs(filter) => self.logs(filter).await,
            Call::Block { block, full } => self.block(block, full),
            Call::BlockReceipts(block) => self.block_receipts(block),
            Call::TransactionCount(block) => self.transaction_count(block),
            Call::UncleCount(block) => self.uncle_count(block),
        }
    }

    /// Refuses to speak of the state at any block but the head.
    pub(super) fn at_head(&self, chain: &ChainHandle, tag: BlockTag) -> Result<(), RpcError> {
        let head = chain.head();
        let asked = match tag {
            BlockTag::Latest | BlockTag::Pending => return Ok(()),
            BlockTag::Number(number) if number == head.number => return Ok(()),
            BlockTag::Hash(hash) if hash == head.hash => return Ok(()),
            BlockTag::Number(number) if number > head.number => {
                return Err(RpcError::server(format!(
                    "block {number} does not exist yet: the head is {}",
                    head.number
                )));
            }
            BlockTag::Number(number) => number.to_string(),
            BlockTag::Hash(hash) => hash.to_string(),
        };
        Err(RpcError::server(format!(
            "the state at block {asked} is not kept: only the state at the head (block {}) is; ask for `latest`",
            head.number
        )))
    }

    async fn state(
        &self,
        address: Address,
        item: StateItem,
        at: BlockTag,
    ) -> Result<Value, RpcError> {
        let chain = self.chain()?;
        self.at_head(&chain, at)?;
        let value = match item {
            StateItem::Balance => chain.balance(address).await.map(quantity),
            StateItem::Code => chain.code(address).await.map(data),
            StateItem::Slot(slot) => {
                let word = chain.storage(address, slot).await;
                word.map(|word| data(word.to_be_bytes::<32>()))
            }
            StateItem::Nonce if at == BlockTag::Pending => {
                chain.pending_nonce(address).await.map(quantity)
            }
            StateItem::Nonce => chain.nonce(address).await.map(quantity),
        };
        value.map_err(chain_error)
    }

    async fn send(&self, raw: &[u8]) -> Result<Value, RpcError> {
        match self.chain()?.submit(raw).await {
            Ok(hash) => Ok(json!(hash)),
            Err(error) => Err(RpcError::server(error)),
        }
    }

    fn decode(&self, raw: &[u8]) -> Result<Transaction, RpcError> {
        Transaction::decode(raw, self.chain_id).map_err(RpcError::internal)
    }

    fn transaction(&self, hash: B256) -> Result<Value, RpcError> {
        let chain = self.chain()?;
        if let Some(found) = chain.transaction(hash).map_err(chain_error)? {
            let place = Place {
                block: &found.block,
                index: found.index,
            };
            return Ok(objects::transaction(
                &self.decode(found.raw())?,
                Some(&place),
            ));
        }
        Ok(match chain.pending(hash) {
            Some(waiting) => objects::transaction(&waiting, None),
            None => Value::Null,
        })
    }

    fn receipt(&self, hash: B256) -> Result<Value, RpcError> {
        let Some(found) = self.chain()?.transaction(hash).map_err(chain_error)? else {
            return Ok(Value::Null);
        };
        let place = Place {
            block: &found.block,
            index: found.index,
        };
        Ok(objects::receipt(
            &self.decode(found.raw())?,
            found.receipt(),
            &place,
        ))
    }

    pub(super) fn find_block(&self, tag: BlockTag) -> Result<Option<Arc<ExecutedBlock>>, RpcError> {
        let id = match tag {
            // What waits for a block is not a block.
            BlockTag::Latest | BlockTag::Pending => BlockId::Latest,
            BlockTag::Number(number) => BlockId::Number(number),
            BlockTag::Hash(hash) => BlockId::Hash(hash),
        };
        self.chain()?.block(id).map_err(chain_error)
    }

    fn block(&self, tag: BlockTag, full: bool) -> Result<Value, RpcError> {
        let Some(block) = self.find_block(tag)? else {
            return Ok(Value::Null);
        };
        let transactions = if full {
            self.transactions(&block)?
        } else {
            let hashes = block.transactions().iter().map(|raw| json!(keccak256(raw)));
            hashes.collect()
        };
        let size = alloy_rlp::encode(block.header()).len()
            + block
                .transactions()
                .iter()
                .map(|raw| raw.len())
                .sum::<usize>();
        Ok(objects::block(&block, transactions, size))
    }

    fn transactions(&self, block: &ExecutedBlock) -> Result<Vec<Value>, RpcError> {
        (0..block.transactions().len())
            .map(|index| {
                let place = Place { block, index };
                let transaction = self.decode(&block.transactions()[index])?;
                Ok(objects::transaction(&transaction, Some(&place)))
            })
            .collect()
    }

    fn block_receipts(&self, tag: BlockTag) -> Result<Value, RpcError> {
        let Some(block) = self.find_block(tag)? else {
            return Ok(Value::Null);
        };
        let transactions = block
            .transactions()
            .iter()
            .zip(block.receipts())
            .enumerate();
        transactions
            .map(|(index, (raw, receipt))| {
                let place = Place {
                    block: &block,
                    index,
                };
                Ok(objects::receipt(&self.decode(raw)?, receipt, &place))
            })
            .collect()
    }

    fn transaction_count(&self, tag: BlockTag) -> Result<Value, RpcError> {
        let block = self.find_block(tag)?;
        Ok(block.map_or(Value::Null, |block| quantity(block.transactions().len())))
    }

    fn uncle_count(&self, tag: BlockTag) -> Result<Value, RpcError> {
        Ok(self
            .find_block(tag)?
            .map_or(Value::Null, |_| quantity(0u64)))
    }

    fn transaction_at(&self, tag: BlockTag, index: u64) -> Result<Value, RpcError> {
        let Some(block) = self.find_block(tag)? else {
            return Ok(Value::Null);
        };
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let Some(raw) = block.transactions().get(index) else {
            return Ok(Value::Null);
        };
        let place = Place {
            block: &block,
            index,
        };
        Ok(objects::transaction(&self.decode(raw)?, Some(&place)))
    }

    async fn logs(&self, filter: Filter) -> Result<Value, RpcError> {
        let chain = self.chain()?;
        let head = chain.head().number;
        let (from, to) = match filter.blocks {
            Blocks::Range(from, to) => (from.unwrap_or(head), to.unwrap_or(head)),
            Blocks::Hash(hash) => {
                let block = chain.block(BlockId::Hash(hash)).map_err(chain_error)?;
                let number = block
                    .ok_or_else(|| RpcError::server("unknown block"))?
                    .number();
                (number, number)
            }
        };
        let filter = LogFilter {
            from,
            to,
            addresses: filter.addresses,
            topics: filter.topics,
        };
        let found = chain.logs(filter, LOG_LIMITS).await.map_err(chain_error)?;
        Ok(found.iter().map(objects::found_log).collect())
    }
}

pub(super) fn chain_error(error: ChainError) -> RpcError {
    match error {
        ChainError::Logs(refused) => RpcError::limit(refused),
        other => RpcError::internal(other),
    }
}
