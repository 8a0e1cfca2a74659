//! The operators of the canonical graph. Their exact meaning is stated in `docs/operator-spec.md`.

pub(crate) mod arithmetic;
pub(crate) mod bits;
pub(crate) mod broadcast;
pub(crate) mod cast;
pub(crate) mod compare;
pub(crate) mod conv;
pub(crate) mod einsum;
pub(crate) mod functions;
pub(crate) mod generate;
pub(crate) mod grams;
pub(crate) mod index;
pub(crate) mod int8;
pub(crate) mod join;
pub(crate) mod late;
pub(crate) mod layout;
pub(crate) mod linear;
pub(crate) mod narrow;
pub(crate) mod norm;
pub(crate) mod pad;
pub(crate) mod pick;
pub(crate) mod pool;
pub(crate) mod quantize;
pub(crate) mod recurrent;
pub(crate) mod reduce;
pub(crate) mod reshape;
pub(crate) mod resize;
pub(crate) mod sample;
pub(crate) mod scatter;
pub(crate) mod select;
pub(crate) mod slice;
pub(crate) mod spectral;
pub(crate) mod spread;
pub(crate) mod taps;
pub(crate) mod unary;
pub(crate) mod window;

use lemma_types::tensor::DType;

use crate::error::OpError;
use crate::fact::Fact;

/// The element types on which integer arithmetic is defined.
pub(crate) const INTEGERS: [DType; 8] = [
    DType::U8,
    DType::I8,
    DType::U16,
    DType::I16,
    DType::U32,
    DType::I32,
    DType::U64,
    DType::I64,
];

/// Refuses an operand whose element type is not one of `supported`.
pub(crate) fn expect(fact: &Fact, what: &str, supported: &[DType]) -> Result<DType, OpError> {
    let found = fact.dtype();
    if supported.contains(&found) {
        return Ok(found);
    }
    let names: Vec<&str> = supported.iter().map(|d| d.name()).collect();
    Err(OpError::DType {
        what: what.into(),
        found,
        expected: names.join(", "),
    })
}

/// Refuses an operand whose element type is not that of another.
pub(crate) fn same_dtype(fact: &Fact, what: &str, wanted: DType) -> Result<(), OpError> {
    expect(fact, what, &[wanted]).map(|_| ())
}

/// Runs `$body` with `$v` bound to the integer elements of a tensor, or evaluates `$other`.
macro_rules! with_integers {
    ($tensor:expr, $v:ident => $body:expr, else $other:expr) => {
        match $tensor.storage() {
            $crate::tensor::Storage::U8($v) => $body,
            $crate::tensor::Storage::I8($v) => $body,
            $crate::tensor::Storage::U16($v) => $body,
            $crate::tensor::Storage::I16($v) => $body,
            $crate::tensor::Storage::U32($v) => $body,
            $crate::tensor::Storage::I32($v) => $body,
            $crate::tensor::Storage::U64($v) => $body,
            $crate::tensor::Storage::I64($v) => $body,
            _ => $other,
        }
    };
}
pub(crate) use with_integers;

/// The error for a type that inference lets nobody reach.
pub(crate) fn unreachable_type(found: DType) -> OpError {
    OpError::DType {
        what: "an operand".into(),
        found,
        expected: "another type".into(),
    }
}
