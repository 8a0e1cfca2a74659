use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// An amount of LEM in its smallest unit (10^-18 LEM).
///
/// There is no `+` or `-`: arithmetic is checked and says so. In JSON it is a decimal string of smallest units, since a
/// JSON number cannot hold it exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(u128);

/// Why a text is not an [`Amount`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not a decimal number.
    #[error("`{0}` is not an amount: expected a decimal number such as 1.25")]
    NotANumber(String),
    /// More than 18 digits after the point.
    #[error("`{0}` has more than 18 digits after the point: the smallest unit is 10^-18 LEM")]
    TooPrecise(String),
    /// Does not fit in 128 bits of smallest units.
    #[error("`{0}` is larger than any amount can be")]
    TooLarge(String),
}

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// Digits after the point in one LEM.
    pub const DECIMALS: u32 = 18;

    /// `units` of 10^-18 LEM.
    #[must_use]
    pub const fn from_units(units: u128) -> Self {
        Self(units)
    }

    /// Whole LEM. `None` if it does not fit.
    #[must_use]
    pub const fn from_lem(lem: u64) -> Option<Self> {
        match (lem as u128).checked_mul(10u128.pow(Self::DECIMALS)) {
            Some(units) => Some(Self(units)),
            None => None,
        }
    }

    /// The amount in units of 10^-18 LEM.
    #[must_use]
    pub const fn units(self) -> u128 {
        self.0
    }

    /// The sum, or `None` if it does not fit.
    #[must_use]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The difference, or `None` if it would be negative.
    #[must_use]
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(difference) => Some(Self(difference)),
            None => None,
        }
    }

    /// The product with a count, or `None` if it does not fit.
    #[must_use]
    pub const fn checked_mul(self, count: u64) -> Option<Self> {
        match self.0.checked_mul(count as u128) {
            Some(product) => Some(Self(product)),
            None => None,
        }
    }
}

/// Prints LEM with as many digits after the point as are needed: `1.25`.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = 10u128.pow(Self::DECIMALS);
        let (whole, fraction) = (self.0 / unit, self.0 % unit);
        if fraction == 0 {
            return write!(f, "{whole}");
        }
        let digits = format!("{fraction:018}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

/// Parses LEM: `1.25`, `.5`, `3`.
impl FromStr for Amount {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || text.chars().take(80).collect::<String>();
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
            return Err(AmountError::NotANumber(shown()));
        }
        if fraction.len() > Self::DECIMALS as usize {
            return Err(AmountError::TooPrecise(shown()));
        }
        format!("{whole}{fraction:0<18}")
            .parse()
            .map(Self)
            .map_err(|_| AmountError::TooLarge(shown()))
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(D::Error::custom(
                "expected a decimal string of smallest units",
            ));
        }
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_is_exact() {
        for (text, units) in [
            ("0", 0),
            ("1", 10u128.pow(18)),
            ("1.25", 125 * 10u128.pow(16)),
            ("0.000000000000000001", 1),
        ] {
            let amount: Amount = text.parse().unwrap();
            assert_eq!(amount.units(), units);
            assert_eq!(amount.to_string(), text);
        }
    }

    #[test]
    fn bad_texts_are_refused() {
        for bad in ["", ".", "-1", "1e3", "1,5", " 1", "0x1"] {
            assert!(
                matches!(bad.parse::<Amount>(), Err(AmountError::NotANumber(_))),
                "{bad}"
            );
        }
        assert!(matches!(
            "0.0000000000000000001".parse::<Amount>(),
            Err(AmountError::TooPrecise(_))
        ));
        assert!(matches!(
            "999999999999999999999999".parse::<Amount>(),
            Err(AmountError::TooLarge(_))
        ));
    }

    #[test]
    fn arithmetic_is_checked() {
        let max = Amount::from_units(u128::MAX);
        assert_eq!(max.checked_add(Amount::from_units(1)), None);
        assert_eq!(Amount::ZERO.checked_sub(Amount::from_units(1)), None);
        assert_eq!(max.checked_mul(2), None);
    }
}
