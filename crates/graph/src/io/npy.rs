//! NumPy's `.npy` files: one tensor, row-major, little-endian.
//!
//! Versions 1.0, 2.0 and 3.0 are read, 1.0 is written. Of the types, booleans, integers of 8 to 64
//! bits and floats of 16, 32 and 64 bits. Files in Fortran order or big-endian are refused: the
//! message says how to save them anew.
//!
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>

use lemma_types::tensor::{DType, TensorData};

const MAGIC: &[u8] = b"\x93NUMPY";
/// The largest header that is read; NumPy writes a few hundred bytes.
const MAX_HEADER: usize = 16 << 10;
/// Where the elements begin is a multiple of this.
const ALIGNMENT: usize = 64;

/// Why bytes are no `.npy` file that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NpyError {
    /// The first bytes are others.
    #[error("not an .npy file")]
    Magic,
    /// A version that did not exist when this was written.
    #[error(".npy version {0}.{1} is not supported")]
    Version(u8, u8),
    /// The file ends within the header, or the header is too long.
    #[error("the header is cut off or longer than {MAX_HEADER} bytes")]
    HeaderLength,
    /// The header is not the expected description.
    #[error("malformed header: {0}")]
    Header(String),
    /// An element type that is not supported.
    #[error(
        "elements of type {0:?} are not supported: save with .astype(...) to bool, (u)int8..64 or float16..64, little-endian"
    )]
    Type(String),
    /// Columns first.
    #[error("the elements are in Fortran order: save numpy.ascontiguousarray(a)")]
    FortranOrder,
    /// Type, shape and bytes do not fit.
    #[error(transparent)]
    Tensor(#[from] lemma_types::tensor::TensorError),
}

/// Reads a file; the tensor is called `name`.
///
/// # Errors
/// When the bytes are no supported `.npy` file, or are cut off or too long.
pub fn read(name: &str, bytes: &[u8]) -> Result<TensorData, NpyError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(NpyError::Magic)?;
    let (&[major, minor], rest) = rest.split_first_chunk().ok_or(NpyError::HeaderLength)?;
    let (length, rest) = match (major, minor) {
        (1, 0) => {
            let (length, rest) = rest.split_first_chunk().ok_or(NpyError::HeaderLength)?;
            (usize::from(u16::from_le_bytes(*length)), rest)
        }
        (2 | 3, 0) => {
            let (length, rest) = rest.split_first_chunk().ok_or(NpyError::HeaderLength)?;
            (u32::from_le_bytes(*length) as usize, rest)
        }
        _ => return Err(NpyError::Version(major, minor)),
    };
    if length > MAX_HEADER {
        return Err(NpyError::HeaderLength);
    }
    let (header, data) = rest
        .split_at_checked(length)
        .ok_or(NpyError::HeaderLength)?;
    let header =
        std::str::from_utf8(header).map_err(|_| NpyError::Header("it is not UTF-8".into()))?;
    let header = Header::parse(header)?;
    let dtype = dtype(&header.descr)?;
    if header.fortran_order && header.shape.len() > 1 {
        return Err(NpyError::FortranOrder);
    }
    Ok(TensorData::new(name, dtype, header.shape, data.to_vec())?)
}

/// Writes a tensor; its name is not part of the format.
///
/// # Errors
/// When the type has no NumPy counterpart (bfloat16).
pub fn write(tensor: &TensorData) -> Result<Vec<u8>, NpyError> {
    let mut out = header(tensor.dtype(), tensor.shape())?;
    out.extend(tensor.data());
    Ok(out)
}

/// What precedes the elements of a tensor: they follow little-endian and row-major.
///
/// # Errors
/// When the type has no NumPy counterpart (bfloat16).
pub fn header(dtype: DType, shape: &[u64]) -> Result<Vec<u8>, NpyError> {
    let descr = descr(dtype).ok_or_else(|| NpyError::Type(dtype.name().into()))?;
    let dims: Vec<String> = shape.iter().map(u64::to_string).collect();
    let shape = match &dims[..] {
        [one] => format!("({one},)"),
        all => format!("({})", all.join(", ")),
    };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let fixed = MAGIC.len() + 4;
    let padding =
        (fixed + header.len() + 1).next_multiple_of(ALIGNMENT) - (fixed + header.len() + 1);
    header.extend(std::iter::repeat_n(' ', padding));
    header.push('\n');
    let length = u16::try_from(header.len()).map_err(|_| NpyError::HeaderLength)?;
    let mut out = Vec::with_capacity(fixed + header.len());
    out.extend(MAGIC);
    out.extend([1, 0]);
    out.extend(length.to_le_bytes());
    out.extend(header.as_bytes());
    Ok(out)
}

fn dtype(descr: &str) -> Result<DType, NpyError> {
    let unsupported = || NpyError::Type(descr.chars().take(40).collect());
    let (order, kind) = match descr.split_at_checked(1) {
        Some((order @ ("<" | "|" | "=" | ">"), kind)) => (order, kind),
        _ => ("<", descr),
    };
    let found = DType::ALL
        .into_iter()
        .find(|d| self::descr(*d).is_some_and(|text| &text[1..] == kind));
    let found = found.ok_or_else(unsupported)?;
    // The order of bytes matters from two on; `=` is whatever the writer's machine had.
    match order {
        "<" => Ok(found),
        _ if found.size() == 1 => Ok(found),
        _ => Err(unsupported()),
    }
}

fn descr(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::Bool => "|b1",
        DType::U8 => "|u1",
        DType::I8 => "|i1",
        DType::U16 => "<u2",
        DType::I16 => "<i2",
        DType::U32 => "<u4",
        DType::I32 => "<i4",
        DType::U64 => "<u8",
        DType::I64 => "<i8",
        DType::F16 => "<f2",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::Bf16 => return None,
    })
}

/// The header: a Python dictionary literal of three entries.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    descr: String,
    fortran_order: bool,
    shape: Vec<u64>,
}

/// Reads the literal from the left.
struct Literal<'a>(&'a str);

impl<'a> Literal<'a> {
    fn eat(&mut self, token: &str) -> bool {
        self.0 = self.0.trim_start();
        match self.0.strip_prefix(token) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn need(&mut self, token: &str) -> Result<(), NpyError> {
        if self.eat(token) {
            return Ok(());
        }
        let found: String = self.0.chars().take(20).collect();
        Err(NpyError::Header(format!(
            "`{token}` expected before `{found}`"
        )))
    }

    fn text(&mut self) -> Result<&'a str, NpyError> {
        self.0 = self.0.trim_start();
        let quote = self.0.chars().next().filter(|c| matches!(c, '\'' | '"'));
        let quoted = quote.and_then(|q| self.0[1..].split_once(q));
        let (text, rest) =
            quoted.ok_or_else(|| NpyError::Header("a text in quotes is expected".into()))?;
        self.0 = rest;
        Ok(text)
    }

    fn number(&mut self) -> Result<u64, NpyError> {
        self.0 = self.0.trim_start();
        let end = self
            .0
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(self.0.len());
        let (digits, rest) = self.0.split_at(end);
        self.0 = rest;
        // Files written by Python 2 have a suffix.
        self.eat("L");
        digits
            .parse()
            .map_err(|_| NpyError::Header(format!("`{digits}` is no dimension")))
    }

    fn shape(&mut self) -> Result<Vec<u64>, NpyError> {
        self.need("(")?;
        let mut shape = Vec::new();
        while !self.eat(")") {
            if shape.len() == lemma_types::limits::RANK {
                return Err(NpyError::Header("too many dimensions".into()));
            }
            shape.push(self.number()?);
            if !self.eat(",") {
                self.need(")")?;
                break;
            }
        }
        Ok(shape)
    }
}

impl Header {
    fn parse(text: &str) -> Result<Header, NpyError> {
        let mut literal = Literal(text);
        let (mut descr, mut order, mut shape) = (None, None, None);
        literal.need("{")?;
        while !literal.eat("}") {
            let key = literal.text()?;
            literal.need(":")?;
            let repeated = match key {
                "descr" => descr.replace(literal.text()?.to_owned()).is_some(),
                "fortran_order" if literal.eat("False") => order.replace(false).is_some(),
                "fortran_order" => {
                    literal.need("True")?;
                    order.replace(true).is_some()
                }
                "shape" => shape.replace(literal.shape()?).is_some(),
                other => return Err(NpyError::Header(format!("unknown entry `{other}`"))),
            };
            if repeated {
                return Err(NpyError::Header(format!("`{key}` occurs twice")));
            }
            if !literal.eat(",") {
                literal.need("}")?;
                break;
            }
        }
        if !literal.0.trim().is_empty() {
            return Err(NpyError::Header("something follows it".into()));
        }
        match (descr, order, shape) {
            (Some(descr), Some(fortran_order), Some(shape)) => Ok(Header {
                descr,
                fortran_order,
                shape,
            }),
            _ => Err(NpyError::Header(
                "`descr`, `fortran_order` or `shape` is missing".into(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut out = b"\x93NUMPY\x01\x00".to_vec();
        out.extend((header.len() as u16).to_le_bytes());
        out.extend(header.as_bytes());
        out.extend(data);
        out
    }

    #[test]
    fn what_numpy_writes_is_read() {
        // numpy.save of numpy.array([[1, -2]], dtype=numpy.int16), numpy 2.
        let mut header = "{'descr': '<i2', 'fortran_order': False, 'shape': (1, 2), }".to_owned();
        header.extend(std::iter::repeat_n(' ', 118 - 1 - header.len()));
        header.push('\n');
        let bytes = file(&header, &[1, 0, 0xfe, 0xff]);
        let tensor = read("x", &bytes).unwrap();
        assert_eq!((tensor.dtype(), tensor.shape()), (DType::I16, &[1, 2][..]));
        assert_eq!(write(&tensor).unwrap(), bytes);
    }

    #[test]
    fn every_supported_type_and_rank_comes_back() {
        for dtype in DType::ALL {
            for shape in [vec![], vec![3], vec![2, 1, 2], vec![0, 5]] {
                let count: u64 = shape.iter().product();
                let bytes = vec![1u8; count as usize * dtype.size()];
                let tensor = TensorData::new("t", dtype, shape, bytes).unwrap();
                match write(&tensor) {
                    Ok(file) => {
                        assert_eq!(read("t", &file).unwrap(), tensor);
                        let data = file.len() - tensor.data().len();
                        assert_eq!(data % ALIGNMENT, 0);
                    }
                    Err(error) => assert!(dtype == DType::Bf16, "{error}"),
                }
            }
        }
    }

    #[test]
    fn unusable_files_are_refused_with_the_reason() {
        let header = |descr: &str, order: &str, shape: &str| {
            file(
                &format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}}}"),
                &[0; 8],
            )
        };
        let error = |bytes: &[u8]| read("x", bytes).unwrap_err();
        assert!(matches!(
            error(&header("<f4", "True", "(2, 1)")),
            NpyError::FortranOrder
        ));
        assert!(matches!(
            error(&header(">f4", "False", "(2,)")),
            NpyError::Type(_)
        ));
        assert!(matches!(
            error(&header("<c8", "False", "(1,)")),
            NpyError::Type(_)
        ));
        assert!(matches!(
            error(&header("|O", "False", "(1,)")),
            NpyError::Type(_)
        ));
        assert!(matches!(
            error(&header("<f4", "False", "(3,)")),
            NpyError::Tensor(_)
        ));
        assert!(matches!(
            error(&header("<f4", "False", "(18446744073709551615, 2)")),
            NpyError::Tensor(_)
        ));
        assert!(matches!(
            error(&header("<f4", "False", "(99999999999999999999,)")),
            NpyError::Header(_)
        ));
        assert!(matches!(
            error(&header("<f4", "Maybe", "(2,)")),
            NpyError::Header(_)
        ));
        assert!(matches!(error(b"PK\x03\x04"), NpyError::Magic));
        assert!(matches!(
            error(b"\x93NUMPY\x09\x00"),
            NpyError::Version(9, 0)
        ));
        assert!(matches!(
            error(b"\x93NUMPY\x02\x00\xff\xff\xff\xff"),
            NpyError::HeaderLength
        ));
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read("x", &bytes);
        }

        #[test]
        fn a_header_of_any_text_never_panics(text in "[{}(),:'\" a-z0-9<|_]{0,80}") {
            let _ = read("x", &file(&text, &[0; 16]));
        }
    }
}
