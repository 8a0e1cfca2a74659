//! The methods, except for calls and fees.

use std::sync::Arc;

use alloy_primitives::{B256, keccak256};
use lemma_chain::{BlockId, ChainError, ChainHandle, ExecutedBlock, LogFilter, LogLimits};
use lemma_ledger::Transaction;
use serde_json::{Value, json};

use super::{
    Rpc,
    error::RpcError,
    hex::{data, parse_address, parse_b256, quantity},
    objects::{self, Place},
    params::{BlockTag, Params, parse_block},
};

/// Bounds of `eth_getLogs`.
const LOG_LIMITS: LogLimits = LogLimits {
    blocks: 10_000,
    logs: 10_000,
};
/// Most addresses, or alternatives for one topic, in a filter.
const MAX_FILTER_TERMS: usize = 256;

/// Every method that is answered.
const METHODS: [&str; 30] = [
    "eth_accounts",
    "eth_blockNumber",
    "eth_call",
    "eth_chainId",
    "eth_estimateGas",
    "eth_feeHistory",
    "eth_gasPrice",
    "eth_getBalance",
    "eth_getBlockByHash",
    "eth_getBlockByNumber",
    "eth_getBlockReceipts",
    "eth_getBlockTransactionCountByHash",
    "eth_getBlockTransactionCountByNumber",
    "eth_getCode",
    "eth_getLogs",
    "eth_getStorageAt",
    "eth_getTransactionByBlockHashAndIndex",
    "eth_getTransactionByBlockNumberAndIndex",
    "eth_getTransactionByHash",
    "eth_getTransactionCount",
    "eth_getTransactionReceipt",
    "eth_getUncleCountByBlockHash",
    "eth_getUncleCountByBlockNumber",
    "eth_maxPriorityFeePerGas",
    "eth_sendRawTransaction",
    "eth_syncing",
    "net_listening",
    "net_version",
    "web3_clientVersion",
    "web3_sha3",
];

/// The method's name if it is one, for metrics: strangers must not make labels.
pub(super) fn known(method: &str) -> &'static str {
    METHODS
        .into_iter()
        .find(|known| *known == method)
        .unwrap_or("unknown")
}

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
    pub(super) async fn dispatch(&self, method: &str, params: &Params) -> Result<Value, RpcError> {
        match method {
            "web3_clientVersion" => Ok(json!(client_version())),
            "web3_sha3" => Ok(json!(keccak256(params.bytes(0)?))),
            "net_version" => Ok(json!(self.chain_id.to_string())),
            "net_listening" => Ok(json!(true)),
            "eth_chainId" => Ok(quantity(self.chain_id)),
            "eth_syncing" => Ok(json!(false)),
            "eth_accounts" => Ok(json!([])),
            "eth_blockNumber" => Ok(quantity(self.chain()?.head().number)),
            "eth_gasPrice" => self.gas_price(),
            "eth_maxPriorityFeePerGas" => Ok(quantity(0u64)),
            "eth_feeHistory" => self.fee_history(params),
            "eth_getBalance" | "eth_getTransactionCount" | "eth_getCode" | "eth_getStorageAt" => {
                self.state(method, params).await
            }
            "eth_call" => self.call(params).await,
            "eth_estimateGas" => self.estimate_gas(params).await,
            "eth_sendRawTransaction" => self.send(params).await,
            "eth_getTransactionByHash" => self.transaction(params),
            "eth_getTransactionReceipt" => self.receipt(params),
            "eth_getLogs" => self.logs(params).await,
            _ => self.dispatch_block(method, params),
        }
    }

    fn dispatch_block(&self, method: &str, params: &Params) -> Result<Value, RpcError> {
        let by_hash = |params: &Params| params.hash(0).map(BlockTag::Hash);
        match method {
            "eth_getBlockByNumber" => self.block(params.block(0)?, params.flag(1)?),
            "eth_getBlockByHash" => self.block(by_hash(params)?, params.flag(1)?),
            "eth_getBlockReceipts" => self.block_receipts(params.block(0)?),
            "eth_getBlockTransactionCountByNumber" => self.transaction_count(params.block(0)?),
            "eth_getBlockTransactionCountByHash" => self.transaction_count(by_hash(params)?),
            "eth_getUncleCountByBlockNumber" => self.uncle_count(params.block(0)?),
            "eth_getUncleCountByBlockHash" => self.uncle_count(by_hash(params)?),
            "eth_getTransactionByBlockNumberAndIndex" => {
                self.transaction_at(params.block(0)?, params.number(1, "index")?)
            }
            "eth_getTransactionByBlockHashAndIndex" => {
                self.transaction_at(by_hash(params)?, params.number(1, "index")?)
            }
            _ => Err(RpcError::unknown_method(method)),
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

    async fn state(&self, method: &str, params: &Params) -> Result<Value, RpcError> {
        let chain = self.chain()?;
        let address = params.address(0)?;
        let block_index = if method == "eth_getStorageAt" { 2 } else { 1 };
        params.at_most(block_index + 1)?;
        let tag = params.block(block_index)?;
        self.at_head(&chain, tag)?;
        let value = match method {
            "eth_getBalance" => chain.balance(address).await.map(quantity),
            "eth_getCode" => chain.code(address).await.map(data),
            "eth_getStorageAt" => {
                let word = chain.storage(address, params.slot(1)?).await;
                word.map(|word| data(word.to_be_bytes::<32>()))
            }
            _ if tag == BlockTag::Pending => chain.pending_nonce(address).await.map(quantity),
            _ => chain.nonce(address).await.map(quantity),
        };
        value.map_err(chain_error)
    }

    async fn send(&self, params: &Params) -> Result<Value, RpcError> {
        params.at_most(1)?;
        let raw = params.bytes(0)?;
        match self.chain()?.submit(&raw).await {
            Ok(hash) => Ok(json!(hash)),
            Err(error) => Err(RpcError::server(error)),
        }
    }

    fn decode(&self, raw: &[u8]) -> Result<Transaction, RpcError> {
        Transaction::decode(raw, self.chain_id).map_err(RpcError::internal)
    }

    fn transaction(&self, params: &Params) -> Result<Value, RpcError> {
        let chain = self.chain()?;
        let hash = params.hash(0)?;
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

    fn receipt(&self, params: &Params) -> Result<Value, RpcError> {
        let Some(found) = self
            .chain()?
            .transaction(params.hash(0)?)
            .map_err(chain_error)?
        else {
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

    async fn logs(&self, params: &Params) -> Result<Value, RpcError> {
        let chain = self.chain()?;
        let Some(filter) = self.filter(&chain, params)? else {
            return Err(RpcError::server("unknown block"));
        };
        let found = chain.logs(filter, LOG_LIMITS).await.map_err(chain_error)?;
        Ok(found.iter().map(objects::found_log).collect())
    }

    fn filter(&self, chain: &ChainHandle, params: &Params) -> Result<Option<LogFilter>, RpcError> {
        let object = params.object(0, "filter")?;
        let wrong = |name: &str, reason: String| {
            RpcError::invalid_params(format!("invalid filter: {name}: {reason}"))
        };
        let head = chain.head().number;
        let number = |name: &str| match object.get(name).filter(|value| !value.is_null()) {
            None => Ok(head),
            Some(value) => match parse_block(value).map_err(|reason| wrong(name, reason))? {
                BlockTag::Latest | BlockTag::Pending => Ok(head),
                BlockTag::Number(number) => Ok(number),
                BlockTag::Hash(_) => Err(wrong(name, "expected a height or a tag".to_owned())),
            },
        };
        let (from, to) = match object.get("blockHash").filter(|value| !value.is_null()) {
            None => (number("fromBlock")?, number("toBlock")?),
            Some(_) if object.contains_key("fromBlock") || object.contains_key("toBlock") => {
                return Err(wrong(
                    "blockHash",
                    "it excludes fromBlock and toBlock".to_owned(),
                ));
            }
            Some(hash) => {
                let hash: B256 = parse_b256(hash).map_err(|reason| wrong("blockHash", reason))?;
                match chain.block(BlockId::Hash(hash)).map_err(chain_error)? {
                    Some(block) => (block.number(), block.number()),
                    None => return Ok(None),
                }
            }
        };
        let addresses = one_or_many(object.get("address"), parse_address)
            .map_err(|reason| wrong("address", reason))?;
        let topics =
            parse_topics(object.get("topics")).map_err(|reason| wrong("topics", reason))?;
        Ok(Some(LogFilter {
            from,
            to,
            addresses,
            topics,
        }))
    }
}

/// Each position holds null (anything), a topic, or a list of alternatives.
fn parse_topics(value: Option<&Value>) -> Result<[Vec<B256>; 4], String> {
    let mut topics = [const { Vec::new() }; 4];
    let positions = match value {
        None | Some(Value::Null) => return Ok(topics),
        Some(Value::Array(positions)) if positions.len() <= topics.len() => positions,
        Some(_) => return Err("expected a list of at most 4 positions".to_owned()),
    };
    for (topic, position) in topics.iter_mut().zip(positions) {
        // A null among alternatives stands for anything.
        let anything = position
            .as_array()
            .is_some_and(|list| list.iter().any(Value::is_null));
        if !anything {
            *topic = one_or_many(Some(position), parse_b256)?;
        }
    }
    Ok(topics)
}

fn one_or_many<T>(
    value: Option<&Value>,
    parse: impl Fn(&Value) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(values)) if values.len() > MAX_FILTER_TERMS => Err(format!(
            "{} alternatives: at most {MAX_FILTER_TERMS} are accepted",
            values.len()
        )),
        Some(Value::Array(values)) => values.iter().map(parse).collect(),
        Some(value) => parse(value).map(|value| vec![value]),
    }
}

pub(super) fn chain_error(error: ChainError) -> RpcError {
    match error {
        ChainError::Logs(refused) => RpcError::limit(refused),
        other => RpcError::internal(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_sorted_and_strangers_make_no_labels() {
        assert!(METHODS.is_sorted());
        assert_eq!(known("eth_call"), "eth_call");
        assert_eq!(known("eth_callx"), "unknown");
    }

    #[test]
    fn topics_take_every_form() {
        let (a, b) = (B256::repeat_byte(1), B256::repeat_byte(2));
        let parse = |value: Value| parse_topics(Some(&value));
        assert_eq!(
            parse(json!([a, null, [a, b]])).unwrap(),
            [vec![a], vec![], vec![a, b], vec![]]
        );
        assert!(parse(json!([[a, null]])).unwrap()[0].is_empty());
        assert!(parse(json!(null)).unwrap().iter().all(Vec::is_empty));
        for bad in [
            json!("0x"),
            json!([a, a, a, a, a]),
            json!(["0x12"]),
            json!([[[a]]]),
        ] {
            assert!(parse(bad).is_err());
        }
        let many = vec![json!(a); MAX_FILTER_TERMS + 1];
        assert!(parse(json!([many])).is_err());
    }
}
