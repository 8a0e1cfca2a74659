//! Hashes by which hubs name contents.

use std::{fmt, io};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// What a content has to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentHash {
    /// SHA-256 of the content: files beside git.
    Sha256([u8; 32]),
    /// The git blob id, SHA-1 over a head with the size and the content: files in git.
    Git([u8; 20]),
}

impl ContentHash {
    /// SHA-256 from 64 hexadecimal digits.
    #[must_use]
    pub fn sha256(hex: &str) -> Option<Self> {
        bytes(hex).map(Self::Sha256)
    }

    /// A git blob id from 40 hexadecimal digits.
    #[must_use]
    pub fn git(hex: &str) -> Option<Self> {
        bytes(hex).map(Self::Git)
    }

    /// Whether a content of this size has it.
    ///
    /// # Errors
    /// What reading gives.
    pub fn is_of(&self, size: u64, content: &mut impl io::Read) -> io::Result<bool> {
        match self {
            Self::Sha256(expected) => {
                let mut hasher = Sha256::new();
                feed(content, |bytes| hasher.update(bytes))?;
                Ok(hasher.finalize()[..] == expected[..])
            }
            Self::Git(expected) => {
                let mut hasher = Sha1::new();
                hasher.update(format!("blob {size}\0"));
                feed(content, |bytes| hasher.update(bytes))?;
                Ok(hasher.finalize()[..] == expected[..])
            }
        }
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, bytes): (_, &[u8]) = match self {
            Self::Sha256(bytes) => ("sha256", bytes),
            Self::Git(bytes) => ("git", bytes),
        };
        write!(f, "{name}:")?;
        bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn bytes<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let digit = |c: u8| char::from(c).to_digit(16).map(|digit| digit as u8);
    let bytes: Option<Vec<u8>> = pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect();
    bytes?.try_into().ok()
}

fn feed(content: &mut impl io::Read, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match content.read(&mut buffer)? {
            0 => return Ok(()),
            count => take(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_git_and_sha256sum() {
        // `git hash-object` and `sha256sum` of the five bytes "test\n" and of nothing.
        for (content, git, sha256) in [
            (
                &b"test\n"[..],
                "9daeafb9864cf43055ae93beb0afd6c7d144bfa4",
                "f2ca1bb6c7e907d06dafe4687e579fce76b37e4e93b7605022da52e6ccc26fd2",
            ),
            (
                b"",
                "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
        ] {
            for hash in [
                ContentHash::git(git).unwrap(),
                ContentHash::sha256(sha256).unwrap(),
            ] {
                let size = content.len() as u64;
                assert!(hash.is_of(size, &mut &content[..]).unwrap(), "{hash}");
                assert!(!hash.is_of(size, &mut &b"other"[..]).unwrap(), "{hash}");
            }
        }
        assert_eq!(ContentHash::git("9d"), None);
        assert_eq!(ContentHash::sha256(&"g".repeat(64)), None);
        assert_eq!(ContentHash::sha256(&"é".repeat(32)), None);
    }
}
