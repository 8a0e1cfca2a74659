//! Reductions, positions of extremes, running sums, and the largest elements.

use std::cmp::Ordering;

use lemma_kernels as kernels;
use lemma_kernels::Reduction;
use lemma_types::tensor::DType;

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type};
use crate::operator::{Concrete, Eval, Operands, Operator};
use crate::ops::broadcast::strides;
use crate::ops::layout::{View, signed};
use crate::ops::{INTEGERS, expect, unreachable_type, with_integers};
use crate::tensor::{Element, Storage, Tensor};

/// Reduces the elements along some axes to one. Several axes are reduced as if they were one, in
/// row-major order.
#[derive(Debug)]
pub(crate) struct Reduce {
    pub(crate) op: Reduction,
    /// Ascending, without repeats, not empty.
    pub(crate) axes: Vec<usize>,
    pub(crate) keep: bool,
}

/// The operand brought into the form `outer × len × inner`.
struct Rows<'a, T: Copy> {
    values: std::borrow::Cow<'a, [T]>,
    outer: usize,
    len: usize,
    inner: usize,
}

impl<'a, T: Copy> Rows<'a, T> {
    fn new(shape: &[usize], x: &'a [T], axes: &[usize]) -> Rows<'a, T> {
        let adjacent = axes.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        let (first, last) = (axes[0], axes[axes.len() - 1]);
        let product = |dims: &[usize]| dims.iter().product();
        if adjacent {
            return Rows {
                values: x.into(),
                outer: product(&shape[..first]),
                len: product(&shape[first..=last]),
                inner: product(&shape[last + 1..]),
            };
        }
        // Axes apart from each other are moved to the end.
        let kept = (0..shape.len()).filter(|i| !axes.contains(i));
        let order: Vec<usize> = kept.chain(axes.iter().copied()).collect();
        let own = signed(strides(shape));
        let view = View {
            start: 0,
            shape: order.iter().map(|&i| shape[i]).collect(),
            strides: order.iter().map(|&i| own[i]).collect(),
        };
        let len = axes.iter().map(|&i| shape[i]).product();
        Rows {
            values: view.copy(x).into(),
            outer: view.shape[..shape.len() - axes.len()].iter().product(),
            len,
            inner: 1,
        }
    }
}

impl Reduce {
    fn integers<T: Element + Ord>(
        &self,
        cx: &Eval<'_>,
        x: &[T],
        fold: impl Fn(T, T) -> T,
    ) -> Result<Vec<Tensor>, OpError> {
        let rows = Rows::new(cx.inputs.need(0)?.shape(), x, &self.axes);
        let mut out = Vec::with_capacity(cx.outputs[0].len());
        for o in 0..rows.outer {
            for i in 0..rows.inner {
                let mut row =
                    (0..rows.len).map(|l| rows.values[(o * rows.len + l) * rows.inner + i]);
                let first = row
                    .next()
                    .ok_or_else(|| OpError::value("a reduction of no elements"))?;
                out.push(row.fold(first, &fold));
            }
        }
        cx.output(out)
    }

    fn sums<T: Sums>(&self, cx: &Eval<'_>, x: &[T], op: Reduction) -> Result<Vec<Tensor>, OpError> {
        match op {
            Reduction::Max => self.integers(cx, x, Ord::max),
            Reduction::Min => self.integers(cx, x, Ord::min),
            Reduction::Prod => self.wrapping(cx, x, T::ONE, T::times),
            Reduction::Sum => self.wrapping(cx, x, T::default(), T::plus),
            Reduction::L1 => self.wrapping(cx, x, T::default(), |s, v| s.plus(v.size())),
            Reduction::SumSquare => self.wrapping(cx, x, T::default(), |s, v| s.plus(v.times(v))),
            Reduction::Mean => {
                let count: usize = self
                    .axes
                    .iter()
                    .map(|&a| cx.inputs.0[0].map_or(0, |t| t.shape()[a]))
                    .product();
                let sums = self.wrapping(cx, x, T::default(), T::plus)?;
                let sums = crate::operator::typed::<T>(&sums[0])?;
                let means: Option<Vec<T>> = sums.iter().map(|s| s.over(count)).collect();
                cx.output(means.ok_or_else(|| OpError::value("the mean of no integers"))?)
            }
            _ => Err(unreachable_type(T::DTYPE)),
        }
    }

    fn wrapping<T: Element>(
        &self,
        cx: &Eval<'_>,
        x: &[T],
        identity: T,
        fold: impl Fn(T, T) -> T,
    ) -> Result<Vec<Tensor>, OpError> {
        let rows = Rows::new(cx.inputs.need(0)?.shape(), x, &self.axes);
        let mut out = Vec::with_capacity(cx.outputs[0].len());
        for o in 0..rows.outer {
            for i in 0..rows.inner {
                let row = (0..rows.len).map(|l| rows.values[(o * rows.len + l) * rows.inner + i]);
                out.push(row.fold(identity, &fold));
            }
        }
        cx.output(out)
    }
}

/// Integers that are added up; everything wraps.
trait Sums: Element + Ord {
    const ONE: Self;
    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    fn size(self) -> Self;
    /// Divided, toward zero; `None` by 0.
    fn over(self, count: usize) -> Option<Self>;
}

macro_rules! sums {
    ($($t:ty: $size:expr),+) => {$(
        impl Sums for $t {
            const ONE: $t = 1;
            fn plus(self, other: $t) -> $t {
                self.wrapping_add(other)
            }
            fn times(self, other: $t) -> $t {
                self.wrapping_mul(other)
            }
            fn size(self) -> $t {
                $size(self)
            }
            fn over(self, count: usize) -> Option<$t> {
                // More elements than the type counts: the quotient is nothing.
                match <$t>::try_from(count) {
                    Ok(count) => self.checked_div(count),
                    Err(_) => Some(0),
                }
            }
        }
    )+};
}
sums!(i32: i32::wrapping_abs, i64: i64::wrapping_abs, u32: |v| v, u64: |v| v);

/// The shape after `axes` are reduced.
fn reduced(shape: &[Sym], axes: &[usize], keep: bool) -> Vec<Sym> {
    let dims = shape.iter().enumerate();
    dims.filter_map(|(i, d)| match (axes.contains(&i), keep) {
        (false, _) => Some(d.clone()),
        (true, true) => Some(Sym::Known(1)),
        (true, false) => None,
    })
    .collect()
}

fn check_axes(axes: &[usize], rank: usize) -> Result<(), OpError> {
    match axes.iter().find(|&&a| a >= rank) {
        Some(axis) => Err(OpError::attribute(
            "axes",
            format!("{axis} is out of range for {rank} dimensions"),
        )),
        None => Ok(()),
    }
}

impl Operator for Reduce {
    fn name(&self) -> &'static str {
        match self.op {
            Reduction::Sum => "ReduceSum/1",
            Reduction::Mean => "ReduceMean/1",
            Reduction::Prod => "ReduceProd/1",
            Reduction::Max => "ReduceMax/1",
            Reduction::Min => "ReduceMin/1",
            Reduction::L1 => "ReduceL1/1",
            Reduction::L2 => "ReduceL2/1",
            Reduction::SumSquare => "ReduceSumSquare/1",
            Reduction::LogSum => "ReduceLogSum/1",
            Reduction::LogSumExp => "ReduceLogSumExp/1",
        }
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.sizes(&self.axes).flag(self.keep);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        let supported: &[DType] = match self.op {
            Reduction::Sum
            | Reduction::Prod
            | Reduction::L1
            | Reduction::SumSquare
            | Reduction::Mean => &[
                DType::F32,
                DType::F64,
                DType::I32,
                DType::I64,
                DType::U32,
                DType::U64,
            ],
            Reduction::Max | Reduction::Min => &[
                DType::F32,
                DType::F64,
                DType::Bool,
                DType::U8,
                DType::I8,
                DType::U32,
                DType::U64,
                DType::I32,
                DType::I64,
            ],
            _ => &[DType::F32, DType::F64],
        };
        let dtype = expect(x, "input 0", supported)?;
        check_axes(&self.axes, x.rank())?;
        Ok(vec![Type::new(
            dtype,
            reduced(x.shape(), &self.axes, self.keep),
        )])
    }

    fn integers(&self, inputs: Operands<'_, Fact>) -> Option<Vec<Sym>> {
        let x = inputs.get(0)?;
        let all = self.axes.len() == x.rank();
        (all && self.op == Reduction::Prod).then(|| {
            let values = x.integers()?;
            Some(vec![values.iter().fold(Sym::Known(1), |n, d| n.mul(d))])
        })?
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.inputs.need(0)?;
        match (x.storage(), self.op) {
            (Storage::F32(v), op) => {
                let rows = Rows::new(x.shape(), v, &self.axes);
                let mut y = cx.zeros();
                kernels::reduce(
                    cx.isa,
                    op,
                    rows.outer,
                    rows.len,
                    rows.inner,
                    &rows.values,
                    &mut y,
                );
                cx.output(y)
            }
            (Storage::F64(v), op) => {
                let rows = Rows::new(x.shape(), v, &self.axes);
                let mut y = Vec::with_capacity(cx.outputs[0].len());
                for o in 0..rows.outer {
                    for i in 0..rows.inner {
                        let at = |l: usize| rows.values[(o * rows.len + l) * rows.inner + i];
                        let row: Vec<f64> = (0..rows.len).map(at).collect();
                        y.push(kernels::wide::reduce(op, &row));
                    }
                }
                cx.output(y)
            }
            (Storage::I32(v), op) => self.sums(cx, v, op),
            (Storage::I64(v), op) => self.sums(cx, v, op),
            (Storage::U32(v), op) => self.sums(cx, v, op),
            (Storage::U64(v), op) => self.sums(cx, v, op),
            (Storage::Bool(v), Reduction::Max) => self.integers(cx, v, |a, b| a | b),
            (Storage::Bool(v), Reduction::Min) => self.integers(cx, v, |a, b| a & b),
            (Storage::U8(v), Reduction::Max) => self.integers(cx, v, Ord::max),
            (Storage::U8(v), Reduction::Min) => self.integers(cx, v, Ord::min),
            (Storage::I8(v), Reduction::Max) => self.integers(cx, v, Ord::max),
            (Storage::I8(v), Reduction::Min) => self.integers(cx, v, Ord::min),
            _ => Err(unreachable_type(x.dtype())),
        }
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        inputs.get(0).map_or(0, |x| x.len() as u64)
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        inputs.get(0).map_or(0, Concrete::bytes)
    }
}

/// A total order on elements: NaN is above everything, −0 below +0.
pub(crate) trait Ranked: Element {
    fn rank(self, other: Self) -> Ordering;
}

macro_rules! ranked {
    ($($t:ty),+) => {$(
        impl Ranked for $t {
            fn rank(self, other: $t) -> Ordering {
                self.cmp(&other)
            }
        }
    )+};
}
ranked!(u8, i8, u16, i16, u32, i32, u64, i64);

impl Ranked for bool {
    fn rank(self, other: bool) -> Ordering {
        self.cmp(&other)
    }
}

impl Ranked for f64 {
    fn rank(self, other: f64) -> Ordering {
        kernels::wide::canonical_f64(self).total_cmp(&kernels::wide::canonical_f64(other))
    }
}

impl Ranked for f32 {
    fn rank(self, other: f32) -> Ordering {
        kernels::canonical(self).total_cmp(&kernels::canonical(other))
    }
}

/// Runs `$body` on the elements of a type that [`Ranked`] orders.
macro_rules! with_ranked {
    ($tensor:expr, $v:ident => $body:expr) => {
        match $tensor.storage() {
            Storage::F32($v) => $body,
            Storage::F64($v) => $body,
            _ => with_integers!($tensor, $v => $body, else Err(unreachable_type($tensor.dtype()))),
        }
    };
}
pub(crate) use with_ranked;

/// The position of the largest or smallest element along an axis. NaN ranks above everything and
/// −0 below +0; of equals the first counts, or with `last` the last.
#[derive(Debug)]
pub(crate) struct ArgReduce {
    pub(crate) max: bool,
    pub(crate) axis: usize,
    pub(crate) keep: bool,
    pub(crate) last: bool,
}

impl ArgReduce {
    fn positions<T: Ranked>(&self, cx: &Eval<'_>, x: &[T]) -> Result<Vec<Tensor>, OpError> {
        let rows = Rows::new(cx.inputs.need(0)?.shape(), x, &[self.axis]);
        let mut out = Vec::with_capacity(cx.outputs[0].len());
        if rows.len == 0 && rows.outer * rows.inner > 0 {
            return Err(OpError::value(
                "the position of an extreme among no elements",
            ));
        }
        for o in 0..rows.outer {
            for i in 0..rows.inner {
                let at = |l: usize| rows.values[(o * rows.len + l) * rows.inner + i];
                let mut best = 0;
                for l in 1..rows.len {
                    let order = at(l).rank(at(best));
                    let wanted = if self.max {
                        Ordering::Greater
                    } else {
                        Ordering::Less
                    };
                    if order == wanted || (order == Ordering::Equal && self.last) {
                        best = l;
                    }
                }
                out.push(best as i64);
            }
        }
        cx.output(out)
    }
}

impl Operator for ArgReduce {
    fn name(&self) -> &'static str {
        if self.max { "ArgMax/1" } else { "ArgMin/1" }
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.axis).flag(self.keep).flag(self.last);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        expect(
            x,
            "input 0",
            &[&[DType::F32, DType::F64], &INTEGERS[..]].concat(),
        )?;
        check_axes(&[self.axis], x.rank())?;
        let shape = reduced(x.shape(), &[self.axis], self.keep);
        Ok(vec![Type::new(DType::I64, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.inputs.need(0)?;
        with_ranked!(x, v => self.positions(cx, v))
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        inputs.get(0).map_or(0, |x| x.len() as u64)
    }
}

/// The `k` largest (or smallest) elements along an axis in order, and their positions. Elements
/// are ordered as for [`ArgReduce`]; of equals the first comes first.
#[derive(Debug)]
pub(crate) struct TopK {
    pub(crate) k: usize,
    pub(crate) axis: usize,
    pub(crate) largest: bool,
}

impl TopK {
    fn pick<T: Ranked>(&self, cx: &Eval<'_>, x: &[T]) -> Result<Vec<Tensor>, OpError> {
        let rows = Rows::new(cx.inputs.need(0)?.shape(), x, &[self.axis]);
        let mut values: Vec<T> = cx.zeros();
        let mut positions = vec![0i64; values.len()];
        let mut order: Vec<usize> = Vec::with_capacity(rows.len);
        for o in 0..rows.outer {
            for i in 0..rows.inner {
                let at = |l: usize| rows.values[(o * rows.len + l) * rows.inner + i];
                order.clear();
                order.extend(0..rows.len);
                order.sort_by(|&a, &b| {
                    let by_value = at(a).rank(at(b));
                    if self.largest {
                        by_value.reverse()
                    } else {
                        by_value
                    }
                });
                for (place, &l) in order.iter().take(self.k).enumerate() {
                    let out = (o * self.k + place) * rows.inner + i;
                    values[out] = at(l);
                    positions[out] = l as i64;
                }
            }
        }
        let shape = cx.shape().to_vec();
        Ok(vec![
            Tensor::from_parts(shape.clone(), values),
            Tensor::from_parts(shape, positions),
        ])
    }
}

impl Operator for TopK {
    fn name(&self) -> &'static str {
        "TopK/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.k).size(self.axis).flag(self.largest);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        let dtype = expect(
            x,
            "input 0",
            &[&[DType::F32, DType::F64], &INTEGERS[..]].concat(),
        )?;
        check_axes(&[self.axis], x.rank())?;
        let dim = &x.shape()[self.axis];
        if dim
            .known()
            .is_some_and(|d| usize::try_from(d).is_ok_and(|d| d < self.k))
        {
            return Err(OpError::shape(format!("{} of {dim} elements", self.k)));
        }
        let mut shape = x.shape().to_vec();
        shape[self.axis] = Sym::size(self.k);
        Ok(vec![
            Type::new(dtype, shape.clone()),
            Type::new(DType::I64, shape),
        ])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.inputs.need(0)?;
        with_ranked!(x, v => self.pick(cx, v))
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        // A comparison sort: n · log2 n.
        let Some(x) = inputs.get(0) else { return 0 };
        let levels = x.shape[self.axis].max(2).ilog2();
        (x.len() as u64).saturating_mul(u64::from(levels))
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        inputs
            .get(0)
            .map_or(0, |x| 2 * x.shape[self.axis] as u64 * 8)
    }
}

/// Running sums along an axis, added one after another; `exclusive` leaves the element itself out,
/// `reverse` goes from the end.
#[derive(Debug)]
pub(crate) struct CumSum {
    pub(crate) axis: usize,
    pub(crate) exclusive: bool,
    pub(crate) reverse: bool,
}

impl CumSum {
    fn run<T: Element>(
        &self,
        cx: &Eval<'_>,
        x: &[T],
        add: impl Fn(T, T) -> T,
    ) -> Result<Vec<Tensor>, OpError> {
        let rows = Rows::new(cx.inputs.need(0)?.shape(), x, &[self.axis]);
        let mut y: Vec<T> = cx.zeros();
        for o in 0..rows.outer {
            for i in 0..rows.inner {
                let mut sum = T::default();
                for step in 0..rows.len {
                    let l = if self.reverse {
                        rows.len - 1 - step
                    } else {
                        step
                    };
                    let at = (o * rows.len + l) * rows.inner + i;
                    let next = add(sum, rows.values[at]);
                    y[at] = if self.exclusive { sum } else { next };
                    sum = next;
                }
            }
        }
        cx.output(y)
    }
}

impl Operator for CumSum {
    fn name(&self) -> &'static str {
        "CumSum/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon
            .size(self.axis)
            .flag(self.exclusive)
            .flag(self.reverse);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        const NUMBERS: [DType; 6] = [
            DType::F32,
            DType::F64,
            DType::I32,
            DType::I64,
            DType::U32,
            DType::U64,
        ];
        expect(x, "input 0", &NUMBERS)?;
        check_axes(&[self.axis], x.rank())?;
        Ok(vec![x.ty.clone()])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.inputs.need(0)?;
        match x.storage() {
            Storage::F32(v) => self.run(cx, v, kernels::math::add),
            Storage::F64(v) => self.run(cx, v, |a, b| kernels::wide::canonical_f64(a + b)),
            Storage::I32(v) => self.run(cx, v, i32::wrapping_add),
            Storage::I64(v) => self.run(cx, v, i64::wrapping_add),
            Storage::U32(v) => self.run(cx, v, u32::wrapping_add),
            Storage::U64(v) => self.run(cx, v, u64::wrapping_add),
            _ => Err(unreachable_type(x.dtype())),
        }
    }
}
