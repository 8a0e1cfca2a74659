use blake3::{
    Hasher,
    hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root},
};
use lemma_types::Digest;

/// Bytes of a group: the unit that is fetched and checked on its own. 1,024 BLAKE3 chunks.
pub const GROUP_BYTES: u64 = 1 << 20;

const MAGIC: [u8; 8] = *b"LMOUTL\x00\x01";
const HEADER_BYTES: u64 = 16;
const VALUE_BYTES: u64 = 32;

/// The chaining values of a blob's groups, which merge to its digest.
///
/// Groups are aligned subtrees of BLAKE3's hash tree (section 2.1 of its paper), so nobody can find an outline that merges
/// to a digest but differs from the true one. A blob of one group needs no outline: its digest is the group's check.
#[derive(Clone, PartialEq, Eq)]
pub struct Outline {
    digest: Digest,
    size: u64,
    /// One for each group; empty for blobs of one group.
    values: Vec<ChainingValue>,
}

/// Why bytes are not the outline of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OutlineError {
    /// Not the length that an outline of a blob of this size has.
    #[error("an outline of {actual} bytes, expected {expected} for a blob of this size")]
    Length {
        /// Bytes given.
        actual: u64,
        /// Bytes expected.
        expected: u64,
    },
    /// Another format, or of a blob with another size.
    #[error("not an outline of a blob of this size")]
    Header,
    /// The values do not merge to the digest.
    #[error("the outline does not merge to the blob's digest")]
    Digest,
}

impl Outline {
    /// Number of groups of a blob of `size` bytes. An empty blob has one empty group.
    #[must_use]
    pub const fn group_count(size: u64) -> u64 {
        if size == 0 {
            1
        } else {
            size.div_ceil(GROUP_BYTES)
        }
    }

    /// Length of the encoded outline of a blob of `size` bytes.
    #[must_use]
    pub const fn encoded_len(size: u64) -> u64 {
        let groups = Self::group_count(size);
        if groups == 1 {
            HEADER_BYTES
        } else {
            HEADER_BYTES + groups * VALUE_BYTES
        }
    }

    /// Decodes the outline of the blob with this digest and size, and checks that it merges to the digest.
    ///
    /// # Errors
    /// See [`OutlineError`].
    pub fn decode(digest: Digest, size: u64, bytes: &[u8]) -> Result<Self, OutlineError> {
        let expected = Self::encoded_len(size);
        if bytes.len() as u64 != expected {
            return Err(OutlineError::Length {
                actual: bytes.len() as u64,
                expected,
            });
        }
        let (header, values) = bytes.split_at(HEADER_BYTES as usize);
        if header[..8] != MAGIC || header[8..] != size.to_le_bytes() {
            return Err(OutlineError::Header);
        }
        let (values, _) = values.as_chunks::<{ VALUE_BYTES as usize }>();
        if !values.is_empty() && merge_root(values) != digest {
            return Err(OutlineError::Digest);
        }
        Ok(Self {
            digest,
            size,
            values: values.to_vec(),
        })
    }

    /// The outline of a blob of one group.
    ///
    /// # Panics
    /// If `size` is more than [`GROUP_BYTES`].
    #[must_use]
    pub fn of_one_group(digest: Digest, size: u64) -> Self {
        assert!(size <= GROUP_BYTES, "{size} bytes are more than one group");
        Self {
            digest,
            size,
            values: Vec::new(),
        }
    }

    /// Encodes: 8 bytes magic, `u64` little-endian size of the blob, 32 bytes for each group if there is more than one.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::encoded_len(self.size) as usize);
        bytes.extend(MAGIC);
        bytes.extend(self.size.to_le_bytes());
        bytes.extend(self.values.as_flattened());
        bytes
    }

    /// The blob's digest.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The blob's size, bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Number of groups.
    #[must_use]
    pub const fn groups(&self) -> u64 {
        Self::group_count(self.size)
    }

    /// First byte and length of a group.
    ///
    /// # Panics
    /// If there is no such group.
    #[must_use]
    pub fn group_range(&self, group: u64) -> (u64, u64) {
        assert!(group < self.groups(), "group {group} of {}", self.groups());
        let start = group * GROUP_BYTES;
        (start, GROUP_BYTES.min(self.size - start))
    }

    /// Whether `bytes` are this group.
    ///
    /// # Panics
    /// If there is no such group.
    #[must_use]
    pub fn matches(&self, group: u64, bytes: &[u8]) -> bool {
        let (start, length) = self.group_range(group);
        if bytes.len() as u64 != length {
            return false;
        }
        match self.values.get(group as usize) {
            Some(value) => group_value(start, bytes) == *value,
            None => Digest::of(bytes) == self.digest,
        }
    }
}

impl std::fmt::Debug for Outline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outline")
            .field("digest", &self.digest)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// Computes digest and outline of bytes that arrive piece by piece.
#[derive(Default)]
pub(crate) struct OutlineBuilder {
    size: u64,
    group: Hasher,
    values: Vec<ChainingValue>,
}

impl OutlineBuilder {
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let filled = self.size % GROUP_BYTES;
            // A full group is closed only when more comes: the last one may be the root itself.
            if filled == 0 && self.size > 0 {
                self.close_group();
            }
            let room = (GROUP_BYTES - filled).min(bytes.len() as u64) as usize;
            let (now, later) = bytes.split_at(room);
            self.group.update(now);
            self.size += room as u64;
            bytes = later;
        }
    }

    fn close_group(&mut self) {
        self.values.push(self.group.finalize_non_root());
        self.group = Hasher::new();
        self.group.set_input_offset(self.size);
    }

    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn finish(mut self) -> Outline {
        let digest = if self.values.is_empty() {
            Digest::new(*self.group.finalize().as_bytes())
        } else {
            self.values.push(self.group.finalize_non_root());
            merge_root(&self.values)
        };
        Outline {
            digest,
            size: self.size,
            values: self.values,
        }
    }
}

fn group_value(offset: u64, bytes: &[u8]) -> ChainingValue {
    Hasher::new()
        .set_input_offset(offset)
        .update(bytes)
        .finalize_non_root()
}

/// BLAKE3's tree: the left part has the largest power of two of chunks, so of groups, that leaves something on the right.
fn split(count: usize) -> usize {
    1 << (count - 1).ilog2()
}

fn merge(values: &[ChainingValue]) -> ChainingValue {
    match values {
        [value] => *value,
        _ => {
            let (left, right) = values.split_at(split(values.len()));
            merge_subtrees_non_root(&merge(left), &merge(right), Mode::Hash)
        }
    }
}

/// The digest of a blob of two groups or more.
fn merge_root(values: &[ChainingValue]) -> Digest {
    let (left, right) = values.split_at(split(values.len()));
    Digest::new(*merge_subtrees_root(&merge(left), &merge(right), Mode::Hash).as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn content(size: u64) -> Vec<u8> {
        let mut bytes = vec![0; size as usize];
        Hasher::new()
            .update(b"content")
            .finalize_xof()
            .fill(&mut bytes);
        bytes
    }

    fn outline(bytes: &[u8]) -> Outline {
        let mut builder = OutlineBuilder::default();
        builder.update(bytes);
        builder.finish()
    }

    /// Sizes next to every boundary that could go wrong: chunks, groups, and trees of several groups.
    const SIZES: [u64; 17] = [
        0,
        1,
        1023,
        1024,
        1025,
        GROUP_BYTES - 1,
        GROUP_BYTES,
        GROUP_BYTES + 1,
        GROUP_BYTES + 1024,
        2 * GROUP_BYTES - 1,
        2 * GROUP_BYTES,
        2 * GROUP_BYTES + 1,
        3 * GROUP_BYTES,
        4 * GROUP_BYTES + 1,
        5 * GROUP_BYTES - 1024,
        7 * GROUP_BYTES + 5,
        8 * GROUP_BYTES,
    ];

    #[test]
    fn digest_is_that_of_blake3_and_every_group_is_checked() {
        let all = content(8 * GROUP_BYTES);
        for size in SIZES {
            let bytes = &all[..size as usize];
            let outline = outline(bytes);
            assert_eq!(outline.digest(), Digest::of(bytes), "{size} bytes");
            let encoded = outline.encode();
            assert_eq!(encoded.len() as u64, Outline::encoded_len(size));
            let decoded = Outline::decode(outline.digest(), size, &encoded).unwrap();
            assert_eq!(decoded, outline);
            for group in 0..outline.groups() {
                let (start, length) = outline.group_range(group);
                let mut part = bytes[start as usize..(start + length) as usize].to_vec();
                assert!(
                    outline.matches(group, &part),
                    "group {group} of {size} bytes"
                );
                if let Some(byte) = part.last_mut() {
                    *byte ^= 1;
                    assert!(!outline.matches(group, &part));
                }
                part.push(0);
                assert!(!outline.matches(group, &part));
            }
        }
    }

    #[test]
    fn one_group_does_not_pass_for_another() {
        let bytes = vec![7; 3 * GROUP_BYTES as usize];
        let outline = outline(&bytes);
        // Equal content, other position: the position is part of the hash.
        assert_ne!(outline.values[0], outline.values[1]);
    }

    #[test]
    fn forged_outlines_are_refused() {
        let size = 3 * GROUP_BYTES + 9;
        let outline = outline(&content(size));
        let encoded = outline.encode();
        for position in 0..encoded.len() {
            let mut forged = encoded.clone();
            forged[position] ^= 0x10;
            assert!(
                Outline::decode(outline.digest(), size, &forged).is_err(),
                "byte {position}"
            );
        }
        for end in 0..encoded.len() {
            assert!(matches!(
                Outline::decode(outline.digest(), size, &encoded[..end]),
                Err(OutlineError::Length { .. })
            ));
        }
        assert!(Outline::decode(outline.digest(), size + 1, &encoded).is_err());
        assert!(Outline::decode(Digest::of(b"other"), size, &encoded).is_err());
    }

    #[test]
    fn the_format_is_frozen() {
        let outline = outline(&vec![0; GROUP_BYTES as usize + 1]);
        assert_eq!(
            Digest::of(&outline.encode()).to_string(),
            "f48eddbb4ab304344f18f5039a3ef9c32912ad6d8cd1497c4af5bd98cfc75ddb"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn pieces_do_not_matter(size in 0..3 * GROUP_BYTES, pieces in proptest::collection::vec(1usize..2_000_000, 1..8)) {
            let bytes = content(size);
            let mut builder = OutlineBuilder::default();
            let mut rest = bytes.as_slice();
            for piece in pieces.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*piece).min(rest.len()));
                builder.update(now);
                rest = later;
            }
            let built = builder.finish();
            prop_assert_eq!(built.digest(), Digest::of(&bytes));
            prop_assert_eq!(built, outline(&bytes));
        }

        #[test]
        fn decoding_never_panics(size in 0..3 * GROUP_BYTES, bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = Outline::decode(Digest::of(b"x"), size, &bytes);
        }
    }
}
