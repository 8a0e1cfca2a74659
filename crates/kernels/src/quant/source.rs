//! Stored blocks: how values of a row lie in a file, taken apart into codes and scales.

/// How the values of a weight matrix are stored. The names are those of the GGUF format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    BF16,
    /// Blocks of 32: a binary16 scale and signed 8-bit codes.
    Q8_0,
    /// Blocks of 32: a binary16 scale and 4-bit codes less 8.
    Q4_0,
    /// Blocks of 256 in eight parts: 4-bit codes, 6-bit scales and minima.
    Q4K,
    /// Blocks of 256 in eight parts: 5-bit codes, 6-bit scales and minima.
    Q5K,
    /// Blocks of 256 in sixteen parts: 6-bit codes less 32, 8-bit scales.
    Q6K,
}

impl Format {
    /// Values of one stored block.
    #[must_use]
    pub const fn block_len(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::BF16 => 1,
            Format::Q8_0 | Format::Q4_0 => 32,
            Format::Q4K | Format::Q5K | Format::Q6K => 256,
        }
    }

    /// Bytes of one stored block.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::BF16 => 2,
            Format::Q8_0 => 34,
            Format::Q4_0 => 18,
            Format::Q4K => 144,
            Format::Q5K => 176,
            Format::Q6K => 210,
        }
    }

    /// Bytes of a row of `len` values; `None` if the row is no whole number of blocks, or too long.
    #[must_use]
    pub const fn row_bytes(self, len: usize) -> Option<usize> {
        if !len.is_multiple_of(self.block_len()) {
            return None;
        }
        (len / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Whether values are codes with a scale for each block, so that activations are quantised too.
    #[must_use]
    pub const fn is_quantised(self) -> bool {
        self.block_len() > 1
    }

    /// What is subtracted from a code, once it is stored as an unsigned byte.
    pub(crate) const fn offset(self) -> i32 {
        match self {
            Format::Q8_0 => 128,
            Format::Q4_0 => 8,
            Format::Q6K => 32,
            _ => 0,
        }
    }

    /// Whether blocks have a minimum beside the scale.
    pub(crate) const fn has_minimum(self) -> bool {
        matches!(self, Format::Q4K | Format::Q5K)
    }

    /// Whether each half of 32 values has a scale of its own.
    pub(crate) const fn is_split(self) -> bool {
        matches!(self, Format::Q6K)
    }
}

/// Codes and scales of up to 256 values, as stored: one block.
pub(crate) struct Codes {
    /// Unsigned codes, [`Format::offset`] not yet subtracted.
    pub(crate) codes: [u8; 256],
    /// Binary16 scale of the whole block.
    pub(crate) scale: u16,
    /// Binary16 scale of the minima.
    pub(crate) minimum: u16,
    /// Integer scale of each part: 32 values, or 16 where split.
    pub(crate) parts: [u8; 16],
    /// Integer minimum of each part.
    pub(crate) minima: [u8; 8],
}

impl Codes {
    /// Takes one stored block of a quantised format apart.
    pub(crate) fn of(format: Format, block: &[u8]) -> Codes {
        debug_assert_eq!(block.len(), format.block_bytes());
        let mut out = Codes {
            codes: [0; 256],
            scale: 0,
            minimum: 0,
            parts: [1; 16],
            minima: [0; 8],
        };
        match format {
            Format::Q8_0 => {
                out.scale = half(block, 0);
                for (code, byte) in out.codes.iter_mut().zip(&block[2..]) {
                    *code = byte ^ 0x80;
                }
            }
            Format::Q4_0 => {
                out.scale = half(block, 0);
                nibbles(&block[2..], 16, &mut out.codes[..32]);
            }
            Format::Q4K => {
                out.scales_and_minima(block);
                nibbles(&block[16..], 32, &mut out.codes);
            }
            Format::Q5K => {
                out.scales_and_minima(block);
                nibbles(&block[48..], 32, &mut out.codes);
                for (i, code) in out.codes.iter_mut().enumerate() {
                    *code |= (block[16 + i % 32] >> (i / 32) & 1) << 4;
                }
            }
            Format::Q6K => out.six_bits(block),
            Format::F32 | Format::F16 | Format::BF16 => unreachable!("dense values have no codes"),
        }
        out
    }

    /// The head of Q4_K and Q5_K: two scales, then eight 6-bit pairs in 12 bytes.
    fn scales_and_minima(&mut self, block: &[u8]) {
        self.scale = half(block, 0);
        self.minimum = half(block, 2);
        let packed = &block[4..16];
        for j in 0..4 {
            self.parts[j] = packed[j] & 63;
            self.minima[j] = packed[j + 4] & 63;
            self.parts[j + 4] = packed[j + 8] & 15 | packed[j] >> 6 << 4;
            self.minima[j + 4] = packed[j + 8] >> 4 | packed[j + 4] >> 6 << 4;
        }
    }

    /// Q6_K: low four bits, high two bits, scales, scale of the scales.
    fn six_bits(&mut self, block: &[u8]) {
        let (low, rest) = block.split_at(128);
        let (high, rest) = rest.split_at(64);
        self.parts.copy_from_slice(&rest[..16]);
        self.scale = half(rest, 16);
        for (i, code) in self.codes.iter_mut().enumerate() {
            let (side, at) = (i / 128, i % 128);
            let (quarter, l) = (at / 32, at % 32);
            let byte = low[side * 64 + (quarter % 2) * 32 + l];
            let four = if quarter < 2 { byte & 15 } else { byte >> 4 };
            let two = high[side * 32 + l] >> (2 * quarter) & 3;
            *code = four | two << 4;
        }
    }
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Runs of `run` bytes, each of which holds `run` low nibbles, then `run` high ones.
fn nibbles(bytes: &[u8], run: usize, out: &mut [u8]) {
    for (bytes, out) in bytes.chunks_exact(run).zip(out.chunks_exact_mut(2 * run)) {
        let (low, high) = out.split_at_mut(run);
        for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
            *low = byte & 15;
            *high = byte >> 4;
        }
    }
}
