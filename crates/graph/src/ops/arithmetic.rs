//! Arithmetic of two operands that broadcast.

use lemma_kernels as kernels;
use lemma_types::tensor::DType;

use crate::error::OpError;
use crate::fact::{Fact, Sym, Type};
use crate::operator::{Eval, Operands, Operator};
use crate::ops::broadcast::{Runs, broadcast_shapes, zip_with};
use crate::ops::unary::canonical_f64;
use crate::ops::{INTEGERS, expect, same_dtype, unreachable_type};
use crate::tensor::{Element, Storage, Tensor};

/// What is computed of two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    Add,
    Sub,
    Mul,
    Div,
    Max,
    Min,
    Pow,
    /// Remainder with the sign of the dividend (C's `%` and `fmod`).
    Fmod,
    /// Remainder with the sign of the divisor (Python's `%`); integers only.
    Mod,
    /// The first where it is at least zero, otherwise the product of both.
    PRelu,
}

impl Arithmetic {
    /// The kernel that computes it on f32.
    pub(crate) fn kernel(self) -> Option<kernels::Binary> {
        use kernels::Binary as B;
        Some(match self {
            Arithmetic::Add => B::Add,
            Arithmetic::Sub => B::Sub,
            Arithmetic::Mul => B::Mul,
            Arithmetic::Div => B::Div,
            Arithmetic::Max => B::Max,
            Arithmetic::Min => B::Min,
            Arithmetic::Pow => B::Pow,
            Arithmetic::Fmod => B::Fmod,
            Arithmetic::Mod | Arithmetic::PRelu => return None,
        })
    }

    fn supported(self) -> Vec<DType> {
        let floats: &[DType] = match self {
            Arithmetic::Mod => &[],
            Arithmetic::Pow | Arithmetic::PRelu => &[DType::F32],
            _ => &[DType::F32, DType::F64],
        };
        let integers: &[DType] = match self {
            Arithmetic::Pow => &[DType::I32, DType::I64],
            Arithmetic::PRelu => &[],
            _ => &INTEGERS,
        };
        [floats, integers].concat()
    }
}

/// An integer type.
trait Int: Element + Ord {
    fn apply(self, op: Arithmetic, other: Self) -> Result<Self, OpError>;
}

macro_rules! int {
    ($($t:ty),+) => {$(
        impl Int for $t {
            fn apply(self, op: Arithmetic, other: $t) -> Result<$t, OpError> {
                if other == 0 && matches!(op, Arithmetic::Div | Arithmetic::Mod | Arithmetic::Fmod) {
                    return Err(OpError::value("division of an integer by zero"));
                }
                Ok(match op {
                    Arithmetic::Add => self.wrapping_add(other),
                    Arithmetic::Sub => self.wrapping_sub(other),
                    Arithmetic::Mul => self.wrapping_mul(other),
                    Arithmetic::Div => self.wrapping_div(other),
                    Arithmetic::Max => self.max(other),
                    Arithmetic::Min => self.min(other),
                    Arithmetic::Fmod => self.wrapping_rem(other),
                    Arithmetic::Mod => {
                        let rest = self.wrapping_rem(other);
                        // The sign of the divisor: one step further where the signs differ.
                        #[allow(unused_comparisons)]
                        let differs = rest != 0 && (rest < 0) != (other < 0);
                        if differs { rest.wrapping_add(other) } else { rest }
                    }
                    Arithmetic::Pow => match u64::try_from(other) {
                        Ok(exponent) => power(self, exponent, 1, <$t>::wrapping_mul),
                        Err(_) => return Err(OpError::value("negative power of an integer")),
                    },
                    Arithmetic::PRelu => return Err(unreachable_type(Self::DTYPE)),
                })
            }
        }
    )+};
}
int!(u8, i8, u16, i16, u32, i32, u64, i64);

/// Power by repeated squaring; wraps as the product does.
fn power<T: Copy>(mut base: T, mut exponent: u64, one: T, mul: impl Fn(T, T) -> T) -> T {
    let mut result = one;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = mul(result, base);
        }
        base = mul(base, base);
        exponent >>= 1;
    }
    result
}

fn apply_f64(op: Arithmetic, a: f64, b: f64) -> Result<f64, OpError> {
    Ok(canonical_f64(match op {
        Arithmetic::Add => a + b,
        Arithmetic::Sub => a - b,
        Arithmetic::Mul => a * b,
        Arithmetic::Div => a / b,
        Arithmetic::Fmod => a % b,
        Arithmetic::Max | Arithmetic::Min if a.is_nan() || b.is_nan() => f64::NAN,
        // Zeros are ordered, −0 below +0, as for f32.
        Arithmetic::Max if a == b => {
            if a.is_sign_negative() {
                b
            } else {
                a
            }
        }
        Arithmetic::Min if a == b => {
            if a.is_sign_negative() {
                a
            } else {
                b
            }
        }
        Arithmetic::Max => {
            if a > b {
                a
            } else {
                b
            }
        }
        Arithmetic::Min => {
            if a < b {
                a
            } else {
                b
            }
        }
        Arithmetic::Pow | Arithmetic::Mod | Arithmetic::PRelu => {
            return Err(unreachable_type(DType::F64));
        }
    }))
}

impl Operator for Arithmetic {
    fn name(&self) -> &'static str {
        match self {
            Arithmetic::Add => "Add/1",
            Arithmetic::Sub => "Sub/1",
            Arithmetic::Mul => "Mul/1",
            Arithmetic::Div => "Div/1",
            Arithmetic::Max => "Max/1",
            Arithmetic::Min => "Min/1",
            Arithmetic::Pow => "Pow/1",
            Arithmetic::Fmod => "Fmod/1",
            Arithmetic::Mod => "Mod/1",
            Arithmetic::PRelu => "PRelu/1",
        }
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (a, b) = (inputs.need(0)?, inputs.need(1)?);
        let dtype = expect(a, "input 0", &self.supported())?;
        same_dtype(b, "input 1", dtype)?;
        let shape = broadcast_shapes(&[a.shape(), b.shape()])?;
        Ok(vec![Type::new(dtype, shape)])
    }

    fn integers(&self, inputs: Operands<'_, Fact>) -> Option<Vec<Sym>> {
        let (a, b) = (inputs.get(0)?.integers()?, inputs.get(1)?.integers()?);
        let combine = match self {
            Arithmetic::Add => Sym::add,
            Arithmetic::Mul => Sym::mul,
            _ => return None,
        };
        let n = match (a.len(), b.len()) {
            (1, n) | (n, 1) => n,
            (n, m) if n == m => n,
            _ => return None,
        };
        let pick = |v: &[Sym], i: usize| v[i % v.len()].clone();
        Some(
            (0..n)
                .map(|i| combine(&pick(&a, i), &pick(&b, i)))
                .collect(),
        )
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (a, b) = (cx.inputs.need(0)?, cx.inputs.need(1)?);
        let op = *self;
        macro_rules! integers {
            ($($variant:ident),+) => {
                match (a.storage(), b.storage()) {
                    (Storage::F32(x), Storage::F32(y)) => {
                        let mut out = cx.zeros();
                        self.floats(cx, (a.shape(), x), (b.shape(), y), &mut out)?;
                        cx.output(out)
                    }
                    (Storage::F64(x), Storage::F64(y)) => {
                        let mut out = cx.zeros();
                        zip_with(cx.shape(), (a.shape(), x), (b.shape(), y), &mut out, |a, b| apply_f64(op, a, b))?;
                        cx.output(out)
                    }
                    $((Storage::$variant(x), Storage::$variant(y)) => {
                        let mut out = cx.zeros();
                        zip_with(cx.shape(), (a.shape(), x), (b.shape(), y), &mut out, |a, b| a.apply(op, b))?;
                        cx.output(out)
                    })+
                    _ => Err(unreachable_type(a.dtype())),
                }
            };
        }
        integers!(U8, I8, U16, I16, U32, I32, U64, I64)
    }
}

impl Arithmetic {
    fn floats(
        self,
        cx: &Eval<'_>,
        (a_shape, a): (&[usize], &[f32]),
        (b_shape, b): (&[usize], &[f32]),
        out: &mut [f32],
    ) -> Result<(), OpError> {
        let Some(kernel) = self.kernel() else {
            // PRelu is the only one on floats without a kernel.
            return zip_with(cx.shape(), (a_shape, a), (b_shape, b), out, |x, slope| {
                Ok(kernels::math::leaky_relu(x, slope))
            });
        };
        let runs = Runs::new(cx.shape(), [a_shape, b_shape]);
        let [a_len, b_len] = runs.steps.map(|step| if step == 0 { 1 } else { runs.len });
        runs.visit(|start, [i, j]| {
            let out = &mut out[start..start + runs.len];
            kernels::binary(cx.isa, kernel, &a[i..i + a_len], &b[j..j + b_len], out);
            Ok(())
        })
    }
}
