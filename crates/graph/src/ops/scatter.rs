//! Elements written at places that indices choose.

use lemma_kernels as kernels;
use lemma_types::tensor::DType;

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Type, integers, show};
use crate::operator::{Concrete, Eval, Operands, Operator, typed};
use crate::ops::broadcast::strides;
use crate::ops::index::resolve;
use crate::ops::{expect, same_dtype, unreachable_type};
use crate::tensor::{Element, Storage, Tensor, with_storage};

/// What becomes of an element that an update meets. Updates take their turn in row-major order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Update {
    Set,
    Add,
    Mul,
    Max,
    Min,
}

impl Update {
    fn code(self) -> u8 {
        match self {
            Update::Set => 0,
            Update::Add => 1,
            Update::Mul => 2,
            Update::Max => 3,
            Update::Min => 4,
        }
    }

    fn check(self, x: &Fact) -> Result<(), OpError> {
        const NUMBERS: [DType; 10] = [
            DType::F32,
            DType::F64,
            DType::U8,
            DType::I8,
            DType::U16,
            DType::I16,
            DType::U32,
            DType::I32,
            DType::U64,
            DType::I64,
        ];
        match self {
            Update::Set => Ok(()),
            _ => expect(x, "input 0", &NUMBERS).map(|_| ()),
        }
    }
}

/// Elements that can be updated.
trait Number: Element {
    fn updated(self, op: Update, by: Self) -> Self;
}

macro_rules! integer {
    ($($t:ty),+) => {$(
        impl Number for $t {
            fn updated(self, op: Update, by: $t) -> $t {
                match op {
                    Update::Set => by,
                    Update::Add => self.wrapping_add(by),
                    Update::Mul => self.wrapping_mul(by),
                    Update::Max => self.max(by),
                    Update::Min => self.min(by),
                }
            }
        }
    )+};
}
integer!(u8, i8, u16, i16, u32, i32, u64, i64);

impl Number for f32 {
    fn updated(self, op: Update, by: f32) -> f32 {
        match op {
            Update::Set => by,
            Update::Add => kernels::math::add(self, by),
            Update::Mul => kernels::math::mul(self, by),
            Update::Max => kernels::math::max(self, by),
            Update::Min => kernels::math::min(self, by),
        }
    }
}

impl Number for f64 {
    fn updated(self, op: Update, by: f64) -> f64 {
        use kernels::wide;
        match op {
            Update::Set => by,
            Update::Add => wide::canonical_f64(self + by),
            Update::Mul => wide::canonical_f64(self * by),
            Update::Max => wide::max(self, by),
            Update::Min => wide::min(self, by),
        }
    }
}

/// Runs over the writes, each from an element of the updates to one of the data.
type Writes<'w> = &'w mut dyn Iterator<Item = (usize, usize)>;

fn write(
    cx: &Eval<'_>,
    op: Update,
    updates: usize,
    writes: Writes<'_>,
) -> Result<Vec<Tensor>, OpError> {
    fn set<T: Element>(
        cx: &Eval<'_>,
        x: &[T],
        updates: usize,
        writes: Writes<'_>,
    ) -> Result<Vec<Tensor>, OpError> {
        let (mut y, by) = (x.to_vec(), cx.slice::<T>(updates)?);
        writes.for_each(|(from, to)| y[to] = by[from]);
        cx.output(y)
    }
    fn update<T: Number>(
        cx: &Eval<'_>,
        x: &[T],
        op: Update,
        updates: usize,
        writes: Writes<'_>,
    ) -> Result<Vec<Tensor>, OpError> {
        let (mut y, by) = (x.to_vec(), cx.slice::<T>(updates)?);
        writes.for_each(|(from, to)| y[to] = y[to].updated(op, by[from]));
        cx.output(y)
    }
    let x = cx.inputs.need(0)?;
    if op == Update::Set {
        return with_storage!(x.storage(), v => set(cx, v, updates, writes));
    }
    match x.storage() {
        Storage::F32(v) => update(cx, v, op, updates, writes),
        Storage::F64(v) => update(cx, v, op, updates, writes),
        Storage::U8(v) => update(cx, v, op, updates, writes),
        Storage::I8(v) => update(cx, v, op, updates, writes),
        Storage::U16(v) => update(cx, v, op, updates, writes),
        Storage::I16(v) => update(cx, v, op, updates, writes),
        Storage::U32(v) => update(cx, v, op, updates, writes),
        Storage::I32(v) => update(cx, v, op, updates, writes),
        Storage::U64(v) => update(cx, v, op, updates, writes),
        Storage::I64(v) => update(cx, v, op, updates, writes),
        _ => Err(unreachable_type(x.dtype())),
    }
}

fn indices(tensor: &Tensor) -> Result<Vec<i64>, OpError> {
    integers(tensor).ok_or_else(|| unreachable_type(tensor.dtype()))
}

/// Each element of the third operand goes where the second says along one axis, and where it is
/// itself along the others.
#[derive(Debug)]
pub(crate) struct ScatterElements {
    pub(crate) axis: usize,
    pub(crate) update: Update,
}

impl Operator for ScatterElements {
    fn name(&self) -> &'static str {
        "ScatterElements/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.axis).u8(self.update.code());
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (x, index, updates) = (inputs.need(0)?, inputs.need(1)?, inputs.need(2)?);
        expect(index, "input 1", &[DType::I64, DType::I32])?;
        same_dtype(updates, "input 2", x.dtype())?;
        self.update.check(x)?;
        let alike = index.rank() == x.rank()
            && updates.rank() == x.rank()
            && self.axis < x.rank()
            && (0..x.rank()).all(|i| {
                let pair = (x.shape()[i].known(), index.shape()[i].known());
                index.shape()[i].unify(&updates.shape()[i]).is_some()
                    && (i == self.axis || !matches!(pair, (Some(d), Some(n)) if n > d))
            });
        if !alike {
            return Err(OpError::shape(format!(
                "indices of {} and updates of {} do not fit {}",
                show(index.shape()),
                show(updates.shape()),
                show(x.shape())
            )));
        }
        Ok(vec![x.ty.clone()])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let index = cx.inputs.need(1)?;
        if index.shape() != cx.inputs.need(2)?.shape() {
            return Err(OpError::shape("indices and updates differ in shape"));
        }
        let (own, steps) = (strides(cx.shape()), strides(index.shape()));
        let mut places = Vec::with_capacity(index.len());
        for (place, i) in indices(index)?.into_iter().enumerate() {
            let mut at = 0;
            for axis in 0..own.len() {
                let i = if axis == self.axis {
                    resolve(i, cx.shape()[axis])?
                } else {
                    place / steps[axis] % index.shape()[axis]
                };
                at += i * own[axis];
            }
            places.push(at);
        }
        write(cx, self.update, 2, &mut places.into_iter().enumerate())
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        (outputs[0].len() + inputs.get(1).map_or(0, Concrete::len)) as u64
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        inputs.get(1).map_or(0, |i| 16 * i.len() as u64)
    }
}

/// Slices of the third operand go where the rows of the second say.
#[derive(Debug)]
pub(crate) struct ScatterNd {
    pub(crate) update: Update,
}

impl Operator for ScatterNd {
    fn name(&self) -> &'static str {
        "ScatterND/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.u8(self.update.code());
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (x, index, updates) = (inputs.need(0)?, inputs.need(1)?, inputs.need(2)?);
        expect(index, "input 1", &[DType::I64])?;
        same_dtype(updates, "input 2", x.dtype())?;
        self.update.check(x)?;
        let depth = index.shape().last().and_then(|d| d.known());
        let depth = depth
            .and_then(|d| usize::try_from(d).ok())
            .ok_or_else(|| OpError::shape("the length of an index tuple must be known"))?;
        let misfit = || {
            OpError::shape(format!(
                "indices of {} and updates of {} do not fit {}",
                show(index.shape()),
                show(updates.shape()),
                show(x.shape())
            ))
        };
        let rest = x.shape().get(depth..).ok_or_else(misfit)?;
        let wanted = [&index.shape()[..index.rank() - 1], rest].concat();
        let fits = wanted.len() == updates.rank()
            && wanted
                .iter()
                .zip(updates.shape())
                .all(|(a, b)| a.unify(b).is_some());
        if !fits {
            return Err(misfit());
        }
        Ok(vec![x.ty.clone()])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (index, updates) = (cx.inputs.need(1)?, cx.inputs.need(2)?);
        let depth = index.shape().last().copied().unwrap_or(0);
        let tuples: usize = index.shape()[..index.rank() - 1].iter().product();
        let inner: usize = cx.shape()[depth..].iter().product();
        if updates.len() != tuples * inner {
            return Err(OpError::shape("the updates do not fit the indices"));
        }
        let all = indices(index)?;
        let mut starts = Vec::with_capacity(tuples);
        for tuple in 0..tuples {
            let mut at = 0;
            for (&i, &dim) in all[tuple * depth..(tuple + 1) * depth]
                .iter()
                .zip(cx.shape())
            {
                at = at * dim + resolve(i, dim)?;
            }
            starts.push(at * inner);
        }
        let places = starts
            .into_iter()
            .enumerate()
            .flat_map(|(tuple, at)| (0..inner).map(move |i| (tuple * inner + i, at + i)));
        write(cx, self.update, 2, &mut { places })
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        (outputs[0].len() + inputs.get(2).map_or(0, Concrete::len)) as u64
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        inputs.get(1).map_or(0, |i| 16 * i.len() as u64)
    }
}

/// Reverses the first elements along one axis, as many as the second operand says for each place
/// along another.
#[derive(Debug)]
pub(crate) struct ReverseSequence {
    pub(crate) batch: usize,
    pub(crate) time: usize,
}

impl ReverseSequence {
    fn reverse<T: Element>(&self, cx: &Eval<'_>, x: &[T]) -> Result<Vec<Tensor>, OpError> {
        let lengths = typed::<i64>(cx.inputs.need(1)?)?;
        let (shape, own) = (cx.shape(), strides(cx.shape()));
        let limit = shape[self.time];
        if lengths
            .iter()
            .any(|&n| usize::try_from(n).map_or(true, |n| n > limit))
        {
            return Err(OpError::value(format!(
                "sequences of {lengths:?} elements of {limit}"
            )));
        }
        let mut y = Vec::with_capacity(x.len());
        for place in 0..x.len() {
            let time = place / own[self.time] % limit;
            let length = lengths[place / own[self.batch] % shape[self.batch]] as usize;
            let from = match time < length {
                true => place - time * own[self.time] + (length - 1 - time) * own[self.time],
                false => place,
            };
            y.push(x[from]);
        }
        cx.output(y)
    }
}

impl Operator for ReverseSequence {
    fn name(&self) -> &'static str {
        "ReverseSequence/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.batch).size(self.time);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (x, lengths) = (inputs.need(0)?, inputs.need(1)?);
        expect(lengths, "input 1", &[DType::I64])?;
        let fits = self.batch != self.time
            && self.time < x.rank()
            && lengths.rank() == 1
            && x.shape()
                .get(self.batch)
                .is_some_and(|d| d.unify(&lengths.shape()[0]).is_some());
        if !fits {
            return Err(OpError::shape(format!(
                "lengths of {} do not fit {}",
                show(lengths.shape()),
                show(x.shape())
            )));
        }
        Ok(vec![x.ty.clone()])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        with_storage!(cx.inputs.need(0)?.storage(), v => self.reverse(cx, v))
    }
}
