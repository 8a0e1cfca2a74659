//! Receipts at the gateway.

use std::time::{Duration, Instant};

use lemma_types::{B256, bundle::Bundle};

use super::Client;
use crate::error::{CommandError, CommandResult, Context as _};
use crate::exit::ExitCode;

/// Longest wait in one request.
const ONE_WAIT: Duration = Duration::from_secs(10);

/// Where a receipt is on its way to the ledger.
#[derive(Debug)]
pub enum BundleState {
    /// The ledger has not settled it.
    Pending,
    /// Settled and final.
    Final(Box<Bundle>),
}

impl Client {
    /// The bundle of a receipt; waits at most `wait` for it to be settled.
    ///
    /// # Errors
    /// If the gateway does not know the receipt, or does not answer.
    pub async fn bundle(&self, id: B256, wait: Duration) -> CommandResult<BundleState> {
        let deadline = Instant::now() + wait;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let state = self.bundle_once(id, left.min(ONE_WAIT)).await?;
            if matches!(state, BundleState::Final(_)) || left.is_zero() {
                return Ok(state);
            }
        }
    }

    async fn bundle_once(&self, id: B256, wait: Duration) -> CommandResult<BundleState> {
        let path = format!("v1/receipts/{id}/bundle?wait_ms={}", wait.as_millis());
        let request = self.get(&path)?.timeout(self.timeout + wait);
        let response = match self.send(request).await? {
            Ok(response) => response,
            Err(refusal) if refusal.status.as_u16() == 404 => {
                return Err(CommandError::new(
                    ExitCode::NotFound,
                    format!("no receipt {id} is known to this gateway"),
                )
                .hint("`lemma receipts ls` lists yours"));
            }
            Err(refusal) => return Err(refusal.into_error()),
        };
        if response.status().as_u16() == 202 {
            return Ok(BundleState::Pending);
        }
        let bytes = self
            .read(response, lemma_types::limits::BUNDLE_BYTES)
            .await?;
        let bundle = lemma_verify::decode_bundle(&bytes)
            .context(ExitCode::VerificationFailed, || {
                "the gateway sent no bundle".to_owned()
            })?;
        if bundle.receipt.receipt.id() != id {
            let message = format!("the gateway sent the bundle of another receipt than {id}");
            return Err(CommandError::new(ExitCode::VerificationFailed, message));
        }
        Ok(BundleState::Final(Box::new(bundle)))
    }
}
