//! Products and convolutions of 8-bit integers.

use lemma_kernels as kernels;
use lemma_kernels::Isa;
use lemma_kernels::int8::{self, FiltersInt8, FiltersInt8Last, Int8, PackedInt8};
use lemma_types::tensor::DType;

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type, show};
use crate::operator::{Concrete, Eval, Operands, Operator, Prepared};
use crate::ops::conv::{Conv, Sliding};
use crate::ops::quantize::{bytes, widened, zero_points};
use crate::ops::{expect, same_dtype, unreachable_type};
use crate::tensor::Tensor;

const BYTES: [DType; 2] = [DType::U8, DType::I8];

/// Σ (a − za) · (b − zb) in INT32, which wraps: products of matrices of 8-bit integers. The outer
/// dimensions of the left operand are rows, or both have as many. Operands 2 and 3 are zero points,
/// one, or one for each row of the left and each column of the right.
#[derive(Debug)]
pub(crate) struct MatMulInteger;

/// Sizes of a product: batch of the left and right (1 if there is one for all), rows, depth, columns.
struct Sizes {
    left: usize,
    right: usize,
    rows: usize,
    depth: usize,
    cols: usize,
}

fn sizes(a: &[usize], b: &[usize]) -> Option<Sizes> {
    let ([a_outer @ .., rows, depth], [b_outer @ .., k, cols]) = (a, b) else {
        return None;
    };
    let (left, right): (usize, usize) = (a_outer.iter().product(), b_outer.iter().product());
    let fits = depth == k && (a_outer == b_outer || b_outer.is_empty() || a_outer.is_empty());
    fits.then_some(Sizes {
        left,
        right,
        rows: *rows,
        depth: *depth,
        cols: *cols,
    })
}

impl Operator for MatMulInteger {
    fn name(&self) -> &'static str {
        "MatMulInteger/1"
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (a, b) = (inputs.need(0)?, inputs.need(1)?);
        let dtypes = [expect(a, "input 0", &BYTES)?, expect(b, "input 1", &BYTES)?];
        let misfit = || {
            OpError::shape(format!(
                "{} and {} do not multiply",
                show(a.shape()),
                show(b.shape())
            ))
        };
        let ([a_outer @ .., rows, depth], [b_outer @ .., k, cols]) = (a.shape(), b.shape()) else {
            return Err(misfit());
        };
        depth.unify(k).ok_or_else(misfit)?;
        if !(a_outer == b_outer || a_outer.is_empty() || b_outer.is_empty()) {
            return Err(misfit());
        }
        for (index, (dtype, dim)) in (2..).zip(dtypes.into_iter().zip([rows, cols])) {
            if let Some(zero) = inputs.get(index) {
                let what = crate::operator::ordinal(index);
                same_dtype(zero, &what, dtype)?;
                let one = zero.shape().iter().all(|d| *d == Sym::Known(1));
                let each = zero.rank() == 1 && zero.shape()[0].unify(dim).is_some();
                if !one && !each {
                    return Err(OpError::operand(
                        what,
                        "must be one number, or one for each row or column",
                    ));
                }
            }
        }
        let outer = if a_outer.is_empty() { b_outer } else { a_outer };
        let shape = [outer, &[rows.clone(), cols.clone()]].concat();
        Ok(vec![Type::new(DType::I32, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let a = cx.inputs.need(0)?;
        let prepared = cx.packed::<PackedInt8>();
        let s = match prepared {
            Some(packed) => sizes(a.shape(), &[packed.k(), packed.n()]),
            None => sizes(a.shape(), cx.inputs.need(1)?.shape()),
        };
        let s = s.ok_or_else(|| OpError::shape("do not multiply"))?;
        let zeros = |index: usize, count: usize| {
            let zeros = zero_points(cx, index, cx.inputs.get(index).map_or(1, Tensor::len))?;
            if zeros.len() != 1 && zeros.len() != count {
                return Err(OpError::shape("zero points do not fit"));
            }
            Ok(zeros)
        };
        let (mut za, zb) = (zeros(2, s.rows)?, zeros(3, s.cols)?);
        let a = operand(cx, 0)?;
        let mut y = cx.zeros::<i32>();
        if y.is_empty() {
            return cx.output(y);
        }
        let (isa, threads) = (cx.isa, cx.threads);
        if s.right == 1 {
            // One matrix on the right: the left is one tall matrix.
            if za.len() > 1 {
                za = za.repeat(s.left);
            }
            let packed;
            let b = match prepared {
                Some(prepared) => prepared,
                None => {
                    packed = PackedInt8::pack(operand(cx, 1)?, s.depth, s.cols, false);
                    &packed
                }
            };
            int8::gemm_int8(isa, threads, s.left * s.rows, a, &za, b, &zb, &mut y);
            return cx.output(y);
        }
        let b = operand(cx, 1)?;
        let (a_size, b_size) = (s.rows * s.depth, s.depth * s.cols);
        for (n, y) in y.chunks_exact_mut(s.rows * s.cols).enumerate() {
            let left = if s.left > 1 { n } else { 0 };
            let a = part(&a, left * a_size..(left + 1) * a_size);
            let b = part(&b, n * b_size..(n + 1) * b_size);
            let b = PackedInt8::pack(b, s.depth, s.cols, false);
            int8::gemm_int8(isa, threads, s.rows, a, &za, &b, &zb, y);
        }
        cx.output(y)
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        let depth = inputs
            .get(0)
            .and_then(|a| a.shape.last().copied())
            .unwrap_or(1);
        (outputs[0].len() as u64).saturating_mul(depth as u64)
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        // The right matrix packed, zero points for every row, and for each thread a group of rows
        // with its sums.
        let rows = inputs.get(0).map_or(0, |x| x.len() as u64);
        right_bytes(inputs.get(1).map(|b| &b.shape[..]))
            .saturating_add(rows)
            .saturating_add(2 * outputs[0].bytes())
    }

    fn prepared_bytes(&self, constants: Operands<'_, Tensor>) -> u64 {
        right_bytes(constants.get(1).map(Tensor::shape))
    }

    fn prepare(&self, constants: Operands<'_, Tensor>) -> Option<Prepared> {
        let b = constants.get(1)?;
        let [outer @ .., k, cols] = b.shape() else {
            return None;
        };
        if outer.iter().any(|&d| d != 1) {
            return None;
        }
        let packed = PackedInt8::pack(bytes(b)?, *k, *cols, false);
        Some(Box::new(packed.ordered()))
    }

    fn packed(&self) -> Option<usize> {
        Some(1)
    }

    fn unpack(&self, prepared: &Prepared, ty: &Concrete) -> Option<Tensor> {
        let packed = prepared.downcast_ref::<PackedInt8>()?;
        Tensor::from_le_bytes(ty.dtype, &ty.shape, &packed.unpack()).ok()
    }
}

/// Bytes of a packed right matrix.
fn right_bytes(shape: Option<&[usize]>) -> u64 {
    match shape {
        Some([.., k, cols]) => PackedInt8::bytes(*k, *cols),
        _ => 0,
    }
}

/// The elements of an operand, which inference found to be 8-bit integers.
fn operand<'a>(cx: &Eval<'a>, index: usize) -> Result<Int8<'a>, OpError> {
    let tensor = cx.inputs.need(index)?;
    bytes(tensor).ok_or_else(|| unreachable_type(tensor.dtype()))
}

fn part<'a>(x: &Int8<'a>, range: std::ops::Range<usize>) -> Int8<'a> {
    match *x {
        Int8::Unsigned(v) => Int8::Unsigned(&v[range]),
        Int8::Signed(v) => Int8::Signed(&v[range]),
    }
}

/// Convolution of 8-bit integers: Σ (x − zx) · (w − zw) in INT32, which wraps. Places in the
/// padding count nothing. Operands 2 and 3 are zero points: one, and one or one for each filter.
#[derive(Debug)]
pub(crate) struct ConvInteger {
    pub(crate) groups: usize,
    pub(crate) window: Sliding,
}

impl ConvInteger {
    fn as_float(&self) -> Conv {
        Conv {
            groups: self.groups,
            window: self.window.clone(),
        }
    }

    pub(crate) fn geometry(
        &self,
        batch: usize,
        channels: usize,
        spatial: &[usize],
        out: usize,
    ) -> Result<kernels::Conv, OpError> {
        self.as_float().geometry(batch, channels, spatial, out)
    }

    /// Bytes of packed filters, in whichever form is larger.
    fn packed_bytes(&self, filters: &[usize]) -> u64 {
        let (out, depth) = match filters.split_first() {
            Some((out, depth)) => (*out, depth.iter().product::<usize>()),
            None => (0, 0),
        };
        let groups = self.groups.max(1);
        let dense = PackedInt8::bytes(depth, out / groups).saturating_mul(groups as u64);
        dense.max((out as u64).saturating_mul(depth as u64).saturating_mul(4))
    }
}

impl Operator for ConvInteger {
    fn name(&self) -> &'static str {
        "ConvInteger/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.groups);
        self.window.attributes(canon);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (x, w) = (inputs.need(0)?, inputs.need(1)?);
        let dtypes = [expect(x, "input 0", &BYTES)?, expect(w, "input 1", &BYTES)?];
        for (index, dtype) in (2..).zip(dtypes) {
            if let Some(zero) = inputs.get(index) {
                let what = crate::operator::ordinal(index);
                same_dtype(zero, &what, dtype)?;
                let one = zero.shape().iter().all(|d| *d == Sym::Known(1));
                let filters = w.shape().first().cloned().unwrap_or(Sym::Known(0));
                let each =
                    index == 3 && zero.rank() == 1 && zero.shape()[0].unify(&filters).is_some();
                if !one && !each {
                    return Err(OpError::operand(
                        what,
                        "must be one number, or one for each filter",
                    ));
                }
            }
        }
        // The geometry is that of a convolution of floats.
        let float = |fact: &Fact| Fact::of_type(Type::new(DType::F32, fact.shape().to_vec()));
        let (x, w) = (float(x), float(w));
        let mut types = self.as_float().infer(Operands(&[Some(&x), Some(&w)]))?;
        types[0].dtype = DType::I32;
        Ok(types)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, w) = (cx.inputs.need(0)?, cx.inputs.need(1)?);
        let zx = zero_points(cx, 2, 1)?[0];
        let zw = zero_points(cx, 3, cx.inputs.get(3).map_or(1, Tensor::len))?;
        let ([batch, channels, spatial @ ..], [out, ..]) = (x.shape(), w.shape()) else {
            return Err(OpError::shape(
                "data and filters need at least three dimensions",
            ));
        };
        let mut y = cx.zeros::<i32>();
        if y.is_empty() {
            return cx.output(y);
        }
        let geometry = self.geometry(*batch, *channels, spatial, *out)?;
        let filters = FiltersInt8::pack(&geometry, operand(cx, 1)?);
        let x = operand(cx, 0)?;
        int8::conv_int8(cx.isa, cx.threads, &geometry, x, zx, &filters, &zw, &mut y);
        cx.output(y)
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        self.as_float().cost(inputs, outputs)
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        // The filters packed, and the sums of a group before they are turned; for each thread rows
        // of values.
        let filters = inputs.get(1).map_or(0, |w| self.packed_bytes(&w.shape));
        filters.saturating_add(3 * outputs[0].bytes())
    }

    fn prepared_bytes(&self, constants: Operands<'_, Tensor>) -> u64 {
        let Some(filters) = constants.get(1) else {
            return 0;
        };
        let geometry = self.as_float().filters_only(filters);
        let packed = geometry.map_or(0, |conv| FiltersInt8Last::bytes(Isa::detect(), &conv));
        packed.max(self.packed_bytes(filters.shape()))
    }

    fn prepare(&self, constants: Operands<'_, Tensor>) -> Option<Prepared> {
        let filters = constants.get(1)?;
        let zeros = match constants.get(3) {
            Some(zeros) => widened(zeros).ok()?,
            None => vec![0],
        };
        let geometry = self.as_float().filters_only(filters)?;
        if zeros.len() != 1 && zeros.len() != geometry.out_channels() {
            return None;
        }
        let packed = FiltersInt8Last::pack(Isa::detect(), &geometry, bytes(filters)?, &zeros)?;
        Some(Box::new(packed))
    }
}
