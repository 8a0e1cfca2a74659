//! Parameters of a call: positional, each parsed with a message that names it.

use alloy_primitives::{Address, B256, Bytes, U256};
use serde_json::{Map, Value};

use super::{error::RpcError, hex};

/// Positional parameters.
pub(super) struct Params(Vec<Value>);

/// Which block is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockTag {
    /// The last final block: there are no others.
    Latest,
    /// The last final block and what waits for the next one.
    Pending,
    /// This height.
    Number(u64),
    /// The block with this hash.
    Hash(B256),
}

impl Params {
    /// Takes the `params` member of a request.
    pub(super) fn new(value: Option<Value>) -> Result<Self, RpcError> {
        match value {
            None | Some(Value::Null) => Ok(Self(Vec::new())),
            Some(Value::Array(values)) => Ok(Self(values)),
            Some(_) => Err(RpcError::invalid_params(
                "params must be an array: named parameters are not supported",
            )),
        }
    }

    /// More parameters than a method takes are a mistake of the caller.
    pub(super) fn at_most(&self, count: usize) -> Result<(), RpcError> {
        if self.0.len() > count {
            return Err(RpcError::invalid_params(format!(
                "too many arguments: {} were given, at most {count} are taken",
                self.0.len()
            )));
        }
        Ok(())
    }

    fn get(&self, index: usize) -> Option<&Value> {
        self.0.get(index).filter(|value| !value.is_null())
    }

    fn parse<T>(
        &self,
        index: usize,
        name: &str,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Result<T, RpcError> {
        let value = self.get(index).ok_or_else(|| {
            RpcError::invalid_params(format!(
                "missing value for required argument {index} ({name})"
            ))
        })?;
        parse(value).map_err(|reason| {
            RpcError::invalid_params(format!("invalid argument {index} ({name}): {reason}"))
        })
    }

    pub(super) fn address(&self, index: usize) -> Result<Address, RpcError> {
        self.parse(index, "address", hex::parse_address)
    }

    pub(super) fn hash(&self, index: usize) -> Result<B256, RpcError> {
        self.parse(index, "hash", hex::parse_b256)
    }

    pub(super) fn bytes(&self, index: usize) -> Result<Bytes, RpcError> {
        self.parse(index, "data", hex::parse_data)
    }

    pub(super) fn number(&self, index: usize, name: &str) -> Result<u64, RpcError> {
        self.parse(index, name, |value| match value {
            // Some clients send the count of eth_feeHistory as a JSON number.
            Value::Number(number) => number
                .as_u64()
                .ok_or_else(|| "expected a whole number".to_owned()),
            other => hex::parse_u64(other),
        })
    }

    /// A storage slot: clients pad it or not.
    pub(super) fn slot(&self, index: usize) -> Result<U256, RpcError> {
        self.parse(index, "slot", |value| {
            let text = value.as_str().ok_or("expected a text such as 0x0")?;
            let digits = text.strip_prefix("0x").ok_or("it lacks the prefix 0x")?;
            if digits.is_empty()
                || digits.len() > 64
                || !digits.bytes().all(|d| d.is_ascii_hexdigit())
            {
                return Err("expected 1 to 64 hexadecimal digits".to_owned());
            }
            U256::from_str_radix(digits, 16).map_err(|error| error.to_string())
        })
    }

    pub(super) fn flag(&self, index: usize) -> Result<bool, RpcError> {
        match self.get(index) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(RpcError::invalid_params(format!(
                "invalid argument {index}: expected true or false"
            ))),
        }
    }

    pub(super) fn object(&self, index: usize, name: &str) -> Result<&Map<String, Value>, RpcError> {
        self.get(index).and_then(Value::as_object).ok_or_else(|| {
            RpcError::invalid_params(format!("argument {index} ({name}) must be an object"))
        })
    }

    pub(super) fn percentiles(&self, index: usize) -> Result<Option<Vec<f64>>, RpcError> {
        let Some(value) = self.get(index) else {
            return Ok(None);
        };
        let fail = || {
            RpcError::invalid_params(format!(
                "invalid argument {index} (reward percentiles): expected at most 100 ascending numbers from 0 to 100"
            ))
        };
        let list: Option<Vec<f64>> = value
            .as_array()
            .ok_or_else(fail)?
            .iter()
            .map(Value::as_f64)
            .collect();
        list.filter(|list| {
            list.len() <= 100 && list.is_sorted() && list.iter().all(|p| (0.0..=100.0).contains(p))
        })
        .map(Some)
        .ok_or_else(fail)
    }

    /// A block; the latest if none is given.
    pub(super) fn block(&self, index: usize) -> Result<BlockTag, RpcError> {
        match self.get(index) {
            None => Ok(BlockTag::Latest),
            Some(_) => self.parse(index, "block", parse_block),
        }
    }
}

/// Parses a tag, a height, or an object of EIP-1898.
pub(super) fn parse_block(value: &Value) -> Result<BlockTag, String> {
    match value {
        Value::String(text) => match text.as_str() {
            // A block is shown once it is final: latest, safe and finalized are one.
            "latest" | "safe" | "finalized" => Ok(BlockTag::Latest),
            "pending" => Ok(BlockTag::Pending),
            "earliest" => Ok(BlockTag::Number(0)),
            _ => hex::parse_u64(value).map(BlockTag::Number).map_err(|reason| {
                format!("{reason}; expected a quantity, latest, safe, finalized, pending or earliest")
            }),
        },
        Value::Object(object) => match (object.get("blockHash"), object.get("blockNumber")) {
            (Some(hash), None) => hex::parse_b256(hash).map(BlockTag::Hash),
            (None, Some(number)) => hex::parse_u64(number).map(BlockTag::Number),
            _ => Err("expected either blockHash or blockNumber (EIP-1898)".to_owned()),
        },
        _ => Err("expected a quantity, a tag or an object of EIP-1898".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn blocks_are_named_in_every_way_of_the_specification() {
        let hash = B256::repeat_byte(7);
        for (value, tag) in [
            (json!("latest"), BlockTag::Latest),
            (json!("safe"), BlockTag::Latest),
            (json!("finalized"), BlockTag::Latest),
            (json!("pending"), BlockTag::Pending),
            (json!("earliest"), BlockTag::Number(0)),
            (json!("0x10"), BlockTag::Number(16)),
            (json!({ "blockNumber": "0x1" }), BlockTag::Number(1)),
            (
                json!({ "blockHash": hash, "requireCanonical": true }),
                BlockTag::Hash(hash),
            ),
        ] {
            assert_eq!(parse_block(&value), Ok(tag));
        }
        for bad in [
            json!("newest"),
            json!(5),
            json!({}),
            json!("0x01"),
            json!({"blockHash": hash, "blockNumber": "0x1"}),
        ] {
            assert!(parse_block(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn missing_and_wrong_arguments_are_named() {
        let params = Params::new(Some(json!(["0x12", null]))).unwrap();
        let message = |error: RpcError| error.to_json()["message"].as_str().unwrap().to_owned();
        assert!(message(params.address(0).unwrap_err()).contains("argument 0 (address)"));
        assert!(
            message(params.hash(1).unwrap_err()).contains("missing value for required argument 1")
        );
        assert!(params.at_most(1).is_err());
        assert_eq!(params.block(1), Ok(BlockTag::Latest));
        assert!(Params::new(Some(json!({}))).is_err());
    }

    #[test]
    fn percentiles_are_bounded() {
        let parse = |value| Params::new(Some(json!([value]))).unwrap().percentiles(0);
        assert_eq!(
            parse(json!([0, 50.5, 100])),
            Ok(Some(vec![0.0, 50.5, 100.0]))
        );
        for bad in [
            json!([2, 1]),
            json!([101]),
            json!([-1]),
            json!("x"),
            json!([null]),
            json!(vec![1; 101]),
        ] {
            assert!(parse(bad).is_err());
        }
    }
}
