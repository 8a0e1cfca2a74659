//! Operators whose parameters are data: the operator proper is made when they are known.

use std::fmt;

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type, integers};
use crate::operator::{Concrete, Eval, Op, Operands, Operator, ordinal};
use crate::tensor::Tensor;

/// Makes the operator of the type of its first operand and its parameters, in order.
///
/// `None` where that depends on a dimension that is not known.
type Build = Box<dyn Fn(&Type, &[Vec<i64>]) -> Result<Option<Op>, OpError> + Send + Sync>;

/// Types of the outputs, of what is known of the operands.
type Open = Box<dyn Fn(Operands<'_, Fact>) -> Result<Vec<Type>, OpError> + Send + Sync>;

/// An operator that is known except for integers which come as its last operands.
pub(crate) struct Late {
    pub(crate) name: &'static str,
    /// What else it is made of, committed to.
    pub(crate) attributes: Vec<u64>,
    /// Operands before the parameters.
    pub(crate) data: usize,
    pub(crate) build: Build,
    pub(crate) open: Open,
}

impl fmt::Debug for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.name, self.attributes)
    }
}

impl Late {
    /// The operator proper, if all parameters are known.
    fn resolve(&self, inputs: Operands<'_, Fact>) -> Result<Option<Op>, OpError> {
        let mut parameters = Vec::new();
        for index in self.data..inputs.len() {
            let fact = inputs.need(index)?;
            let Some(tensor) = fact.tensor() else {
                return Ok(None);
            };
            let values = integers(tensor)
                .ok_or_else(|| OpError::operand(ordinal(index), "must be integers"))?;
            parameters.push(values);
        }
        (self.build)(&inputs.need(0)?.ty, &parameters)
    }

    fn resolved(&self, inputs: Operands<'_, Tensor>) -> Result<Op, OpError> {
        let facts: Vec<Option<Fact>> = (0..inputs.len())
            .map(|i| inputs.get(i).map(|t| Fact::constant(t.clone())))
            .collect();
        let facts: Vec<Option<&Fact>> = facts.iter().map(Option::as_ref).collect();
        self.resolve(Operands(&facts))?
            .ok_or_else(|| OpError::unsupported("a parameter is not known"))
    }
}

impl Operator for Late {
    fn name(&self) -> &'static str {
        self.name
    }

    fn attributes(&self, canon: &mut Canon) {
        for &value in &self.attributes {
            canon.u64(value);
        }
    }

    fn shape_operands(&self) -> &'static [usize] {
        // Parameters come last, behind at most two operands.
        match self.data {
            1 => &[1, 2, 3],
            _ => &[2, 3, 4],
        }
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        match self.resolve(inputs)? {
            Some(op) => op.infer(Operands(&inputs.0[..self.data])),
            None => (self.open)(inputs),
        }
    }

    fn integers(&self, inputs: Operands<'_, Fact>) -> Option<Vec<Sym>> {
        let op = self.resolve(inputs).ok()??;
        op.integers(Operands(&inputs.0[..self.data]))
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        self.resolved(cx.inputs)?.eval(&Eval {
            inputs: Operands(&cx.inputs.0[..self.data]),
            prepared: None,
            ..*cx
        })
    }

    // The parameters are not at hand here: as much as the most expensive of these operators takes.
    fn cost(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        let elements = inputs.get(0).map_or(0, |x| x.len() as u64);
        let made: u64 = outputs.iter().map(|o| o.len() as u64).sum();
        elements.max(made)
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        inputs
            .get(0)
            .map_or(0, |x| x.bytes().saturating_add(16 * x.len() as u64))
    }
}

/// The type of the first operand, with nothing known of its dimensions.
pub(crate) fn any_sizes(inputs: Operands<'_, Fact>) -> Result<Type, OpError> {
    let x = inputs.need(0)?;
    Ok(Type::new(x.dtype(), vec![Sym::Unknown; x.rank()]))
}

/// The number of integers in an operand that is a parameter.
pub(crate) fn count(inputs: Operands<'_, Fact>, index: usize) -> Result<usize, OpError> {
    Ok(inputs.need(index)?.shape_operand(&ordinal(index))?.len())
}
