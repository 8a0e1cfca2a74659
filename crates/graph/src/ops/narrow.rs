//! Floats of 8 and 4 bits, which are held as their bits, and integers of 4 bits.

use lemma_kernels as kernels;
use lemma_types::tensor::DType;

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Type};
use crate::operator::{Eval, Operands, Operator};
use crate::ops::expect;
use crate::tensor::Tensor;

/// A format: sign, exponent, mantissa.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// 4 and 3 bits, bias 7; no infinity; all ones is NaN.
    E4m3Fn,
    /// 4 and 3 bits, bias 8; no infinity, no −0; 80 is NaN.
    E4m3FnUz,
    /// 5 and 2 bits, bias 15; as IEEE 754.
    E5m2,
    /// 5 and 2 bits, bias 16; no infinity, no −0; 80 is NaN.
    E5m2FnUz,
    /// 2 and 1 bits, bias 1; neither infinity nor NaN.
    E2m1,
}

/// What is special about a format.
struct Layout {
    mantissa: u32,
    bias: i32,
    /// The bit of the sign.
    sign: u8,
    /// The largest finite number.
    largest: u8,
    infinity: Option<u8>,
    nan: Option<u8>,
    minus_zero: bool,
}

impl Format {
    fn layout(self) -> Layout {
        let (mantissa, bias, sign, largest) = match self {
            Format::E4m3Fn => (3, 7, 0x80, 0x7e),
            Format::E4m3FnUz => (3, 8, 0x80, 0x7f),
            Format::E5m2 => (2, 15, 0x80, 0x7b),
            Format::E5m2FnUz => (2, 16, 0x80, 0x7f),
            Format::E2m1 => (1, 1, 0x08, 0x07),
        };
        let unsigned = matches!(self, Format::E4m3FnUz | Format::E5m2FnUz);
        Layout {
            mantissa,
            bias,
            sign,
            largest,
            infinity: (self == Format::E5m2).then_some(0x7c),
            nan: match self {
                Format::E2m1 => None,
                Format::E4m3Fn | Format::E5m2 => Some(0x7f),
                _ => Some(0x80),
            },
            minus_zero: !unsigned,
        }
    }

    fn code(self) -> u8 {
        match self {
            Format::E4m3Fn => 0,
            Format::E4m3FnUz => 1,
            Format::E5m2 => 2,
            Format::E5m2FnUz => 3,
            Format::E2m1 => 4,
        }
    }

    /// The value of a magnitude without its sign, as if there were neither infinity nor NaN.
    fn magnitude(layout: &Layout, bits: u8) -> f32 {
        let fraction = i32::from(bits) & ((1 << layout.mantissa) - 1);
        let exponent = i32::from(bits) >> layout.mantissa;
        let (whole, power) = match exponent {
            0 => (fraction, 1 - layout.bias),
            _ => (fraction + (1 << layout.mantissa), exponent - layout.bias),
        };
        // Both factors and the product are exact.
        let power = power - layout.mantissa as i32;
        whole as f32 * f32::from_bits(((127 + power) as u32) << 23)
    }

    /// The number that bits stand for: exact.
    pub(crate) fn decode(self, bits: u8) -> f32 {
        let layout = self.layout();
        let magnitude = bits & (layout.sign - 1);
        let negative = bits & layout.sign != 0;
        if !layout.minus_zero && bits == 0x80 {
            return kernels::CANONICAL_NAN;
        }
        let value = match layout.infinity {
            Some(infinity) if magnitude == infinity => f32::INFINITY,
            Some(infinity) if magnitude > infinity => return kernels::CANONICAL_NAN,
            None if layout.minus_zero && layout.nan == Some(magnitude) => {
                return kernels::CANONICAL_NAN;
            }
            _ => Format::magnitude(&layout, magnitude),
        };
        if negative { -value } else { value }
    }

    /// The nearest number, ties to even. What is beyond the largest becomes the largest
    /// (`saturate`), or else infinite, or NaN where there is no infinity.
    pub(crate) fn encode(self, x: f32, saturate: bool) -> u8 {
        let layout = self.layout();
        if x.is_nan() {
            return match layout.nan {
                Some(nan) if layout.minus_zero => nan | (u8::from(x.is_sign_negative()) * 0x80),
                Some(nan) => nan,
                // The largest, as there is none.
                None => layout.largest,
            };
        }
        let (magnitude, sign) = (x.abs(), u8::from(x.is_sign_negative()) * layout.sign);
        // The first code at or above; one beyond the largest stands for what is out of range.
        let mut low = 0u8;
        let mut high = layout.largest + 1;
        while low < high {
            let middle = low + (high - low) / 2;
            if Format::magnitude(&layout, middle) >= magnitude {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        let above = low;
        let code = match above.checked_sub(1) {
            Some(below) => {
                let (a, b) = (
                    f64::from(Format::magnitude(&layout, below)),
                    f64::from(Format::magnitude(&layout, above)),
                );
                let (down, up) = (f64::from(magnitude) - a, b - f64::from(magnitude));
                if down < up || (down == up && below & 1 == 0) {
                    below
                } else {
                    above
                }
            }
            None => above,
        };
        if code > layout.largest {
            return match (saturate, layout.infinity, layout.nan) {
                (false, Some(infinity), _) => infinity | sign,
                (false, None, Some(nan)) if layout.minus_zero => nan | sign,
                (false, None, Some(nan)) => nan,
                _ => layout.largest | sign,
            };
        }
        if code == 0 && !layout.minus_zero {
            return 0;
        }
        code | sign
    }
}

/// FP32 to the bits of a narrow float.
#[derive(Debug)]
pub(crate) struct ToBits {
    pub(crate) format: Format,
    pub(crate) saturate: bool,
}

impl Operator for ToBits {
    fn name(&self) -> &'static str {
        "ToFloat8/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.u8(self.format.code()).flag(self.saturate);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        expect(x, "input 0", &[DType::F32])?;
        Ok(vec![Type::new(DType::U8, x.shape().to_vec())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let encode = |&x: &f32| self.format.encode(x, self.saturate);
        cx.output(cx.slice(0)?.iter().map(encode).collect())
    }
}

/// The bits of a narrow float to FP32.
#[derive(Debug)]
pub(crate) struct FromBits {
    pub(crate) format: Format,
}

impl Operator for FromBits {
    fn name(&self) -> &'static str {
        "FromFloat8/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.u8(self.format.code());
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        expect(x, "input 0", &[DType::U8])?;
        Ok(vec![Type::new(DType::F32, x.shape().to_vec())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        cx.output(
            cx.slice(0)?
                .iter()
                .map(|&x| self.format.decode(x))
                .collect(),
        )
    }
}

/// FP32 to a 4-bit integer, in a byte: truncated toward zero, clamped, NaN to 0.
#[derive(Debug)]
pub(crate) struct ToInt4 {
    pub(crate) signed: bool,
}

impl Operator for ToInt4 {
    fn name(&self) -> &'static str {
        if self.signed { "ToInt4/1" } else { "ToUint4/1" }
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        expect(x, "input 0", &[DType::F32])?;
        let dtype = if self.signed { DType::I8 } else { DType::U8 };
        Ok(vec![Type::new(dtype, x.shape().to_vec())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.slice::<f32>(0)?.iter();
        if self.signed {
            cx.output(x.map(|&v| (v as i8).clamp(-8, 7)).collect())
        } else {
            cx.output(x.map(|&v| (v as u8).min(15)).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Format; 5] = [
        Format::E4m3Fn,
        Format::E4m3FnUz,
        Format::E5m2,
        Format::E5m2FnUz,
        Format::E2m1,
    ];

    #[test]
    fn every_number_of_a_format_comes_back() {
        for format in ALL {
            let codes = if format == Format::E2m1 { 16 } else { 256u32 };
            for bits in (0..codes).map(|b| b as u8) {
                let value = format.decode(bits);
                if !value.is_nan() && value.is_finite() {
                    assert_eq!(format.encode(value, true), bits, "{format:?} {bits:02x}");
                    assert_eq!(format.encode(value, false), bits, "{format:?} {bits:02x}");
                }
            }
        }
    }

    #[test]
    fn numbers_between_go_to_the_nearest_and_ties_to_even() {
        let e4m3 = |x| Format::E4m3Fn.decode(Format::E4m3Fn.encode(x, true));
        assert_eq!([e4m3(1.0625), e4m3(1.1875), e4m3(1.2)], [1.0, 1.25, 1.25]);
        assert_eq!([e4m3(0.0009), e4m3(0.001)], [0.0, 0.001_953_125]);
        assert_eq!([e4m3(1e9), e4m3(-f32::INFINITY)], [448.0, -448.0]);
        assert_eq!(Format::E4m3Fn.encode(464.0, false), 0x7e);
        assert_eq!(Format::E4m3Fn.encode(464.1, false), 0x7f);
        assert_eq!(Format::E5m2.encode(61440.0, false), 0x7c);
        assert_eq!(Format::E5m2.encode(61440.0, true), 0x7b);
        assert_eq!(Format::E5m2FnUz.encode(-0.0, false), 0);
        assert_eq!(Format::E4m3FnUz.encode(1e9, false), 0x80);
    }
}
