//! Safetensors files: the tensors of a model folder, in one file or in several.

use std::collections::BTreeMap;

use lemma_kernels::Format;
use serde::Deserialize;

use crate::tensors::{Tensor, TensorError, Tensors};

/// Most bytes of a header.
const MAX_HEADER: u64 = 32 << 20;

/// Why bytes are no safetensors file that can be used.
#[derive(Debug, thiserror::Error)]
pub enum SafetensorsError {
    /// The file ends inside its header, or the header is too long.
    #[error(
        "this is no safetensors file: its header of {0} bytes is longer than the file or 32 MiB"
    )]
    Header(u64),
    /// The header is not what it should be.
    #[error("the header of the safetensors file is malformed: {0}")]
    Json(#[from] serde_json::Error),
    /// A type of values that is not read.
    #[error("tensor {name} has type {dtype}; supported are F32, F16 and BF16")]
    Type {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// A tensor that is malformed.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

#[derive(Deserialize)]
struct Described {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// Reads the tensors of one file and adds them to `tensors`: call it for each file of a model.
///
/// # Errors
/// [`SafetensorsError`] says what is wrong with the file.
pub fn read<'a>(file: &'a [u8], tensors: &mut Tensors<'a>) -> Result<(), SafetensorsError> {
    let Some((head, rest)) = file.split_first_chunk::<8>() else {
        return Err(SafetensorsError::Header(8));
    };
    let len = u64::from_le_bytes(*head);
    if len > MAX_HEADER || len > rest.len() as u64 {
        return Err(SafetensorsError::Header(len));
    }
    let (header, data) = rest.split_at(len as usize);
    let entries: BTreeMap<String, serde_json::Value> = serde_json::from_slice(header)?;
    for (name, entry) in entries {
        if name == "__metadata__" {
            continue;
        }
        let Described {
            dtype,
            shape,
            data_offsets: [begin, end],
        } = serde_json::from_value(entry)?;
        let format = match dtype.as_str() {
            "F32" => Format::F32,
            "F16" => Format::F16,
            "BF16" => Format::BF16,
            _ => return Err(SafetensorsError::Type { name, dtype }),
        };
        let tensor = Tensor::at(&name, format, shape, data, 0, begin)?;
        if end.checked_sub(begin) != Some(tensor.data.len() as u64) {
            let expected = tensor.data.len();
            let found = end.saturating_sub(begin);
            return Err(TensorError::Bytes {
                name,
                expected,
                found,
            }
            .into());
        }
        tensors.insert(&name, tensor)?;
    }
    Ok(())
}
