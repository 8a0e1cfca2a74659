use std::{sync::Arc, time::Duration};

use alloy_consensus::TxEip1559;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use futures::future::{BoxFuture, FutureExt};
use lemma_chain::{Head, Located, SubmitError};
use lemma_ledger::{CallRequest, CallResult, Estimate, modules::explain};
use lemma_types::{keys::SecretKey, transaction::sign_eip1559};
use tokio::sync::Mutex;

use super::{Ledger, LedgerError, backoff, reason};

/// Tip for the proposer, wei per gas.
const PRIORITY_FEE: u128 = 1_000;
/// A transaction that waits for so long is sent again, to every validator: mempools forget when they restart.
const RESEND: Duration = Duration::from_secs(2);
/// Failures in a row after which even what may pass is given up.
const MOST_DOUBTS: u32 = 5;
/// Longest pause between tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// An account of this process that sends transactions, one after the other. Clones share it.
#[derive(Clone)]
pub struct Account {
    key: SecretKey,
    ledger: Ledger,
    turn: Arc<Mutex<()>>,
}

/// A transaction that is final.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Hash.
    pub hash: B256,
    /// Height of its block.
    pub height: u64,
    /// Return data.
    pub output: Bytes,
}

/// A signed transaction that waits for a block.
struct Waiting {
    raw: Bytes,
    hash: B256,
    nonce: u64,
    max_fee: u128,
}

impl Account {
    /// The account of this key.
    #[must_use]
    pub fn new(key: SecretKey, ledger: Ledger) -> Self {
        Self {
            key,
            ledger,
            turn: Arc::default(),
        }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Address {
        self.key.address()
    }

    /// Sends a transaction and waits until it is final, however long the ledger halts: bound it by a timeout, or drop the
    /// future. It is sent again when validators may have forgotten it, and signed anew when the base fee outgrows it or
    /// its nonce was used by another transaction of this account.
    ///
    /// # Errors
    /// [`LedgerError::Refused`] if the call does not succeed; anything else that waiting does not cure.
    pub fn send(
        &self,
        to: Address,
        value: U256,
        input: Bytes,
    ) -> BoxFuture<'_, Result<Sent, LedgerError>> {
        async move {
        let _turn = self.turn.lock().await;
        let mut failures = 0;
        loop {
            match self.try_send(to, value, &input).await {
                Ok(Some(sent)) => return Ok(sent),
                Ok(None) => failures = 0,
                Err(error) if is_passing(&error) || is_doubtful(&error, failures) => {
                    tracing::debug!(%error, account = %self.address(), "transaction not accepted, trying again");
                    tokio::time::sleep(backoff(failures, LONGEST_PAUSE)).await;
                    failures += 1;
                }
                Err(error) => return Err(error),
            }
        }
        }.boxed()
    }

    /// One signed transaction; `None` if another has taken its nonce or the base fee has outgrown it.
    async fn try_send(
        &self,
        to: Address,
        value: U256,
        input: &Bytes,
    ) -> Result<Option<Sent>, LedgerError> {
        let waiting = self.sign(to, value, input).await?;
        match self.ledger.chain()?.submit(&waiting.raw).await {
            Ok(_) | Err(SubmitError::AlreadyKnown(_)) => self.wait(&waiting).await,
            Err(SubmitError::NonceTooLow { .. }) => self.wait(&waiting).await,
            Err(error) => Err(error.into()),
        }
    }

    async fn sign(&self, to: Address, value: U256, input: &Bytes) -> Result<Waiting, LedgerError> {
        let chain = self.ledger.chain()?;
        let request = CallRequest {
            from: Some(self.address()),
            to: Some(to),
            value,
            input: input.clone(),
            ..CallRequest::default()
        };
        let gas = match chain.estimate_gas(request).await? {
            Estimate::Gas(gas) => gas,
            Estimate::Fails(result) => return Err(refusal(&result)),
        };
        let nonce = chain.nonce(self.address()).await?;
        // Twice the base fee lasts for five full blocks in a row.
        let max_fee = u128::from(chain.head().next_base_fee) * 2 + PRIORITY_FEE;
        let transaction = TxEip1559 {
            chain_id: self.ledger.chain_id(),
            nonce,
            // The state may differ when it runs: a quarter more.
            gas_limit: gas + gas / 4,
            max_fee_per_gas: max_fee,
            max_priority_fee_per_gas: PRIORITY_FEE,
            to: TxKind::Call(to),
            value,
            access_list: Default::default(),
            input: input.clone(),
        };
        let raw = sign_eip1559(transaction, &self.key);
        let hash = alloy_primitives::keccak256(&raw);
        Ok(Waiting {
            raw,
            hash,
            nonce,
            max_fee,
        })
    }

    async fn wait(&self, waiting: &Waiting) -> Result<Option<Sent>, LedgerError> {
        let mut heads = self.ledger.heads();
        loop {
            let head = heads.borrow_and_update().clone();
            match self.look(waiting, &head).await {
                Ok(Progress::Final(located)) => return outcome(waiting.hash, &located).map(Some),
                Ok(Progress::Overtaken) => return Ok(None),
                Ok(Progress::Waiting) => {}
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
            match tokio::time::timeout(RESEND, heads.changed()).await {
                Ok(_) => {}
                Err(_) => self.resend(waiting).await,
            }
        }
    }

    async fn look(&self, waiting: &Waiting, head: &Head) -> Result<Progress, LedgerError> {
        let chain = self.ledger.chain()?;
        // The nonce first: a block that comes between the two questions must not look like another's transaction.
        let nonce = chain.nonce(self.address()).await?;
        if let Some(located) = chain.transaction(waiting.hash)? {
            return Ok(Progress::Final(located));
        }
        if nonce > waiting.nonce || u128::from(head.next_base_fee) > waiting.max_fee {
            return Ok(Progress::Overtaken);
        }
        Ok(Progress::Waiting)
    }

    async fn resend(&self, waiting: &Waiting) {
        for chain in self.ledger.chains() {
            match chain.submit(&waiting.raw).await {
                Ok(_) => tracing::debug!(hash = %waiting.hash, "transaction sent again"),
                Err(SubmitError::AlreadyKnown(_)) => {}
                Err(error) => {
                    tracing::debug!(hash = %waiting.hash, %error, "transaction not accepted again")
                }
            }
        }
    }
}

enum Progress {
    Waiting,
    Final(Located),
    Overtaken,
}

fn outcome(hash: B256, located: &Located) -> Result<Sent, LedgerError> {
    let receipt = located.receipt();
    let output = receipt.output.clone();
    if !receipt.success {
        let reason = explain(&output).unwrap_or_else(|| format!("transaction {hash} failed"));
        return Err(LedgerError::Refused(reason));
    }
    Ok(Sent {
        hash,
        height: located.block.number(),
        output,
    })
}

fn refusal(result: &CallResult) -> LedgerError {
    LedgerError::Refused(reason(result))
}

/// A validator that is behind may not know of funds yet; one that says so again and again is right.
fn is_doubtful(error: &LedgerError, failures: u32) -> bool {
    let funds = matches!(
        error,
        LedgerError::Submit(SubmitError::InsufficientFunds { .. })
    );
    funds && failures < MOST_DOUBTS
}

/// Whether waiting may cure it.
fn is_passing(error: &LedgerError) -> bool {
    match error {
        LedgerError::NoValidator | LedgerError::Chain(_) => true,
        LedgerError::Submit(error) => matches!(
            error,
            SubmitError::Stopped
                | SubmitError::PoolFull
                | SubmitError::Underpriced { .. }
                | SubmitError::ReplacementUnderpriced { .. }
                | SubmitError::NonceTooHigh { .. }
        ),
        LedgerError::Refused(_) | LedgerError::Unexpected => false,
    }
}
