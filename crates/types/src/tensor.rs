//! Tensors as they travel and as they are committed to: name, element type, shape and little-endian bytes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::limits;

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DType {
    /// One byte, 0 or 1.
    Bool = 1,
    /// Unsigned 8-bit integer.
    U8 = 2,
    /// Signed 8-bit integer.
    I8 = 3,
    /// Unsigned 16-bit integer.
    U16 = 4,
    /// Signed 16-bit integer.
    I16 = 5,
    /// Unsigned 32-bit integer.
    U32 = 6,
    /// Signed 32-bit integer.
    I32 = 7,
    /// Unsigned 64-bit integer.
    U64 = 8,
    /// Signed 64-bit integer.
    I64 = 9,
    /// IEEE 754 binary16.
    F16 = 10,
    /// The upper half of an IEEE 754 binary32.
    Bf16 = 11,
    /// IEEE 754 binary32.
    F32 = 12,
    /// IEEE 754 binary64.
    F64 = 13,
}

impl DType {
    /// Every element type, in the order of its code.
    pub const ALL: [Self; 13] = [
        Self::Bool,
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::U64,
        Self::I64,
        Self::F16,
        Self::Bf16,
        Self::F32,
        Self::F64,
    ];

    /// Bytes of one element.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// The code in canonical encodings.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The element type with this code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.code() == code)
    }

    /// The name in the Open Inference Protocol v2 (`FP32`, `INT64`, `BOOL`, …), also used in manifests.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::U8 => "UINT8",
            Self::I8 => "INT8",
            Self::U16 => "UINT16",
            Self::I16 => "INT16",
            Self::U32 => "UINT32",
            Self::I32 => "INT32",
            Self::U64 => "UINT64",
            Self::I64 => "INT64",
            Self::F16 => "FP16",
            Self::Bf16 => "BF16",
            Self::F32 => "FP32",
            Self::F64 => "FP64",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why a text is not a [`DType`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown datatype `{0}`: expected one of BOOL, UINT8..64, INT8..64, FP16, BF16, FP32, FP64"
)]
pub struct UnknownDType(String);

impl FromStr for DType {
    type Err = UnknownDType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|dtype| dtype.name() == text)
            .ok_or_else(|| UnknownDType(text.chars().take(40).collect()))
    }
}

impl Serialize for DType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for DType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

/// One dimension of a signature: a number, or a symbol that stands for the same number wherever it occurs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Dim {
    /// Known in advance.
    Fixed(u64),
    /// Chosen by each request, for example `batch`.
    Symbol(String),
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Symbol(name) => f.write_str(name),
        }
    }
}

/// Name, element type and shape of an input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSpec {
    /// Name, as the model declares it.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Shape, outermost dimension first.
    pub shape: Vec<Dim>,
}

/// A tensor's name, element type, shape and row-major little-endian elements.
#[derive(Clone, PartialEq, Eq)]
pub struct TensorData {
    name: String,
    dtype: DType,
    shape: Vec<u64>,
    data: Vec<u8>,
}

/// Why parts do not make a [`TensorData`], or bytes do not encode one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// Name too long.
    #[error("tensor name of {0} bytes: at most {max} are accepted", max = limits::TENSOR_NAME_BYTES)]
    Name(usize),
    /// Too many dimensions.
    #[error("tensor `{name}` has {rank} dimensions: at most {max} are accepted", max = limits::RANK)]
    Rank {
        /// The tensor.
        name: String,
        /// Its number of dimensions.
        rank: usize,
    },
    /// The shape does not describe the data.
    #[error(
        "tensor `{name}` of datatype {dtype} and shape {shape:?} does not have {actual} bytes of data"
    )]
    Size {
        /// The tensor.
        name: String,
        /// Its element type.
        dtype: DType,
        /// Its shape.
        shape: Vec<u64>,
        /// Bytes given.
        actual: usize,
    },
    /// A boolean element that is neither 0 nor 1.
    #[error(
        "tensor `{name}` of datatype BOOL has a byte that is neither 0 nor 1 at element {index}"
    )]
    Bool {
        /// The tensor.
        name: String,
        /// Which element.
        index: usize,
    },
    /// Too many tensors together.
    #[error("{0} tensors: at most {max} are accepted", max = limits::TENSORS)]
    Count(usize),
    /// The encoding ends early, goes on too long, or has an unknown code.
    #[error("not a canonical tensor encoding: {0}")]
    Encoding(&'static str),
}

impl TensorData {
    /// A tensor of these parts.
    ///
    /// # Errors
    /// If the name or rank exceeds its limit, or the shape does not describe exactly `data`.
    pub fn new(
        name: impl Into<String>,
        dtype: DType,
        shape: Vec<u64>,
        data: Vec<u8>,
    ) -> Result<Self, TensorError> {
        let name = name.into();
        if name.len() > limits::TENSOR_NAME_BYTES {
            return Err(TensorError::Name(name.len()));
        }
        if shape.len() > limits::RANK {
            return Err(TensorError::Rank {
                name,
                rank: shape.len(),
            });
        }
        let bytes = shape
            .iter()
            .try_fold(dtype.size() as u64, |size, dim| size.checked_mul(*dim));
        if bytes != Some(data.len() as u64) {
            return Err(TensorError::Size {
                name,
                dtype,
                shape,
                actual: data.len(),
            });
        }
        if dtype == DType::Bool
            && let Some(index) = data.iter().position(|byte| *byte > 1)
        {
            return Err(TensorError::Bool { name, index });
        }
        Ok(Self {
            name,
            dtype,
            shape,
            data,
        })
    }

    /// Name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Element type.
    #[must_use]
    pub const fn dtype(&self) -> DType {
        self.dtype
    }

    /// Shape, outermost dimension first.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// Row-major little-endian elements.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Number of elements.
    #[must_use]
    pub fn elements(&self) -> u64 {
        (self.data.len() / self.dtype.size()) as u64
    }

    /// The first element that is NaN or infinite, if there is one; always `None` for integers and booleans.
    #[must_use]
    pub fn first_non_finite(&self) -> Option<usize> {
        // A float is not finite when all bits of its exponent are set.
        let (exponent, size) = match self.dtype {
            DType::F16 => (0x7c00u64, 2),
            DType::Bf16 => (0x7f80, 2),
            DType::F32 => (0x7f80_0000, 4),
            DType::F64 => (0x7ff0_0000_0000_0000, 8),
            _ => return None,
        };
        self.data.chunks_exact(size).position(|element| {
            let mut word = [0; 8];
            word[..size].copy_from_slice(element);
            u64::from_le_bytes(word) & exponent == exponent
        })
    }

    /// The name and the elements.
    #[must_use]
    pub fn into_parts(self) -> (String, DType, Vec<u64>, Vec<u8>) {
        (self.name, self.dtype, self.shape, self.data)
    }

    /// Appends the canonical encoding: `u32` name length, name, `u8` dtype code, `u8` rank, `u64` for each dimension, then
    /// the elements; all integers little-endian. The shape fixes the length of the elements.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.extend((self.name.len() as u32).to_le_bytes());
        out.extend(self.name.as_bytes());
        out.push(self.dtype.code());
        out.push(self.shape.len() as u8);
        for dim in &self.shape {
            out.extend(dim.to_le_bytes());
        }
        out.extend(&self.data);
    }

    fn decode_from(input: &mut &[u8]) -> Result<Self, TensorError> {
        let length = u32::from_le_bytes(take_array(input)?) as usize;
        if length > limits::TENSOR_NAME_BYTES {
            return Err(TensorError::Name(length));
        }
        let name = std::str::from_utf8(take(input, length)?)
            .map_err(|_| TensorError::Encoding("a name is not UTF-8"))?
            .to_owned();
        let [code, rank] = take_array(input)?;
        let dtype = DType::from_code(code).ok_or(TensorError::Encoding("unknown element type"))?;
        if usize::from(rank) > limits::RANK {
            return Err(TensorError::Rank {
                name,
                rank: rank.into(),
            });
        }
        let mut shape = Vec::with_capacity(rank.into());
        for _ in 0..rank {
            shape.push(u64::from_le_bytes(take_array(input)?));
        }
        let bytes = shape
            .iter()
            .try_fold(dtype.size() as u64, |size, dim| size.checked_mul(*dim))
            .and_then(|bytes| usize::try_from(bytes).ok())
            .ok_or(TensorError::Encoding("a shape overflows"))?;
        // Borrowed first: a length is only believed when the bytes are there.
        let data = take(input, bytes)?.to_vec();
        Self::new(name, dtype, shape, data)
    }
}

/// The canonical encoding of several tensors: `u32` count, then each tensor.
#[must_use]
pub fn encode(tensors: &[TensorData]) -> Vec<u8> {
    let bytes: usize = tensors
        .iter()
        .map(|t| 6 + t.name.len() + 8 * t.shape.len() + t.data.len())
        .sum();
    let mut out = Vec::with_capacity(4 + bytes);
    out.extend((tensors.len() as u32).to_le_bytes());
    for tensor in tensors {
        tensor.encode_into(&mut out);
    }
    out
}

/// Decodes what [`encode`] wrote; nothing may follow it.
///
/// # Errors
/// If the bytes are not a canonical encoding within the limits. Allocates no more than the input's own size.
pub fn decode(mut input: &[u8]) -> Result<Vec<TensorData>, TensorError> {
    let count = u32::from_le_bytes(take_array(&mut input)?) as usize;
    if count > limits::TENSORS {
        return Err(TensorError::Count(count));
    }
    let tensors = (0..count)
        .map(|_| TensorData::decode_from(&mut input))
        .collect::<Result<_, _>>()?;
    if !input.is_empty() {
        return Err(TensorError::Encoding("bytes follow the last tensor"));
    }
    Ok(tensors)
}

fn take<'a>(input: &mut &'a [u8], count: usize) -> Result<&'a [u8], TensorError> {
    let (head, tail) = input
        .split_at_checked(count)
        .ok_or(TensorError::Encoding("it ends early"))?;
    *input = tail;
    Ok(head)
}

fn take_array<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], TensorError> {
    let (head, tail) = input
        .split_first_chunk()
        .ok_or(TensorError::Encoding("it ends early"))?;
    *input = tail;
    Ok(*head)
}

impl fmt::Debug for TensorData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TensorData")
            .field("name", &self.name)
            .field("dtype", &self.dtype)
            .field("shape", &self.shape)
            .field("bytes", &self.data.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Vec<TensorData> {
        let floats: Vec<u8> = [1.5f32, -0.0, f32::NAN]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        vec![
            TensorData::new("x", DType::F32, vec![1, 3], floats).unwrap(),
            TensorData::new("", DType::Bool, vec![], vec![1]).unwrap(),
            TensorData::new("empty", DType::I64, vec![0, 7], vec![]).unwrap(),
        ]
    }

    #[test]
    fn encoding_round_trips() {
        assert_eq!(decode(&encode(&sample())).unwrap(), sample());
        assert_eq!(decode(&encode(&[])).unwrap(), vec![]);
    }

    #[test]
    fn shape_must_describe_the_data() {
        let size = |shape, bytes| TensorData::new("x", DType::I32, shape, vec![0; bytes]);
        assert!(size(vec![2, 2], 16).is_ok());
        assert!(matches!(
            size(vec![2, 2], 15),
            Err(TensorError::Size { .. })
        ));
        assert!(matches!(
            size(vec![u64::MAX, u64::MAX], 0),
            Err(TensorError::Size { .. })
        ));
        assert!(matches!(
            size(vec![1; 17], 4),
            Err(TensorError::Rank { .. })
        ));
        assert!(matches!(
            TensorData::new("b", DType::Bool, vec![2], vec![1, 2]),
            Err(TensorError::Bool { index: 1, .. })
        ));
    }

    #[test]
    fn non_finite_elements_are_found() {
        let of = |dtype: DType, bytes: &[u8]| {
            let shape = vec![(bytes.len() / dtype.size()) as u64];
            TensorData::new("x", dtype, shape, bytes.to_vec())
                .unwrap()
                .first_non_finite()
        };
        assert_eq!(
            of(
                DType::F32,
                &[1.0f32, f32::MAX].map(f32::to_le_bytes).concat()
            ),
            None
        );
        assert_eq!(
            of(
                DType::F32,
                &[1.0f32, f32::NAN].map(f32::to_le_bytes).concat()
            ),
            Some(1)
        );
        assert_eq!(of(DType::F64, &f64::NEG_INFINITY.to_le_bytes()), Some(0));
        assert_eq!(of(DType::F16, &[0xff, 0x7b, 0x00, 0xfc]), Some(1));
        assert_eq!(of(DType::Bf16, &[0x7f, 0x7f, 0xc0, 0xff]), Some(1));
        assert_eq!(of(DType::I32, &[0xff; 4]), None);
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes = encode(&sample());
        for end in 0..bytes.len() {
            assert!(
                decode(&bytes[..end]).is_err(),
                "a prefix of {end} bytes was accepted"
            );
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(decode(&longer).is_err());
    }

    proptest! {
        #[test]
        fn decoding_never_panics_and_is_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(tensors) = decode(&bytes) {
                prop_assert_eq!(encode(&tensors), bytes);
            }
        }
    }
}
