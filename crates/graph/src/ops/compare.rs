//! Comparisons and logic: two operands that broadcast, truth values out.

use lemma_types::tensor::DType;

use crate::error::OpError;
use crate::fact::{Fact, Type};
use crate::operator::{Eval, Operands, Operator};
use crate::ops::broadcast::{broadcast_shapes, zip_with};
use crate::ops::{INTEGERS, expect, same_dtype, unreachable_type};
use crate::tensor::{Storage, Tensor};

/// A comparison. As IEEE 754 has it, nothing compares with NaN, and the zeros are equal.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Compare {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Compare {
    fn holds<T: PartialOrd>(self, a: T, b: T) -> bool {
        match self {
            Compare::Equal => a == b,
            Compare::Less => a < b,
            Compare::LessOrEqual => a <= b,
            Compare::Greater => a > b,
            Compare::GreaterOrEqual => a >= b,
        }
    }
}

impl Operator for Compare {
    fn name(&self) -> &'static str {
        match self {
            Compare::Equal => "Equal/1",
            Compare::Less => "Less/1",
            Compare::LessOrEqual => "LessOrEqual/1",
            Compare::Greater => "Greater/1",
            Compare::GreaterOrEqual => "GreaterOrEqual/1",
        }
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (a, b) = (inputs.need(0)?, inputs.need(1)?);
        let mut supported = [&[DType::F32, DType::F64], &INTEGERS[..]].concat();
        if matches!(self, Compare::Equal) {
            supported.push(DType::Bool);
        }
        let dtype = expect(a, "input 0", &supported)?;
        same_dtype(b, "input 1", dtype)?;
        let shape = broadcast_shapes(&[a.shape(), b.shape()])?;
        Ok(vec![Type::new(DType::Bool, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (a, b) = (cx.inputs.need(0)?, cx.inputs.need(1)?);
        let op = *self;
        let mut out: Vec<bool> = cx.zeros();
        macro_rules! typed {
            ($($variant:ident),+) => {
                match (a.storage(), b.storage()) {
                    $((Storage::$variant(x), Storage::$variant(y)) => zip_with(
                        cx.shape(), (a.shape(), x), (b.shape(), y), &mut out, |a, b| Ok(op.holds(a, b)),
                    )?,)+
                    _ => return Err(unreachable_type(a.dtype())),
                }
            };
        }
        typed!(Bool, U8, I8, U16, I16, U32, I32, U64, I64, F32, F64);
        cx.output(out)
    }
}

/// Logic on truth values.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}

impl Operator for Logic {
    fn name(&self) -> &'static str {
        match self {
            Logic::And => "And/1",
            Logic::Or => "Or/1",
            Logic::Xor => "Xor/1",
        }
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (a, b) = (inputs.need(0)?, inputs.need(1)?);
        expect(a, "input 0", &[DType::Bool])?;
        expect(b, "input 1", &[DType::Bool])?;
        let shape = broadcast_shapes(&[a.shape(), b.shape()])?;
        Ok(vec![Type::new(DType::Bool, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (a, b) = (cx.inputs.need(0)?, cx.inputs.need(1)?);
        let mut out = cx.zeros();
        let operands = (
            (a.shape(), cx.slice::<bool>(0)?),
            (b.shape(), cx.slice::<bool>(1)?),
        );
        zip_with(cx.shape(), operands.0, operands.1, &mut out, |a, b| {
            Ok(match self {
                Logic::And => a & b,
                Logic::Or => a | b,
                Logic::Xor => a ^ b,
            })
        })?;
        cx.output(out)
    }
}
