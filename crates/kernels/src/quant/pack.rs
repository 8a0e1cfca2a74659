//! Weight matrices, rearranged into panels.
#![allow(unsafe_code)]

use super::source::Codes;
use super::{
    BLOCK, Format, Line, PAIR, PANEL, Panel, SUPER_LINES, code_lines, portable, scale_lines,
};
use crate::half::{bf16_to_f32, f16_to_f32};
use crate::memory::{Lines, Room};
use crate::threads::{Slots, Threads};

/// Why stored bytes are no weight matrix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// Rows of this length cannot be stored in this format.
    #[error("a row of {k} values is no whole number of {format:?} blocks of {}", format.block_len())]
    Row {
        /// The format.
        format: Format,
        /// Values of a row.
        k: usize,
    },
    /// The bytes are more or fewer than the shape says.
    #[error("a {n} × {k} matrix in {format:?} has {expected:?} bytes, not {found}")]
    Bytes {
        /// The format.
        format: Format,
        /// Rows.
        n: usize,
        /// Values of a row.
        k: usize,
        /// Bytes that the shape asks for, if that is a number.
        expected: Option<usize>,
        /// Bytes given.
        found: usize,
    },
}

/// A weight matrix, rearranged once for products: `n` outputs by `k` inputs.
///
/// It depends on no instruction set, serves them all, and needs about as many bytes as the file.
#[derive(Clone)]
pub struct PackedMatrix {
    format: Format,
    n: usize,
    k: usize,
    /// Codes, or dense values: panel after panel.
    codes: Lines,
    /// Scales of quantised weights: panel after panel.
    scales: Lines,
}

impl PackedMatrix {
    /// Rearranges `n` rows of `k` values, as stored in a file: row after row of blocks.
    ///
    /// # Errors
    /// If a row is no whole number of blocks, or `bytes` are more or fewer than the shape says.
    pub fn pack(
        threads: &Threads,
        format: Format,
        n: usize,
        k: usize,
        bytes: &[u8],
    ) -> Result<PackedMatrix, PackError> {
        PackedMatrix::pack_in(&Room::new(0), threads, format, n, k, bytes)
    }

    /// The same in the room for a whole model.
    ///
    /// # Errors
    /// As [`pack`](PackedMatrix::pack).
    pub fn pack_in(
        room: &Room,
        threads: &Threads,
        format: Format,
        n: usize,
        k: usize,
        bytes: &[u8],
    ) -> Result<PackedMatrix, PackError> {
        let row = format.row_bytes(k).ok_or(PackError::Row { format, k })?;
        let expected = row.checked_mul(n);
        if expected != Some(bytes.len()) {
            return Err(PackError::Bytes {
                format,
                n,
                k,
                expected,
                found: bytes.len(),
            });
        }
        let mut matrix = PackedMatrix {
            format,
            n,
            k,
            codes: Lines::default(),
            scales: Lines::default(),
        };
        if bytes.is_empty() {
            return Ok(matrix);
        }
        // Codes end where the next matrix begins: what is fetched ahead of the last is of use.
        matrix.scales = room.lines(matrix.panels() * matrix.panel_scales());
        matrix.codes = room.lines(matrix.panels() * matrix.panel_lines());
        let (width, lines, scales) = (matrix.width(), matrix.panel_lines(), matrix.panel_scales());
        let panels = matrix.panels();
        let (code_slots, scale_slots) =
            (Slots::of(&mut matrix.codes), Slots::of(&mut matrix.scales));
        threads.run(panels, |p| {
            let rows = p * width..n.min((p + 1) * width);
            let source = &bytes[rows.start * row..rows.end * row];
            // SAFETY: panels do not overlap, and each number comes once.
            let (codes, scales) = unsafe {
                (
                    code_slots.slice(p * lines, lines),
                    scale_slots.slice(p * scales, scales),
                )
            };
            if format.is_quantised() {
                pack_codes(format, source, row, codes, scales);
            } else {
                pack_dense(format, source, row, codes);
            }
        });
        Ok(matrix)
    }

    /// How the values are stored.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Outputs: rows of the matrix.
    #[must_use]
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs: values of a row.
    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// Bytes of memory that the matrix takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        (self.codes.len() + self.scales.len()) * size_of::<Line>()
    }

    /// Outputs of one panel.
    fn width(&self) -> usize {
        if self.format.is_quantised() {
            PANEL
        } else {
            PAIR
        }
    }

    pub(crate) fn panels(&self) -> usize {
        self.n.div_ceil(self.width())
    }

    /// Lines of codes, or of dense values, in one panel.
    fn panel_lines(&self) -> usize {
        if self.format.is_quantised() {
            self.k / BLOCK * code_lines(self.format)
        } else {
            self.k * PAIR * self.format.block_bytes() / size_of::<Line>()
        }
    }

    fn panel_scales(&self) -> usize {
        scale_lines(self.format, self.k / BLOCK)
    }

    pub(crate) fn panel(&self, p: usize) -> Panel<'_> {
        let (lines, scales) = (self.panel_lines(), self.panel_scales());
        Panel {
            codes: &self.codes[p * lines..(p + 1) * lines],
            scales: &self.scales[p * scales..(p + 1) * scales],
        }
    }

    /// The values of row `index` of the matrix, as an embedding table is read: exact for dense
    /// weights, else `scale × (code − offset)` or `fma(scale, code, −minimum)`.
    ///
    /// # Panics
    /// If there is no such row, or `out` has not `k` values.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        assert!(index < self.n, "row {index} of {}", self.n);
        assert_eq!(out.len(), self.k, "row: {} values", self.k);
        let width = self.width();
        let (panel, c) = (self.panel(index / width), index % width);
        if !self.format.is_quantised() {
            return dense_row(self.format, panel.codes, c, out);
        }
        let mut codes = [0; PANEL * BLOCK];
        for (b, out) in out.chunks_exact_mut(BLOCK).enumerate() {
            portable::unpack(self.format, panel, b, &mut codes);
            let [low, high] = portable::scales(self.format, panel, b);
            for (i, out) in out.iter_mut().enumerate() {
                let code = i32::from(codes[i / 4 * 64 + 4 * c + i % 4]);
                let scale = if self.format.is_split() && i >= BLOCK / 2 {
                    high[c]
                } else {
                    low[c]
                };
                let value = (code - self.format.offset()) as f32;
                *out = crate::math::canonical(if self.format.has_minimum() {
                    scale.mul_add(value, -high[c])
                } else {
                    scale * value
                });
            }
        }
    }
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "PackedMatrix({:?}, {} × {})",
            self.format, self.n, self.k
        )
    }
}

/// Up to 16 rows of blocks become one panel.
fn pack_codes(format: Format, source: &[u8], row: usize, codes: &mut [Line], scales: &mut [Line]) {
    let per_block = format.block_len() / BLOCK;
    for (c, source) in source.chunks_exact(row).enumerate() {
        for (s, stored) in source.chunks_exact(format.block_bytes()).enumerate() {
            let block = Codes::of(format, stored);
            for part in 0..per_block {
                let b = s * per_block + part;
                let lines = code_lines(format);
                put_codes(
                    format,
                    &block.codes[part * BLOCK..(part + 1) * BLOCK],
                    c,
                    &mut codes[b * lines..(b + 1) * lines],
                );
            }
            put_scales(format, &block, s, c, scales);
        }
    }
}

/// The 32 codes of output `c`, into the lines of their block.
fn put_codes(format: Format, codes: &[u8], c: usize, lines: &mut [Line]) {
    for (at, &code) in codes.iter().enumerate() {
        let (j, byte) = (at / 4, 4 * c + at % 4);
        if format == Format::Q8_0 {
            lines[j].0[byte] = code;
            continue;
        }
        lines[j % 4].0[byte] |= (code & 15) << (j / 4 * 4);
        match format {
            Format::Q5K => lines[4].0[8 * j + byte / 8] |= (code >> 4) << (byte % 8),
            Format::Q6K => lines[4 + j % 2].0[byte] |= (code >> 4) << (j / 2 * 2),
            _ => {}
        }
    }
}

/// The scales of stored block `s` of output `c`.
fn put_scales(format: Format, block: &Codes, s: usize, c: usize, scales: &mut [Line]) {
    let mut put_half = |at: usize, bits: u16| {
        let byte = at + 2 * c;
        scales[byte / 64].0[byte % 64..][..2].copy_from_slice(&bits.to_le_bytes());
    };
    if format.block_len() == BLOCK {
        return put_half(s * 32, block.scale);
    }
    let start = s * SUPER_LINES * 64;
    put_half(start, block.scale);
    put_half(start + 32, block.minimum);
    for part in 0..8 {
        let byte = start + 64 + 32 * part + c;
        let [first, second] = if format.is_split() {
            [block.parts[2 * part], block.parts[2 * part + 1]]
        } else {
            [block.parts[part], block.minima[part]]
        };
        scales[byte / 64].0[byte % 64] = first;
        scales[byte / 64].0[byte % 64 + 16] = second;
    }
}

/// Up to 32 dense rows become one panel: for each input, 32 outputs side by side.
fn pack_dense(format: Format, source: &[u8], row: usize, lines: &mut [Line]) {
    let size = format.block_bytes();
    for (c, source) in source.chunks_exact(row).enumerate() {
        for (i, value) in source.chunks_exact(size).enumerate() {
            let byte = (i * PAIR + c) * size;
            lines[byte / 64].0[byte % 64..][..size].copy_from_slice(value);
        }
    }
}

fn dense_row(format: Format, lines: &[Line], c: usize, out: &mut [f32]) {
    let size = format.block_bytes();
    for (i, out) in out.iter_mut().enumerate() {
        let byte = (i * PAIR + c) * size;
        let bytes = &lines[byte / 64].0[byte % 64..][..size];
        *out = match (format, bytes) {
            (Format::F32, &[a, b, c, d]) => {
                crate::math::canonical(f32::from_le_bytes([a, b, c, d]))
            }
            (Format::F16, &[a, b]) => f16_to_f32(u16::from_le_bytes([a, b])),
            (_, &[a, b]) => bf16_to_f32(u16::from_le_bytes([a, b])),
            _ => unreachable!("dense values have two or four bytes"),
        };
    }
}
