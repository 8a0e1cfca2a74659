//! What commands ask a gateway, over HTTP.

mod generate;
mod infer;
mod models;
mod receipts;
mod rpc;

use std::{net::IpAddr, time::Duration};

pub use generate::{Generation, Piece, TextAnswer};
pub use infer::Answer;
pub use models::{ModelEntry, ModelInfo};
pub use receipts::BundleState;
use reqwest::{Response, StatusCode, Url};
pub use rpc::{Mined, Transaction};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    config::{Config, keys},
    error::{CommandError, CommandResult},
    exit::ExitCode,
    text::harmless,
};

/// Largest response that is read, bytes.
const MAX_RESPONSE_BYTES: usize = 256 << 20;

/// A gateway, as a client sees it.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    timeout: Duration,
}

/// An answer that is not a success.
#[derive(Debug)]
pub struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// A stable word, if the gateway gave one.
    pub code: Option<String>,
    /// What the gateway says.
    pub message: String,
}

impl Client {
    /// The gateway that the configuration names.
    ///
    /// # Errors
    /// If its address is not one.
    pub fn new(config: &Config) -> CommandResult<Self> {
        Self::at(config.text(keys::API)?, config.duration(keys::TIMEOUT)?)
    }

    /// The gateway at `address`.
    ///
    /// # Errors
    /// If the address is not one.
    pub fn at(address: &str, timeout: Duration) -> CommandResult<Self> {
        let wrong = |reason: &str| {
            CommandError::new(
                ExitCode::Config,
                format!(
                    "`{}` is not the address of a gateway: {reason}",
                    harmless(address)
                ),
            )
            .hint("write it like http://127.0.0.1:8402 (--api, LEMMA_API or `api` in lemma.toml)")
        };
        let mut base = Url::parse(address).map_err(|error| wrong(&error.to_string()))?;
        match base.scheme() {
            "http" | "https" => {}
            other => return Err(wrong(&format!("`{other}` is neither http nor https"))),
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let mut builder = lemma_store::http::client()
            .user_agent(concat!("lemma/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(5).min(timeout));
        if is_loopback(&base) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| {
            CommandError::new(ExitCode::Internal, "can not make an HTTP client").because(&error)
        })?;
        Ok(Self {
            http,
            base,
            timeout,
        })
    }

    /// How long the user is ready to wait.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The gateway's address.
    #[must_use]
    pub fn address(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Whether the gateway is on this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        is_loopback(&self.base)
    }

    fn url(&self, path: &str) -> CommandResult<Url> {
        self.base.join(path).map_err(|error| {
            CommandError::new(ExitCode::Internal, format!("`{path}` is not a path")).because(&error)
        })
    }

    fn get(&self, path: &str) -> CommandResult<reqwest::RequestBuilder> {
        Ok(self.http.get(self.url(path)?).timeout(self.timeout))
    }

    fn post(&self, path: &str) -> CommandResult<reqwest::RequestBuilder> {
        Ok(self.http.post(self.url(path)?).timeout(self.timeout))
    }

    /// Sends a request and tells apart: unreachable, too slow, refused, answered.
    async fn send(
        &self,
        request: reqwest::RequestBuilder,
    ) -> CommandResult<Result<Response, Refusal>> {
        let response = request
            .send()
            .await
            .map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(Ok(response));
        }
        let body = self.read(response, 1 << 20).await?;
        Ok(Err(Refusal::new(status, &body)))
    }

    async fn read(&self, mut response: Response, limit: usize) -> CommandResult<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.unreachable(&error))?
        {
            if body.len() + chunk.len() > limit {
                return Err(CommandError::failed(format!(
                    "the gateway's answer is larger than {limit} bytes"
                )));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    async fn json<T: DeserializeOwned>(&self, response: Response) -> CommandResult<T> {
        let body = self.read(response, MAX_RESPONSE_BYTES).await?;
        serde_json::from_slice(&body).map_err(|error| {
            CommandError::failed(format!(
                "{} did not answer as a gateway does",
                self.address()
            ))
            .because(&error)
            .hint("is --api the address of a Lemma gateway?")
        })
    }

    async fn get_json<T: DeserializeOwned>(&self, path: &str) -> CommandResult<T> {
        let response = self.send(self.get(path)?).await?;
        self.json(response.map_err(|refusal| refusal.into_error())?)
            .await
    }

    /// `GET /v1/status`
    ///
    /// # Errors
    /// If the gateway does not answer.
    pub async fn status(&self) -> CommandResult<Value> {
        self.get_json("v1/status").await
    }

    /// The network's trusted root, as this gateway says: good for convenience, not for trust.
    ///
    /// # Errors
    /// If the gateway does not answer.
    pub async fn trusted_root(&self) -> CommandResult<lemma_types::TrustedRoot> {
        self.get_json("v1/trusted-root").await
    }

    fn unreachable(&self, error: &reqwest::Error) -> CommandError {
        if error.is_timeout() {
            return CommandError::new(
                ExitCode::Timeout,
                format!("{} did not answer in time", self.address()),
            )
            .hint("wait longer with --timeout");
        }
        let error = CommandError::new(
            ExitCode::Network,
            format!("can not reach the gateway at {}", self.address()),
        )
        .cause(root_cause(error));
        if self.is_local() {
            error.hint("`lemma up` starts a network on this machine; --api names another gateway")
        } else {
            error.hint("check the address (--api) and your network")
        }
    }
}

/// The innermost error says it best: `Connection refused`.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    harmless(&cause.to_string())
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    })
}

impl Refusal {
    /// Understands `{"error": {"message", "code"}}` and `{"error": "..."}`.
    fn new(status: StatusCode, body: &[u8]) -> Self {
        let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let error = &value["error"];
        let message = error["message"].as_str().or(error.as_str());
        Self {
            status,
            code: error["code"].as_str().map(ToOwned::to_owned),
            message: harmless(message.unwrap_or("the gateway gives no reason")),
        }
    }

    /// An error in the middle of an answer, whose status was success.
    fn into_stream_error(self) -> CommandError {
        let code = match self.code.as_deref() {
            Some("answer_refused") => ExitCode::VerificationFailed,
            Some("worker_failed" | "no_worker") => ExitCode::Network,
            _ => ExitCode::Failed,
        };
        CommandError::new(code, self.message).hint("nothing of the answer has a receipt; ask again")
    }

    /// The refusal as an error of a command.
    #[must_use]
    pub fn into_error(self) -> CommandError {
        let code = match (self.status.as_u16(), self.code.as_deref()) {
            (404, _) => ExitCode::NotFound,
            (402, _) => ExitCode::Funds,
            // The gateway caught a worker answering wrongly.
            (502, Some("answer_refused")) => ExitCode::VerificationFailed,
            (502..=504, _) => ExitCode::Network,
            _ => ExitCode::Failed,
        };
        CommandError::new(code, self.message)
            .cause(format!("the gateway answered with status {}", self.status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> CommandResult<Client> {
        Client::at(address, Duration::from_secs(1))
    }

    #[test]
    fn addresses_are_checked() {
        assert_eq!(
            client("http://127.0.0.1:8402").unwrap().address(),
            "http://127.0.0.1:8402"
        );
        assert_eq!(
            client("http://h/x/")
                .unwrap()
                .url("v1/status")
                .unwrap()
                .as_str(),
            "http://h/x/v1/status"
        );
        assert_eq!(
            client("http://h/x")
                .unwrap()
                .url("v1/status")
                .unwrap()
                .as_str(),
            "http://h/x/v1/status"
        );
        for bad in ["127.0.0.1:8402", "ftp://h", "", "http://"] {
            assert_eq!(client(bad).unwrap_err().code(), ExitCode::Config, "{bad}");
        }
        for (address, local) in [
            ("http://localhost", true),
            ("http://[::1]:5", true),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(client(address).unwrap().is_local(), local, "{address}");
        }
    }

    #[test]
    fn refusals_are_understood_in_both_forms() {
        let native = Refusal::new(
            StatusCode::NOT_FOUND,
            br#"{"error":{"message":"no model","code":"model_not_found"}}"#,
        );
        assert_eq!(
            (native.code.as_deref(), native.message.as_str()),
            (Some("model_not_found"), "no model")
        );
        assert_eq!(native.into_error().code(), ExitCode::NotFound);
        let plain = Refusal::new(
            StatusCode::BAD_REQUEST,
            br#"{"error":"bad \u001b[31m input"}"#,
        );
        assert_eq!(plain.message, "bad  [31m input");
        assert_eq!(
            Refusal::new(StatusCode::BAD_GATEWAY, b"<html>")
                .into_error()
                .code(),
            ExitCode::Network
        );
    }

    #[tokio::test]
    async fn nobody_there_is_a_network_error_with_a_hint() {
        // Port 9 (discard) is not served on this machine; loopback refuses at once.
        let error = client("http://127.0.0.1:9")
            .unwrap()
            .status()
            .await
            .unwrap_err();
        assert_eq!(error.code(), ExitCode::Network);
        assert!(error.hints()[0].contains("lemma up"));
    }
}
