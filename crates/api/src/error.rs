//! Errors of the native API (`/v1`): a status, and a body that says what, why and where.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use lemma_node::gateway::{GatewayError, InferError};
use serde_json::json;

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    /// A stable word for programs.
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// The part of the request that is wrong.
    pub(crate) param: Option<String>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            param: None,
        }
    }

    pub(crate) fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// Names the part of the request that is wrong.
    pub(crate) fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// The body that says it.
    pub(crate) fn body(&self) -> serde_json::Value {
        json!({ "error": {
            "message": self.message,
            "type": self.kind(),
            "param": self.param,
            "code": self.code,
        }})
    }

    /// The response with a body that says it in some interface's form.
    pub(crate) fn respond(&self, body: serde_json::Value) -> Response {
        if self.status.is_server_error() {
            tracing::warn!(status = self.status.as_u16(), code = self.code, error = %self.message, "request failed");
        }
        let mut response = (self.status, Json(body)).into_response();
        if self.is_for_now() {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    /// Whether the same request may well be answered in a moment.
    fn is_for_now(&self) -> bool {
        matches!(
            self.status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        )
    }

    /// The kind, as clients of hosted APIs know it.
    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            404 => "not_found_error",
            429 => "rate_limit_error",
            502 if self.code == "answer_refused" => "verification_error",
            503 => "overloaded_error",
            400..500 => "invalid_request_error",
            _ => "server_error",
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = self.body();
        self.respond(body)
    }
}

impl From<GatewayError> for ApiError {
    fn from(error: GatewayError) -> Self {
        let message = error.to_string();
        match error {
            GatewayError::UnknownModel(_) => {
                Self::new(StatusCode::NOT_FOUND, "model_not_found", message).param("model")
            }
            GatewayError::Manifest(_) => {
                Self::bad_request("invalid_manifest", message).param("manifest")
            }
            GatewayError::MissingFile { path, .. } => {
                Self::bad_request("missing_file", message).param(path)
            }
            GatewayError::Refused(_) => {
                Self::bad_request("model_refused", message).param("manifest")
            }
            GatewayError::Ledger(_) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "ledger_unavailable",
                message,
            ),
            GatewayError::Storage(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "storage_failed", message)
            }
        }
    }
}

impl From<InferError> for ApiError {
    fn from(error: InferError) -> Self {
        let (code, message) = (error.code(), error.to_string());
        let status = match error {
            InferError::UnknownModel(_) => {
                return Self::new(StatusCode::NOT_FOUND, code, message).param("model");
            }
            InferError::InvalidInput(_)
            | InferError::ModeNotOffered { .. }
            | InferError::NotProvable => StatusCode::BAD_REQUEST,
            InferError::DuplicateRequest(_) => StatusCode::CONFLICT,
            InferError::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
            InferError::NoWorker(_) => StatusCode::SERVICE_UNAVAILABLE,
            // Somebody behind this gateway answered wrongly, and the gateway caught it.
            InferError::Refused { .. } | InferError::Broken { .. } => StatusCode::BAD_GATEWAY,
            InferError::Gateway(error) => return error.into(),
        };
        Self::new(status, code, message)
    }
}

#[cfg(test)]
mod tests {
    use lemma_types::Address;

    use super::*;

    #[test]
    fn failures_have_the_status_and_type_that_clients_act_on() {
        let worker = Address::ZERO;
        for (error, status, kind) in [
            (InferError::Busy(2), 429, "rate_limit_error"),
            (InferError::NoWorker(String::new()), 503, "overloaded_error"),
            (
                InferError::Refused {
                    worker,
                    reason: String::new(),
                },
                502,
                "verification_error",
            ),
            (
                InferError::Broken {
                    worker,
                    reason: String::new(),
                },
                502,
                "server_error",
            ),
            (
                InferError::InvalidInput(String::new()),
                400,
                "invalid_request_error",
            ),
        ] {
            let error = ApiError::from(error);
            let body = error.body();
            assert_eq!(error.status.as_u16(), status);
            assert_eq!(
                (&body["error"]["type"], &body["error"]["code"]),
                (&json!(kind), &json!(error.code))
            );
            assert!(!body["error"]["message"].as_str().unwrap().is_empty());
        }
    }
}
