//! What an operator is: a name, attributes, a rule for types and shapes, and a rule for values.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use lemma_kernels::{Isa, Threads};
use lemma_types::tensor::DType;

use crate::commit::Canon;
use crate::control::Control;
use crate::error::OpError;
use crate::fact::{Fact, Known, Sym, Type};
use crate::tensor::{Element, MAX_RANK, Tensor, element_count};

/// Values of no more elements than this are computed while shapes are inferred, if everything that
/// they follow from is known: they are shapes, or parts of shapes.
pub(crate) const SHAPE_SIZED: u64 = 64;

/// Operations and bytes that such a computation may take.
const SHAPE_WORK: u64 = 1 << 16;

/// Work prepared once for constant operands, such as packed weights.
pub(crate) type Prepared = Box<dyn Any + Send + Sync>;

/// Operands of an operator, by position; an optional one may be absent.
pub(crate) struct Operands<'a, T>(pub(crate) &'a [Option<&'a T>]);

impl<T> Clone for Operands<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Operands<'_, T> {}

impl<'a, T> Operands<'a, T> {
    /// The operand at `index`, if there is one.
    pub(crate) fn get(&self, index: usize) -> Option<&'a T> {
        self.0.get(index).copied().flatten()
    }

    /// The operand at `index`, which the operator cannot do without.
    pub(crate) fn need(&self, index: usize) -> Result<&'a T, OpError> {
        self.get(index)
            .ok_or_else(|| OpError::operand(ordinal(index), "is missing"))
    }

    /// The number of positions.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The operands of an operator that takes any number of them.
    pub(crate) fn all(&self) -> Result<Vec<&'a T>, OpError> {
        (0..self.len()).map(|i| self.need(i)).collect()
    }
}

/// How an operand is called in messages.
pub(crate) fn ordinal(index: usize) -> String {
    format!("input {index}")
}

/// A concrete type: what a run allocates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Concrete {
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
}

impl Concrete {
    pub(crate) fn of(tensor: &Tensor) -> Concrete {
        Concrete {
            dtype: tensor.dtype(),
            shape: tensor.shape().to_vec(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.len() as u64 * self.dtype.size() as u64
    }
}

/// One evaluation of an operator.
pub(crate) struct Eval<'a> {
    pub(crate) isa: Isa,
    pub(crate) threads: &'a Threads,
    pub(crate) inputs: Operands<'a, Tensor>,
    /// The inferred types of the outputs.
    pub(crate) outputs: &'a [Concrete],
    /// What [`Operator::prepare`] returned, if it was asked.
    pub(crate) prepared: Option<&'a Prepared>,
}

impl<'a> Eval<'a> {
    /// The operand at `index` and its elements, which inference found to be of type `T`.
    pub(crate) fn slice<T: Element>(&self, index: usize) -> Result<&'a [T], OpError> {
        typed(self.inputs.need(index)?)
    }

    /// The optional operand at `index`.
    pub(crate) fn maybe_slice<T: Element>(&self, index: usize) -> Result<Option<&'a [T]>, OpError> {
        self.inputs.get(index).map(typed).transpose()
    }

    /// What [`Operator::prepare`] returned, if it was asked and returned this.
    pub(crate) fn packed<T: 'static>(&self) -> Option<&'a T> {
        self.prepared.and_then(|p| p.downcast_ref())
    }

    /// The shape of the first output.
    pub(crate) fn shape(&self) -> &'a [usize] {
        &self.outputs[0].shape
    }

    /// The first output, of these elements.
    pub(crate) fn output<T: Element>(&self, elements: Vec<T>) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![Tensor::from_parts(self.shape().to_vec(), elements)])
    }

    /// Zeros, as many as the first output has elements.
    pub(crate) fn zeros<T: Element>(&self) -> Vec<T> {
        vec![T::default(); self.outputs[0].len()]
    }
}

/// The elements of a tensor that was found to be of type `T`.
pub(crate) fn typed<T: Element>(tensor: &Tensor) -> Result<&[T], OpError> {
    tensor.as_slice().ok_or_else(|| OpError::DType {
        what: "an operand".into(),
        found: tensor.dtype(),
        expected: T::DTYPE.name().into(),
    })
}

/// An operator of the canonical graph.
pub(crate) trait Operator: Any + Debug + Send + Sync {
    /// Its name. An operator whose meaning changes gets a new one (`Softmax/2`).
    fn name(&self) -> &'static str;

    /// Appends every attribute, in a fixed order.
    fn attributes(&self, _canon: &mut Canon) {}

    /// Types of the outputs, or why the operator does not apply.
    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError>;

    /// Elements of the first output as integers that follow from shapes, where the operator can
    /// tell without computing.
    fn integers(&self, _inputs: Operands<'_, Fact>) -> Option<Vec<Sym>> {
        None
    }

    /// The outputs. Operands and outputs have the types that inference found.
    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError>;

    /// Operations that the evaluation takes: multiply-accumulates, or elements produced.
    fn cost(&self, _inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        outputs
            .iter()
            .fold(0u64, |sum, out| sum.saturating_add(out.len() as u64))
    }

    /// Bytes that the evaluation holds besides its operands and outputs.
    fn scratch(&self, _inputs: Operands<'_, Concrete>, _outputs: &[Concrete]) -> u64 {
        0
    }

    /// Operands whose elements, not only their shape, decide on the shape of an output.
    fn shape_operands(&self) -> &'static [usize] {
        &[]
    }

    /// Whether the shape of an output depends on data whatever the operands: then inference leaves
    /// it open, and [`Operator::bound`] says how large it can get.
    fn data_dependent(&self) -> bool {
        false
    }

    /// Types that are at least as large as the outputs, for operators whose shapes depend on data.
    fn bound(&self, _inputs: Operands<'_, Concrete>) -> Option<Vec<Concrete>> {
        None
    }

    /// The subgraphs of an operator that runs some: it is not evaluated like others.
    fn control(&self) -> Option<&Control> {
        None
    }

    /// Bytes that [`Operator::prepare`] would take: an upper bound.
    fn prepared_bytes(&self, _constants: Operands<'_, Tensor>) -> u64 {
        0
    }

    /// Arranges constant operands once, for all evaluations to come. Only constant operands are
    /// given.
    fn prepare(&self, _constants: Operands<'_, Tensor>) -> Option<Prepared> {
        None
    }

    /// The constant operand that an evaluation does without, where it is given what
    /// [`Operator::prepare`] returned: then it may be absent.
    fn packed(&self) -> Option<usize> {
        None
    }

    /// That operand again, from what [`Operator::prepare`] made of it: the same bits.
    fn unpack(&self, _prepared: &Prepared, _ty: &Concrete) -> Option<Tensor> {
        None
    }
}

/// A shared operator.
pub(crate) type Op = Arc<dyn Operator>;

/// Whether an output's shape depends on data, given what is known of the operands.
pub(crate) fn is_dynamic(op: &dyn Operator, inputs: &[Option<&Fact>]) -> bool {
    let data = |&i: &usize| Operands(inputs).get(i).is_some_and(Fact::is_data);
    op.data_dependent() || op.control().is_some() || op.shape_operands().iter().any(data)
}

/// The types of the outputs, checked.
pub(crate) fn infer(op: &dyn Operator, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
    let types = op.infer(inputs)?;
    types.iter().try_for_each(check_type)?;
    Ok(types)
}

/// Infers what is known of the outputs of `op`.
pub(crate) fn deduce(op: &dyn Operator, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
    let operands = Operands(inputs);
    let types = infer(op, operands)?;
    if op.control().is_some() || op.data_dependent() {
        return Ok(types.into_iter().map(Fact::of_type).collect());
    }
    if let Some(tensors) = evaluate_small(op, inputs, &types)? {
        return Ok(tensors.into_iter().map(Fact::constant).collect());
    }
    let mut facts: Vec<Fact> = types.into_iter().map(Fact::of_type).collect();
    let from_shapes = inputs
        .iter()
        .flatten()
        .all(|fact| !matches!(fact.known, Known::Nothing));
    if let Some(values) = op.integers(operands) {
        facts[0].known = known_integers(&facts[0].ty, values);
    } else if from_shapes {
        for fact in &mut facts {
            if let Some(n) = fact.ty.elements().filter(|&n| n <= SHAPE_SIZED) {
                fact.known = Known::FromShapes(vec![Sym::Unknown; n as usize]);
            }
        }
    }
    Ok(facts)
}

fn check_type(ty: &Type) -> Result<(), OpError> {
    if ty.rank() > MAX_RANK {
        return Err(OpError::shape(format!(
            "the result has {} dimensions: at most {MAX_RANK} are supported",
            ty.rank()
        )));
    }
    if ty.shape.iter().any(|d| d.known().is_some_and(|n| n < 0)) {
        return Err(OpError::shape("a dimension of the result is negative"));
    }
    // Of dimensions that are known, whatever the others are: so no part of a shape overflows
    // either, beside a zero.
    let known = ty.shape.iter().filter_map(Sym::known);
    let bytes = known
        .map(|d| d.max(1).unsigned_abs())
        .try_fold(ty.dtype.size() as u64, u64::checked_mul);
    match bytes {
        Some(bytes) if bytes <= isize::MAX as u64 => Ok(()),
        _ => Err(OpError::shape("the size of the result overflows")),
    }
}

/// Evaluates an operator whose operands are all known, if all of it is of the size of shapes.
fn evaluate_small(
    op: &dyn Operator,
    inputs: &[Option<&Fact>],
    types: &[Type],
) -> Result<Option<Vec<Tensor>>, OpError> {
    let small = |n: Option<u64>| n.is_some_and(|n| n <= SHAPE_SIZED);
    let sized = inputs
        .iter()
        .flatten()
        .all(|fact| small(fact.ty.elements()))
        && types.iter().all(|ty| small(ty.elements()));
    let tensors: Vec<Option<&Tensor>> = inputs.iter().map(|i| i.and_then(Fact::tensor)).collect();
    let known = inputs
        .iter()
        .zip(&tensors)
        .all(|(i, t)| i.is_some() == t.is_some());
    if !sized || !known {
        return Ok(None);
    }
    let outputs = concrete(types)?;
    let shapes: Vec<Option<Concrete>> = tensors.iter().map(|t| t.map(Concrete::of)).collect();
    let shapes: Vec<Option<&Concrete>> = shapes.iter().map(Option::as_ref).collect();
    let work = [
        op.cost(Operands(&shapes), &outputs),
        op.scratch(Operands(&shapes), &outputs),
    ];
    if work.iter().any(|&n| n > SHAPE_WORK) {
        return Ok(None);
    }
    op.eval(&Eval {
        isa: Isa::PORTABLE,
        threads: &Threads::single(),
        inputs: Operands(&tensors),
        outputs: &outputs,
        prepared: None,
    })
    .map(Some)
}

/// The types of a run, in which every dimension is known.
pub(crate) fn concrete(types: &[Type]) -> Result<Vec<Concrete>, OpError> {
    types
        .iter()
        .map(|ty| {
            let shape = ty
                .concrete()
                .filter(|shape| element_count(shape).is_some())
                .ok_or_else(|| {
                    OpError::shape("a shape does not follow from the shapes of the inputs")
                })?;
            Ok(Concrete {
                dtype: ty.dtype,
                shape,
            })
        })
        .collect()
}

/// Integers that follow from shapes, as a tensor where all of them are known.
fn known_integers(ty: &Type, values: Vec<Sym>) -> Known {
    let numbers: Option<Vec<i64>> = values.iter().map(Sym::known).collect();
    match (numbers, ty.concrete()) {
        (Some(numbers), Some(shape)) if element_count(&shape) == Some(numbers.len()) => match ty
            .dtype
        {
            DType::I64 => Known::All(Tensor::from_parts(shape, numbers)),
            DType::I32 => {
                let numbers: Result<Vec<i32>, _> = numbers.into_iter().map(i32::try_from).collect();
                match numbers {
                    Ok(numbers) => Known::All(Tensor::from_parts(shape, numbers)),
                    Err(_) => Known::FromShapes(values),
                }
            }
            _ => Known::FromShapes(values),
        },
        _ => Known::FromShapes(values),
    }
}
