//! Metrics of the API, and the listener that exports those of the whole process in the text format of Prometheus.

use axum::{
    Router,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use metrics::{Unit, describe_counter, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use lemma_node::Ledger;

/// Counter: requests over HTTP. Labels: `route`, `method`, `status`.
pub const HTTP_REQUESTS: &str = "lemma_http_requests_total";
/// Histogram, seconds: requests over HTTP. Labels: `route`.
pub const HTTP_SECONDS: &str = "lemma_http_request_seconds";
/// Counter: calls of JSON-RPC. Labels: `method`, `outcome`.
pub const RPC_CALLS: &str = "lemma_rpc_calls_total";

/// Bounds of latency buckets, seconds.
const SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
];

/// Collects what the process records through the `metrics` facade.
#[derive(Clone)]
pub struct Exporter(PrometheusHandle);

impl Exporter {
    /// Installs the process's recorder. Can be done once.
    ///
    /// # Errors
    /// If the process has a recorder already.
    pub fn install() -> Result<Self, BuildError> {
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
            .install_recorder()?;
        describe_counter!(HTTP_REQUESTS, "Requests over HTTP");
        describe_histogram!(
            HTTP_SECONDS,
            Unit::Seconds,
            "Time from request to response over HTTP"
        );
        describe_counter!(RPC_CALLS, "Calls of Ethereum JSON-RPC");
        metrics::gauge!("lemma_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(Self(handle))
    }
}

#[derive(Clone)]
struct Sources {
    exporter: Exporter,
    ledger: Ledger,
}

pub(crate) fn routes(exporter: Exporter, ledger: Ledger) -> Router {
    Router::new()
        .route("/metrics", get(export))
        .with_state(Sources { exporter, ledger })
}

/// `GET /metrics`
async fn export(State(Sources { exporter, ledger }): State<Sources>) -> Response {
    exporter.0.run_upkeep();
    let mut text = exporter.0.render();
    // A validator that stops at this moment has no metrics; those of the process still count.
    if let Ok(chain) = ledger.chain() {
        text.push_str(&without_end(&chain.metrics().await.unwrap_or_default()));
    }
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        text,
    )
        .into_response()
}

/// Consensus exports OpenMetrics, whose end mark has no place in the middle of a page, nor in the older format.
fn without_end(text: &str) -> String {
    text.lines()
        .filter(|line| *line != "# EOF")
        .map(|line| format!("{line}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_mark_of_open_metrics_is_dropped() {
        assert_eq!(without_end("a 1\n# EOF\n"), "a 1\n");
        assert_eq!(without_end(""), "");
    }
}
