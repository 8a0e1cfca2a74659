//! The one place that makes HTTP clients: what they trust, and whose cryptography they use.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use reqwest::ClientBuilder;
use rustls::{ClientConfig, RootCertStore, crypto::ring};

/// Certificates of the system, read once. A system without any still speaks HTTP; HTTPS then fails for want of trust.
static TLS: LazyLock<ClientConfig> = LazyLock::new(|| {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "a certificate of the system can not be read");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
});

/// How long an unused connection is kept: less than servers of ours wait for its next request, so that they do not close it
/// under one.
const IDLE: Duration = Duration::from_secs(20);

/// A client for HTTP, and for HTTPS with the certificates that the system trusts.
pub fn client() -> ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(TLS.clone())
        .pool_idle_timeout(IDLE)
}
