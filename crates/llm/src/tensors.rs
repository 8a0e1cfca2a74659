//! Named tensors inside of the bytes of one or more files.

use std::collections::BTreeMap;

use lemma_kernels::{FileMap, Format};

/// Most tensors of a model.
pub const MAX_TENSORS: usize = 1 << 17;

/// Why a tensor cannot be what its description says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The shape has more values than memory has addresses, or rows are no whole blocks.
    #[error("tensor {0}: its shape is impossible in its format")]
    Size(String),
    /// Its bytes lie outside of the file.
    #[error("tensor {0} lies outside of the file: it is damaged or was not copied whole")]
    Outside(String),
    /// Its bytes are more or fewer than its shape asks for.
    #[error("tensor {name} has {found} bytes where its shape asks for {expected}")]
    Bytes {
        /// The tensor.
        name: String,
        /// Bytes that the shape asks for.
        expected: usize,
        /// Bytes that are there.
        found: u64,
    },
    /// There are two of that name.
    #[error("tensor {0} comes twice")]
    Twice(String),
    /// More than [`MAX_TENSORS`].
    #[error("the model has more than {MAX_TENSORS} tensors")]
    TooMany,
    /// A tensor that the architecture needs is not there.
    #[error("tensor {0} is missing: the files are incomplete, or of another architecture")]
    Missing(String),
    /// A tensor has another shape than the configuration says.
    #[error("tensor {name} has shape {found:?}, but the configuration asks for {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape asked for.
        expected: Vec<usize>,
    },
    /// A vector, such as a norm's scale, in a quantised format.
    #[error("tensor {0} has to be stored as F32, F16 or BF16")]
    Dense(String),
}

impl TensorError {
    pub(crate) fn size(name: &str) -> TensorError {
        TensorError::Size(name.to_owned())
    }
}

/// A tensor: its shape, outermost dimension first, and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor<'a> {
    /// How values are stored.
    pub format: Format,
    /// Sizes, outermost first; rows along the last dimension.
    pub shape: Vec<usize>,
    /// Row after row.
    pub data: &'a [u8],
}

impl<'a> Tensor<'a> {
    /// Bytes that a shape takes.
    pub(crate) fn size(name: &str, format: Format, shape: &[usize]) -> Result<usize, TensorError> {
        let row = shape.last().copied().unwrap_or(1);
        let rows = shape
            .iter()
            .rev()
            .skip(1)
            .try_fold(1usize, |n, &d| n.checked_mul(d));
        rows.zip(format.row_bytes(row))
            .and_then(|(rows, row)| rows.checked_mul(row))
            .ok_or_else(|| TensorError::size(name))
    }

    /// The tensor that begins `offset` bytes after `start` in `file`.
    pub(crate) fn at(
        name: &str,
        format: Format,
        shape: Vec<usize>,
        file: &'a [u8],
        start: u64,
        offset: u64,
    ) -> Result<Tensor<'a>, TensorError> {
        let len = Tensor::size(name, format, &shape)?;
        let data = start
            .checked_add(offset)
            .and_then(|begin| usize::try_from(begin).ok())
            .and_then(|begin| file.get(begin..begin.checked_add(len)?))
            .ok_or_else(|| TensorError::Outside(name.to_owned()))?;
        Ok(Tensor {
            format,
            shape,
            data,
        })
    }

    /// A part of the outermost dimension.
    pub(crate) fn rows(
        &self,
        name: &str,
        first: usize,
        count: usize,
    ) -> Result<Tensor<'a>, TensorError> {
        let mut shape = self.shape.clone();
        let Some(outer) = shape.first_mut() else {
            return Err(TensorError::size(name));
        };
        if first.checked_add(count).is_none_or(|end| end > *outer) {
            return Err(TensorError::size(name));
        }
        *outer = 1;
        let one = Tensor::size(name, self.format, &shape)?;
        shape[0] = count;
        Ok(Tensor {
            format: self.format,
            shape,
            data: &self.data[first * one..(first + count) * one],
        })
    }
}

/// Tensors by name.
#[derive(Debug, Clone, Default)]
pub struct Tensors<'a> {
    map: BTreeMap<String, Tensor<'a>>,
    /// Files that are mapped, of which parts are handed back once they are read.
    files: Vec<&'a FileMap>,
}

impl<'a> Tensors<'a> {
    /// Takes one more in.
    ///
    /// # Errors
    /// If there are too many, or one has this name.
    pub fn insert(&mut self, name: &str, tensor: Tensor<'a>) -> Result<(), TensorError> {
        if self.map.len() >= MAX_TENSORS {
            return Err(TensorError::TooMany);
        }
        match self.map.insert(name.to_owned(), tensor) {
            None => Ok(()),
            Some(_) => Err(TensorError::Twice(name.to_owned())),
        }
    }

    /// Says that bytes of tensors may lie in this file, which gives back the memory of what was
    /// read: then a model takes no more memory while it is loaded than after.
    pub fn mapped(&mut self, file: &'a FileMap) {
        self.files.push(file);
    }

    /// Says that these bytes of a tensor were read.
    pub(crate) fn release(&self, data: &[u8]) {
        for file in &self.files {
            file.release(data);
        }
    }

    /// Bytes of all tensors together.
    pub(crate) fn bytes(&self) -> usize {
        self.map.values().map(|tensor| tensor.data.len()).sum()
    }

    /// A tensor, if it is there.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tensor<'a>> {
        self.map.get(name)
    }

    /// Names and tensors, in order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor<'a>)> {
        self.map
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
    }
}
