//! GGUF files: metadata and tensors in one file, as llama.cpp's tools write them.
//!
//! Nothing is allocated on the word of the file: every count is held against the bytes that are
//! left before a list is made, and tensors stay where they are, as parts of the given bytes.

use std::collections::BTreeMap;

use lemma_kernels::{FileMap, Format};

use crate::tensors::{MAX_TENSORS, Tensor, TensorError, Tensors};

/// Most metadata entries of a file.
const MAX_ENTRIES: u64 = 1 << 16;
/// Most bytes of a key or a tensor's name.
const MAX_NAME: usize = 1 << 16;
/// Most elements of one metadata list: more than any vocabulary has.
const MAX_LIST: u64 = 1 << 22;

/// Why bytes are no GGUF file that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// The file does not begin as a GGUF file.
    #[error("this is no GGUF file: it does not begin with the letters GGUF")]
    Magic,
    /// A version that is not read.
    #[error("GGUF version {0} is not supported; versions 2 and 3 are, in little-endian order")]
    Version(u32),
    /// The file ends inside of what it announces.
    #[error("the file ends within {0}: it is damaged or was not copied whole")]
    Short(&'static str),
    /// Something is more, or longer, than a file may have.
    #[error("{what}: {count} is more than the limit of {limit}")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// How much the file says.
        count: u64,
        /// How much there may be.
        limit: u64,
    },
    /// Text that is no UTF-8.
    #[error("{0} is not valid UTF-8")]
    Text(&'static str),
    /// A metadata type that does not exist, or lists of lists.
    #[error("metadata entry {key}: type {kind} is unknown or not allowed there")]
    Kind {
        /// The entry.
        key: String,
        /// The number of the type.
        kind: u32,
    },
    /// A key or tensor that comes twice.
    #[error("{0} comes twice")]
    Twice(String),
    /// A tensor type that is not read.
    #[error(
        "tensor {name} has type {kind}; supported are F32 (0), F16 (1), Q4_0 (2), Q8_0 (8), Q4_K \
         (12), Q5_K (13), Q6_K (14) and BF16 (30): convert the model to one of these"
    )]
    TensorType {
        /// The tensor.
        name: String,
        /// The number of its type.
        kind: u32,
    },
    /// The alignment of tensor data is no power of two between 8 and 65536.
    #[error("general.alignment is {0}; it has to be a power of two from 8 to 65536")]
    Alignment(u64),
    /// A tensor that is malformed.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// Any integer.
    Int(i128),
    /// Either width of float.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// Text.
    Text(&'a str),
    /// A list of integers.
    Ints(Vec<i64>),
    /// A list of floats.
    Floats(Vec<f64>),
    /// A list of truth values.
    Bools(Vec<bool>),
    /// A list of texts.
    Texts(Vec<&'a str>),
}

/// A parsed file.
#[derive(Debug, Clone)]
pub struct Gguf<'a> {
    metadata: BTreeMap<&'a str, Value<'a>>,
    tensors: Tensors<'a>,
}

impl<'a> Gguf<'a> {
    /// Reads a file that is mapped, and gives its memory back as tensors are read: a model that is
    /// loaded from it takes no more memory on the way than in the end.
    ///
    /// # Errors
    /// [`GgufError`] says what is wrong with it.
    pub fn map(file: &'a FileMap) -> Result<Gguf<'a>, GgufError> {
        let mut parsed = Gguf::parse(file)?;
        parsed.tensors.mapped(file);
        Ok(parsed)
    }

    /// Reads a file, given whole.
    ///
    /// # Errors
    /// [`GgufError`] says what is wrong with it.
    pub fn parse(bytes: &'a [u8]) -> Result<Gguf<'a>, GgufError> {
        let mut reader = Reader { bytes, at: 0 };
        if reader.take(4, "its head")? != b"GGUF" {
            return Err(GgufError::Magic);
        }
        let version = reader.u32("its head")?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version(version));
        }
        let tensors = bounded("tensors", reader.u64("its head")?, MAX_TENSORS as u64)?;
        let entries = bounded("metadata entries", reader.u64("its head")?, MAX_ENTRIES)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..entries {
            let key = reader.text("a metadata key", MAX_NAME)?;
            let kind = reader.u32("metadata")?;
            let value = reader.value(key, kind)?;
            if metadata.insert(key, value).is_some() {
                return Err(GgufError::Twice(key.to_owned()));
            }
        }
        let alignment = match metadata.get("general.alignment") {
            Some(Value::Int(n)) => u64::try_from(*n).unwrap_or(0),
            _ => 32,
        };
        if !alignment.is_power_of_two() || !(8..=65536).contains(&alignment) {
            return Err(GgufError::Alignment(alignment));
        }
        let mut described = Vec::new();
        for _ in 0..tensors {
            described.push(reader.tensor()?);
        }
        let start = reader.at.next_multiple_of(alignment as usize);
        let mut tensors = Tensors::default();
        for (name, format, shape, offset) in described {
            let tensor = Tensor::at(name, format, shape, bytes, start as u64, offset)?;
            tensors.insert(name, tensor)?;
        }
        Ok(Gguf { metadata, tensors })
    }

    /// The tensors.
    #[must_use]
    pub fn tensors(&self) -> &Tensors<'a> {
        &self.tensors
    }

    /// A metadata value.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.metadata.get(key)
    }

    /// A text.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&'a str> {
        match self.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// An integer that is no negative number and fits memory.
    #[must_use]
    pub fn size(&self, key: &str) -> Option<usize> {
        match self.get(key)? {
            Value::Int(n) => usize::try_from(*n).ok(),
            _ => None,
        }
    }

    /// A float, or an integer as one.
    #[must_use]
    pub fn float(&self, key: &str) -> Option<f64> {
        match self.get(key)? {
            Value::Float(x) => Some(*x),
            Value::Int(n) => Some(*n as f64),
            _ => None,
        }
    }

    /// A truth value.
    #[must_use]
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.get(key)? {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// A list of texts.
    #[must_use]
    pub fn texts(&self, key: &str) -> Option<&[&'a str]> {
        match self.get(key)? {
            Value::Texts(list) => Some(list),
            _ => None,
        }
    }
}

fn bounded(what: &'static str, count: u64, limit: u64) -> Result<u64, GgufError> {
    if count > limit {
        return Err(GgufError::TooMuch { what, count, limit });
    }
    Ok(count)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Described<'a> = (&'a str, Format, Vec<usize>, u64);

impl<'a> Reader<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], GgufError> {
        if len > self.left() {
            return Err(GgufError::Short(what));
        }
        let part = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(part)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, what)?);
        Ok(out)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn text(&mut self, what: &'static str, limit: usize) -> Result<&'a str, GgufError> {
        let len = bounded(what, self.u64(what)?, limit as u64)?;
        let bytes = self.take(len as usize, what)?;
        std::str::from_utf8(bytes).map_err(|_| GgufError::Text(what))
    }

    fn value(&mut self, key: &str, kind: u32) -> Result<Value<'a>, GgufError> {
        const WHAT: &str = "metadata";
        Ok(match kind {
            0..=5 | 10 | 11 => Value::Int(self.int(kind)?),
            6 | 12 => Value::Float(self.float(kind)?),
            7 => Value::Bool(self.array::<1>(WHAT)? != [0]),
            8 => Value::Text(self.text(WHAT, self.left())?),
            9 => self.list(key)?,
            _ => {
                let key = key.to_owned();
                return Err(GgufError::Kind { key, kind });
            }
        })
    }

    fn int(&mut self, kind: u32) -> Result<i128, GgufError> {
        const WHAT: &str = "metadata";
        Ok(match kind {
            0 => i128::from(u8::from_le_bytes(self.array(WHAT)?)),
            1 => i128::from(i8::from_le_bytes(self.array(WHAT)?)),
            2 => i128::from(u16::from_le_bytes(self.array(WHAT)?)),
            3 => i128::from(i16::from_le_bytes(self.array(WHAT)?)),
            4 => i128::from(self.u32(WHAT)?),
            5 => i128::from(i32::from_le_bytes(self.array(WHAT)?)),
            10 => i128::from(self.u64(WHAT)?),
            _ => i128::from(i64::from_le_bytes(self.array(WHAT)?)),
        })
    }

    fn float(&mut self, kind: u32) -> Result<f64, GgufError> {
        Ok(if kind == 6 {
            f64::from(f32::from_le_bytes(self.array("metadata")?))
        } else {
            f64::from_le_bytes(self.array("metadata")?)
        })
    }

    fn list(&mut self, key: &str) -> Result<Value<'a>, GgufError> {
        const WHAT: &str = "a metadata list";
        let kind = self.u32(WHAT)?;
        let count = bounded("elements of a metadata list", self.u64(WHAT)?, MAX_LIST)?;
        let size: u64 = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            _ => {
                let key = key.to_owned();
                return Err(GgufError::Kind { key, kind });
            }
        };
        // At most 2²⁵ bytes, and no more than the file still has.
        if count * size > self.left() as u64 {
            return Err(GgufError::Short(WHAT));
        }
        let range = 0..count;
        Ok(match kind {
            8 => {
                let text = |_| self.text(WHAT, self.left());
                Value::Texts(range.map(text).collect::<Result<_, _>>()?)
            }
            7 => {
                let flag = |_| Ok(self.array::<1>(WHAT)? != [0]);
                Value::Bools(range.map(flag).collect::<Result<_, GgufError>>()?)
            }
            6 | 12 => {
                let float = |_| self.float(kind);
                Value::Floats(range.map(float).collect::<Result<_, _>>()?)
            }
            _ => {
                // Numbers above 2⁶³ have no use in a list.
                let int = |_| Ok(i64::try_from(self.int(kind)?).unwrap_or(i64::MAX));
                Value::Ints(range.map(int).collect::<Result<_, GgufError>>()?)
            }
        })
    }

    fn tensor(&mut self) -> Result<Described<'a>, GgufError> {
        const WHAT: &str = "the description of a tensor";
        let name = self.text(WHAT, MAX_NAME)?;
        let dims = bounded("dimensions of a tensor", u64::from(self.u32(WHAT)?), 4)?;
        let mut shape = Vec::new();
        for _ in 0..dims {
            let size = self.u64(WHAT)?;
            shape.push(usize::try_from(size).map_err(|_| TensorError::size(name))?);
        }
        // The file names the innermost dimension first.
        shape.reverse();
        let kind = self.u32(WHAT)?;
        let format = match kind {
            0 => Format::F32,
            1 => Format::F16,
            2 => Format::Q4_0,
            8 => Format::Q8_0,
            12 => Format::Q4K,
            13 => Format::Q5K,
            14 => Format::Q6K,
            30 => Format::BF16,
            _ => {
                let name = name.to_owned();
                return Err(GgufError::TensorType { name, kind });
            }
        };
        Ok((name, format, shape, self.u64(WHAT)?))
    }
}
