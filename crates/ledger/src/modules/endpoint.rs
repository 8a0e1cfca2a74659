//! What counts as a node's endpoint.

/// The longest endpoint, in bytes.
pub const MAX_ENDPOINT_BYTES: usize = 256;

/// Why a text is not an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Longer than [`MAX_ENDPOINT_BYTES`].
    #[error("longer than {MAX_ENDPOINT_BYTES} bytes")]
    TooLong,
    /// Another scheme, or none.
    #[error("must begin with http:// or https://")]
    Scheme,
    /// No host, or one with characters that no host name or address has.
    #[error("the host must be a name, an IPv4 address or an IPv6 address in brackets")]
    Host,
    /// Not a number from 1 to 65535.
    #[error("the port must be a number from 1 to 65535")]
    Port,
    /// A path with anything but unreserved characters, `/` and percent-encoding.
    #[error("the path may hold letters, digits and -._~%/ only; no query, no fragment")]
    Path,
}

/// Checks that a text is an `http` or `https` URL of a host, an optional port and an optional path (RFC
/// 3986, narrowed: no user information, no query, no fragment), in at most [`MAX_ENDPOINT_BYTES`].
///
/// # Errors
/// See [`EndpointError`].
pub fn check(endpoint: &str) -> Result<(), EndpointError> {
    if endpoint.len() > MAX_ENDPOINT_BYTES {
        return Err(EndpointError::TooLong);
    }
    let rest = endpoint
        .strip_prefix("https://")
        .or_else(|| endpoint.strip_prefix("http://"))
        .ok_or(EndpointError::Scheme)?;
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let is_path = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%/".contains(&byte);
    if !path.bytes().all(is_path) {
        return Err(EndpointError::Path);
    }
    check_authority(authority)
}

fn check_authority(authority: &str) -> Result<(), EndpointError> {
    let (is_host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(EndpointError::Host)?;
            (address.parse::<std::net::Ipv6Addr>().is_ok(), port)
        }
        None => {
            let at = authority.find(':').unwrap_or(authority.len());
            let (host, port) = authority.split_at(at);
            (is_host_name(host), port)
        }
    };
    if !is_host {
        return Err(EndpointError::Host);
    }
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok(()),
        Some(digits) if is_port(digits) => Ok(()),
        _ => Err(EndpointError::Port),
    }
}

/// Labels of letters, digits and inner hyphens (RFC 1123); IPv4 addresses are among them.
fn is_host_name(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(is_label)
}

fn is_port(digits: &str) -> bool {
    digits.bytes().all(|byte| byte.is_ascii_digit())
        && !digits.starts_with('0')
        && digits.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accepts_what_workers_use() {
        for endpoint in [
            "http://127.0.0.1:8402",
            "https://worker-1.example.org",
            "https://example.org/lemma/v1/",
            "http://[::1]:9000",
            "http://localhost:1/a%20b~c",
        ] {
            assert_eq!(check(endpoint), Ok(()), "{endpoint}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        use EndpointError::*;
        let long = format!("http://a/{}", "x".repeat(MAX_ENDPOINT_BYTES));
        for (endpoint, reason) in [
            ("", Scheme),
            ("ftp://a", Scheme),
            ("HTTP://a", Scheme),
            ("javascript:alert(1)", Scheme),
            ("http://", Host),
            ("http:///x", Host),
            ("http://a b", Host),
            ("http://user@host", Host),
            ("http://-a", Host),
            ("http://a..b", Host),
            ("http://exämple", Host),
            ("http://a\n", Host),
            ("http://[::1", Host),
            ("http://[zz]", Host),
            ("http://a:", Port),
            ("http://a:0", Port),
            ("http://a:65536", Port),
            ("http://a:+80", Port),
            ("http://a:080", Port),
            ("http://[::1]x", Port),
            ("http://a/?q", Path),
            ("http://a/#f", Path),
            ("http://a/\"", Path),
            (&long, TooLong),
        ] {
            assert_eq!(check(endpoint), Err(reason), "{endpoint}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_accepts_printable_ascii_only(text in ".{0,300}") {
            if check(&text).is_ok() {
                prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }
}
