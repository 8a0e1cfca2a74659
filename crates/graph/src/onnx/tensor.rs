//! Initializers and constants: elements from raw bytes, typed fields, or files beside the model.
//!
//! The number of elements is taken from the dimensions, checked against the limits, and then
//! compared with the data that is actually there; only then is anything allocated.

use lemma_types::tensor::DType;

use crate::error::ImportError;
use crate::files::Files;
use crate::limits::Limits;
use crate::onnx::narrow::Narrow;
use crate::onnx::proto;
use crate::tensor::{Bf16, F16, Tensor, element_count};

/// Reads constants, counting their bytes.
pub(crate) struct Constants<'a> {
    limits: &'a Limits,
    files: &'a dyn Files,
    copied: &'a dyn Fn(u64),
    bytes: u64,
}

/// The element type of ONNX's code for it.
pub(crate) fn dtype(code: i64) -> Result<DType, String> {
    Ok(match code {
        1 => DType::F32,
        2 => DType::U8,
        3 => DType::I8,
        4 => DType::U16,
        5 => DType::I16,
        6 => DType::I32,
        7 => DType::I64,
        9 => DType::Bool,
        10 => DType::F16,
        11 => DType::F64,
        12 => DType::U32,
        13 => DType::U64,
        16 => DType::Bf16,
        0 => return Err("has no element type".into()),
        8 => return Err("text elements are not supported".into()),
        14 | 15 => return Err("complex elements are not supported".into()),
        17..=20 | 24 => return Err("8-bit float elements are not supported here".into()),
        21..=23 => return Err("4-bit elements are not supported here".into()),
        other => return Err(format!("element type {other} is not known")),
    })
}

/// The type that holds elements of ONNX's code, and what they stand for where it is another.
pub(crate) fn element(code: i64) -> Result<(DType, Option<Narrow>), String> {
    match Narrow::of(code) {
        Some(narrow) => Ok((narrow.storage(), Some(narrow))),
        None => dtype(code).map(|dtype| (dtype, None)),
    }
}

/// Elements of four bits, two in a byte, the first in the lower half.
fn unpack(packed: &[u8], count: usize, narrow: Narrow) -> Vec<u8> {
    let halves = packed.iter().flat_map(|&byte| [byte & 15, byte >> 4]);
    let extend = |half: u8| match narrow {
        // The sign in bit 3 is repeated above it.
        Narrow::Int4 => (half ^ 8).wrapping_sub(8),
        _ => half,
    };
    halves.take(count).map(extend).collect()
}

impl<'a> Constants<'a> {
    /// `copied` is told after each tensor how many bytes it has.
    pub(crate) fn new(
        limits: &'a Limits,
        files: &'a dyn Files,
        copied: &'a dyn Fn(u64),
    ) -> Constants<'a> {
        Constants {
            limits,
            files,
            copied,
            bytes: 0,
        }
    }

    /// The tensor of an initializer or attribute called `name`.
    pub(crate) fn read(
        &mut self,
        name: &str,
        proto: &proto::Tensor<'_>,
    ) -> Result<Tensor, ImportError> {
        let tensor = self.elements(proto).map_err(|failure| match failure {
            Failure::Reason(reason) => ImportError::Tensor {
                name: name.to_owned(),
                reason,
            },
            Failure::Import(error) => error,
        })?;
        (self.copied)(tensor.byte_len() as u64);
        Ok(tensor)
    }

    fn elements(&mut self, proto: &proto::Tensor<'_>) -> Result<Tensor, Failure> {
        let (dtype, narrow) = element(proto.data_type)?;
        let packed = narrow.filter(|narrow| narrow.is_half_byte());
        if proto.segmented {
            return Err("segmented data is not supported".to_owned().into());
        }
        let shape = shape(&proto.dims)?;
        let count = self.count(&shape, dtype)?;
        let places = [
            proto.is_external,
            proto.raw.is_some(),
            has_typed_fields(proto)?,
        ];
        if places.iter().filter(|&&there| there).count() > 1 {
            return Err("has elements in more than one place".to_owned().into());
        }
        if let Some(narrow) = packed {
            let wanted = count.div_ceil(2);
            let bytes = if proto.is_external {
                self.external(proto, wanted)?
            } else if let Some(raw) = proto.raw {
                raw.to_vec()
            } else {
                packed_fields(proto, wanted)?
            };
            if bytes.len() != wanted {
                let found = bytes.len();
                return Err(format!(
                    "shape {shape:?} of 4-bit elements calls for {wanted} bytes, {found} are there"
                )
                .into());
            }
            let bytes = unpack(&bytes, count, narrow);
            return Ok(Tensor::from_le_bytes(dtype, &shape, &bytes).map_err(|e| e.to_string())?);
        }
        if proto.is_external {
            let bytes = self.external(proto, count * dtype.size())?;
            return Ok(Tensor::from_le_bytes(dtype, &shape, &bytes).map_err(|e| e.to_string())?);
        }
        if let Some(raw) = proto.raw {
            if raw.len() != count * dtype.size() {
                return Err(format!(
                    "shape {shape:?} of {dtype} calls for {} bytes, {} are there",
                    count * dtype.size(),
                    raw.len()
                )
                .into());
            }
            return Ok(Tensor::from_le_bytes(dtype, &shape, raw).map_err(|e| e.to_string())?);
        }
        fields(proto, dtype, shape, count)
    }

    /// The number of elements, within the limits; their bytes are counted.
    fn count(&mut self, shape: &[usize], dtype: DType) -> Result<usize, Failure> {
        let count = element_count(shape)
            .ok_or_else(|| format!("the number of elements of {shape:?} overflows"))?
            as u64;
        if count > self.limits.elements {
            return Err(format!(
                "{count} elements exceed the limit of {}",
                self.limits.elements
            )
            .into());
        }
        self.bytes = self
            .bytes
            .saturating_add(count.saturating_mul(dtype.size() as u64));
        if self.bytes > self.limits.constant_bytes {
            let limit = self.limits.constant_bytes;
            return Err(format!(
                "brings the constants to {} bytes, {limit} are allowed",
                self.bytes
            )
            .into());
        }
        usize::try_from(count).map_err(|_| "is too large for this machine".to_owned().into())
    }

    /// Bytes of a file beside the model.
    fn external(&self, proto: &proto::Tensor<'_>, wanted: usize) -> Result<Vec<u8>, Failure> {
        let entry = |key: &str| {
            proto
                .external
                .iter()
                .find(|(k, _)| *k == key)
                .map(|(_, v)| *v)
        };
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(text) => text
                .parse::<u64>()
                .map(Some)
                .map_err(|_| format!("external data: `{key}` is not a number")),
        };
        let path =
            entry("location").ok_or_else(|| "external data: no location is given".to_owned())?;
        check_path(path).map_err(|reason| format!("external data at {path:?}: {reason}"))?;
        let offset = number("offset")?.unwrap_or(0);
        let length = number("length")?.unwrap_or(wanted as u64);
        if length != wanted as u64 {
            return Err(format!(
                "external data: {length} bytes are given, the shape calls for {wanted}"
            )
            .into());
        }
        let at = |reason: String| Failure::Reason(format!("external data in {path:?}: {reason}"));
        let size = self.files.size(path).map_err(at)?;
        if offset.checked_add(length).is_none_or(|end| end > size) {
            return Err(at(format!(
                "{length} bytes from {offset} run past the end of the file, which has {size}"
            )));
        }
        let bytes = self.files.read(path, offset, wanted).map_err(at)?;
        if bytes.len() != wanted {
            return Err(at(format!("{} bytes were read of {wanted}", bytes.len())));
        }
        Ok(bytes)
    }
}

/// A reason for which the caller adds the tensor's name, or an error that stands by itself.
enum Failure {
    Reason(String),
    Import(ImportError),
}

impl From<String> for Failure {
    fn from(reason: String) -> Failure {
        Failure::Reason(reason)
    }
}

impl From<ImportError> for Failure {
    fn from(error: ImportError) -> Failure {
        Failure::Import(error)
    }
}

fn shape(dims: &[i64]) -> Result<Vec<usize>, String> {
    dims.iter()
        .map(|&d| usize::try_from(d).map_err(|_| format!("dimension {d} is negative")))
        .collect()
}

/// Accepts relative paths of plain components only.
fn check_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("the path is empty");
    }
    if path.contains(['\\', ':', '\0']) {
        return Err("backslashes, colons and NUL are not allowed in a path");
    }
    if path.starts_with('/') {
        return Err("the path is not relative to the model");
    }
    for part in path.split('/') {
        match part {
            "" | "." => return Err("the path has an empty component"),
            ".." => return Err("the path leaves the folder of the model"),
            _ => {}
        }
    }
    Ok(())
}

const FLOAT: u32 = 4;
const INT32: u32 = 5;
const TEXT: u32 = 6;
const INT64: u32 = 7;
const DOUBLE: u32 = 10;
const UINT64: u32 = 11;

fn has_typed_fields(proto: &proto::Tensor<'_>) -> Result<bool, ImportError> {
    let mut reader = proto.body.clone();
    while let Some(field) = reader.next()? {
        if matches!(field.number, FLOAT | INT32 | TEXT | INT64 | DOUBLE | UINT64) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Bytes of packed elements from the field of 32-bit integers.
fn packed_fields(proto: &proto::Tensor<'_>, wanted: usize) -> Result<Vec<u8>, Failure> {
    let mut ints = Vec::new();
    let mut reader = proto.body.clone();
    while let Some(field) = reader.next()? {
        match field.number {
            INT32 => field.ints(&mut ints, wanted)?,
            FLOAT | TEXT | INT64 | DOUBLE | UINT64 => {
                return Err(format!("field {} does not hold 4-bit elements", field.number).into());
            }
            _ => {}
        }
    }
    // The sign of a pair may have been extended.
    let byte = |&v: &i64| u8::try_from(v).or_else(|_| i8::try_from(v).map(i8::cast_unsigned));
    let bytes: Result<Vec<u8>, _> = ints.iter().map(byte).collect();
    Ok(bytes.map_err(|_| "a pair of 4-bit elements does not fit a byte".to_owned())?)
}

/// Elements from the typed fields: each type has one, several share a field of wider integers.
fn fields(
    proto: &proto::Tensor<'_>,
    dtype: DType,
    shape: Vec<usize>,
    count: usize,
) -> Result<Tensor, Failure> {
    let wanted = match dtype {
        DType::F32 => FLOAT,
        DType::F64 => DOUBLE,
        DType::I64 => INT64,
        DType::U32 | DType::U64 => UINT64,
        _ => INT32,
    };
    let (mut floats, mut doubles, mut ints) = (Vec::new(), Vec::new(), Vec::new());
    let mut reader = proto.body.clone();
    while let Some(field) = reader.next()? {
        match field.number {
            FLOAT | INT32 | TEXT | INT64 | DOUBLE | UINT64 if field.number != wanted => {
                return Err(
                    format!("field {} does not hold elements of {dtype}", field.number).into(),
                );
            }
            FLOAT => field.floats(&mut floats, count)?,
            DOUBLE => field.doubles(&mut doubles, count)?,
            INT32 | INT64 | UINT64 => field.ints(&mut ints, count)?,
            _ => {}
        }
    }
    let found = floats.len() + doubles.len() + ints.len();
    if found != count {
        return Err(
            format!("shape {shape:?} calls for {count} elements, {found} are there").into(),
        );
    }
    macro_rules! narrow {
        ($t:ty) => {{
            let values: Result<Vec<$t>, _> = ints.iter().map(|&v| <$t>::try_from(v)).collect();
            let values = values.map_err(|_| format!("an element does not fit {dtype}"))?;
            Tensor::from_parts(shape, values)
        }};
    }
    let bits = |ints: &[i64]| -> Result<Vec<u16>, String> {
        let values: Result<Vec<u16>, _> = ints.iter().map(|&v| u16::try_from(v)).collect();
        values.map_err(|_| format!("an element does not fit {dtype}"))
    };
    Ok(match dtype {
        DType::F32 => Tensor::from_parts(shape, floats),
        DType::F64 => Tensor::from_parts(shape, doubles),
        DType::I64 => Tensor::from_parts(shape, ints),
        DType::U64 => Tensor::from_parts(
            shape,
            ints.iter().map(|v| v.cast_unsigned()).collect::<Vec<u64>>(),
        ),
        DType::U32 => narrow!(u32),
        DType::I32 => narrow!(i32),
        DType::I16 => narrow!(i16),
        DType::U16 => narrow!(u16),
        DType::I8 => narrow!(i8),
        DType::U8 => narrow!(u8),
        DType::F16 => Tensor::from_parts(shape, bits(&ints)?.into_iter().map(F16).collect()),
        DType::Bf16 => Tensor::from_parts(shape, bits(&ints)?.into_iter().map(Bf16).collect()),
        DType::Bool => {
            let values: Option<Vec<bool>> = ints
                .iter()
                .map(|v| match v {
                    0 => Some(false),
                    1 => Some(true),
                    _ => None,
                })
                .collect();
            let values = values.ok_or_else(|| "an element is neither 0 nor 1".to_owned())?;
            Tensor::from_parts(shape, values)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_paths_are_accepted() {
        for good in ["weights.bin", "a/b.data", "..weights", "a..b/c"] {
            assert!(check_path(good).is_ok(), "{good} was refused");
        }
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a//b",
            "./a",
            "a/",
            "C:\\x",
            "a\\b",
            "c:x",
            "a\0",
        ] {
            assert!(check_path(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
