//! Names of models: `owner/model` with an optional `:tag`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A model's name on the ledger: `owner/model` or `owner/model:tag`, lower case, at most [`ModelName::MAX_BYTES`] bytes.
///
/// Each part consists of `a-z`, `0-9`, `.`, `_` and `-`, and begins and ends with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelName(String);

/// Why a text is not a [`ModelName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelNameError {
    /// Too long.
    #[error("model name of {0} bytes: at most {max} are accepted", max = ModelName::MAX_BYTES)]
    TooLong(usize),
    /// No `owner/` part, or more than one.
    #[error("`{0}` is not a model name: expected owner/model or owner/model:tag")]
    NoOwner(String),
    /// A part with a character that is not allowed, or an empty part.
    #[error(
        "`{part}` in model name `{name}`: use a-z, 0-9, `.`, `_`, `-`, beginning and ending with a letter or digit"
    )]
    Part {
        /// The name.
        name: String,
        /// The part of it that is wrong.
        part: String,
    },
}

impl ModelName {
    /// Longest name, bytes.
    pub const MAX_BYTES: usize = 128;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before `/`: the namespace that its first registrant owns.
    #[must_use]
    pub fn owner(&self) -> &str {
        self.0.split_once('/').map_or("", |(owner, _)| owner)
    }
}

fn part_is_valid(part: &str) -> bool {
    let bytes = part.as_bytes();
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes
            .iter()
            .all(|b| alphanumeric(b) || matches!(b, b'.' | b'_' | b'-'))
}

impl FromStr for ModelName {
    type Err = ModelNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > Self::MAX_BYTES {
            return Err(ModelNameError::TooLong(text.len()));
        }
        let Some((owner, rest)) = text.split_once('/') else {
            return Err(ModelNameError::NoOwner(text.to_owned()));
        };
        let (model, tag) = match rest.split_once(':') {
            Some((model, tag)) => (model, Some(tag)),
            None => (rest, None),
        };
        for part in [Some(owner), Some(model), tag].into_iter().flatten() {
            if !part_is_valid(part) {
                return Err(ModelNameError::Part {
                    name: text.to_owned(),
                    part: part.to_owned(),
                });
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for ModelName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ModelName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_strict() {
        for good in ["lemma/digits", "acme/tiny-llm:q8", "a/b", "a.b/c_d:1.0"] {
            assert_eq!(good.parse::<ModelName>().unwrap().as_str(), good);
        }
        for bad in [
            "", "digits", "/x", "x/", "a/b/c", "A/b", "a/b:", "a/b:c:d", "a/-b", "a/b.", "a/b c",
            "a/é", "a//b", "../x",
        ] {
            assert!(bad.parse::<ModelName>().is_err(), "{bad} was accepted");
        }
        assert!(
            format!("a/{}", "b".repeat(127))
                .parse::<ModelName>()
                .is_err()
        );
        assert_eq!("acme/x:y".parse::<ModelName>().unwrap().owner(), "acme");
    }
}
