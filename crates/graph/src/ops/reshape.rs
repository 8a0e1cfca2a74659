//! Operators that change the shape alone: the elements are shared, not copied.

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type, show};
use crate::operator::{Eval, Operands, Operator};
use crate::tensor::Tensor;

/// The first operand under the shape that inference found.
fn reshaped(cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
    Ok(vec![cx.inputs.need(0)?.with_shape(cx.shape().to_vec())])
}

/// Gives the elements the shape of the second operand. There −1, at most once, stands for whatever
/// is left; 0 keeps the dimension of the input, or with `allow_zero` is a zero.
#[derive(Debug)]
pub(crate) struct Reshape {
    pub(crate) allow_zero: bool,
}

impl Reshape {
    /// The target with zeros replaced; −1 stays.
    fn target(&self, x: &Fact, wanted: Vec<Sym>) -> Result<Vec<Sym>, OpError> {
        wanted
            .into_iter()
            .enumerate()
            .map(|(i, d)| match d {
                Sym::Known(0) if !self.allow_zero => x.shape().get(i).cloned().ok_or_else(|| {
                    OpError::shape(format!(
                        "the target keeps dimension {i} of {}",
                        show(x.shape())
                    ))
                }),
                Sym::Known(n) if n < -1 => Err(OpError::shape(format!("{n} is no dimension"))),
                other => Ok(other),
            })
            .collect()
    }
}

fn product(dims: &[Sym]) -> Sym {
    dims.iter().fold(Sym::Known(1), |p, d| p.mul(d))
}

/// Both without the dimensions that they have in common, symbols among them. Zeros stay: what is
/// multiplied with them cannot be told.
fn cancel(a: &[Sym], b: &[Sym]) -> (Vec<Sym>, Vec<Sym>) {
    let (mut a, mut b) = (a.to_vec(), b.to_vec());
    let common = |d: &Sym| *d != Sym::Unknown && *d != Sym::Known(0);
    b.retain(
        |d| match a.iter().position(|other| other == d && common(other)) {
            Some(i) => {
                a.swap_remove(i);
                false
            }
            None => true,
        },
    );
    (a, b)
}

/// What stands for −1: the elements of `from` divided among the other dimensions of `to`.
fn inferred(from: &[Sym], to: &[Sym]) -> Result<Sym, OpError> {
    let (above, below) = cancel(from, to);
    match (product(&above), product(&below)) {
        (Sym::Known(n), Sym::Known(m)) if m == 0 || n % m != 0 => Err(OpError::shape(format!(
            "the elements of {} do not divide into {}",
            show(from),
            show(to)
        ))),
        (Sym::Known(n), Sym::Known(m)) => Ok(Sym::Known(n / m)),
        (n, Sym::Known(1)) => Ok(n),
        _ => Ok(Sym::Unknown),
    }
}

/// Refuses shapes that are known to hold different numbers of elements.
fn same_count(from: &[Sym], to: &[Sym]) -> Result<(), OpError> {
    let known = |dims: &[Sym]| dims.iter().all(|d| d.known().is_some());
    let (a, b) = cancel(from, to);
    match (product(&a), product(&b)) {
        (Sym::Known(n), Sym::Known(m)) if n != m => Err(OpError::shape(format!(
            "{} does not hold as many elements as {}",
            show(from),
            show(to)
        ))),
        (Sym::Unknown, _) | (_, Sym::Unknown) if known(from) && known(to) => {
            Err(OpError::shape("the number of elements overflows"))
        }
        _ => Ok(()),
    }
}

impl Operator for Reshape {
    fn name(&self) -> &'static str {
        "Reshape/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.flag(self.allow_zero);
    }

    fn shape_operands(&self) -> &'static [usize] {
        &[1]
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (x, wanted) = (inputs.need(0)?, inputs.need(1)?.shape_operand("input 1")?);
        let mut shape = self.target(x, wanted)?;
        let open: Vec<usize> = (0..shape.len())
            .filter(|&i| shape[i] == Sym::Known(-1))
            .collect();
        match open[..] {
            [] => {}
            [i] => {
                let mut rest = shape.clone();
                rest.remove(i);
                shape[i] = inferred(x.shape(), &rest)?;
            }
            _ => {
                return Err(OpError::shape(
                    "the target has more than one dimension of −1",
                ));
            }
        }
        same_count(x.shape(), &shape)?;
        Ok(vec![Type::new(x.dtype(), shape)])
    }

    fn integers(&self, inputs: Operands<'_, Fact>) -> Option<Vec<Sym>> {
        inputs.get(0)?.integers()
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        reshaped(cx)
    }

    fn cost(
        &self,
        _: Operands<'_, crate::operator::Concrete>,
        _: &[crate::operator::Concrete],
    ) -> u64 {
        0
    }
}

/// Removes dimensions of size 1.
#[derive(Debug)]
pub(crate) struct Squeeze {
    /// Ascending, without repeats.
    pub(crate) axes: Vec<usize>,
}

impl Operator for Squeeze {
    fn name(&self) -> &'static str {
        "Squeeze/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.sizes(&self.axes);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        for &axis in &self.axes {
            if x.shape()
                .get(axis)
                .is_none_or(|d| d.known().is_some_and(|n| n != 1))
            {
                return Err(OpError::shape(format!(
                    "dimension {axis} of {} is not 1",
                    show(x.shape())
                )));
            }
        }
        let kept = (0..x.rank()).filter(|i| !self.axes.contains(i));
        let shape = kept.map(|i| x.shape()[i].clone()).collect();
        Ok(vec![Type::new(x.dtype(), shape)])
    }

    fn integers(&self, inputs: Operands<'_, Fact>) -> Option<Vec<Sym>> {
        inputs.get(0)?.integers()
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        reshaped(cx)
    }

    fn cost(
        &self,
        _: Operands<'_, crate::operator::Concrete>,
        _: &[crate::operator::Concrete],
    ) -> u64 {
        0
    }
}

/// Inserts dimensions of size 1, at these places of the output.
#[derive(Debug)]
pub(crate) struct Unsqueeze {
    /// Ascending, without repeats.
    pub(crate) axes: Vec<usize>,
}

impl Operator for Unsqueeze {
    fn name(&self) -> &'static str {
        "Unsqueeze/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.sizes(&self.axes);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        let mut shape = x.shape().to_vec();
        for &axis in &self.axes {
            if axis > shape.len() {
                return Err(OpError::attribute(
                    "axes",
                    format!("{axis} is out of range"),
                ));
            }
            shape.insert(axis, Sym::Known(1));
        }
        Ok(vec![Type::new(x.dtype(), shape)])
    }

    fn integers(&self, inputs: Operands<'_, Fact>) -> Option<Vec<Sym>> {
        inputs.get(0)?.integers()
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        reshaped(cx)
    }

    fn cost(
        &self,
        _: Operands<'_, crate::operator::Concrete>,
        _: &[crate::operator::Concrete],
    ) -> u64 {
        0
    }
}

/// A matrix: dimensions before `axis` are its rows, the others its columns.
#[derive(Debug)]
pub(crate) struct Flatten {
    pub(crate) axis: usize,
}

impl Operator for Flatten {
    fn name(&self) -> &'static str {
        "Flatten/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.axis);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        let (rows, cols) = x
            .shape()
            .split_at_checked(self.axis)
            .ok_or_else(|| OpError::attribute("axis", format!("{} is out of range", self.axis)))?;
        Ok(vec![Type::new(
            x.dtype(),
            vec![product(rows), product(cols)],
        )])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        reshaped(cx)
    }

    fn cost(
        &self,
        _: Operands<'_, crate::operator::Concrete>,
        _: &[crate::operator::Concrete],
    ) -> u64 {
        0
    }
}
