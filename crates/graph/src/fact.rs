//! What is known of a value before it is computed: its type, its shape and, for the small integers
//! that shapes are made of, its elements.
//!
//! The same rules serve twice. At import, dimensions may be symbols (`batch`), and a model is
//! accepted only if every shape follows from the shapes of the inputs. Before a run all of them
//! are numbers, and the very same functions yield the exact shape of each value, hence the memory
//! and the cost of the run, before anything is computed.

use std::fmt;
use std::sync::Arc;

use lemma_types::tensor::DType;

use crate::error::OpError;
use crate::tensor::{MAX_RANK, Tensor};

/// An integer that may not be known yet: a dimension, or an element of a shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sym {
    Known(i64),
    /// A dimension of an input that each run chooses.
    Symbol(Arc<str>),
    /// Follows from shapes, in a way that is not tracked.
    Unknown,
}

impl Sym {
    pub(crate) fn known(&self) -> Option<i64> {
        match self {
            Sym::Known(n) => Some(*n),
            _ => None,
        }
    }

    pub(crate) fn size(n: usize) -> Sym {
        // What does not fit is larger than any tensor: the largest number is refused as one too.
        Sym::Known(i64::try_from(n).unwrap_or(i64::MAX))
    }

    /// What a dimension is that has to be both `self` and `other`, if that can be.
    pub(crate) fn unify(&self, other: &Sym) -> Option<Sym> {
        match (self, other) {
            (Sym::Known(a), Sym::Known(b)) if a != b => None,
            (Sym::Known(_), _) => Some(self.clone()),
            (_, Sym::Known(_)) => Some(other.clone()),
            (Sym::Symbol(_), _) => Some(self.clone()),
            _ => Some(other.clone()),
        }
    }

    /// The dimension that two broadcast to, if they do.
    pub(crate) fn broadcast(&self, other: &Sym) -> Option<Sym> {
        match (self, other) {
            (a, b) if a == b => Some(a.clone()),
            (Sym::Known(1), b) => Some(b.clone()),
            (a, Sym::Known(1)) => Some(a.clone()),
            (Sym::Known(_), Sym::Known(_)) => None,
            // The other one is this size, or 1.
            (Sym::Known(n), _) | (_, Sym::Known(n)) => Some(Sym::Known(*n)),
            _ => Some(Sym::Unknown),
        }
    }

    pub(crate) fn add(&self, other: &Sym) -> Sym {
        match (self, other) {
            (Sym::Known(0), x) | (x, Sym::Known(0)) => x.clone(),
            (Sym::Known(a), Sym::Known(b)) => a.checked_add(*b).map_or(Sym::Unknown, Sym::Known),
            _ => Sym::Unknown,
        }
    }

    pub(crate) fn mul(&self, other: &Sym) -> Sym {
        match (self, other) {
            (Sym::Known(1), x) | (x, Sym::Known(1)) => x.clone(),
            (Sym::Known(0), _) | (_, Sym::Known(0)) => Sym::Known(0),
            (Sym::Known(a), Sym::Known(b)) => a.checked_mul(*b).map_or(Sym::Unknown, Sym::Known),
            _ => Sym::Unknown,
        }
    }
}

impl fmt::Display for Sym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sym::Known(n) => write!(f, "{n}"),
            Sym::Symbol(name) => f.write_str(name),
            Sym::Unknown => f.write_str("?"),
        }
    }
}

/// A shape for messages.
pub(crate) fn show(shape: &[Sym]) -> String {
    let dims: Vec<String> = shape.iter().map(Sym::to_string).collect();
    format!("[{}]", dims.join(", "))
}

/// Element type and shape of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Type {
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<Sym>,
}

impl Type {
    pub(crate) fn new(dtype: DType, shape: Vec<Sym>) -> Type {
        Type { dtype, shape }
    }

    pub(crate) fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The number of elements, if every dimension is known and it does not overflow.
    pub(crate) fn elements(&self) -> Option<u64> {
        self.shape
            .iter()
            .try_fold(1u64, |n, d| n.checked_mul(u64::try_from(d.known()?).ok()?))
    }

    /// The shape, if every dimension is known.
    pub(crate) fn concrete(&self) -> Option<Vec<usize>> {
        self.shape
            .iter()
            .map(|d| usize::try_from(d.known()?).ok())
            .collect()
    }
}

/// What is known of a value's elements.
#[derive(Clone, Debug)]
pub(crate) enum Known {
    /// They are data.
    Nothing,
    /// They are integers that follow from shapes.
    FromShapes(Vec<Sym>),
    /// They are constant, or follow from shapes that are all known.
    All(Tensor),
}

/// What is known of a value.
#[derive(Clone, Debug)]
pub(crate) struct Fact {
    pub(crate) ty: Type,
    pub(crate) known: Known,
}

impl Fact {
    /// A value of which only the type is known.
    pub(crate) fn of_type(ty: Type) -> Fact {
        Fact {
            ty,
            known: Known::Nothing,
        }
    }

    /// A constant.
    pub(crate) fn constant(tensor: Tensor) -> Fact {
        Fact {
            ty: Type {
                dtype: tensor.dtype(),
                shape: tensor.shape().iter().map(|&d| Sym::size(d)).collect(),
            },
            known: Known::All(tensor),
        }
    }

    pub(crate) fn dtype(&self) -> DType {
        self.ty.dtype
    }

    pub(crate) fn shape(&self) -> &[Sym] {
        &self.ty.shape
    }

    pub(crate) fn rank(&self) -> usize {
        self.ty.shape.len()
    }

    /// The elements as tensor, if all are known.
    pub(crate) fn tensor(&self) -> Option<&Tensor> {
        match &self.known {
            Known::All(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// The elements as integers, as far as they are known.
    pub(crate) fn integers(&self) -> Option<Vec<Sym>> {
        match &self.known {
            Known::Nothing => None,
            Known::FromShapes(values) => Some(values.clone()),
            Known::All(tensor) => integers(tensor).map(|v| v.into_iter().map(Sym::Known).collect()),
        }
    }

    /// Whether the elements are data: neither constant nor decided by shapes.
    pub(crate) fn is_data(&self) -> bool {
        matches!(self.known, Known::Nothing)
    }

    /// The elements of an operand that decides on a shape. Of data the number alone is known.
    ///
    /// # Errors
    /// When they are no integers, or their number, which decides on a rank, is not known.
    pub(crate) fn shape_operand(&self, what: &str) -> Result<Vec<Sym>, OpError> {
        if self.rank() > 1 {
            return Err(OpError::operand(what, "must be a scalar or a vector"));
        }
        if let Some(values) = self.integers() {
            return Ok(values);
        }
        if !matches!(self.dtype(), DType::I64 | DType::I32) {
            return Err(OpError::operand(what, "must be integers"));
        }
        match self.ty.elements() {
            Some(n) if n <= 4 * MAX_RANK as u64 => Ok(vec![Sym::Unknown; n as usize]),
            _ => Err(OpError::operand(
                what,
                "decides on a shape: the number of its elements must be known, and small",
            )),
        }
    }
}

/// The elements of an integer tensor.
pub(crate) fn integers(tensor: &Tensor) -> Option<Vec<i64>> {
    if let Some(values) = tensor.as_slice::<i64>() {
        return Some(values.to_vec());
    }
    let values = tensor.as_slice::<i32>()?;
    Some(values.iter().map(|&v| i64::from(v)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbol(name: &str) -> Sym {
        Sym::Symbol(name.into())
    }

    #[test]
    fn dimensions_broadcast_as_far_as_they_are_known() {
        let (n, m) = (symbol("n"), symbol("m"));
        assert_eq!(Sym::Known(1).broadcast(&n), Some(n.clone()));
        assert_eq!(n.broadcast(&n), Some(n.clone()));
        assert_eq!(n.broadcast(&Sym::Known(4)), Some(Sym::Known(4)));
        assert_eq!(n.broadcast(&m), Some(Sym::Unknown));
        assert_eq!(Sym::Known(3).broadcast(&Sym::Known(4)), None);
        assert_eq!(Sym::Known(0).broadcast(&Sym::Known(1)), Some(Sym::Known(0)));
    }

    #[test]
    fn dimensions_unify_to_the_better_known() {
        let n = symbol("n");
        assert_eq!(n.unify(&Sym::Known(2)), Some(Sym::Known(2)));
        assert_eq!(Sym::Unknown.unify(&n), Some(n.clone()));
        assert_eq!(Sym::Known(2).unify(&Sym::Known(3)), None);
    }
}
