//! Element types narrower than any that a tensor holds here.
//!
//! 8-bit and 4-bit floats are held as their bits, one in each byte of a UINT8 tensor; 4-bit
//! integers as their values, in INT8 or UINT8. So they are in a signature, in a run and in a
//! commitment. What they stand for, the importer remembers: it lowers conversions to operators on
//! bits, lets elements be moved, and refuses everything else.

use lemma_types::tensor::DType;

use crate::ops::narrow::Format;

/// What the bytes of a value stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Narrow {
    Float(Format),
    Int4,
    Uint4,
}

impl Narrow {
    /// The type of ONNX's code for it, if it is one of these.
    pub(crate) fn of(code: i64) -> Option<Narrow> {
        Some(match code {
            17 => Narrow::Float(Format::E4m3Fn),
            18 => Narrow::Float(Format::E4m3FnUz),
            19 => Narrow::Float(Format::E5m2),
            20 => Narrow::Float(Format::E5m2FnUz),
            21 => Narrow::Uint4,
            22 => Narrow::Int4,
            23 => Narrow::Float(Format::E2m1),
            _ => return None,
        })
    }

    /// The type of the tensors that hold it.
    pub(crate) fn storage(self) -> DType {
        match self {
            Narrow::Int4 => DType::I8,
            _ => DType::U8,
        }
    }

    /// Whether a byte of a file holds two elements.
    pub(crate) fn is_half_byte(self) -> bool {
        matches!(
            self,
            Narrow::Int4 | Narrow::Uint4 | Narrow::Float(Format::E2m1)
        )
    }
}
