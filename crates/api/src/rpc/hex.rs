//! The hexadecimal forms of Ethereum JSON-RPC: quantities (shortest form, `0x0` for zero) and data (two digits a byte).
//!
//! Source: Ethereum execution API specification, "JSON-RPC encoding".

use alloy_primitives::{Address, B256, Bytes, U256, hex};
use serde_json::Value;

/// A quantity: `0x` and the fewest digits.
pub(super) fn quantity(number: impl TryInto<U256>) -> Value {
    // Every integer that is passed here is unsigned and fits: a failure would be a defect, and zero a wrong answer.
    let number = number
        .try_into()
        .ok()
        .expect("an unsigned integer of at most 256 bits");
    Value::String(format!("{number:#x}"))
}

/// Data: `0x` and two digits for each byte.
pub(super) fn data(bytes: impl AsRef<[u8]>) -> Value {
    Value::String(hex::encode_prefixed(bytes))
}

/// An address in its checksummed form (EIP-55).
pub(super) fn address(address: Address) -> Value {
    Value::String(address.to_checksum(None))
}

/// Parses a quantity.
pub(super) fn parse_quantity(value: &Value) -> Result<U256, String> {
    let text = value
        .as_str()
        .ok_or("expected a quantity, a text such as 0x1f")?;
    let digits = text
        .strip_prefix("0x")
        .ok_or_else(|| format!("`{}` lacks the prefix 0x", cut(text)))?;
    if digits.is_empty() {
        return Err("`0x` has no digits: zero is 0x0".to_owned());
    }
    if digits.len() > 1 && digits.starts_with('0') {
        return Err(format!("`{}` has leading zeros", cut(text)));
    }
    if digits.len() > 64 {
        return Err("the quantity exceeds 256 bits".to_owned());
    }
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(format!("`{}` is not hexadecimal", cut(text)));
    }
    U256::from_str_radix(digits, 16).map_err(|error| error.to_string())
}

/// Parses a quantity of at most 64 bits.
pub(super) fn parse_u64(value: &Value) -> Result<u64, String> {
    parse_quantity(value)?
        .try_into()
        .map_err(|_| "the quantity exceeds 64 bits".to_owned())
}

/// Parses data.
pub(super) fn parse_data(value: &Value) -> Result<Bytes, String> {
    let text = value
        .as_str()
        .ok_or("expected data, a text such as 0x1f2e")?;
    let digits = text
        .strip_prefix("0x")
        .ok_or_else(|| format!("`{}` lacks the prefix 0x", cut(text)))?;
    if !digits.len().is_multiple_of(2) {
        return Err("data has an odd number of digits".to_owned());
    }
    // The decoder would take a second prefix.
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err("data is not hexadecimal".to_owned());
    }
    hex::decode(digits)
        .map(Bytes::from)
        .map_err(|error| format!("data is not hexadecimal: {error}"))
}

/// Parses exactly 32 bytes.
pub(super) fn parse_b256(value: &Value) -> Result<B256, String> {
    let bytes = parse_data(value)?;
    B256::try_from(bytes.as_ref()).map_err(|_| format!("expected 32 bytes, found {}", bytes.len()))
}

/// Parses an address in any case.
pub(super) fn parse_address(value: &Value) -> Result<Address, String> {
    let bytes = parse_data(value)?;
    Address::try_from(bytes.as_ref())
        .map_err(|_| format!("expected an address of 20 bytes, found {}", bytes.len()))
}

/// Enough of a text to recognise it in a message.
pub(super) fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(66).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_have_the_shortest_form() {
        for (number, text) in [
            (0u64, "0x0"),
            (1, "0x1"),
            (255, "0xff"),
            (u64::MAX, "0xffffffffffffffff"),
        ] {
            assert_eq!(quantity(number), json!(text));
            assert_eq!(parse_u64(&json!(text)), Ok(number));
        }
        assert_eq!(quantity(U256::MAX), json!(format!("0x{}", "f".repeat(64))));
    }

    #[test]
    fn wrong_quantities_say_why() {
        for (value, reason) in [
            (json!("0x"), "no digits"),
            (json!("0x00"), "leading zeros"),
            (json!("0x01"), "leading zeros"),
            (json!("1"), "prefix"),
            (json!("0X1"), "prefix"),
            (json!("0xg"), "not hexadecimal"),
            (json!("0x+1"), "not hexadecimal"),
            (json!("0x_1"), "not hexadecimal"),
            (json!(1), "expected a quantity"),
            (json!(null), "expected a quantity"),
            (json!(format!("0x1{}", "0".repeat(64))), "256 bits"),
        ] {
            let error = parse_quantity(&value).unwrap_err();
            assert!(error.contains(reason), "{value}: {error}");
        }
        assert!(
            parse_u64(&json!("0x10000000000000000"))
                .unwrap_err()
                .contains("64 bits")
        );
    }

    #[test]
    fn data_is_whole_bytes() {
        assert_eq!(parse_data(&json!("0x")), Ok(Bytes::new()));
        assert_eq!(parse_data(&json!("0x0a")).unwrap().as_ref(), [10]);
        for bad in [
            json!("0x1"),
            json!("0a"),
            json!("0xzz"),
            json!(5),
            json!("0x0x12"),
        ] {
            assert!(parse_data(&bad).is_err(), "{bad}");
        }
        assert!(
            parse_address(&json!("0x1234"))
                .unwrap_err()
                .contains("20 bytes")
        );
        assert!(parse_b256(&json!("0x12")).unwrap_err().contains("32 bytes"));
    }
}
