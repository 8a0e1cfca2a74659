//! Ethereum JSON-RPC, as wallets and libraries use it.

use alloy_consensus::{Header, TxEip1559};
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_sol_types::SolCall as _;
use axum::http::StatusCode;
use lemma_ledger::modules::{MODELS, abi::ILemmaModels};
use lemma_types::{keys::SecretKey, transaction::sign_eip1559};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::support::{fixture, funded, post, rpc};

const GWEI: u128 = 1_000_000_000;

fn ok(method: &str, params: Value) -> Value {
    rpc(method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
}

fn err(method: &str, params: Value) -> (i64, String) {
    let error = rpc(method, params.clone()).expect_err(&format!("{method} {params} succeeded"));
    (
        error["code"].as_i64().unwrap(),
        error["message"].as_str().unwrap().to_owned(),
    )
}

fn number(value: &Value) -> u64 {
    let text = value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no quantity"));
    let digits = text.strip_prefix("0x").unwrap();
    assert!(
        digits == "0" || !digits.starts_with('0'),
        "{text} is not in the shortest form"
    );
    u64::from_str_radix(digits, 16).unwrap()
}

fn parse<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{value}: {error}"))
}

fn chain_id() -> u64 {
    fixture().network.trusted_root().chain_id
}

/// A transaction of a transfer, to be changed by tests.
fn draft(key: &SecretKey) -> TxEip1559 {
    TxEip1559 {
        chain_id: chain_id(),
        nonce: number(&ok(
            "eth_getTransactionCount",
            json!([key.address(), "pending"]),
        )),
        gas_limit: 21_000,
        max_fee_per_gas: 10 * GWEI,
        max_priority_fee_per_gas: 0,
        to: Address::repeat_byte(9).into(),
        value: U256::from(1),
        ..TxEip1559::default()
    }
}

/// Waits until a transaction is final.
fn mined(hash: &Value) -> Value {
    for _ in 0..300 {
        let receipt = ok("eth_getTransactionReceipt", json!([hash]));
        if !receipt.is_null() {
            return receipt;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("{hash} is not final after 6 s");
}

#[test]
fn the_network_introduces_itself() {
    assert_eq!(
        ok("eth_chainId", json!([])),
        json!(format!("{:#x}", chain_id()))
    );
    assert_eq!(ok("net_version", json!([])), json!(chain_id().to_string()));
    assert_eq!(ok("eth_syncing", json!([])), json!(false));
    assert_eq!(ok("eth_accounts", json!([])), json!([]));
    assert_eq!(ok("eth_maxPriorityFeePerGas", json!([])), json!("0x0"));
    assert!(
        ok("web3_clientVersion", json!([]))
            .as_str()
            .unwrap()
            .starts_with("lemma/v")
    );
    assert_eq!(ok("web3_sha3", json!(["0x"])), json!(keccak256([])));
    assert!(number(&ok("eth_gasPrice", json!([]))) > 0);
}

/// A header of nothing but what a client is shown.
fn header(block: &Value) -> Header {
    let optional = |name: &str| block.get(name).map(number);
    let hash = |name: &str| block.get(name).map(parse::<B256>);
    Header {
        parent_hash: parse(&block["parentHash"]),
        ommers_hash: parse(&block["sha3Uncles"]),
        beneficiary: parse(&block["miner"]),
        state_root: parse(&block["stateRoot"]),
        transactions_root: parse(&block["transactionsRoot"]),
        receipts_root: parse(&block["receiptsRoot"]),
        logs_bloom: parse(&block["logsBloom"]),
        difficulty: U256::from(number(&block["difficulty"])),
        number: number(&block["number"]),
        gas_limit: number(&block["gasLimit"]),
        gas_used: number(&block["gasUsed"]),
        timestamp: number(&block["timestamp"]),
        extra_data: parse(&block["extraData"]),
        mix_hash: parse(&block["mixHash"]),
        nonce: parse(&block["nonce"]),
        base_fee_per_gas: optional("baseFeePerGas"),
        withdrawals_root: hash("withdrawalsRoot"),
        blob_gas_used: optional("blobGasUsed"),
        excess_blob_gas: optional("excessBlobGas"),
        parent_beacon_block_root: hash("parentBeaconBlockRoot"),
        requests_hash: hash("requestsHash"),
        ..Header::default()
    }
}

#[test]
fn a_block_hashes_to_its_hash() {
    for tag in ["earliest", "0x1", "latest", "safe", "finalized"] {
        let block = ok("eth_getBlockByNumber", json!([tag, false]));
        assert_eq!(
            json!(header(&block).hash_slow()),
            block["hash"],
            "{tag}: {block}"
        );
        let same = ok("eth_getBlockByHash", json!([block["hash"], false]));
        assert_eq!(same, block);
    }
    assert_eq!(
        ok("eth_getBlockByNumber", json!(["0xffffffff", false])),
        Value::Null
    );
    assert_eq!(
        ok("eth_getBlockByHash", json!([B256::ZERO, false])),
        Value::Null
    );
    assert_eq!(
        ok("eth_getBlockTransactionCountByNumber", json!(["0x0"])),
        json!("0x0")
    );
}

#[test]
fn a_transfer_is_sent_found_and_paid_for() {
    let key = funded(0);
    let stranger = Address::repeat_byte(0x77);
    let before: U256 = parse(&ok("eth_getBalance", json!([key.address(), "latest"])));
    let transaction = TxEip1559 {
        to: stranger.into(),
        value: U256::from(12_345),
        ..draft(&key)
    };
    let nonce = transaction.nonce;
    let raw = sign_eip1559(transaction, &key);
    let hash = ok("eth_sendRawTransaction", json!([raw]));
    assert_eq!(hash, json!(keccak256(&raw)));
    let receipt = mined(&hash);

    assert_eq!(receipt["status"], "0x1");
    assert_eq!(receipt["type"], "0x2");
    assert_eq!(number(&receipt["gasUsed"]), 21_000);
    assert_eq!(receipt["from"], json!(key.address().to_checksum(None)));
    let shown = ok("eth_getTransactionByHash", json!([hash]));
    assert_eq!(
        (number(&shown["nonce"]), &shown["blockHash"]),
        (nonce, &receipt["blockHash"])
    );
    let block = ok("eth_getBlockByHash", json!([receipt["blockHash"], true]));
    assert!(block["transactions"].as_array().unwrap().contains(&shown));
    assert_eq!(json!(header(&block).hash_slow()), block["hash"]);
    let receipts = ok("eth_getBlockReceipts", json!([receipt["blockNumber"]]));
    assert!(receipts.as_array().unwrap().contains(&receipt));
    let same = ok(
        "eth_getTransactionByBlockHashAndIndex",
        json!([receipt["blockHash"], receipt["transactionIndex"]]),
    );
    assert_eq!(same, shown);

    let fee = U256::from(21_000 * number(&receipt["effectiveGasPrice"]));
    let after: U256 = parse(&ok("eth_getBalance", json!([key.address(), "latest"])));
    assert_eq!(before - after, fee + U256::from(12_345));
    let received: U256 = parse(&ok("eth_getBalance", json!([stranger, "latest"])));
    assert_eq!(received, U256::from(12_345));
    assert_eq!(
        number(&ok(
            "eth_getTransactionCount",
            json!([key.address(), "latest"])
        )),
        nonce + 1
    );
}

#[test]
fn refused_transactions_say_why_and_change_nothing() {
    let key = funded(1);
    let good = draft(&key);
    let nonce = good.nonce;
    let poor = SecretKey::from_bytes(&[3; 32]).unwrap();
    let gas = TxEip1559 {
        gas_limit: 20_999,
        ..good.clone()
    };
    let raw = |transaction: TxEip1559, key: &SecretKey| json!([sign_eip1559(transaction, key)]);
    let sent = sign_eip1559(good.clone(), &key);
    for (params, reason) in [
        (
            raw(
                TxEip1559 {
                    chain_id: 1,
                    ..good.clone()
                },
                &key,
            ),
            "chain id 1",
        ),
        (
            raw(
                TxEip1559 {
                    nonce: nonce + 1000,
                    ..good.clone()
                },
                &key,
            ),
            "nonce too high",
        ),
        (
            raw(
                TxEip1559 {
                    nonce: 0,
                    ..draft(&poor)
                },
                &poor,
            ),
            "insufficient funds",
        ),
        (raw(gas, &key), "gas"),
        (json!([Bytes::copy_from_slice(&sent[..50])]), "decoded"),
        (json!(["0x03"]), "type 3 is not supported"),
        (json!(["0x"]), "decoded"),
    ] {
        let (code, message) = err("eth_sendRawTransaction", params);
        assert_eq!(code, -32000, "{message}");
        assert!(message.contains(reason), "`{reason}` is not in `{message}`");
    }
    for (params, reason) in [
        (json!(["0x0"]), "odd"),
        (json!(["zz"]), "0x"),
        (json!([]), "missing"),
        (json!(["0x", 1]), "too many"),
    ] {
        let (code, message) = err("eth_sendRawTransaction", params);
        assert_eq!(code, -32602, "{message}");
        assert!(message.contains(reason), "`{reason}` is not in `{message}`");
    }
    assert_eq!(
        number(&ok(
            "eth_getTransactionCount",
            json!([key.address(), "pending"])
        )),
        nonce
    );
}

fn call_data(call: &impl alloy_sol_types::SolCall) -> Bytes {
    call.abi_encode().into()
}

#[test]
fn modules_answer_calls_and_reverts_are_explained() {
    let resolve = |name: &str| {
        call_data(&ILemmaModels::resolveCall {
            name: name.to_owned(),
        })
    };
    let output: Bytes = parse(&ok(
        "eth_call",
        json!([{ "to": MODELS, "data": resolve("lemma/digits") }, "latest"]),
    ));
    let resolved = ILemmaModels::resolveCall::abi_decode_returns(&output).unwrap();
    assert_eq!(resolved.version, 1);

    let error = rpc(
        "eth_call",
        json!([{ "to": MODELS, "input": resolve("lemma/absent") }, "latest"]),
    )
    .unwrap_err();
    assert_eq!(error["code"], 3);
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .starts_with("execution reverted: no model is registered as lemma/absent")
    );
    assert!(error["data"].as_str().unwrap().len() > 10);

    let register = call_data(&ILemmaModels::registerCall {
        name: "Bad".to_owned(),
        manifest: B256::repeat_byte(1),
    });
    let (code, message) = err(
        "eth_estimateGas",
        json!([{ "from": funded(0).address(), "to": MODELS, "data": register }]),
    );
    assert_eq!(code, 3);
    assert!(message.contains("not a model name"), "{message}");
    let transfer =
        json!([{ "from": funded(0).address(), "to": Address::repeat_byte(5), "value": "0x1" }]);
    assert_eq!(number(&ok("eth_estimateGas", transfer)), 21_000);
}

#[test]
fn events_are_found_and_searches_are_bounded() {
    let key = funded(2);
    let name = "rpc-test/model";
    let call = ILemmaModels::registerCall {
        name: name.to_owned(),
        manifest: B256::repeat_byte(7),
    };
    let transaction = TxEip1559 {
        to: MODELS.into(),
        value: U256::ZERO,
        gas_limit: 500_000,
        input: call_data(&call),
        ..draft(&key)
    };
    let receipt = mined(&ok(
        "eth_sendRawTransaction",
        json!([sign_eip1559(transaction, &key)]),
    ));
    assert_eq!(receipt["status"], "0x1", "{receipt}");
    let registered = receipt["logs"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(registered["topics"][1], json!(keccak256(name)));

    let topics = json!([null, keccak256(name)]);
    let all = ok(
        "eth_getLogs",
        json!([{ "address": MODELS, "topics": topics, "fromBlock": "earliest" }]),
    );
    assert_eq!(all, json!([registered]));
    let by_hash = ok(
        "eth_getLogs",
        json!([{ "blockHash": receipt["blockHash"], "topics": topics }]),
    );
    assert_eq!(by_hash, json!([registered]));
    let elsewhere = ok(
        "eth_getLogs",
        json!([{ "address": [Address::ZERO], "fromBlock": "0x0", "toBlock": "latest" }]),
    );
    assert_eq!(elsewhere, json!([]));
    for (filter, reason) in [
        (
            json!({ "blockHash": receipt["blockHash"], "fromBlock": "0x0" }),
            "excludes",
        ),
        (json!({ "fromBlock": "0x01" }), "leading zeros"),
        (json!({ "topics": ["0x12"] }), "32 bytes"),
        (json!({ "address": "0x12" }), "20 bytes"),
        (json!({ "blockHash": B256::ZERO }), "unknown block"),
        (
            json!({ "fromBlock": "0x5", "toBlock": "0x4" }),
            "after the last block",
        ),
    ] {
        let (_, message) = err("eth_getLogs", json!([filter]));
        assert!(message.contains(reason), "`{reason}` is not in `{message}`");
    }
}

#[test]
fn the_state_is_that_of_the_head_and_nothing_else() {
    let address = funded(0).address();
    for (method, params) in [
        ("eth_getBalance", json!([address, "0x0"])),
        ("eth_getCode", json!([address, "earliest"])),
        (
            "eth_getTransactionCount",
            json!([address, { "blockNumber": "0x0" }]),
        ),
        ("eth_getStorageAt", json!([address, "0x0", "0x0"])),
        ("eth_call", json!([{ "to": MODELS }, "0x0"])),
    ] {
        let (code, message) = err(method, params);
        assert_eq!(code, -32000);
        assert!(message.contains("is not kept"), "{method}: {message}");
    }
    let (_, message) = err("eth_getBalance", json!([address, "0xffffffff"]));
    assert!(message.contains("does not exist yet"), "{message}");
    assert_eq!(ok("eth_getCode", json!([MODELS, "latest"])), json!("0xfe"));
    let word = ok("eth_getStorageAt", json!([MODELS, "0x0", "latest"]));
    assert_eq!(word.as_str().unwrap().len(), 66);
    let (code, _) = err("eth_call", json!([{ "to": MODELS }, "latest", {}]));
    assert_eq!(code, -32602, "state overrides must not be passed over");
}

#[test]
fn fees_of_the_past_are_told() {
    let history = ok("eth_feeHistory", json!(["0x2", "latest", [0, 50, 100]]));
    let base_fees = history["baseFeePerGas"].as_array().unwrap();
    let ratios = history["gasUsedRatio"].as_array().unwrap();
    assert_eq!((base_fees.len(), ratios.len()), (3, 2));
    assert!(
        history["reward"]
            .as_array()
            .unwrap()
            .iter()
            .all(|tips| tips.as_array().unwrap().len() == 3)
    );
    let oldest = ok(
        "eth_getBlockByNumber",
        json!([history["oldestBlock"], false]),
    );
    assert_eq!(oldest["baseFeePerGas"], base_fees[0]);
    let whole = ok("eth_feeHistory", json!([4096, "0x1"]));
    assert_eq!(whole["oldestBlock"], "0x0");
    assert!(whole.get("reward").is_none());
}

#[test]
fn batches_notifications_and_mistakes_of_form() {
    let call =
        |id: Value| json!({ "jsonrpc": "2.0", "id": id, "method": "net_version", "params": [] });
    let notification = json!({ "jsonrpc": "2.0", "method": "net_version" });
    let batch = json!([call(json!(1)), notification, call(json!("a")), 5]);
    let answers = post("/rpc", batch.to_string()).json();
    let ids: Vec<&Value> = answers
        .as_array()
        .unwrap()
        .iter()
        .map(|answer| &answer["id"])
        .collect();
    assert_eq!(ids, [&json!(1), &json!("a"), &Value::Null]);
    assert_eq!(answers[2]["error"]["code"], -32600);

    let silent = post("/rpc", json!([notification]).to_string());
    assert_eq!(
        (silent.status, silent.body.len()),
        (StatusCode::NO_CONTENT, 0)
    );

    let many: Vec<Value> = (0..101).map(|id| call(json!(id))).collect();
    for (body, code) in [
        ("{".to_owned(), -32700),
        (String::new(), -32700),
        ("[]".to_owned(), -32600),
        ("5".to_owned(), -32600),
        (json!(many).to_string(), -32600),
        (
            json!({ "id": 1, "method": "net_version" }).to_string(),
            -32600,
        ),
        (
            json!({ "jsonrpc": "2.0", "id": {}, "method": "net_version" }).to_string(),
            -32600,
        ),
        (
            json!({ "jsonrpc": "2.0", "id": 1, "method": 5 }).to_string(),
            -32600,
        ),
        (
            json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_sign" }).to_string(),
            -32601,
        ),
        (
            json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": {} }).to_string(),
            -32602,
        ),
    ] {
        let answer = post("/rpc", body.clone()).json();
        assert_eq!(answer["error"]["code"], code, "{body}");
    }
    let large = post("/rpc", " ".repeat((4 << 20) + 1));
    assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE);
}
