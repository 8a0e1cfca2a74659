//! Ethereum JSON-RPC 2.0 at `/rpc`, for wallets and libraries that know nothing of Lemma.
//!
//! A block is shown once it is final, so `latest`, `safe` and `finalized` are the same block. The ledger keeps the state of
//! the head only: questions about the state at an older block are refused, never answered with the head's state.

mod call;
mod calls;
mod error;
mod fees;
mod filter;
mod hex;
mod methods;
mod objects;
mod params;

use std::num::NonZeroUsize;

use axum::{
    body::Bytes,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use lemma_chain::ChainHandle;
use lemma_node::Ledger;
use serde_json::{Value, json};

use self::{
    calls::{Call, known},
    error::RpcError,
    params::Params,
};

/// Largest body of a request, bytes: a few transactions of the largest size.
pub(crate) const MAX_BODY_BYTES: usize = 4 << 20;
/// Most calls in a batch.
const MAX_BATCH: usize = 100;
/// Largest body of a response to a batch, bytes; the calls after that are refused.
const MAX_RESPONSE_BYTES: usize = 16 << 20;

/// Answers calls, each with the validator that is best placed at that moment.
#[derive(Clone)]
pub(crate) struct Rpc {
    ledger: Ledger,
    chain_id: u64,
}

impl Rpc {
    pub(crate) fn new(ledger: Ledger) -> Self {
        let chain_id = ledger.chain_id();
        Self { ledger, chain_id }
    }

    pub(crate) fn ledger(&self) -> Ledger {
        self.ledger.clone()
    }

    fn chain(&self) -> Result<ChainHandle, RpcError> {
        self.ledger.chain().map_err(RpcError::internal)
    }
}

/// `POST /rpc`
pub(crate) async fn post(State(rpc): State<Rpc>, body: Bytes) -> Response {
    match rpc.handle(&body).await {
        Some(response) => (
            [(header::CONTENT_TYPE, "application/json")],
            response.to_string(),
        )
            .into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

impl Rpc {
    /// Answers one request or a batch; `None` if nothing is to be answered.
    async fn handle(&self, body: &[u8]) -> Option<Value> {
        match serde_json::from_slice(body) {
            Err(error) => Some(failure(Value::Null, &RpcError::parse(error))),
            Ok(Value::Array(calls)) => self.batch(calls).await,
            Ok(call) => self.single(call).await,
        }
    }

    async fn batch(&self, calls: Vec<Value>) -> Option<Value> {
        let refuse =
            |reason: String| Some(failure(Value::Null, &RpcError::invalid_request(reason)));
        match NonZeroUsize::new(calls.len()) {
            None => return refuse("the batch is empty".to_owned()),
            Some(count) if count.get() > MAX_BATCH => {
                return refuse(format!(
                    "a batch of {count} calls: at most {MAX_BATCH} are answered"
                ));
            }
            Some(_) => {}
        }
        let mut responses = Vec::with_capacity(calls.len());
        let mut bytes = 0;
        for call in calls {
            let id = call.get("id").cloned();
            let response = if bytes > MAX_RESPONSE_BYTES {
                id.map(|id| {
                    failure(
                        id,
                        &RpcError::limit("the batch's response is too large; split it"),
                    )
                })
            } else {
                self.single(call).await
            };
            if let Some(response) = response {
                bytes += response.to_string().len();
                responses.push(response);
            }
        }
        (!responses.is_empty()).then_some(Value::Array(responses))
    }

    async fn single(&self, call: Value) -> Option<Value> {
        let Request { id, method, params } = match Request::parse(call) {
            Ok(request) => request,
            Err(refused) => {
                let (id, error) = *refused;
                return Some(failure(id, &error));
            }
        };
        let result = match parse(&method, params) {
            Ok(call) => self.carry_out(call).await,
            Err(error) => Err(error),
        };
        metrics::counter!(crate::metrics::RPC_CALLS, "method" => known(&method), "outcome" => outcome(&result))
            .increment(1);
        // A call without an id is a notification: it is carried out and not answered.
        let id = id?;
        Some(match result {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
            Err(error) => failure(id, &error),
        })
    }
}

const fn outcome(result: &Result<Value, RpcError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(_) => "error",
    }
}

fn failure(id: Value, error: &RpcError) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": error.to_json() })
}

fn parse(method: &str, params: Option<Value>) -> Result<Call, RpcError> {
    Call::parse(method, &Params::new(params)?)
}

/// Whether a body holds a call that would be carried out: all that is decoded before the ledger is asked.
#[must_use]
pub fn holds_a_call(body: &[u8]) -> bool {
    let holds = |call: Value| {
        Request::parse(call).is_ok_and(|request| parse(&request.method, request.params).is_ok())
    };
    match serde_json::from_slice(body) {
        Err(_) => false,
        Ok(Value::Array(calls)) => calls.len() <= MAX_BATCH && calls.into_iter().any(holds),
        Ok(call) => holds(call),
    }
}

/// One call.
struct Request {
    id: Option<Value>,
    method: String,
    params: Option<Value>,
}

impl Request {
    /// What is no request is refused under the id that it has, null if that is none.
    fn parse(call: Value) -> Result<Self, Box<(Value, RpcError)>> {
        let refuse =
            |id: Value, reason: &str| Err(Box::new((id, RpcError::invalid_request(reason))));
        let Value::Object(mut call) = call else {
            return refuse(Value::Null, "expected an object");
        };
        let id = call.remove("id");
        if id
            .as_ref()
            .is_some_and(|id| !(id.is_null() || id.is_string() || id.is_number()))
        {
            return refuse(Value::Null, "`id` must be a text, a number or null");
        }
        let shown = id.clone().unwrap_or(Value::Null);
        if call.remove("jsonrpc").as_ref().and_then(Value::as_str) != Some("2.0") {
            return refuse(shown, "`jsonrpc` must be \"2.0\"");
        }
        let Some(Value::String(method)) = call.remove("method") else {
            return refuse(shown, "`method` must be a text");
        };
        let params = call.remove("params");
        Ok(Self { id, method, params })
    }
}
