//! Makes bundles: a receipt, the way to its batch, and the ledger's proofs.

use std::sync::Arc;

use lemma_chain::ChainHandle;
use lemma_types::{
    B256, SignedReceipt,
    block::Extension,
    bundle::{Bundle, Settlement},
    merkle,
    settlement::receipt_leaf,
};
use lemma_verify::{Check, CheckName, Opened, Outcome, Verdict};

use super::{
    BundleStatus, GatewayError, Inner, blocking,
    index::{IndexError, Located, Served},
};
use crate::{
    ledger::LedgerError,
    protocol::{Position, ReceiptState, Stage},
};

/// A receipt that is in no collected batch so long after it was made is overdue, milliseconds.
const OVERDUE_MS: u64 = 5_000;
/// Most workers that are asked for a receipt that is not known here.
const MOST_ASKED: usize = 64;

impl Inner {
    pub(super) async fn bundle(self: &Arc<Self>, id: B256) -> Result<BundleStatus, GatewayError> {
        let inner = Arc::clone(self);
        let known =
            blocking(move || Ok::<_, IndexError>((inner.index.find(id)?, inner.index.locate(id)?)));
        let (served, located) = match known.await? {
            (Some(served), Some(located)) => (served, Some(located)),
            (Some(served), None) => {
                let located = self.ask_late(&served).await;
                (served, located)
            }
            (None, _) => match self.ask_all(id).await {
                Some(found) => found,
                None => return Ok(BundleStatus::Unknown),
            },
        };
        let Some(located) = located else {
            return Ok(BundleStatus::Pending(served.receipt));
        };
        self.prove(served, located).await
    }

    /// The place of a receipt that was served here. Its batch is collected when it settles, so only a receipt that is overdue
    /// is worth a question to its worker; the answer also tells which batch to collect.
    async fn ask_late(&self, served: &Served) -> Option<Located> {
        let receipt = &served.receipt.receipt;
        if self.ledger.head().timestamp_ms < receipt.completed_at.saturating_add(OVERDUE_MS) {
            return None;
        }
        let _turn = self.lookups.acquire().await.ok()?;
        let (_, located) = self.ask_where(receipt.worker, receipt.id()).await?;
        let located = located?;
        let (index, record) = (Arc::clone(&self.index), located.batch.clone());
        if blocking(move || index.want(&[record])).await.is_ok() {
            self.collect.notify_one();
        }
        Some(located)
    }

    /// Asks a worker for a receipt and its place; what it says is checked against the ledger.
    async fn ask_where(
        &self,
        worker: lemma_types::Address,
        id: B256,
    ) -> Option<(Served, Option<Located>)> {
        let endpoint = self.pool.endpoint(worker)?;
        let state = self.client.receipt(&endpoint, id).await.ok()??;
        let ReceiptState {
            receipt,
            engine,
            stage,
        } = state;
        let genuine = receipt.receipt.id() == id
            && receipt.receipt.worker == worker
            && receipt.verify_signature(self.ledger.chain_id()).is_ok()
            && engine.id() == receipt.receipt.engine;
        if !genuine {
            return None;
        }
        let located = match stage {
            Stage::Settled { position, .. } => self.check_position(&receipt, position).await,
            Stage::Pending | Stage::Sealed(_) => None,
        };
        Some((Served { receipt, engine }, located))
    }

    async fn check_position(&self, receipt: &SignedReceipt, position: Position) -> Option<Located> {
        let Position {
            batch_root,
            count,
            index,
            path,
        } = position;
        let leaf = receipt_leaf(receipt.receipt.id());
        if !merkle::verify(leaf, index, count, &path, batch_root) {
            return None;
        }
        let batch = self
            .ledger
            .settled(receipt.receipt.worker, batch_root)
            .await
            .ok()??;
        (batch.count == count).then_some(Located { batch, index, path })
    }

    /// A receipt that this gateway did not serve, or forgot in a crash: some worker may have it.
    async fn ask_all(&self, id: B256) -> Option<(Served, Option<Located>)> {
        let _turn = self.lookups.acquire().await.ok()?;
        let workers = self.pool.status();
        let asked = workers
            .iter()
            .take(MOST_ASKED)
            .map(|worker| Box::pin(async { self.ask_where(worker.address, id).await.ok_or(()) }));
        if workers.is_empty() {
            return None;
        }
        futures::future::select_ok(asked)
            .await
            .ok()
            .map(|(found, _)| found)
    }

    async fn prove(
        self: &Arc<Self>,
        served: Served,
        located: Located,
    ) -> Result<BundleStatus, GatewayError> {
        let manifest = self.manifest(served.receipt.receipt.model_root).await?;
        let inner = Arc::clone(self);
        blocking(move || {
            let mut problem = GatewayError::from(LedgerError::NoValidator);
            for chain in inner.ledger.chains() {
                let settlement = match settlement(&chain, &served, &located) {
                    Ok(Some(settlement)) => settlement,
                    Ok(None) => return Ok(BundleStatus::Pending(served.receipt)),
                    Err(error) => {
                        problem = error.into();
                        continue;
                    }
                };
                let bundle = Bundle {
                    schema: Bundle::SCHEMA.to_owned(),
                    chain_id: inner.ledger.chain_id(),
                    receipt: served.receipt.clone(),
                    engine: served.engine.clone(),
                    manifest: (*manifest).clone(),
                    openings: None,
                    settlement: Some(settlement),
                    proof: None,
                };
                match inner.check(&bundle) {
                    Ok(()) => return Ok(BundleStatus::Final(bundle)),
                    // Never hand out what would not verify.
                    Err(reason) => problem = GatewayError::Ledger(reason),
                }
            }
            Err(problem)
        })
        .await
    }

    fn check(&self, bundle: &Bundle) -> Result<(), String> {
        let report = self.verifier.verify(bundle, &Opened::default());
        if report.verdict == Verdict::Verified {
            return Ok(());
        }
        // A proof tells what was asked and answered: whoever asked has it, and nobody else.
        let theirs =
            |check: &&Check| check.name == CheckName::Proof && check.outcome == Outcome::Missing;
        let mut wanting = report
            .checks
            .iter()
            .filter(|check| matches!(check.outcome, Outcome::Failed | Outcome::Missing));
        let wanting = wanting.find(|check| !theirs(check));
        if wanting.is_none() && report.verdict == Verdict::Inconclusive {
            return Ok(());
        }
        Err(match wanting {
            Some(check) => format!(
                "the proof does not verify: {}: {}",
                check.name, check.detail
            ),
            None => "the proof does not verify".to_owned(),
        })
    }
}

/// The ledger's part, from one validator; `None` if it has no certificate that covers the batch yet.
fn settlement(
    chain: &ChainHandle,
    served: &Served,
    located: &Located,
) -> Result<Option<Settlement>, LedgerError> {
    let receipt = &served.receipt.receipt;
    let batch = &located.batch;
    let Some(certificate) = chain.certificate(batch.height.max(receipt.anchor_height + 1))? else {
        return Ok(None);
    };
    let extension =
        Extension::decode(&certificate.extension).map_err(|_| LedgerError::Unexpected)?;
    let batch_path = chain.batch_path(batch.index, extension.batches.size)?;
    let anchor_path = chain.history_path(receipt.anchor_height, extension.history.size)?;
    let (Some(batch_path), Some(anchor_path)) = (batch_path, anchor_path) else {
        return Err(LedgerError::Unexpected);
    };
    Ok(Some(Settlement {
        batch: batch.clone(),
        receipt_index: located.index,
        receipt_path: located.path.clone(),
        batch_path,
        anchor_path,
        header: certificate.header,
        extension: certificate.extension,
        finalization: certificate.finalization,
    }))
}
