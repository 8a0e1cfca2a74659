//! How the network is, and what to trust.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::{Json, extract::State};
use lemma_ledger::modules::{RECEIPTS, abi::ILemmaReceipts};
use lemma_node::{
    Ledger,
    gateway::{GatewayError, WorkerStatus},
};
use lemma_types::TrustedRoot;
use serde_json::{Value, json};

use crate::{Api, error::ApiError};

/// `GET /v1/trusted-root`
pub(super) async fn trusted_root(State(api): State<Api>) -> Json<TrustedRoot> {
    Json(api.gateway.trusted_root().clone())
}

/// `GET /v1/status`
pub(super) async fn status(State(api): State<Api>) -> Result<Json<Value>, ApiError> {
    let status = api.gateway.status().await?;
    let ready = api.gateway.ready();
    let settled = settled(api.rpc.ledger(), &status.workers).await?;
    let workers: Vec<Value> = status.workers.iter().map(worker).collect();
    Ok(Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": api.started.elapsed().as_secs(),
        "ready": ready.is_ok(),
        "reason": ready.err(),
        "chain_id": status.chain_id,
        "height": status.height,
        "block_time_ms": status.block_time_ms,
        "finality_age_ms": now_ms().saturating_sub(status.block_time_ms),
        "workers": workers,
        "models": status.models,
        "receipts": {
            "pending": status.receipts_pending,
            "settled": settled.receipts,
            "batches": settled.batches,
        },
        "limits": {
            "http_body_bytes": lemma_types::limits::HTTP_BODY_BYTES,
            "blob_bytes": api.uploads.max_blob_bytes(),
        },
    })))
}

/// What the ledger has settled of these workers.
#[derive(Default)]
struct Settled {
    receipts: u64,
    batches: u64,
}

async fn settled(ledger: Ledger, workers: &[WorkerStatus]) -> Result<Settled, ApiError> {
    let mut sum = Settled::default();
    for worker in workers {
        let call = ILemmaReceipts::totalsOfCall {
            worker: worker.address,
        };
        let totals = ledger
            .call(RECEIPTS, &call)
            .await
            .map_err(GatewayError::from)?;
        sum.receipts = sum.receipts.saturating_add(totals.count);
        sum.batches = sum.batches.saturating_add(totals.batches);
    }
    Ok(sum)
}

fn worker(worker: &WorkerStatus) -> Value {
    json!({
        "address": worker.address,
        "endpoint": worker.endpoint,
        "in_flight": worker.in_flight,
        "failures": worker.failures,
        "available": worker.set_aside.is_zero(),
        "set_aside_ms": worker.set_aside.as_millis() as u64,
    })
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
