//! The ledger, by Ethereum JSON-RPC at the gateway.

use std::time::{Duration, Instant};

use alloy_consensus::TxEip1559;
use lemma_types::{Address, B256, Bytes, U256, keys::SecretKey, transaction::sign_eip1559};
use serde_json::{Value, json};

use super::Client;
use crate::{
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
    text::harmless,
};

/// Gas beyond the estimate, in percent: the state may change before the transaction is executed.
const GAS_MARGIN_PERCENT: u64 = 20;
/// Time between two looks for a receipt.
const POLL: Duration = Duration::from_millis(50);

/// What to send.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// To whom.
    pub to: Address,
    /// Wei.
    pub value: U256,
    /// Call data.
    pub input: Bytes,
}

/// A transaction in a final block.
#[derive(Clone, Copy, Debug)]
pub struct Mined {
    /// The transaction.
    pub hash: B256,
    /// Height of the block.
    pub height: u64,
}

/// An error that the ledger gave.
#[derive(Debug)]
struct RpcFailure {
    code: i64,
    message: String,
}

impl From<RpcFailure> for CommandError {
    fn from(failure: RpcFailure) -> Self {
        let code = if failure.message.starts_with("insufficient funds") {
            ExitCode::Funds
        } else {
            ExitCode::Failed
        };
        let error = Self::new(code, format!("the ledger refused: {}", failure.message));
        match (code, failure.code) {
            (ExitCode::Funds, _) => {
                error.hint("`lemma account balance` shows what the account has")
            }
            (_, 3) => error.hint("a reverted transaction changes nothing"),
            _ => error,
        }
    }
}

impl Client {
    async fn rpc(&self, method: &str, params: Value) -> CommandResult<Result<Value, RpcFailure>> {
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let response = self.send(self.post("rpc")?.json(&call)).await?;
        let mut answer: Value = self
            .json(response.map_err(super::Refusal::into_error)?)
            .await?;
        Ok(match answer.get("error") {
            Some(error) => Err(RpcFailure {
                code: error["code"].as_i64().unwrap_or_default(),
                message: harmless(error["message"].as_str().unwrap_or("it gives no reason")),
            }),
            None => Ok(answer["result"].take()),
        })
    }

    async fn quantity(&self, method: &str, params: Value) -> CommandResult<U256> {
        let value = self.rpc(method, params).await??;
        let digits = value.as_str().and_then(|text| text.strip_prefix("0x"));
        digits
            .and_then(|digits| U256::from_str_radix(digits, 16).ok())
            .ok_or_else(|| CommandError::failed(format!("{method} did not answer with a quantity")))
    }

    async fn quantity_u64(&self, method: &str, params: Value) -> CommandResult<u64> {
        let value = self.quantity(method, params).await?;
        u64::try_from(value).context(ExitCode::Failed, || {
            format!("{method} answered with {value}")
        })
    }

    /// EIP-155 chain id.
    ///
    /// # Errors
    /// If the gateway does not answer.
    pub async fn chain_id(&self) -> CommandResult<u64> {
        self.quantity_u64("eth_chainId", json!([])).await
    }

    /// An account's balance, in wei.
    ///
    /// # Errors
    /// If the gateway does not answer.
    pub async fn balance(&self, address: Address) -> CommandResult<U256> {
        self.quantity("eth_getBalance", json!([address, "latest"]))
            .await
    }

    /// Calls a contract; `None` if it reverts.
    ///
    /// # Errors
    /// If the gateway does not answer.
    pub async fn call(&self, to: Address, input: &Bytes) -> CommandResult<Option<Bytes>> {
        match self
            .rpc("eth_call", json!([{ "to": to, "input": input }, "latest"]))
            .await?
        {
            Ok(output) => serde_json::from_value(output)
                .map(Some)
                .context(ExitCode::Failed, || {
                    "eth_call did not answer with data".to_owned()
                }),
            Err(RpcFailure { code: 3, .. }) => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Signs and sends a transaction, and waits until it is final and succeeded.
    ///
    /// # Errors
    /// If the ledger refuses it, it reverts, or it is not final in time.
    pub async fn transact(
        &self,
        transaction: Transaction,
        key: &SecretKey,
    ) -> CommandResult<Mined> {
        let Transaction { to, value, input } = transaction;
        let from = key.address();
        let call =
            json!({ "from": from, "to": to, "value": format!("{value:#x}"), "input": input });
        // The estimate runs the transaction: what would revert is refused here, with its reason.
        let gas = self.quantity_u64("eth_estimateGas", json!([call])).await?;
        let price = self.quantity("eth_gasPrice", json!([])).await?;
        let max_fee = u128::try_from(price.saturating_mul(U256::from(2)))
            .context(ExitCode::Failed, || format!("a gas price of {price}"))?;
        let unsigned = TxEip1559 {
            chain_id: self.chain_id().await?,
            nonce: self
                .quantity_u64("eth_getTransactionCount", json!([from, "pending"]))
                .await?,
            gas_limit: gas.saturating_add(gas.saturating_mul(GAS_MARGIN_PERCENT) / 100),
            max_fee_per_gas: max_fee,
            max_priority_fee_per_gas: 0,
            to: to.into(),
            value,
            access_list: Default::default(),
            input,
        };
        let raw = sign_eip1559(unsigned, key);
        let hash: B256 =
            serde_json::from_value(self.rpc("eth_sendRawTransaction", json!([raw])).await??)
                .context(ExitCode::Failed, || {
                    "eth_sendRawTransaction did not answer with a hash".to_owned()
                })?;
        self.mined(hash).await
    }

    async fn mined(&self, hash: B256) -> CommandResult<Mined> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let receipt = self
                .rpc("eth_getTransactionReceipt", json!([hash]))
                .await??;
            if let Some(status) = receipt["status"].as_str() {
                if status != "0x1" {
                    return Err(CommandError::failed(format!("transaction {hash} failed")));
                }
                let height = receipt["blockNumber"]
                    .as_str()
                    .and_then(|text| text.strip_prefix("0x"));
                let height = height
                    .and_then(|digits| u64::from_str_radix(digits, 16).ok())
                    .unwrap_or_default();
                return Ok(Mined { hash, height });
            }
            if Instant::now() > deadline {
                return Err(CommandError::new(
                    ExitCode::Timeout,
                    format!("transaction {hash} is not final yet"),
                )
                .hint("it may still be: look at `lemma status`, or wait longer with --timeout"));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}
