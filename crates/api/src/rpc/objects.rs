//! Blocks, transactions, receipts and events as Ethereum JSON-RPC shows them.

use alloy_consensus::{Header, Transaction as _};
use alloy_primitives::{B256, Log as Event, U256};
use lemma_chain::{ExecutedBlock, FoundLog};
use lemma_ledger::{Receipt, Transaction};
use serde_json::{Map, Value, json};

use super::hex::{address, data, quantity};

/// Where a transaction is.
pub(super) struct Place<'a> {
    pub(super) block: &'a ExecutedBlock,
    pub(super) index: usize,
}

/// A block with its transactions' hashes, or the transactions themselves.
pub(super) fn block(block: &ExecutedBlock, transactions: Vec<Value>, size: usize) -> Value {
    let mut object = header(block.header(), block.hash());
    object.insert("size".into(), quantity(size));
    object.insert("uncles".into(), json!([]));
    object.insert("transactions".into(), Value::Array(transactions));
    if block.header().withdrawals_root.is_some() {
        object.insert("withdrawals".into(), json!([]));
    }
    Value::Object(object)
}

fn header(header: &Header, hash: B256) -> Map<String, Value> {
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
    put("number", quantity(header.number));
    put("hash", json!(hash));
    put("parentHash", json!(header.parent_hash));
    put("sha3Uncles", json!(header.ommers_hash));
    put("miner", address(header.beneficiary));
    put("stateRoot", json!(header.state_root));
    put("transactionsRoot", json!(header.transactions_root));
    put("receiptsRoot", json!(header.receipts_root));
    put("logsBloom", data(header.logs_bloom));
    put("difficulty", quantity(header.difficulty));
    put("gasLimit", quantity(header.gas_limit));
    put("gasUsed", quantity(header.gas_used));
    put("timestamp", quantity(header.timestamp));
    put("extraData", data(&header.extra_data));
    put("mixHash", json!(header.mix_hash));
    put("nonce", data(header.nonce));
    let optional_numbers = [
        ("baseFeePerGas", header.base_fee_per_gas),
        ("blobGasUsed", header.blob_gas_used),
        ("excessBlobGas", header.excess_blob_gas),
    ];
    for (name, value) in optional_numbers {
        if let Some(value) = value {
            put(name, quantity(value));
        }
    }
    let optional_hashes = [
        ("withdrawalsRoot", header.withdrawals_root),
        ("parentBeaconBlockRoot", header.parent_beacon_block_root),
        ("requestsHash", header.requests_hash),
    ];
    for (name, value) in optional_hashes {
        if let Some(value) = value {
            put(name, json!(value));
        }
    }
    object
}

/// A transaction; without a place it waits for a block.
pub(super) fn transaction(transaction: &Transaction, place: Option<&Place<'_>>) -> Value {
    let envelope = transaction.envelope();
    let base_fee = place.and_then(|place| place.block.header().base_fee_per_gas);
    let price = base_fee
        .and_then(|base_fee| transaction.effective_gas_price(base_fee))
        .unwrap_or_else(|| transaction.max_fee_per_gas());
    let signature = envelope.signature();
    let mut object = json!({
        "hash": transaction.hash(),
        "type": quantity(transaction.kind()),
        "chainId": envelope.chain_id().map(quantity),
        "nonce": quantity(transaction.nonce()),
        "from": address(transaction.sender()),
        "to": transaction.to().map(address),
        "value": quantity(transaction.value()),
        "gas": quantity(transaction.gas_limit()),
        "gasPrice": quantity(price),
        "input": data(transaction.input()),
        "r": quantity(signature.r()),
        "s": quantity(signature.s()),
        "v": quantity(v(envelope.chain_id(), signature.v(), transaction.kind())),
        "blockHash": place.map(|place| place.block.hash()),
        "blockNumber": place.map(|place| quantity(place.block.number())),
        "transactionIndex": place.map(|place| quantity(place.index)),
    });
    if transaction.kind() != 0 {
        object["yParity"] = quantity(u64::from(signature.v()));
        object["accessList"] = access_list(envelope.access_list());
    }
    if let Some(tip) = envelope.max_priority_fee_per_gas() {
        object["maxFeePerGas"] = quantity(transaction.max_fee_per_gas());
        object["maxPriorityFeePerGas"] = quantity(tip);
    }
    if let Some(list) = envelope.authorization_list() {
        object["authorizationList"] = list
            .iter()
            .map(|signed| {
                json!({
                    "chainId": quantity(*signed.chain_id()),
                    "address": address(*signed.address()),
                    "nonce": quantity(signed.nonce()),
                    "yParity": quantity(signed.y_parity()),
                    "r": quantity(signed.r()),
                    "s": quantity(signed.s()),
                })
            })
            .collect();
    }
    object
}

/// The `v` of a legacy transaction carries the chain id (EIP-155); of the others, it is the parity.
fn v(chain_id: Option<u64>, odd: bool, kind: u8) -> U256 {
    let parity = U256::from(odd);
    match (kind, chain_id) {
        (0, Some(chain_id)) => U256::from(chain_id) * U256::from(2) + U256::from(35) + parity,
        (0, None) => U256::from(27) + parity,
        _ => parity,
    }
}

fn access_list(list: Option<&alloy_eips::eip2930::AccessList>) -> Value {
    list.into_iter()
        .flat_map(|list| &list.0)
        .map(|item| json!({ "address": address(item.address), "storageKeys": item.storage_keys }))
        .collect()
}

/// A transaction's receipt.
pub(super) fn receipt(transaction: &Transaction, receipt: &Receipt, place: &Place<'_>) -> Value {
    let first = place.block.first_log(place.index);
    let logs: Vec<Value> = receipt
        .logs
        .iter()
        .enumerate()
        .map(|(offset, event)| log(event, place, receipt.transaction_hash, first + offset))
        .collect();
    json!({
        "transactionHash": receipt.transaction_hash,
        "transactionIndex": quantity(place.index),
        "blockHash": place.block.hash(),
        "blockNumber": quantity(place.block.number()),
        "from": address(transaction.sender()),
        "to": transaction.to().map(address),
        "contractAddress": receipt.contract_address.map(address),
        "type": quantity(receipt.kind),
        "status": quantity(u64::from(receipt.success)),
        "gasUsed": quantity(receipt.gas_used),
        "cumulativeGasUsed": quantity(receipt.cumulative_gas_used),
        "effectiveGasPrice": quantity(receipt.effective_gas_price),
        "logsBloom": data(alloy_primitives::logs_bloom(&receipt.logs)),
        "logs": logs,
    })
}

/// An event that a search found.
pub(super) fn found_log(found: &FoundLog) -> Value {
    let place = Place {
        block: &found.block,
        index: found.transaction,
    };
    let hash = found.block.receipts()[found.transaction].transaction_hash;
    log(&found.event, &place, hash, found.log)
}

fn log(event: &Event, place: &Place<'_>, transaction: B256, index: usize) -> Value {
    json!({
        "address": address(event.address),
        "topics": event.topics(),
        "data": data(&event.data.data),
        "blockHash": place.block.hash(),
        "blockNumber": quantity(place.block.number()),
        "blockTimestamp": quantity(place.block.header().timestamp),
        "transactionHash": transaction,
        "transactionIndex": quantity(place.index),
        "logIndex": quantity(index),
        "removed": false,
    })
}
