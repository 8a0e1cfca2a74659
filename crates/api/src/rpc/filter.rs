//! Filters of `eth_getLogs`, parsed.

use alloy_primitives::{Address, B256};
use serde_json::{Map, Value};

use super::{
    error::RpcError,
    hex::{parse_address, parse_b256},
    params::{BlockTag, parse_block},
};

/// Most addresses, or alternatives for one topic, in a filter.
const MAX_TERMS: usize = 256;

/// Which logs are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) blocks: Blocks,
    /// Of these contracts; of any if empty.
    pub(super) addresses: Vec<Address>,
    /// For each position the alternatives; anything if empty.
    pub(super) topics: [Vec<B256>; 4],
}

/// Where a filter looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocks {
    /// In the block with this hash.
    Hash(B256),
    /// From one height to the other, both included; `None` is the head.
    Range(Option<u64>, Option<u64>),
}

impl Filter {
    /// Parses a filter object.
    pub(super) fn parse(object: &Map<String, Value>) -> Result<Self, RpcError> {
        let member = |name: &str| object.get(name).filter(|value| !value.is_null());
        Ok(Self {
            blocks: Blocks::parse(member)?,
            addresses: one_or_many(member("address"), parse_address)
                .map_err(|reason| wrong("address", &reason))?,
            topics: parse_topics(member("topics")).map_err(|reason| wrong("topics", &reason))?,
        })
    }
}

impl Blocks {
    fn parse<'a>(member: impl Fn(&str) -> Option<&'a Value>) -> Result<Self, RpcError> {
        let height = |name: &str| match member(name).map(parse_block) {
            None | Some(Ok(BlockTag::Latest | BlockTag::Pending)) => Ok(None),
            Some(Ok(BlockTag::Number(number))) => Ok(Some(number)),
            Some(Ok(BlockTag::Hash(_))) => Err(wrong(name, "expected a height or a tag")),
            Some(Err(reason)) => Err(wrong(name, &reason)),
        };
        let Some(hash) = member("blockHash") else {
            return Ok(Self::Range(height("fromBlock")?, height("toBlock")?));
        };
        if member("fromBlock").is_some() || member("toBlock").is_some() {
            return Err(wrong("blockHash", "it excludes fromBlock and toBlock"));
        }
        parse_b256(hash)
            .map(Self::Hash)
            .map_err(|reason| wrong("blockHash", &reason))
    }
}

fn wrong(name: &str, reason: &str) -> RpcError {
    RpcError::invalid_params(format!("invalid filter: {name}: {reason}"))
}

/// Each position holds null (anything), a topic, or a list of alternatives.
fn parse_topics(value: Option<&Value>) -> Result<[Vec<B256>; 4], String> {
    let mut topics = [const { Vec::new() }; 4];
    let positions = match value {
        None => return Ok(topics),
        Some(Value::Array(positions)) if positions.len() <= topics.len() => positions,
        Some(_) => return Err("expected a list of at most 4 positions".to_owned()),
    };
    for (topic, position) in topics.iter_mut().zip(positions) {
        // A null among alternatives stands for anything.
        let anything = position
            .as_array()
            .is_some_and(|list| list.iter().any(Value::is_null));
        if !anything {
            *topic = one_or_many(Some(position), parse_b256)?;
        }
    }
    Ok(topics)
}

fn one_or_many<T>(
    value: Option<&Value>,
    parse: impl Fn(&Value) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(values)) if values.len() > MAX_TERMS => Err(format!(
            "{} alternatives: at most {MAX_TERMS} are accepted",
            values.len()
        )),
        Some(Value::Array(values)) => values.iter().map(parse).collect(),
        Some(value) => parse(value).map(|value| vec![value]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn topics_take_every_form() {
        let (a, b) = (B256::repeat_byte(1), B256::repeat_byte(2));
        let parse = |value: Value| parse_topics(Some(&value));
        assert_eq!(
            parse(json!([a, null, [a, b]])).unwrap(),
            [vec![a], vec![], vec![a, b], vec![]]
        );
        assert!(parse(json!([[a, null]])).unwrap()[0].is_empty());
        assert!(parse_topics(None).unwrap().iter().all(Vec::is_empty));
        for bad in [
            json!("0x"),
            json!([a, a, a, a, a]),
            json!(["0x12"]),
            json!([[[a]]]),
        ] {
            assert!(parse(bad).is_err());
        }
        let many = vec![json!(a); MAX_TERMS + 1];
        assert!(parse(json!([many])).is_err());
    }

    #[test]
    fn blocks_are_a_range_or_a_hash() {
        let hash = B256::repeat_byte(1);
        let parse =
            |value: Value| Filter::parse(value.as_object().unwrap()).map(|filter| filter.blocks);
        for (value, blocks) in [
            (json!({}), Blocks::Range(None, None)),
            (
                json!({ "fromBlock": "earliest", "toBlock": "latest" }),
                Blocks::Range(Some(0), None),
            ),
            (
                json!({ "fromBlock": null, "toBlock": "0x10" }),
                Blocks::Range(None, Some(16)),
            ),
            (
                json!({ "blockHash": hash, "fromBlock": null }),
                Blocks::Hash(hash),
            ),
        ] {
            assert_eq!(parse(value), Ok(blocks));
        }
        for bad in [
            json!({ "fromBlock": { "blockHash": hash } }),
            json!({ "fromBlock": "soon" }),
            json!({ "blockHash": "0x1" }),
            json!({ "blockHash": hash, "toBlock": "0x1" }),
            json!({ "address": "0x1" }),
        ] {
            assert!(parse(bad).is_err());
        }
    }
}
