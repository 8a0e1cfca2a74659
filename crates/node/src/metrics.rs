//! Names of the metrics that the roles record through the `metrics` facade. An exporter is the binary's affair.

/// Counter: inference requests at the gateway. Labels: `outcome` (`ok` or an [error code](crate::gateway::InferError::code)).
pub const REQUESTS: &str = "lemma_requests_total";
/// Histogram, seconds: inference requests at the gateway, from request to checked receipt.
pub const REQUEST_SECONDS: &str = "lemma_request_seconds";
/// Counter: attempts on a worker that failed. Labels: `reason`.
pub const WORKER_FAILURES: &str = "lemma_worker_failures_total";
/// Gauge: workers that the gateway knows. Labels: `state` (`available`, `set_aside`).
pub const WORKERS: &str = "lemma_workers";
/// Counter: receipts signed by a worker.
pub const RECEIPTS_SIGNED: &str = "lemma_receipts_signed_total";
/// Counter: receipts in batches that the ledger settled.
pub const RECEIPTS_SETTLED: &str = "lemma_receipts_settled_total";
/// Gauge: receipts of a worker that are not settled yet. Labels: `worker`.
pub const RECEIPTS_WAITING: &str = "lemma_receipts_waiting";
/// Counter: batches that the ledger settled.
pub const BATCHES_SETTLED: &str = "lemma_batches_settled_total";
/// Histogram, seconds: executions of a model on a worker.
pub const EXECUTION_SECONDS: &str = "lemma_execution_seconds";
/// Histogram, seconds: steps of a language model's engine, one forward pass each.
pub const TEXT_STEP_SECONDS: &str = "lemma_text_step_seconds";
/// Counter: tokens of answers that a gateway has passed on.
pub const TEXT_TOKENS: &str = "lemma_text_tokens_total";
/// Gauge: requests that a worker has taken and not answered. Labels: `worker`.
pub const QUEUE_DEPTH: &str = "lemma_worker_queue_depth";
/// Gauge, bytes: files of the models that a worker holds in memory. Labels: `worker`.
pub const MODEL_BYTES: &str = "lemma_worker_model_bytes";
/// Counter, bytes: content served by a host.
pub const BLOB_BYTES_SERVED: &str = "lemma_blob_bytes_served_total";
/// Counter, bytes: content fetched from hosts and kept.
pub const BLOB_BYTES_FETCHED: &str = "lemma_blob_bytes_fetched_total";
/// Gauge: height of the last finalised block that the gateway saw.
pub const CHAIN_HEIGHT: &str = "lemma_chain_height";
