//! The ledger as a role sees it: some validator of this process that runs, whichever it is.

mod account;
mod modules;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use alloy_primitives::Address;
use alloy_sol_types::SolCall;
use lemma_chain::{ChainError, ChainHandle, Head, SubmitError};
use lemma_ledger::{CallRequest, CallResult, modules::explain};
use lemma_types::TrustedRoot;
use tokio::sync::watch;

pub use account::{Account, Sent};
pub use modules::{ModelRecord, NodeRecord};

/// Why the ledger has no answer.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// No validator of this process runs.
    #[error("no validator is running")]
    NoValidator,
    /// A validator could not answer.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A validator does not take the transaction.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The module refuses the call; says why.
    #[error("the ledger refuses: {0}")]
    Refused(String),
    /// The answer is not what the module's interface promises.
    #[error("the ledger answered in an unexpected form")]
    Unexpected,
}

/// Asks whichever validator runs. Clones share the list of validators.
///
/// Every handle is of the same network, and what it tells is final, so it does not matter which one answers; the one with
/// the highest head is asked first.
#[derive(Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

struct Inner {
    trusted_root: TrustedRoot,
    handles: RwLock<Vec<ChainHandle>>,
    head: watch::Sender<Head>,
}

impl Ledger {
    /// A ledger that can be asked through this validator. Must be called on a tokio runtime, which follows its head.
    #[must_use]
    pub fn new(first: &ChainHandle) -> Self {
        let inner = Inner {
            trusted_root: first.trusted_root(),
            handles: RwLock::default(),
            head: watch::Sender::new(first.head()),
        };
        let ledger = Self {
            inner: Arc::new(inner),
        };
        ledger.add(first.clone());
        ledger
    }

    /// Adds a validator; those that have stopped are forgotten. Must be called on a tokio runtime.
    ///
    /// # Panics
    /// If the validator is of another network.
    pub fn add(&self, handle: ChainHandle) {
        assert_eq!(
            handle.trusted_root(),
            self.inner.trusted_root,
            "one network"
        );
        let mut heads = handle.subscribe();
        {
            let mut handles = self
                .inner
                .handles
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            handles.retain(ChainHandle::is_alive);
            handles.push(handle);
        }
        // Ends with the validator's handles, of which the ledger holds one, so with the ledger.
        let inner = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            loop {
                let latest = heads.borrow_and_update().clone();
                let Some(inner) = inner.upgrade() else { return };
                inner.head.send_if_modified(|known| {
                    let newer = latest.number > known.number;
                    if newer {
                        *known = latest;
                    }
                    newer
                });
                drop(inner);
                if heads.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// The validator to ask: of those that run, the one with the highest final block.
    ///
    /// # Errors
    /// [`LedgerError::NoValidator`].
    pub fn chain(&self) -> Result<ChainHandle, LedgerError> {
        self.chains()
            .into_iter()
            .next()
            .ok_or(LedgerError::NoValidator)
    }

    /// The validators that run, the one with the highest final block first.
    #[must_use]
    pub fn chains(&self) -> Vec<ChainHandle> {
        let handles = self
            .inner
            .handles
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let mut alive: Vec<_> = handles
            .iter()
            .filter(|handle| handle.is_alive())
            .cloned()
            .collect();
        alive.sort_by_key(|handle| std::cmp::Reverse(handle.head().number));
        alive
    }

    /// What an offline verifier has to trust.
    #[must_use]
    pub fn trusted_root(&self) -> &TrustedRoot {
        &self.inner.trusted_root
    }

    /// EIP-155 chain id.
    #[must_use]
    pub fn chain_id(&self) -> u64 {
        self.inner.trusted_root.chain_id
    }

    /// The highest final block that any validator has told of.
    #[must_use]
    pub fn head(&self) -> Head {
        self.inner.head.borrow().clone()
    }

    /// Follows the head, whichever validator tells of it.
    #[must_use]
    pub fn heads(&self) -> watch::Receiver<Head> {
        self.inner.head.subscribe()
    }

    /// Resolves when block `number` is final.
    pub async fn reached(&self, number: u64) {
        let mut heads = self.heads();
        // The sender lives in `self`, so the channel cannot close.
        let _ = heads.wait_for(|head| head.number >= number).await;
    }

    /// Calls a module at the head's state, of one validator or, should it stop meanwhile, of the next.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub async fn call<C: SolCall>(
        &self,
        module: Address,
        call: &C,
    ) -> Result<C::Return, LedgerError> {
        let request = CallRequest {
            to: Some(module),
            input: call.abi_encode().into(),
            ..CallRequest::default()
        };
        let mut last = LedgerError::NoValidator;
        for chain in self.chains() {
            match chain.call(request.clone()).await {
                Ok(result) => return decode::<C>(result),
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }
}

fn decode<C: SolCall>(result: CallResult) -> Result<C::Return, LedgerError> {
    match result {
        CallResult::Success { output, .. } => {
            C::abi_decode_returns_validate(&output).map_err(|_| LedgerError::Unexpected)
        }
        failure => Err(LedgerError::Refused(reason(&failure))),
    }
}

/// In words, why a call did not succeed.
fn reason(result: &CallResult) -> String {
    match result {
        CallResult::Success { .. } => "it succeeded".to_owned(),
        CallResult::Revert { output, .. } => {
            explain(output).unwrap_or_else(|| format!("reverted with {output}"))
        }
        CallResult::Halt { reason, .. } => reason.clone(),
        CallResult::Refused(invalid) => invalid.to_string(),
    }
}

/// A pause that grows with the number of failures: 50 ms, doubled up to `most`.
pub(crate) fn backoff(failures: u32, most: Duration) -> Duration {
    Duration::from_millis(50)
        .saturating_mul(1 << failures.min(16))
        .min(most)
}
