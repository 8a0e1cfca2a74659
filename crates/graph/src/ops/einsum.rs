//! `Einsum`, and products of matrices of other than FP32.

use lemma_kernels::wide;
use lemma_types::tensor::DType;

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type, show};
use crate::operator::{Concrete, Eval, Operands, Operator, typed};
use crate::ops::broadcast::strides;
use crate::ops::{same_dtype, unreachable_type};
use crate::tensor::{Element, Storage, Tensor};

/// Σ over labels that the result lacks, in the order in which they first occur, of the product of
/// one element of each operand. Labels are numbers from 0 on; one that occurs twice in an operand
/// walks its diagonal.
#[derive(Debug)]
pub(crate) struct Einsum {
    pub(crate) operands: Vec<Vec<usize>>,
    pub(crate) output: Vec<usize>,
}

impl Einsum {
    /// Labels that are summed over, as they first occur.
    fn summed(&self) -> Vec<usize> {
        let mut labels = Vec::new();
        for &label in self.operands.iter().flatten() {
            if !self.output.contains(&label) && !labels.contains(&label) {
                labels.push(label);
            }
        }
        labels
    }

    /// The size of each label.
    fn sizes<'s>(&self, shapes: impl Iterator<Item = &'s [Sym]>) -> Result<Vec<Sym>, OpError> {
        let count = self.operands.iter().flatten().max().map_or(0, |m| m + 1);
        let mut sizes = vec![Sym::Known(1); count];
        for (labels, shape) in self.operands.iter().zip(shapes) {
            if labels.len() != shape.len() {
                return Err(OpError::attribute(
                    "equation",
                    format!("names {} dimensions of {}", labels.len(), show(shape)),
                ));
            }
            for (&label, dim) in labels.iter().zip(shape) {
                sizes[label] = sizes[label].broadcast(dim).ok_or_else(|| {
                    OpError::shape(format!("{} and {dim} for one label", sizes[label]))
                })?;
            }
        }
        Ok(sizes)
    }

    fn run<T: Element>(
        &self,
        cx: &Eval<'_>,
        one: T,
        mul: impl Fn(T, T) -> T,
        add: impl Fn(T, T, T) -> T,
    ) -> Result<Vec<Tensor>, OpError> {
        let tensors = cx.inputs.all()?;
        let values: Vec<&[T]> = tensors.iter().map(|t| typed(t)).collect::<Result<_, _>>()?;
        let syms: Vec<Vec<Sym>> = tensors
            .iter()
            .map(|t| t.shape().iter().map(|&d| Sym::size(d)).collect())
            .collect();
        let sizes = self.sizes(syms.iter().map(Vec::as_slice))?;
        let size = |label: usize| sizes[label].known().unwrap_or(0) as usize;
        // How far each operand goes along each label.
        let steps: Vec<Vec<usize>> = self
            .operands
            .iter()
            .zip(&tensors)
            .map(|(labels, tensor)| {
                let mut steps = vec![0; sizes.len()];
                for ((&label, &step), &dim) in labels
                    .iter()
                    .zip(&strides(tensor.shape()))
                    .zip(tensor.shape())
                {
                    if dim != 1 {
                        steps[label] += step;
                    }
                }
                steps
            })
            .collect();
        let summed = self.summed();
        let walk = |labels: &[usize], mut at: usize, offsets: &mut [usize]| {
            for &label in labels.iter().rev() {
                let i = at % size(label).max(1);
                at /= size(label).max(1);
                for (offset, steps) in offsets.iter_mut().zip(&steps) {
                    *offset += i * steps[label];
                }
            }
        };
        let terms: usize = summed.iter().map(|&l| size(l)).product();
        let mut y = Vec::with_capacity(cx.outputs[0].len());
        for o in 0..cx.outputs[0].len() {
            let mut base = vec![0; values.len()];
            walk(&self.output, o, &mut base);
            let mut sum = T::default();
            for term in 0..terms {
                let mut at = base.clone();
                walk(&summed, term, &mut at);
                let last = values.len() - 1;
                let before = (0..last).fold(None, |p: Option<T>, i| {
                    let v = values[i][at[i]];
                    Some(p.map_or(v, |p| mul(p, v)))
                });
                sum = add(sum, before.unwrap_or(one), values[last][at[last]]);
            }
            y.push(sum);
        }
        cx.output(y)
    }
}

impl Operator for Einsum {
    fn name(&self) -> &'static str {
        "Einsum/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.operands.len());
        self.operands.iter().for_each(|labels| {
            canon.sizes(labels);
        });
        canon.sizes(&self.output);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let all = inputs.all()?;
        let first = inputs.need(0)?;
        const NUMBERS: [DType; 4] = [DType::F32, DType::F64, DType::I32, DType::I64];
        let dtype = crate::ops::expect(first, "input 0", &NUMBERS)?;
        for (index, fact) in all.iter().enumerate() {
            same_dtype(fact, &crate::operator::ordinal(index), dtype)?;
        }
        if all.len() != self.operands.len() {
            return Err(OpError::attribute(
                "equation",
                "names another number of operands",
            ));
        }
        let sizes = self.sizes(all.iter().map(|fact| fact.shape()))?;
        let shape = self.output.iter().map(|&label| sizes[label].clone());
        Ok(vec![Type::new(dtype, shape.collect())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let first = cx.inputs.need(0)?;
        let single = self.operands.len() == 1;
        match first.storage() {
            // A single operand is added as it is, not multiplied by one.
            Storage::F32(_) if single => self.run(
                cx,
                1f32,
                |a, b| a * b,
                |s, _, v| lemma_kernels::math::add(s, v),
            ),
            Storage::F32(_) => self.run(
                cx,
                1f32,
                |a, b| a * b,
                |s, a, b| lemma_kernels::canonical(a.mul_add(b, s)),
            ),
            Storage::F64(_) => self.run(
                cx,
                1f64,
                |a, b| a * b,
                |s, a, b| wide::canonical_f64(a.mul_add(b, s)),
            ),
            Storage::I32(_) => self.run(cx, 1i32, i32::wrapping_mul, |s, a, b| {
                s.wrapping_add(a.wrapping_mul(b))
            }),
            Storage::I64(_) => self.run(cx, 1i64, i64::wrapping_mul, |s, a, b| {
                s.wrapping_add(a.wrapping_mul(b))
            }),
            _ => Err(unreachable_type(first.dtype())),
        }
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        let mut sizes = std::collections::BTreeMap::new();
        for (i, labels) in self.operands.iter().enumerate() {
            let Some(x) = inputs.get(i) else { continue };
            for (&label, &dim) in labels.iter().zip(&x.shape) {
                let size = sizes.entry(label).or_insert(1u64);
                *size = (*size).max(dim as u64);
            }
        }
        let terms = self
            .summed()
            .into_iter()
            .map(|l| sizes.get(&l).copied().unwrap_or(1));
        let terms = terms.fold(self.operands.len() as u64, u64::saturating_mul);
        (outputs[0].len() as u64).saturating_mul(terms)
    }

    fn scratch(&self, _: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        1 << 14
    }
}

/// Products of matrices of FP64 and of integers: the order of FP32 in binary64; integers wrap.
#[derive(Debug)]
pub(crate) struct PlainMatMul;

impl Operator for PlainMatMul {
    fn name(&self) -> &'static str {
        "MatMul/1"
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (a, b) = (inputs.need(0)?, inputs.need(1)?);
        const NUMBERS: [DType; 5] = [DType::F64, DType::I32, DType::I64, DType::U32, DType::U64];
        let dtype = crate::ops::expect(a, "input 0", &NUMBERS)?;
        same_dtype(b, "input 1", dtype)?;
        // Shapes are those of products of FP32.
        let float = |fact: &Fact| Fact::of_type(Type::new(DType::F32, fact.shape().to_vec()));
        let (a, b) = (float(a), float(b));
        let mut types = crate::ops::linear::MatMul.infer(Operands(&[Some(&a), Some(&b)]))?;
        types[0].dtype = dtype;
        Ok(types)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (a, b) = (cx.inputs.need(0)?, cx.inputs.need(1)?);
        macro_rules! integers {
            ($t:ty) => {
                each(cx, |k, a: &dyn Fn(usize) -> $t, b: &dyn Fn(usize) -> $t| {
                    (0..k).fold(0, |s: $t, i| s.wrapping_add(a(i).wrapping_mul(b(i))))
                })
            };
        }
        match (a.storage(), b.storage()) {
            (Storage::F64(_), Storage::F64(_)) => each(
                cx,
                |k, a: &dyn Fn(usize) -> f64, b: &dyn Fn(usize) -> f64| wide::product(k, a, b),
            ),
            (Storage::I32(_), _) => integers!(i32),
            (Storage::I64(_), _) => integers!(i64),
            (Storage::U32(_), _) => integers!(u32),
            (Storage::U64(_), _) => integers!(u64),
            _ => Err(unreachable_type(a.dtype())),
        }
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        let depth = inputs
            .get(0)
            .and_then(|a| a.shape.last().copied())
            .unwrap_or(1);
        (outputs[0].len() as u64).saturating_mul(depth as u64)
    }
}

/// Calls `product` with the row and column of each output.
fn each<T: Element>(
    cx: &Eval<'_>,
    product: impl Fn(usize, &dyn Fn(usize) -> T, &dyn Fn(usize) -> T) -> T,
) -> Result<Vec<Tensor>, OpError> {
    let (a, b) = (cx.slice::<T>(0)?, cx.slice::<T>(1)?);
    let mut left = cx.inputs.need(0)?.shape().to_vec();
    let mut right = cx.inputs.need(1)?.shape().to_vec();
    if left.len() == 1 {
        left.insert(0, 1);
    }
    if right.len() == 1 {
        right.push(1);
    }
    let (rows, k, cols) = (
        left[left.len() - 2],
        left[left.len() - 1],
        right[right.len() - 1],
    );
    let (left, right) = (&left[..left.len() - 2], &right[..right.len() - 2]);
    let outer_rank = left.len().max(right.len());
    let dim = |shape: &[usize], i: usize| {
        (i + shape.len())
            .checked_sub(outer_rank)
            .map_or(1, |j| shape[j])
    };
    let outer: Vec<usize> = (0..outer_rank)
        .map(|i| {
            if dim(left, i) == 1 {
                dim(right, i)
            } else {
                dim(left, i)
            }
        })
        .collect();
    let (left_steps, right_steps) = (
        crate::ops::broadcast::broadcast_strides(left, &outer),
        crate::ops::broadcast::broadcast_strides(right, &outer),
    );
    let steps = strides(&outer);
    let mut y = Vec::with_capacity(cx.outputs[0].len());
    for n in 0..outer.iter().product::<usize>() {
        let at = |own: &[usize]| -> usize {
            (0..outer_rank)
                .map(|i| n / steps[i] % outer[i] * own[i])
                .sum()
        };
        let (a, b) = (
            &a[at(&left_steps) * rows * k..],
            &b[at(&right_steps) * k * cols..],
        );
        for row in 0..rows {
            for col in 0..cols {
                y.push(product(k, &|i| a[row * k + i], &|i| b[i * cols + col]));
            }
        }
    }
    cx.output(y)
}
