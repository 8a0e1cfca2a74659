//! The runtime tensor: typed, row-major storage that is cheap to share.

use std::fmt;
use std::sync::Arc;

use lemma_types::Digest;
use lemma_types::limits;
use lemma_types::tensor::{DType, TensorData};

use crate::error::TensorError;

/// The largest rank of any tensor.
pub const MAX_RANK: usize = limits::RANK;

/// An IEEE 754 binary16 number, as stored.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct F16(pub u16);

/// A bfloat16 number, as stored.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Bf16(pub u16);

/// A type that tensors are made of.
pub trait Element: Copy + Default + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// The tag of this type.
    const DTYPE: DType;
    /// Wraps a buffer into the storage variant of this type.
    fn wrap(buffer: Arc<Vec<Self>>) -> Storage;
    /// The buffer, if the storage is of this type.
    fn unwrap(storage: &Storage) -> Option<&Arc<Vec<Self>>>;
    /// Appends the little-endian bytes of `values`.
    fn encode(values: &[Self], out: &mut Vec<u8>);
    /// Reads little-endian bytes, whose length is a multiple of the element size.
    ///
    /// # Errors
    /// When a byte pattern is not a value of this type (a `bool` other than 0 or 1).
    fn decode(bytes: &[u8]) -> Result<Vec<Self>, TensorError>;
}

macro_rules! storage {
    ($($variant:ident($element:ty)),* $(,)?) => {
        /// The elements of a tensor, row-major.
        #[derive(Clone)]
        #[allow(missing_docs)]
        pub enum Storage { $($variant(Arc<Vec<$element>>)),* }

        impl Storage {
            /// The element type.
            #[must_use]
            pub fn dtype(&self) -> DType {
                match self { $(Storage::$variant(_) => DType::$variant),* }
            }

            /// Storage of no elements.
            fn empty(dtype: DType) -> Storage {
                match dtype { $(DType::$variant => Storage::$variant(Arc::default())),* }
            }

            /// Storage of elements in canonical bytes.
            fn decode(dtype: DType, bytes: &[u8]) -> Result<Storage, TensorError> {
                Ok(match dtype {
                    $(DType::$variant => <$element>::wrap(Arc::new(<$element>::decode(bytes)?))),*
                })
            }
        }

        /// Runs `$body` with `$v` bound to the typed buffer of a storage, whatever its type.
        macro_rules! with_storage {
            ($storage:expr, $v:ident => $body:expr) => {
                match $storage { $($crate::tensor::Storage::$variant($v) => $body),* }
            };
        }
        pub(crate) use with_storage;
    };
}

storage! {
    Bool(bool), U8(u8), I8(i8), U16(u16), I16(i16), U32(u32), I32(i32), U64(u64), I64(i64),
    F16(F16), Bf16(Bf16), F32(f32), F64(f64),
}

/// What all implementations of [`Element`] have in common.
macro_rules! storage_of {
    ($variant:ident) => {
        const DTYPE: DType = DType::$variant;
        fn wrap(buffer: Arc<Vec<Self>>) -> Storage {
            Storage::$variant(buffer)
        }
        fn unwrap(storage: &Storage) -> Option<&Arc<Vec<Self>>> {
            match storage {
                Storage::$variant(buffer) => Some(buffer),
                _ => None,
            }
        }
    };
}

/// Appends the bytes of each value, in a loop that compiles to a plain copy.
fn encode_each<T: Copy, const N: usize>(
    values: &[T],
    out: &mut Vec<u8>,
    bytes: impl Fn(T) -> [u8; N],
) {
    let start = out.len();
    out.resize(start + values.len() * N, 0);
    let (chunks, _) = out[start..].as_chunks_mut();
    for (chunk, &value) in chunks.iter_mut().zip(values) {
        *chunk = bytes(value);
    }
}

/// Encodes values through a small buffer.
fn encode_parts<T: Element>(values: &[T], each: &mut impl FnMut(&[u8])) {
    const ELEMENTS: usize = 8192;
    let mut buffer = Vec::with_capacity(ELEMENTS.min(values.len()) * T::DTYPE.size());
    for part in values.chunks(ELEMENTS) {
        buffer.clear();
        T::encode(part, &mut buffer);
        each(&buffer);
    }
}

macro_rules! element {
    ($($variant:ident($element:ty)),*) => {$(
        impl Element for $element {
            storage_of!($variant);
            fn encode(values: &[Self], out: &mut Vec<u8>) {
                encode_each(values, out, |v| v.to_le_bytes());
            }
            fn decode(bytes: &[u8]) -> Result<Vec<Self>, TensorError> {
                let (chunks, _) = bytes.as_chunks();
                Ok(chunks.iter().map(|c| Self::from_le_bytes(*c)).collect())
            }
        }
    )*};
}

element!(
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64)
);

macro_rules! half_element {
    ($($variant:ident),*) => {$(
        impl Element for $variant {
            storage_of!($variant);
            fn encode(values: &[Self], out: &mut Vec<u8>) {
                encode_each(values, out, |v| v.0.to_le_bytes());
            }
            fn decode(bytes: &[u8]) -> Result<Vec<Self>, TensorError> {
                let (chunks, _) = bytes.as_chunks();
                Ok(chunks.iter().map(|c| Self(u16::from_le_bytes(*c))).collect())
            }
        }
    )*};
}

half_element!(F16, Bf16);

impl Element for bool {
    storage_of!(Bool);
    fn encode(values: &[bool], out: &mut Vec<u8>) {
        out.extend(values.iter().map(|&v| u8::from(v)));
    }
    fn decode(bytes: &[u8]) -> Result<Vec<bool>, TensorError> {
        let value = |(index, &byte): (usize, &u8)| match byte {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(TensorError::Bool { index, byte }),
        };
        bytes.iter().enumerate().map(value).collect()
    }
}

/// A tensor: a shape and as many elements, row-major. Clones share the elements.
#[derive(Clone)]
pub struct Tensor {
    shape: Vec<usize>,
    storage: Storage,
}

impl Tensor {
    /// A tensor of `shape` over `elements` in row-major order.
    ///
    /// # Errors
    /// When the rank exceeds [`MAX_RANK`], or the product of the dimensions is not the number of
    /// elements.
    pub fn new<T: Element>(shape: &[usize], elements: Vec<T>) -> Result<Tensor, TensorError> {
        check_shape(shape, elements.len())?;
        Ok(Tensor::from_parts(shape.to_vec(), elements))
    }

    /// A tensor of rank 0.
    #[must_use]
    pub fn scalar<T: Element>(value: T) -> Tensor {
        Tensor::from_parts(Vec::new(), vec![value])
    }

    /// A tensor of rank 1.
    #[must_use]
    pub fn vector<T: Element>(elements: Vec<T>) -> Tensor {
        Tensor::from_parts(vec![elements.len()], elements)
    }

    /// A tensor whose parts are known to fit.
    pub(crate) fn from_parts<T: Element>(shape: Vec<usize>, elements: Vec<T>) -> Tensor {
        debug_assert_eq!(element_count(&shape), Some(elements.len()));
        Tensor {
            shape,
            storage: T::wrap(Arc::new(elements)),
        }
    }

    /// A tensor whose parts are known to fit.
    pub(crate) fn from_storage(shape: Vec<usize>, storage: Storage) -> Tensor {
        Tensor { shape, storage }
    }

    /// The storage, and with it the right to its elements if nobody else holds them.
    pub(crate) fn into_storage(self) -> Storage {
        self.storage
    }

    /// A tensor of no elements.
    pub(crate) fn empty(dtype: DType, shape: Vec<usize>) -> Tensor {
        debug_assert_eq!(element_count(&shape), Some(0));
        Tensor {
            shape,
            storage: Storage::empty(dtype),
        }
    }

    /// The same elements under another shape of as many elements.
    pub(crate) fn with_shape(&self, shape: Vec<usize>) -> Tensor {
        debug_assert_eq!(element_count(&shape), Some(self.len()));
        Tensor {
            shape,
            storage: self.storage.clone(),
        }
    }

    /// The dimensions, outermost first.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of dimensions.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        with_storage!(&self.storage, v => v.len())
    }

    /// Whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.storage.dtype()
    }

    /// The bytes that the elements occupy.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.len() * self.dtype().size()
    }

    /// The typed storage.
    #[must_use]
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The elements, if they are of type `T`.
    #[must_use]
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        T::unwrap(&self.storage).map(|buffer| buffer.as_slice())
    }

    /// Takes the elements out, without a copy where nobody else holds them.
    #[must_use]
    pub fn into_vec<T: Element>(self) -> Option<Vec<T>> {
        let buffer = T::unwrap(&self.storage)?.clone();
        drop(self);
        Some(Arc::try_unwrap(buffer).unwrap_or_else(|shared| shared.as_ref().clone()))
    }

    /// The elements, little-endian and row-major: the canonical bytes.
    #[must_use]
    pub fn to_le_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.byte_len());
        with_storage!(&self.storage, v => Element::encode(v, &mut out));
        out
    }

    /// Hands on the canonical bytes piece by piece, so that a large tensor is never copied whole.
    pub(crate) fn le_bytes(&self, mut each: impl FnMut(&[u8])) {
        with_storage!(&self.storage, v => encode_parts(v, &mut each));
    }

    /// Writes the canonical bytes, without a copy of all of them.
    ///
    /// # Errors
    /// What `out` fails with.
    pub fn write_le_bytes(&self, out: &mut impl std::io::Write) -> std::io::Result<()> {
        let mut result = Ok(());
        self.le_bytes(|bytes| {
            if result.is_ok() {
                result = out.write_all(bytes);
            }
        });
        result
    }

    /// A tensor from canonical bytes.
    ///
    /// # Errors
    /// When the number of bytes is not what shape and type call for, the rank exceeds
    /// [`MAX_RANK`], or a `bool` is neither 0 nor 1.
    pub fn from_le_bytes(
        dtype: DType,
        shape: &[usize],
        bytes: &[u8],
    ) -> Result<Tensor, TensorError> {
        let size = dtype.size();
        if !bytes.len().is_multiple_of(size) {
            return Err(TensorError::Length {
                shape: shape.to_vec(),
                dtype,
                found: bytes.len(),
            });
        }
        check_shape(shape, bytes.len() / size).map_err(|error| match error {
            TensorError::Count { .. } => TensorError::Length {
                shape: shape.to_vec(),
                dtype,
                found: bytes.len(),
            },
            other => other,
        })?;
        Ok(Tensor {
            shape: shape.to_vec(),
            storage: Storage::decode(dtype, bytes)?,
        })
    }

    /// A tensor from its wire form; the name is not kept.
    ///
    /// # Errors
    /// As [`Tensor::from_le_bytes`], or when a dimension does not fit this machine.
    pub fn from_data(data: &TensorData) -> Result<Tensor, TensorError> {
        let shape = data
            .shape()
            .iter()
            .map(|&d| usize::try_from(d).map_err(|_| TensorError::TooLarge))
            .collect::<Result<Vec<_>, _>>()?;
        Tensor::from_le_bytes(data.dtype(), &shape, data.data())
    }

    /// The wire form of this tensor under a name.
    ///
    /// # Errors
    /// When the name is longer than [`limits::TENSOR_NAME_BYTES`].
    pub fn to_data(&self, name: &str) -> Result<TensorData, lemma_types::tensor::TensorError> {
        let shape = self.shape.iter().map(|&d| d as u64).collect();
        TensorData::new(name, self.dtype(), shape, self.to_le_bytes())
    }

    /// The digest of type, shape and elements (see [`crate::commit`]).
    #[must_use]
    pub fn digest(&self) -> Digest {
        crate::commit::tensor_digest(self)
    }

    /// Whether both are equal in type, shape and every bit of every element. Unlike a comparison
    /// of floats it tells `-0.0` from `0.0` and finds NaN equal to itself.
    #[must_use]
    pub fn same_bits(&self, other: &Tensor) -> bool {
        self.shape == other.shape
            && self.dtype() == other.dtype()
            && match (&self.storage, &other.storage) {
                (Storage::F32(a), Storage::F32(b)) => a
                    .iter()
                    .zip(b.iter())
                    .all(|(x, y)| x.to_bits() == y.to_bits()),
                (Storage::F64(a), Storage::F64(b)) => a
                    .iter()
                    .zip(b.iter())
                    .all(|(x, y)| x.to_bits() == y.to_bits()),
                _ => self.to_le_bytes() == other.to_le_bytes(),
            }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        write!(f, "{}{:?} ", self.dtype().name(), self.shape)?;
        with_storage!(&self.storage, v => {
            f.debug_list().entries(v.iter().take(SHOWN)).finish()?;
        });
        if self.len() > SHOWN {
            f.write_str("…")
        } else {
            Ok(())
        }
    }
}

/// The number of elements of a shape, unless it overflows, as it does too where only a zero among
/// the dimensions would hide that.
#[must_use]
pub fn element_count(shape: &[usize]) -> Option<usize> {
    let product = shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d.max(1)))?;
    Some(if shape.contains(&0) { 0 } else { product })
}

fn check_shape(shape: &[usize], elements: usize) -> Result<(), TensorError> {
    if shape.len() > MAX_RANK {
        return Err(TensorError::Rank(shape.len()));
    }
    match element_count(shape) {
        Some(count) if count == elements => Ok(()),
        Some(_) => Err(TensorError::Count {
            shape: shape.to_vec(),
            found: elements,
        }),
        None => Err(TensorError::TooLarge),
    }
}
