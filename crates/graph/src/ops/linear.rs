//! Matrix products.

use lemma_kernels as kernels;
use lemma_kernels::{Chain, PackedB};
use lemma_types::tensor::DType;

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type, show};
use crate::operator::{Concrete, Eval, Operands, Operator, Prepared};
use crate::ops::broadcast::{Runs, broadcast_shapes, broadcast_strides};
use crate::ops::expect;
use crate::tensor::Tensor;

/// `C = A · B` on `rows × k` and `k × n`.
fn product(cx: &Eval<'_>, rows: usize, a: &[f32], b: &PackedB, c: &mut [f32]) {
    kernels::gemm_with(cx.isa, cx.threads, rows, a, b, &Chain::NONE, c);
}

/// NumPy's `matmul`: the two innermost dimensions are matrices, the others broadcast; a vector on
/// the left is a row, one on the right a column, and the result lacks its dimension.
#[derive(Debug)]
pub(crate) struct MatMul;

/// A product of matrices, with the broadcast dimensions taken apart.
struct Geometry {
    rows: usize,
    k: usize,
    cols: usize,
    /// Dimensions outside the matrices, of the operands and of the result.
    a_outer: Vec<usize>,
    b_outer: Vec<usize>,
    outer: Vec<usize>,
}

impl Geometry {
    fn of(a: &[usize], b: &[usize]) -> Geometry {
        let (a_outer, rows, k) = match *a {
            [k] => (&[][..], 1, k),
            [ref outer @ .., rows, k] => (outer, rows, k),
            [] => (&[][..], 1, 1),
        };
        let (b_outer, cols) = match *b {
            [_] | [] => (&[][..], 1),
            [ref outer @ .., _, cols] => (outer, cols),
        };
        let rank = a_outer.len().max(b_outer.len());
        let at =
            |outer: &[usize], i: usize| (i + outer.len()).checked_sub(rank).map_or(1, |j| outer[j]);
        let outer = (0..rank)
            .map(|i| match (at(a_outer, i), at(b_outer, i)) {
                (1, d) | (d, _) => d,
            })
            .collect();
        Geometry {
            rows,
            k,
            cols,
            a_outer: a_outer.to_vec(),
            b_outer: b_outer.to_vec(),
            outer,
        }
    }

    fn batch(&self) -> usize {
        self.outer.iter().product()
    }

    /// One matrix on the right for everything on the left: the left is one tall matrix.
    fn one_right(&self) -> bool {
        self.b_outer.iter().all(|&d| d == 1)
            && self.a_outer.iter().product::<usize>() == self.batch()
    }
}

impl Operator for MatMul {
    fn name(&self) -> &'static str {
        "MatMul/1"
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (a, b) = (inputs.need(0)?, inputs.need(1)?);
        expect(a, "input 0", &[DType::F32])?;
        expect(b, "input 1", &[DType::F32])?;
        let misfit = || {
            OpError::shape(format!(
                "shapes {} and {} do not multiply",
                show(a.shape()),
                show(b.shape())
            ))
        };
        let (a_outer, rows, a_k) = match a.shape() {
            [] => return Err(misfit()),
            [k] => (&[][..], None, k),
            [outer @ .., rows, k] => (outer, Some(rows.clone()), k),
        };
        let (b_outer, b_k, cols) = match b.shape() {
            [] => return Err(misfit()),
            [k] => (&[][..], k, None),
            [outer @ .., k, cols] => (outer, k, Some(cols.clone())),
        };
        a_k.unify(b_k).ok_or_else(misfit)?;
        let mut shape = broadcast_shapes(&[a_outer, b_outer]).map_err(|_| misfit())?;
        shape.extend(rows);
        shape.extend(cols);
        Ok(vec![Type::new(DType::F32, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let a = cx.slice::<f32>(0)?;
        let mut c = cx.zeros();
        if c.is_empty() {
            return cx.output(c);
        }
        if let Some(packed) = cx.packed::<PackedB>() {
            // One matrix on the right: the left is one tall matrix.
            product(cx, c.len() / packed.n(), a, packed, &mut c);
            return cx.output(c);
        }
        let g = Geometry::of(cx.inputs.need(0)?.shape(), cx.inputs.need(1)?.shape());
        let b = cx.slice::<f32>(1)?;
        if g.one_right() {
            let packed = PackedB::pack(b, g.k, g.cols, false);
            product(cx, g.batch() * g.rows, a, &packed, &mut c);
            return cx.output(c);
        }
        let (a_len, b_len, c_len) = (g.rows * g.k, g.k * g.cols, g.rows * g.cols);
        let runs = Runs::new(&g.outer, [&g.a_outer, &g.b_outer]);
        let [a_step, b_step] = runs.steps;
        runs.visit(|start, [i, j]| {
            // Along a run an operand either moves on or is one matrix for all.
            let span = |step: usize, len: usize| if step == 0 { len } else { runs.len * len };
            kernels::matmul(
                cx.isa,
                runs.len,
                g.rows,
                g.k,
                g.cols,
                &a[i * a_len..i * a_len + span(a_step, a_len)],
                &b[j * b_len..j * b_len + span(b_step, b_len)],
                false,
                &mut c[start * c_len..(start + runs.len) * c_len],
            );
            Ok(())
        })?;
        cx.output(c)
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        let k = inputs
            .get(0)
            .and_then(|a| a.shape.last())
            .copied()
            .unwrap_or(0);
        (outputs[0].len() as u64).saturating_mul(k as u64)
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        let right = inputs.get(1).map(|b| right_matrix(&b.shape));
        right.map_or(0, |(k, cols)| packed_bytes(k, cols))
    }

    fn prepared_bytes(&self, constants: Operands<'_, Tensor>) -> u64 {
        let right = constants.get(1).map(|b| right_matrix(b.shape()));
        right.map_or(0, |(k, cols)| packed_bytes(k, cols))
    }

    fn prepare(&self, constants: Operands<'_, Tensor>) -> Option<Prepared> {
        let b = constants.get(1)?;
        let (k, cols) = match *b.shape() {
            [k] => (k, 1),
            [ref outer @ .., k, cols] if outer.iter().all(|&d| d == 1) => (k, cols),
            _ => return None,
        };
        Some(Box::new(PackedB::pack(b.as_slice()?, k, cols, false)))
    }

    fn packed(&self) -> Option<usize> {
        Some(1)
    }

    fn unpack(&self, prepared: &Prepared, ty: &Concrete) -> Option<Tensor> {
        let packed = prepared.downcast_ref::<PackedB>()?;
        Tensor::new(&ty.shape, packed.unpack(false)).ok()
    }
}

/// Rows and columns of one matrix on the right.
fn right_matrix(shape: &[usize]) -> (usize, usize) {
    match *shape {
        [k] => (k, 1),
        [.., k, cols] => (k, cols),
        [] => (0, 0),
    }
}

/// Bytes of a packed matrix: its columns are rounded up to whole panels.
fn packed_bytes(k: usize, cols: usize) -> u64 {
    const PANEL: u64 = 64;
    let cols = (cols as u64).next_multiple_of(PANEL);
    (k as u64)
        .saturating_mul(cols)
        .saturating_mul(size_of::<f32>() as u64)
}

/// `alpha · A′ · B′ + beta · C` on matrices, where `A′` is `A` or its transpose.
#[derive(Debug)]
pub(crate) struct Gemm {
    pub(crate) alpha: f32,
    pub(crate) beta: f32,
    pub(crate) trans_a: bool,
    pub(crate) trans_b: bool,
}

impl Gemm {
    /// Rows and columns after the transposition that is asked for.
    fn oriented<D: Clone>(shape: &[D], transposed: bool) -> Option<(D, D)> {
        match shape {
            [cols, rows] if transposed => Some((rows.clone(), cols.clone())),
            [rows, cols] => Some((rows.clone(), cols.clone())),
            _ => None,
        }
    }

    fn multiply(
        &self,
        cx: &Eval<'_>,
        rows: usize,
        k: usize,
        cols: usize,
    ) -> Result<Vec<f32>, OpError> {
        let a = cx.slice::<f32>(0)?;
        let mut c = cx.zeros();
        let transposed;
        let a = if self.trans_a {
            transposed = transpose(a, k, rows);
            &transposed[..]
        } else {
            a
        };
        match cx.packed::<PackedB>() {
            Some(packed) => product(cx, rows, a, packed, &mut c),
            None => {
                let packed = PackedB::pack(cx.slice(1)?, k, cols, self.trans_b);
                product(cx, rows, a, &packed, &mut c);
            }
        }
        Ok(c)
    }
}

fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for col in 0..cols {
        out.extend((0..rows).map(|row| x[row * cols + col]));
    }
    out
}

impl Operator for Gemm {
    fn name(&self) -> &'static str {
        "Gemm/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon
            .f32(self.alpha)
            .f32(self.beta)
            .flag(self.trans_a)
            .flag(self.trans_b);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (a, b) = (inputs.need(0)?, inputs.need(1)?);
        expect(a, "input 0", &[DType::F32])?;
        expect(b, "input 1", &[DType::F32])?;
        let misfit = || {
            OpError::shape(format!(
                "shapes {} and {} do not multiply",
                show(a.shape()),
                show(b.shape())
            ))
        };
        let (rows, a_k) = Gemm::oriented(a.shape(), self.trans_a).ok_or_else(misfit)?;
        let (b_k, cols) = Gemm::oriented(b.shape(), self.trans_b).ok_or_else(misfit)?;
        a_k.unify(&b_k).ok_or_else(misfit)?;
        let shape = vec![rows, cols];
        if let Some(c) = inputs.get(2) {
            expect(c, "input 2", &[DType::F32])?;
            let fits = c.rank() <= 2
                && c.shape()
                    .iter()
                    .rev()
                    .zip(shape.iter().rev())
                    .all(|(c, d)| *c == Sym::Known(1) || c.unify(d).is_some());
            if !fits {
                return Err(OpError::shape(format!(
                    "{} does not broadcast to {}",
                    show(c.shape()),
                    show(&shape)
                )));
            }
        }
        Ok(vec![Type::new(DType::F32, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let a = cx.inputs.need(0)?;
        let [rows, cols] = *cx.shape() else {
            return Err(OpError::shape("a matrix has two dimensions"));
        };
        let k = a.shape()[usize::from(!self.trans_a)];
        if cx.outputs[0].len() == 0 {
            return cx.output(Vec::<f32>::new());
        }
        let mut y = self.multiply(cx, rows, k, cols)?;
        if self.alpha != 1.0 {
            y.iter_mut()
                .for_each(|v| *v = kernels::math::mul(self.alpha, *v));
        }
        if let Some(c) = cx.inputs.get(2) {
            let values = cx.slice::<f32>(2)?;
            let steps = broadcast_strides(c.shape(), cx.shape());
            for (row, y) in y.chunks_exact_mut(cols).enumerate() {
                for (col, y) in y.iter_mut().enumerate() {
                    let c = values[row * steps[0] + col * steps[1]];
                    // The product with 1 is exact and is left out.
                    let c = if self.beta == 1.0 {
                        c
                    } else {
                        kernels::math::mul(self.beta, c)
                    };
                    *y = kernels::math::add(*y, c);
                }
            }
        }
        cx.output(y)
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        let k = inputs
            .get(0)
            .map_or(0, |a| a.shape[usize::from(!self.trans_a)]);
        (outputs[0].len() as u64).saturating_mul(k as u64)
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        let a = inputs
            .get(0)
            .filter(|_| self.trans_a)
            .map_or(0, Concrete::bytes);
        let b = inputs
            .get(1)
            .and_then(|b| Gemm::oriented(&b.shape, self.trans_b));
        let b = b.map_or(0, |(k, cols)| packed_bytes(k, cols));
        a + b
    }

    fn prepared_bytes(&self, constants: Operands<'_, Tensor>) -> u64 {
        let b = constants
            .get(1)
            .and_then(|b| Gemm::oriented(b.shape(), self.trans_b));
        b.map_or(0, |(k, cols)| packed_bytes(k, cols))
    }

    fn prepare(&self, constants: Operands<'_, Tensor>) -> Option<Prepared> {
        let b = constants.get(1)?;
        let (k, cols) = Gemm::oriented(b.shape(), self.trans_b)?;
        Some(Box::new(PackedB::pack(
            b.as_slice()?,
            k,
            cols,
            self.trans_b,
        )))
    }

    fn packed(&self) -> Option<usize> {
        Some(1)
    }

    fn unpack(&self, prepared: &Prepared, ty: &Concrete) -> Option<Tensor> {
        let packed = prepared.downcast_ref::<PackedB>()?;
        Tensor::new(&ty.shape, packed.unpack(self.trans_b)).ok()
    }
}
