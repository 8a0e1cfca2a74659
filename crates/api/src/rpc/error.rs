//! Errors of JSON-RPC 2.0, with Ethereum's codes.

use alloy_primitives::Bytes;
use serde_json::{Value, json};

use super::hex;

/// The error member of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RpcError {
    code: i32,
    message: String,
    data: Option<Value>,
}

impl RpcError {
    fn new(code: i32, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            data: None,
        }
    }

    /// The body is not JSON.
    pub(super) fn parse(reason: impl std::fmt::Display) -> Self {
        Self::new(-32700, format!("parse error: {reason}"))
    }

    /// The JSON is not a request.
    pub(super) fn invalid_request(reason: impl std::fmt::Display) -> Self {
        Self::new(-32600, format!("invalid request: {reason}"))
    }

    /// No such method.
    pub(super) fn unknown_method(method: &str) -> Self {
        Self::new(
            -32601,
            format!(
                "the method {} does not exist or is not available",
                hex::cut(method)
            ),
        )
    }

    /// A parameter is missing or wrong.
    pub(super) fn invalid_params(reason: impl Into<String>) -> Self {
        Self::new(-32602, reason)
    }

    /// The server's own affairs.
    pub(super) fn internal(reason: impl std::fmt::Display) -> Self {
        Self::new(-32603, format!("internal error: {reason}"))
    }

    /// What is asked for is valid but can not be had, such as a transaction that is refused.
    pub(super) fn server(reason: impl std::fmt::Display) -> Self {
        Self::new(-32000, reason.to_string())
    }

    /// A limit of the server (EIP-1474).
    pub(super) fn limit(reason: impl std::fmt::Display) -> Self {
        Self::new(-32005, reason.to_string())
    }

    /// A call reverted.
    pub(super) fn reverted(reason: Option<String>, output: &Bytes) -> Self {
        let message = match reason {
            Some(reason) => format!("execution reverted: {reason}"),
            None => "execution reverted".to_owned(),
        };
        Self {
            code: 3,
            message,
            data: Some(hex::data(output)),
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(data) = &self.data {
            error["data"] = data.clone();
        }
        error
    }
}
