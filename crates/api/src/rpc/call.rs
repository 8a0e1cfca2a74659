//! `eth_call` and `eth_estimateGas`.

use alloy_primitives::U256;
use lemma_ledger::{CallRequest, CallResult, Estimate, modules};
use serde_json::{Map, Value};

use super::{
    Rpc,
    error::RpcError,
    hex::{data, parse_address, parse_data, parse_quantity, parse_u64, quantity},
    methods::chain_error,
    params::BlockTag,
};

/// Members that describe a transaction and do not change what a call computes here.
const IGNORED: [&str; 6] = [
    "nonce",
    "chainId",
    "type",
    "accessList",
    "maxPriorityFeePerGas",
    "authorizationList",
];
/// Members that would change the result and are not supported.
const UNSUPPORTED: [&str; 3] = ["maxFeePerBlobGas", "blobVersionedHashes", "blobs"];

impl Rpc {
    pub(super) async fn run(&self, request: CallRequest, at: BlockTag) -> Result<Value, RpcError> {
        let chain = self.chain()?;
        self.at_head(&chain, at)?;
        match chain.call(request).await.map_err(chain_error)? {
            CallResult::Success { output, .. } => Ok(data(output)),
            failure => Err(failed(&failure)),
        }
    }

    pub(super) async fn estimate_gas(
        &self,
        request: CallRequest,
        at: BlockTag,
    ) -> Result<Value, RpcError> {
        let chain = self.chain()?;
        self.at_head(&chain, at)?;
        match chain.estimate_gas(request).await.map_err(chain_error)? {
            Estimate::Gas(gas) => Ok(quantity(gas)),
            Estimate::Fails(failure) => Err(failed(&failure)),
        }
    }
}

/// Parses the transaction that a call describes.
pub(super) fn parse(object: &Map<String, Value>) -> Result<CallRequest, String> {
    let mut request = CallRequest::default();
    let (mut input, mut older_input) = (None, None);
    for (name, value) in object.iter().filter(|(_, value)| !value.is_null()) {
        let named = |reason: String| format!("{name}: {reason}");
        match name.as_str() {
            "from" => request.from = Some(parse_address(value).map_err(named)?),
            "to" => request.to = Some(parse_address(value).map_err(named)?),
            "gas" => request.gas = Some(parse_u64(value).map_err(named)?),
            "gasPrice" | "maxFeePerGas" => request.gas_price = price(value).map_err(named)?,
            "value" => request.value = parse_quantity(value).map_err(named)?,
            "input" => input = Some(parse_data(value).map_err(named)?),
            "data" => older_input = Some(parse_data(value).map_err(named)?),
            ignored if IGNORED.contains(&ignored) => {}
            unsupported if UNSUPPORTED.contains(&unsupported) => {
                return Err(named("blobs are not supported".to_owned()));
            }
            _ => return Err(format!("unknown member `{}`", super::hex::cut(name))),
        }
    }
    if let (Some(input), Some(older)) = (&input, &older_input)
        && input != older
    {
        return Err("`input` and `data` differ: give one of them".to_owned());
    }
    request.input = input.or(older_input).unwrap_or_default();
    Ok(request)
}

fn price(value: &Value) -> Result<u128, String> {
    let price: U256 = parse_quantity(value)?;
    price
        .try_into()
        .map_err(|_| "the price exceeds 128 bits".to_owned())
}

fn failed(result: &CallResult) -> RpcError {
    match result {
        CallResult::Revert { output, .. } => RpcError::reverted(modules::explain(output), output),
        CallResult::Halt { reason, .. } => RpcError::server(format!("execution failed: {reason}")),
        CallResult::Refused(reason) => RpcError::server(reason),
        CallResult::Success { .. } => RpcError::internal("a success is no failure"),
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, Bytes};
    use serde_json::json;

    use super::*;

    fn parsed(value: Value) -> Result<CallRequest, String> {
        parse(value.as_object().unwrap())
    }

    #[test]
    fn every_member_is_understood_or_refused() {
        let to = Address::repeat_byte(1);
        let call = parsed(json!({
            "to": to, "gas": "0x5208", "gasPrice": "0x1", "value": "0x2", "data": "0x0102",
            "nonce": "0x0", "accessList": [], "from": null,
        }));
        let expected = CallRequest {
            to: Some(to),
            gas: Some(21_000),
            gas_price: 1,
            value: U256::from(2),
            input: Bytes::from_static(&[1, 2]),
            ..CallRequest::default()
        };
        assert_eq!(call, Ok(expected));
        for (value, reason) in [
            (json!({ "to": "0x12" }), "to: expected an address"),
            (json!({ "gas": 5 }), "gas: expected a quantity"),
            (
                json!({ "gasPrice": format!("0x1{}", "0".repeat(32)) }),
                "128 bits",
            ),
            (json!({ "input": "0x01", "data": "0x02" }), "differ"),
            (json!({ "blobs": [] }), "not supported"),
            (json!({ "dta": "0x" }), "unknown member"),
        ] {
            let error = parsed(value).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
