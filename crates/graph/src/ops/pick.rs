//! Operators whose outputs are as large as the data says.

use std::cmp::Ordering;

use lemma_types::tensor::DType;

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type};
use crate::operator::{Concrete, Eval, Operands, Operator};
use crate::ops::broadcast::strides;
use crate::ops::reduce::{Ranked, with_ranked};
use crate::ops::{expect, unreachable_type, with_integers};
use crate::tensor::{Element, Storage, Tensor, with_storage};

fn vector(dtype: DType, len: usize) -> Concrete {
    Concrete {
        dtype,
        shape: vec![len],
    }
}

/// Positions of elements that are not zero (NaN is not), one column for each, in row-major order.
#[derive(Debug)]
pub(crate) struct NonZero;

impl Operator for NonZero {
    fn name(&self) -> &'static str {
        "NonZero/1"
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        if matches!(x.dtype(), DType::F16 | DType::Bf16) {
            return Err(OpError::unsupported("16-bit floats"));
        }
        let shape = vec![Sym::size(x.rank()), Sym::Unknown];
        Ok(vec![Type::new(DType::I64, shape)])
    }

    fn data_dependent(&self) -> bool {
        true
    }

    fn bound(&self, inputs: Operands<'_, Concrete>) -> Option<Vec<Concrete>> {
        let x = inputs.get(0)?;
        Some(vec![Concrete {
            dtype: DType::I64,
            shape: vec![x.shape.len(), x.len()],
        }])
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        let elements = |x: &Concrete| (x.shape.len().max(1) * x.len()) as u64;
        inputs.get(0).map_or(0, elements)
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        inputs.get(0).map_or(0, |x| 8 * x.len() as u64)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        fn places<T: Element>(x: &[T]) -> Vec<usize> {
            let zero = T::default();
            (0..x.len()).filter(|&i| x[i] != zero).collect()
        }
        let x = cx.inputs.need(0)?;
        let found = with_storage!(x.storage(), v => places(v));
        let steps = strides(x.shape());
        let mut out = Vec::with_capacity(found.len() * x.rank());
        for (step, dim) in steps.iter().zip(x.shape()) {
            out.extend(found.iter().map(|i| (i / step % dim) as i64));
        }
        Ok(vec![Tensor::from_parts(vec![x.rank(), found.len()], out)])
    }
}

/// Slices along an axis for which the second operand holds; without an axis, elements.
#[derive(Debug)]
pub(crate) struct Compress {
    pub(crate) axis: usize,
}

impl Operator for Compress {
    fn name(&self) -> &'static str {
        "Compress/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.axis);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (x, keep) = (inputs.need(0)?, inputs.need(1)?);
        expect(keep, "input 1", &[DType::Bool])?;
        if keep.rank() != 1 || self.axis >= x.rank() {
            return Err(OpError::shape(
                "the condition must be a vector along an axis",
            ));
        }
        let mut shape = x.shape().to_vec();
        shape[self.axis] = Sym::Unknown;
        Ok(vec![Type::new(x.dtype(), shape)])
    }

    fn data_dependent(&self) -> bool {
        true
    }

    fn bound(&self, inputs: Operands<'_, Concrete>) -> Option<Vec<Concrete>> {
        Some(vec![inputs.get(0)?.clone()])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, keep) = (cx.inputs.need(0)?, cx.slice::<bool>(1)?);
        let dim = x.shape()[self.axis];
        if keep.len() > dim {
            return Err(OpError::shape(format!(
                "{} conditions for {dim} slices",
                keep.len()
            )));
        }
        let kept: Vec<usize> = (0..keep.len()).filter(|&i| keep[i]).collect();
        fn take<T: Element>(x: &[T], kept: &[usize], dim: usize, inner: usize) -> Vec<T> {
            let mut out = Vec::new();
            for block in x.chunks_exact((dim * inner).max(1)) {
                for &i in kept {
                    out.extend_from_slice(&block[i * inner..(i + 1) * inner]);
                }
            }
            out
        }
        let mut shape = x.shape().to_vec();
        shape[self.axis] = kept.len();
        let inner: usize = shape[self.axis + 1..].iter().product();
        Ok(vec![with_storage!(x.storage(), v => {
            Tensor::from_parts(shape, take(v, &kept, dim, inner))
        })])
    }
}

/// The different slices along an axis, in order, or as they come first. Further outputs: where each
/// occurs first, which one each slice is, and how often each occurs.
#[derive(Debug)]
pub(crate) struct Unique {
    pub(crate) axis: usize,
    pub(crate) sorted: bool,
}

impl Unique {
    fn find<T: Ranked>(&self, x: &Tensor, values: &[T]) -> Vec<Tensor> {
        let shape = x.shape();
        let (dim, inner) = (
            shape[self.axis],
            shape[self.axis + 1..].iter().product::<usize>(),
        );
        let outer: usize = shape[..self.axis].iter().product();
        let at = |slice: usize, i: usize| values[(i / inner * dim + slice) * inner + i % inner];
        let order = |a: usize, b: usize| {
            (0..outer * inner)
                .map(|i| at(a, i).rank(at(b, i)))
                .find(|o| *o != Ordering::Equal)
                .unwrap_or(Ordering::Equal)
        };
        // Slices in order, of equal ones the first first; then each class by its first slice.
        let mut slices: Vec<usize> = (0..dim).collect();
        slices.sort_by(|&a, &b| order(a, b).then(a.cmp(&b)));
        let mut classes: Vec<Vec<usize>> = Vec::new();
        for slice in slices {
            match classes.last_mut() {
                Some(class) if order(class[0], slice) == Ordering::Equal => class.push(slice),
                _ => classes.push(vec![slice]),
            }
        }
        if !self.sorted {
            classes.sort_by_key(|class| class[0]);
        }
        let mut inverse = vec![0i64; dim];
        for (number, class) in classes.iter().enumerate() {
            for &slice in class {
                inverse[slice] = number as i64;
            }
        }
        let mut unique = Vec::with_capacity(outer * classes.len() * inner);
        for o in 0..outer {
            for class in &classes {
                let from = (o * dim + class[0]) * inner;
                unique.extend_from_slice(&values[from..from + inner]);
            }
        }
        let mut shape = shape.to_vec();
        shape[self.axis] = classes.len();
        vec![
            Tensor::from_parts(shape, unique),
            Tensor::vector(classes.iter().map(|c| c[0] as i64).collect()),
            Tensor::vector(inverse),
            Tensor::vector(classes.iter().map(|c| c.len() as i64).collect()),
        ]
    }
}

impl Operator for Unique {
    fn name(&self) -> &'static str {
        "Unique/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.axis).flag(self.sorted);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        expect(
            x,
            "input 0",
            &[&[DType::F32, DType::F64], &crate::ops::INTEGERS[..]].concat(),
        )?;
        let mut shape = x.shape().to_vec();
        let dim = shape
            .get_mut(self.axis)
            .ok_or_else(|| OpError::attribute("axis", "is out of range"))?;
        let whole = std::mem::replace(dim, Sym::Unknown);
        Ok(vec![
            Type::new(x.dtype(), shape),
            Type::new(DType::I64, vec![Sym::Unknown]),
            Type::new(DType::I64, vec![whole]),
            Type::new(DType::I64, vec![Sym::Unknown]),
        ])
    }

    fn data_dependent(&self) -> bool {
        true
    }

    fn bound(&self, inputs: Operands<'_, Concrete>) -> Option<Vec<Concrete>> {
        let x = inputs.get(0)?;
        let counts = vector(DType::I64, x.shape[self.axis]);
        Some(vec![x.clone(), counts.clone(), counts.clone(), counts])
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        let Some(x) = inputs.get(0) else { return 0 };
        let levels = u64::from(x.shape[self.axis].max(2).ilog2());
        (x.len() as u64).saturating_mul(levels + 1)
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        inputs.get(0).map_or(0, |x| 80 * x.shape[self.axis] as u64)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.inputs.need(0)?;
        with_ranked!(x, v => Ok(self.find(x, v)))
    }
}

/// Boxes that are left when those that overlap a better one too much are taken out, for each image
/// and class. Operands: boxes `[images, boxes, 4]`, scores `[images, classes, boxes]`, and
/// optionally the largest number for each class, the largest overlap, the least score.
#[derive(Debug)]
pub(crate) struct NonMaxSuppression {
    /// Boxes are given by centre and size, not by two corners.
    pub(crate) centred: bool,
}

impl NonMaxSuppression {
    /// Left, top, right, bottom.
    fn corners(&self, b: &[f32]) -> [f32; 4] {
        let [a, b, c, d] = [b[0], b[1], b[2], b[3]];
        if self.centred {
            let (w, h) = (c / 2.0, d / 2.0);
            [a - w, b - h, a + w, b + h]
        } else {
            // Two corners in any order: y, x, y, x.
            [b.min(d), a.min(c), b.max(d), a.max(c)]
        }
    }
}

/// What two boxes share, as a part of what they cover together.
fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let side = |low: usize| {
        let reach = a[low + 2].min(b[low + 2]) - a[low].max(b[low]);
        if reach > 0.0 { reach } else { 0.0 }
    };
    let area = |c: &[f32; 4]| (c[2] - c[0]) * (c[3] - c[1]);
    let shared = side(0) * side(1);
    let together = (area(a) + area(b)) - shared;
    if shared > 0.0 && together > 0.0 {
        shared / together
    } else {
        0.0
    }
}

/// The value of an optional operand.
fn setting<T: Element>(cx: &Eval<'_>, index: usize, default: T) -> Result<T, OpError> {
    match cx.maybe_slice::<T>(index)? {
        None => Ok(default),
        Some(&[value]) => Ok(value),
        Some(_) => Err(OpError::operand(
            crate::operator::ordinal(index),
            "must be one number",
        )),
    }
}

impl Operator for NonMaxSuppression {
    fn name(&self) -> &'static str {
        "NonMaxSuppression/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.flag(self.centred);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (boxes, scores) = (inputs.need(0)?, inputs.need(1)?);
        expect(boxes, "input 0", &[DType::F32])?;
        expect(scores, "input 1", &[DType::F32])?;
        let kinds = [DType::I64, DType::F32, DType::F32];
        for (index, kind) in (2..).zip(kinds) {
            if let Some(fact) = inputs.get(index) {
                expect(fact, &crate::operator::ordinal(index), &[kind])?;
            }
        }
        let ([images, count, four], [of, _, scored]) = (boxes.shape(), scores.shape()) else {
            return Err(OpError::shape("boxes and scores have three dimensions"));
        };
        let fits = four.unify(&Sym::Known(4)).is_some()
            && images.unify(of).is_some()
            && count.unify(scored).is_some();
        if !fits {
            return Err(OpError::shape("boxes and scores do not fit each other"));
        }
        Ok(vec![Type::new(
            DType::I64,
            vec![Sym::Unknown, Sym::Known(3)],
        )])
    }

    fn data_dependent(&self) -> bool {
        true
    }

    fn bound(&self, inputs: Operands<'_, Concrete>) -> Option<Vec<Concrete>> {
        Some(vec![Concrete {
            dtype: DType::I64,
            shape: vec![inputs.get(1)?.len(), 3],
        }])
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        // Every box against every other, at the worst.
        let Some(scores) = inputs.get(1) else {
            return 0;
        };
        (scores.len() as u64).saturating_mul(scores.shape.last().copied().unwrap_or(0) as u64)
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        inputs.get(1).map_or(0, |s| 32 * s.shape[2] as u64)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (boxes, scores) = (cx.slice::<f32>(0)?, cx.slice::<f32>(1)?);
        let [images, classes, count] = *cx.inputs.need(1)?.shape() else {
            return Err(OpError::shape("scores have three dimensions"));
        };
        if cx.inputs.need(0)?.shape() != [images, count, 4] {
            return Err(OpError::shape("boxes and scores do not fit each other"));
        }
        let most = usize::try_from(setting(cx, 2, 0i64)?).unwrap_or(0);
        let limit = setting(cx, 3, 0f32)?;
        let least = cx
            .maybe_slice::<f32>(4)?
            .map(|_| setting(cx, 4, 0f32))
            .transpose()?;
        let mut out = Vec::new();
        for image in 0..images {
            for class in 0..classes {
                let row = &scores[(image * classes + class) * count..][..count];
                let above = |s: f32| least.is_none_or(|least| s > least);
                let mut order: Vec<usize> = (0..count).filter(|&i| above(row[i])).collect();
                order.sort_by(|&a, &b| row[b].rank(row[a]).then(a.cmp(&b)));
                let mut kept: Vec<[f32; 4]> = Vec::new();
                for i in order {
                    if kept.len() >= most {
                        break;
                    }
                    let corners = self.corners(&boxes[(image * count + i) * 4..][..4]);
                    if kept.iter().all(|k| overlap(k, &corners) <= limit) {
                        kept.push(corners);
                        out.extend([image as i64, class as i64, i as i64]);
                    }
                }
            }
        }
        Ok(vec![Tensor::from_parts(vec![out.len() / 3, 3], out)])
    }
}
