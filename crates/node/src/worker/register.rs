//! Makes the ledger know where the worker is.

use std::time::Duration;

use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall;
use lemma_ledger::modules::{NODES, abi::ILemmaNodes};

use crate::ledger::{Account, Ledger, LedgerError, backoff};

const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Registers the worker, or corrects what is registered; returns when the ledger has it.
pub(crate) async fn register(ledger: &Ledger, account: &Account, endpoint: &str, payee: Address) {
    let mut failures = 0;
    loop {
        match try_register(ledger, account, endpoint, payee).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(%error, worker = %account.address(), "not registered yet, trying again");
                tokio::time::sleep(backoff(failures, LONGEST_PAUSE)).await;
                failures += 1;
            }
        }
    }
}

async fn try_register(
    ledger: &Ledger,
    account: &Account,
    endpoint: &str,
    payee: Address,
) -> Result<(), LedgerError> {
    let known = ledger.node(account.address()).await?;
    if known.active && known.endpoint == endpoint && known.payee == payee {
        return Ok(());
    }
    let endpoint = endpoint.to_owned();
    let input = if known.active {
        ILemmaNodes::updateCall { endpoint, payee }.abi_encode()
    } else {
        ILemmaNodes::registerCall { endpoint, payee }.abi_encode()
    };
    account.send(NODES, U256::ZERO, input.into()).await?;
    tracing::info!(worker = %account.address(), "registered on the ledger");
    Ok(())
}
