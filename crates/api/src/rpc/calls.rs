//! Calls, parsed: whoever carries one out meets no more JSON of strangers.

use alloy_primitives::{Address, B256, Bytes, U256};
use lemma_ledger::CallRequest;

use super::{
    call,
    error::RpcError,
    filter::Filter,
    params::{BlockTag, Params},
};

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

/// A value of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StateItem {
    Balance,
    Nonce,
    Code,
    Slot(U256),
}

/// A method with its parameters.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Call {
    ClientVersion,
    Keccak(Bytes),
    NetworkVersion,
    Listening,
    ChainId,
    Syncing,
    Accounts,
    BlockNumber,
    GasPrice,
    PriorityFee,
    FeeHistory {
        blocks: u64,
        newest: BlockTag,
        percentiles: Option<Vec<f64>>,
    },
    State {
        address: Address,
        item: StateItem,
        at: BlockTag,
    },
    Run {
        request: CallRequest,
        at: BlockTag,
    },
    EstimateGas {
        request: CallRequest,
        at: BlockTag,
    },
    Send(Bytes),
    Transaction(B256),
    TransactionAt {
        block: BlockTag,
        index: u64,
    },
    Receipt(B256),
    Logs(Filter),
    Block {
        block: BlockTag,
        full: bool,
    },
    BlockReceipts(BlockTag),
    TransactionCount(BlockTag),
    UncleCount(BlockTag),
}

impl Call {
    /// Parses the parameters of `method`.
    ///
    /// # Errors
    /// If there is no such method, or a parameter is missing, wrong or too many.
    pub(super) fn parse(method: &str, params: &Params) -> Result<Self, RpcError> {
        match method {
            "web3_clientVersion" => Ok(Self::ClientVersion),
            "web3_sha3" => params.bytes(0).map(Self::Keccak),
            "net_version" => Ok(Self::NetworkVersion),
            "net_listening" => Ok(Self::Listening),
            "eth_chainId" => Ok(Self::ChainId),
            "eth_syncing" => Ok(Self::Syncing),
            "eth_accounts" => Ok(Self::Accounts),
            "eth_blockNumber" => Ok(Self::BlockNumber),
            "eth_gasPrice" => Ok(Self::GasPrice),
            "eth_maxPriorityFeePerGas" => Ok(Self::PriorityFee),
            "eth_feeHistory" => {
                params.at_most(3)?;
                Ok(Self::FeeHistory {
                    blocks: params.number(0, "block count")?,
                    newest: params.block(1)?,
                    percentiles: params.percentiles(2)?,
                })
            }
            "eth_getBalance" => Self::state(params, 1, |_| Ok(StateItem::Balance)),
            "eth_getTransactionCount" => Self::state(params, 1, |_| Ok(StateItem::Nonce)),
            "eth_getCode" => Self::state(params, 1, |_| Ok(StateItem::Code)),
            "eth_getStorageAt" => {
                Self::state(params, 2, |params| params.slot(1).map(StateItem::Slot))
            }
            "eth_call" => Self::run(params, |request, at| Self::Run { request, at }),
            "eth_estimateGas" => Self::run(params, |request, at| Self::EstimateGas { request, at }),
            "eth_sendRawTransaction" => {
                params.at_most(1)?;
                params.bytes(0).map(Self::Send)
            }
            "eth_getTransactionByHash" => params.hash(0).map(Self::Transaction),
            "eth_getTransactionReceipt" => params.hash(0).map(Self::Receipt),
            "eth_getLogs" => Filter::parse(params.object(0, "filter")?).map(Self::Logs),
            _ => Self::parse_block(method, params),
        }
    }

    /// Methods that speak of a block, by height or by hash.
    fn parse_block(method: &str, params: &Params) -> Result<Self, RpcError> {
        let by_number = || params.block(0);
        let by_hash = || params.hash(0).map(BlockTag::Hash);
        let block = |block| {
            let full = params.flag(1)?;
            Ok(Self::Block { block, full })
        };
        let transaction = |block| {
            let index = params.number(1, "index")?;
            Ok(Self::TransactionAt { block, index })
        };
        match method {
            "eth_getBlockByNumber" => block(by_number()?),
            "eth_getBlockByHash" => block(by_hash()?),
            "eth_getBlockReceipts" => by_number().map(Self::BlockReceipts),
            "eth_getBlockTransactionCountByNumber" => by_number().map(Self::TransactionCount),
            "eth_getBlockTransactionCountByHash" => by_hash().map(Self::TransactionCount),
            "eth_getUncleCountByBlockNumber" => by_number().map(Self::UncleCount),
            "eth_getUncleCountByBlockHash" => by_hash().map(Self::UncleCount),
            "eth_getTransactionByBlockNumberAndIndex" => transaction(by_number()?),
            "eth_getTransactionByBlockHashAndIndex" => transaction(by_hash()?),
            _ => Err(RpcError::unknown_method(method)),
        }
    }

    fn state(
        params: &Params,
        block_index: usize,
        item: impl FnOnce(&Params) -> Result<StateItem, RpcError>,
    ) -> Result<Self, RpcError> {
        params.at_most(block_index + 1)?;
        Ok(Self::State {
            address: params.address(0)?,
            item: item(params)?,
            at: params.block(block_index)?,
        })
    }

    fn run(
        params: &Params,
        call: impl FnOnce(CallRequest, BlockTag) -> Self,
    ) -> Result<Self, RpcError> {
        // The third and fourth would override state or block: an answer without them would be wrong.
        params.at_most(2)?;
        let request = call::parse(params.object(0, "transaction")?).map_err(|reason| {
            RpcError::invalid_params(format!("invalid argument 0 (transaction): {reason}"))
        })?;
        Ok(call(request, params.block(1)?))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn methods_are_sorted_and_strangers_make_no_labels() {
        assert!(METHODS.is_sorted());
        assert_eq!(known("eth_call"), "eth_call");
        assert_eq!(known("eth_callx"), "unknown");
    }

    /// Arguments that every method takes, one or the other.
    fn arguments() -> Vec<Value> {
        let hash = B256::repeat_byte(1);
        let address = Address::repeat_byte(2);
        vec![
            json!([]),
            json!(["0x01"]),
            json!([hash]),
            json!([hash, "0x0"]),
            json!([address, "latest"]),
            json!([address, "0x0", "latest"]),
            json!(["0x1", "latest", [50]]),
            json!(["latest", "0x0"]),
            json!([{ "to": address }, "latest"]),
            json!([{ "address": address }]),
        ]
    }

    #[test]
    fn every_known_method_is_parsed_and_no_other() {
        let parse = |method: &str| -> Vec<Result<Call, RpcError>> {
            arguments()
                .into_iter()
                .map(|value| Call::parse(method, &Params::new(Some(value)).unwrap()))
                .collect()
        };
        for method in METHODS {
            assert!(parse(method).iter().any(Result::is_ok), "{method}");
        }
        for result in parse("eth_sign") {
            assert_eq!(result, Err(RpcError::unknown_method("eth_sign")));
        }
    }

    #[test]
    fn arguments_beyond_those_of_a_method_are_refused() {
        let address = Address::repeat_byte(2);
        for (method, value) in [
            ("eth_getBalance", json!([address, "latest", 1])),
            ("eth_call", json!([{ "to": address }, "latest", {}])),
            ("eth_sendRawTransaction", json!(["0x01", 1])),
        ] {
            let params = Params::new(Some(value)).unwrap();
            assert!(Call::parse(method, &params).is_err(), "{method}");
        }
    }
}
