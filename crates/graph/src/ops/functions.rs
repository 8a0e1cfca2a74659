//! Functions of one value that are computed through binary64.

use lemma_kernels::wide;
use lemma_types::tensor::DType;

use crate::error::OpError;
use crate::fact::{Fact, Type};
use crate::operator::{Eval, Operands, Operator};
use crate::ops::expect;
use crate::tensor::Tensor;

/// Trigonometric and hyperbolic functions beside sine and cosine, on f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    Tan,
    Asin,
    Acos,
    Atan,
    Sinh,
    Cosh,
    Asinh,
    Acosh,
    Atanh,
}

impl Function {
    /// The function of this name in ONNX.
    pub(crate) fn named(name: &str) -> Option<Function> {
        Some(match name {
            "Tan" => Function::Tan,
            "Asin" => Function::Asin,
            "Acos" => Function::Acos,
            "Atan" => Function::Atan,
            "Sinh" => Function::Sinh,
            "Cosh" => Function::Cosh,
            "Asinh" => Function::Asinh,
            "Acosh" => Function::Acosh,
            "Atanh" => Function::Atanh,
            _ => return None,
        })
    }

    fn of(self) -> fn(f32) -> f32 {
        match self {
            Function::Tan => wide::tan,
            Function::Asin => wide::asin,
            Function::Acos => wide::acos,
            Function::Atan => wide::atan,
            Function::Sinh => wide::sinh,
            Function::Cosh => wide::cosh,
            Function::Asinh => wide::asinh,
            Function::Acosh => wide::acosh,
            Function::Atanh => wide::atanh,
        }
    }
}

impl Operator for Function {
    fn name(&self) -> &'static str {
        match self {
            Function::Tan => "Tan/1",
            Function::Asin => "Asin/1",
            Function::Acos => "Acos/1",
            Function::Atan => "Atan/1",
            Function::Sinh => "Sinh/1",
            Function::Cosh => "Cosh/1",
            Function::Asinh => "Asinh/1",
            Function::Acosh => "Acosh/1",
            Function::Atanh => "Atanh/1",
        }
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        expect(x, "input 0", &[DType::F32])?;
        Ok(vec![x.ty.clone()])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let function = self.of();
        cx.output(cx.slice(0)?.iter().map(|&x| function(x)).collect())
    }
}
