//! A local network under measurement, reached over HTTP like any other.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use alloy_consensus::TxEip1559;
use alloy_primitives::{TxKind, hex};
use lemma_types::{Address, TrustedRoot, U256, keys::SecretKey, transaction::sign_eip1559};
use serde_json::{Value, json};

use crate::{
    Result,
    process::{Process, lemma},
    text,
};

pub(crate) const EXAMPLE: &str = include_str!("../../models/digits/example.json");

/// Address of the receipts module.
const RECEIPTS: &str = "0x4c454d4d41000000000000000000000000000003";
/// keccak-256 of `BatchSettled(uint64,address,bytes32,uint64,uint64,uint256)`.
fn batch_settled() -> String {
    lemma_types::keccak256("BatchSettled(uint64,address,bytes32,uint64,uint64,uint256)").to_string()
}

/// A network in a temporary directory, and how long it took to be ready.
pub(crate) struct Network {
    pub(crate) process: Process,
    pub(crate) ready_after: Duration,
    directory: tempfile::TempDir,
    client: reqwest::Client,
    api: String,
    rpc: String,
    trusted_root: PathBuf,
    key: SecretKey,
    chain_id: u64,
}

/// What the settlements of a network have cost its ledger.
#[derive(Clone, Copy)]
pub(crate) struct LedgerUsage {
    /// Batches settled.
    pub(crate) settlements: u64,
    /// Receipts in them.
    pub(crate) receipts: u64,
    /// Bytes of the transactions that settled them.
    pub(crate) settlement_bytes: u64,
}

impl Network {
    /// Starts `lemma up` with these further arguments and waits until it is ready.
    pub(crate) fn start(args: &[&str]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let data = directory.path().join("network");
        let mut all = vec![
            "up",
            "--json",
            "--port",
            "0",
            "--metrics-port",
            "0",
            "--data-dir",
        ];
        all.push(data.to_str().ok_or("temporary directory is not UTF-8")?);
        all.extend(args);
        let (process, line, ready_after) = Process::start(&lemma()?, &all)?;
        let ready: Value = serde_json::from_str(&line)?;
        let text = |field: &str| {
            ready[field]
                .as_str()
                .map(str::to_owned)
                .ok_or(format!("no `{field}` in {line}"))
        };
        let trusted_root = PathBuf::from(text("trusted_root")?);
        let root: TrustedRoot = serde_json::from_slice(&std::fs::read(&trusted_root)?)?;
        let key = ready["accounts"][0]["key"]
            .as_str()
            .ok_or("no development key")?;
        Ok(Self {
            process,
            ready_after,
            directory,
            client: lemma_store::http::client().build()?,
            api: text("api")?,
            rpc: text("rpc")?,
            trusted_root,
            key: SecretKey::from_hex(key)?,
            chain_id: root.chain_id,
        })
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn stop(self) -> Result<()> {
        self.process.stop()
    }

    async fn call(&self, method: &str, params: Value) -> Result<Value> {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let response: Value = self
            .client
            .post(&self.rpc)
            .json(&request)
            .send()
            .await?
            .json()
            .await?;
        match response.get("error") {
            Some(error) => Err(format!("{method}: {error}").into()),
            None => Ok(response["result"].clone()),
        }
    }

    async fn number(&self, method: &str, params: Value) -> Result<u64> {
        quantity(&self.call(method, params).await?)
    }

    /// Sends one transfer; returns how long it took until its receipt was there.
    pub(crate) async fn transfer(&self) -> Result<Duration> {
        let nonce = json!([self.key.address(), "pending"]);
        let transaction = TxEip1559 {
            chain_id: self.chain_id,
            nonce: self.number("eth_getTransactionCount", nonce).await?,
            gas_limit: 21_000,
            max_fee_per_gas: 2 * u128::from(self.number("eth_gasPrice", json!([])).await?)
                + 1_000_000_000,
            max_priority_fee_per_gas: 1,
            to: TxKind::Call(Address::repeat_byte(0x42)),
            value: U256::from(1),
            ..TxEip1559::default()
        };
        let raw = sign_eip1559(transaction, &self.key);
        let start = Instant::now();
        let hash = self.call("eth_sendRawTransaction", json!([raw])).await?;
        loop {
            if !self
                .call("eth_getTransactionReceipt", json!([hash]))
                .await?
                .is_null()
            {
                return Ok(start.elapsed());
            }
            if start.elapsed() > Duration::from_secs(30) {
                return Err("a transfer was not final after 30 s".into());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// One inference of the digits example; returns the receipt's id and how long the answer took.
    pub(crate) async fn infer_digits(&self) -> Result<(String, Duration)> {
        let url = format!("{}/v2/models/lemma/digits/infer", self.api);
        let start = Instant::now();
        let request = self
            .client
            .post(url)
            .header("content-type", "application/json");
        let response = request.body(EXAMPLE).send().await?;
        let status = response.status();
        let body = response.bytes().await?;
        let took = start.elapsed();
        let body: Value = serde_json::from_slice(&body)?;
        let receipt = body["parameters"]["lemma_receipt_id"].as_str();
        let receipt = receipt.ok_or_else(|| format!("inference answered {status}: {body}"))?;
        Ok((receipt.to_owned(), took))
    }

    /// Asks the sample language model and returns how long it took until the first token of its answer was there. The
    /// answer is read to its end.
    pub(crate) async fn first_token(&self, number: usize) -> Result<Duration> {
        let url = format!("{}/v1/chat/completions", self.api);
        let body = json!({"model": "lemma/nano", "messages": text::question(number), "stream": true, "max_tokens": 16});
        let start = Instant::now();
        let mut response = self.client.post(url).json(&body).send().await?;
        let (mut stream, mut first) = (String::new(), None);
        while let Some(chunk) = response.chunk().await? {
            stream += std::str::from_utf8(&chunk)?;
            // The first chunk names the role alone, with no text.
            let text = |(at, key): (usize, &str)| {
                let rest = stream[at + key.len()..].chars().next();
                rest.is_some_and(|c| c != '"')
            };
            if first.is_none() && stream.match_indices(r#""content":""#).any(text) {
                first = Some(start.elapsed());
            }
        }
        first.ok_or_else(|| format!("an answer without a token: {stream}").into())
    }

    /// `count` inferences of the digits example, sixteen at a time.
    pub(crate) async fn infer_many(&self, count: u64) -> Result<()> {
        let next = AtomicU64::new(0);
        let lane = async || -> Result<()> {
            while next.fetch_add(1, Ordering::Relaxed) < count {
                self.infer_digits().await?;
            }
            Ok(())
        };
        for result in futures::future::join_all((0..16).map(|_| lane())).await {
            result?;
        }
        Ok(())
    }

    /// `lemma models push` of a file.
    pub(crate) fn push(&self, model: &Path, name: &str) -> Result<()> {
        let output = Command::new(lemma()?)
            .args(["models", "push"])
            .arg(model)
            .args(["--name", name, "--api", &self.api])
            .output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        Ok(())
    }

    /// Posts to the gateway; fails unless it answers with success.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<String> {
        let request = self.client.post(format!("{}{path}", self.api)).json(body);
        let response = request.send().await?;
        let status = response.status();
        let body = response.text().await?;
        match status.is_success() {
            true => Ok(body),
            false => Err(format!("{path}: {status}: {body}").into()),
        }
    }

    /// The bundle of a receipt, as soon as its batch is final.
    pub(crate) async fn bundle(&self, receipt: &str) -> Result<String> {
        let url = format!("{}/v1/receipts/{receipt}/bundle", self.api);
        let start = Instant::now();
        loop {
            let response = self.client.get(&url).send().await?;
            if response.status() == 200 {
                return Ok(response.text().await?);
            }
            if start.elapsed() > Duration::from_secs(30) {
                return Err(format!("no bundle after 30 s: {}", response.status()).into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// `lemma verify` on a bundle, as a whole process.
    pub(crate) fn verify(&self, bundle: &Path) -> Result<Duration> {
        let program = lemma()?;
        let start = Instant::now();
        let status = Command::new(program)
            .arg("verify")
            .arg(bundle)
            .arg("--trusted-root")
            .arg(&self.trusted_root)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        let took = start.elapsed();
        if !status.success() {
            return Err(format!("lemma verify ended with {status}").into());
        }
        Ok(took)
    }

    /// The checks alone, in this process.
    pub(crate) fn check(&self, bundle: &[u8]) -> Result<Duration> {
        let root: TrustedRoot = serde_json::from_slice(&std::fs::read(&self.trusted_root)?)?;
        let start = Instant::now();
        let report = lemma_verify::Verifier::new(&root)?
            .verify_bytes(bundle, &lemma_verify::Opened::default());
        let took = start.elapsed();
        if report.verdict != lemma_verify::Verdict::Verified {
            return Err(format!("the bundle does not hold: {report:?}").into());
        }
        Ok(took)
    }

    /// The settled batches and the bytes of their transactions.
    pub(crate) async fn ledger_usage(&self) -> Result<LedgerUsage> {
        let filter = json!([{"fromBlock": "0x0", "toBlock": "latest", "address": RECEIPTS, "topics": [batch_settled()]}]);
        let logs = self.call("eth_getLogs", filter).await?;
        let mut usage = LedgerUsage {
            settlements: 0,
            receipts: 0,
            settlement_bytes: 0,
        };
        for log in logs.as_array().into_iter().flatten() {
            let data = hex::decode(log["data"].as_str().ok_or("a log without data")?)?;
            // Words: root, count, computeUnits, fees.
            usage.receipts +=
                U256::from_be_slice(data.get(32..64).ok_or("a short log")?).to::<u64>();
            usage.settlements += 1;
            let transaction = self
                .call("eth_getTransactionByHash", json!([log["transactionHash"]]))
                .await?;
            let input = transaction["input"]
                .as_str()
                .ok_or("a transaction without input")?;
            // Signature, nonce, fees, gas, addresses: what an EIP-1559 transaction has beside its input.
            usage.settlement_bytes += (input.len() as u64 - 2) / 2 + 120;
        }
        Ok(usage)
    }

    /// Waits until `count` more receipts are settled.
    pub(crate) async fn settled(&self, before: &LedgerUsage, count: u64) -> Result<LedgerUsage> {
        let start = Instant::now();
        loop {
            let usage = self.ledger_usage().await?;
            if usage.receipts >= before.receipts + count {
                return Ok(usage);
            }
            if start.elapsed() > Duration::from_secs(60) {
                return Err(format!(
                    "{} of {count} receipts settled after 60 s",
                    usage.receipts - before.receipts
                )
                .into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn quantity(value: &Value) -> Result<u64> {
    let text = value.as_str().and_then(|text| text.strip_prefix("0x"));
    Ok(u64::from_str_radix(
        text.ok_or_else(|| format!("not a quantity: {value}"))?,
        16,
    )?)
}
