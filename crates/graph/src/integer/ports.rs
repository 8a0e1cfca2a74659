//! Real tensors in, real tensors out: what a caller of a quantised model sees.

use lemma_types::tensor::{DType, Dim, TensorData, TensorSpec};

use super::{Expression, IntegerError, IntegerGraph, Port, Skeleton, Term};

/// Name of the symbolic dimension that counts samples.
const BATCH: &str = "batch";

/// Inputs of a request as the graph takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rounded {
    /// For each input the elements of all samples, one after the other.
    pub inputs: Vec<Vec<i32>>,
    /// The number of samples.
    pub samples: usize,
}

impl Skeleton {
    /// Whether the first dimension of every input and output is 1 and so stands for the samples of
    /// a request. Otherwise a request is one sample.
    #[must_use]
    pub fn takes_batches(&self) -> bool {
        let inputs = self.inputs.iter().map(|(_, range)| &range.shape);
        let outputs = self.outputs.iter().map(|(_, expression)| &expression.shape);
        inputs.chain(outputs).all(|s| s.first() == Some(&1))
    }

    fn specs<'a>(&self, ports: impl Iterator<Item = (&'a Port, &'a [usize])>) -> Vec<TensorSpec> {
        let batches = self.takes_batches();
        let dim = |(axis, size): (usize, &usize)| match axis {
            0 if batches => Dim::Symbol(BATCH.to_owned()),
            _ => Dim::Fixed(*size as u64),
        };
        ports
            .map(|(port, shape)| TensorSpec {
                name: port.name.clone(),
                dtype: port.dtype,
                shape: shape.iter().enumerate().map(dim).collect(),
            })
            .collect()
    }

    /// The inputs as a caller sees them: real numbers.
    #[must_use]
    pub fn input_specs(&self) -> Vec<TensorSpec> {
        self.specs(self.inputs.iter().map(|(p, r)| (p, r.shape.as_slice())))
    }

    /// The outputs as a caller sees them: real numbers.
    #[must_use]
    pub fn output_specs(&self) -> Vec<TensorSpec> {
        self.specs(self.outputs.iter().map(|(p, e)| (p, e.shape.as_slice())))
    }

    /// Rounds the inputs of a request, in the order of the graph: the nearest multiple of the
    /// scale, ties to even, clamped to the range.
    ///
    /// # Errors
    /// Which input has another name, type or shape, or holds what is no number.
    pub fn round(&self, tensors: &[TensorData]) -> Result<Rounded, IntegerError> {
        let wrong = |name: &str, reason: String| IntegerError::Input {
            name: name.to_owned(),
            reason,
        };
        let specs = self.input_specs();
        if tensors.len() != specs.len() {
            let reason = format!("is one of {}, {} were given", specs.len(), tensors.len());
            return Err(wrong(&specs[0].name, reason));
        }
        let samples = match tensors[0].shape().first() {
            Some(&n) if self.takes_batches() => usize::try_from(n).unwrap_or(usize::MAX),
            _ => 1,
        };
        let mut inputs = Vec::with_capacity(tensors.len());
        for ((tensor, spec), (port, range)) in tensors.iter().zip(&specs).zip(&self.inputs) {
            let fits = |(dim, &size): (&Dim, &u64)| match dim {
                Dim::Fixed(fixed) => *fixed == size,
                Dim::Symbol(_) => size == samples as u64,
            };
            let same = tensor.shape().len() == spec.shape.len()
                && spec.shape.iter().zip(tensor.shape()).all(fits);
            if tensor.name() != spec.name || tensor.dtype() != spec.dtype || !same || samples == 0 {
                let (found, shape) = (tensor.name(), tensor.shape());
                return Err(wrong(
                    &spec.name,
                    format!(
                        "does not fit: `{found}` is {} {shape:?}, {} {} is needed",
                        tensor.dtype(),
                        spec.dtype,
                        shown(&spec.shape)
                    ),
                ));
            }
            if let Some(place) = tensor.first_non_finite() {
                return Err(wrong(&spec.name, format!("has no number at {place}")));
            }
            let values = match spec.dtype {
                DType::F32 => {
                    let (words, _) = tensor.data().as_chunks::<4>();
                    let round = |word: &[u8; 4]| round(f32::from_le_bytes(*word), port, range);
                    words.iter().map(round).collect()
                }
                _ => indices(tensor, range).map_err(|reason| wrong(&spec.name, reason))?,
            };
            inputs.push(values);
        }
        Ok(Rounded { inputs, samples })
    }

    /// The outputs of a run as real tensors.
    ///
    /// # Errors
    /// When they are not those of a run with so many samples.
    pub fn real_outputs(
        &self,
        outputs: &[Vec<i32>],
        samples: usize,
    ) -> Result<Vec<TensorData>, IntegerError> {
        let malformed = |place: &str, reason: &str| IntegerError::Malformed {
            place: place.to_owned(),
            reason: reason.to_owned(),
        };
        if outputs.len() != self.outputs.len() || (samples != 1 && !self.takes_batches()) {
            return Err(malformed("the outputs", "are of another graph"));
        }
        let real = |(values, (port, expression)): (&Vec<i32>, &(Port, Expression))| {
            let mut shape: Vec<u64> = expression.shape.iter().map(|&d| d as u64).collect();
            if self.takes_batches() {
                shape[0] = samples as u64;
            }
            let one = |&v: &i32| (f64::from(v) * f64::from(port.scale)) as f32;
            let data = match port.dtype {
                DType::I64 => values
                    .iter()
                    .flat_map(|&v| i64::from(v).to_le_bytes())
                    .collect(),
                DType::I32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                _ => values.iter().flat_map(|v| one(v).to_le_bytes()).collect(),
            };
            TensorData::new(port.name.clone(), port.dtype, shape, data)
                .map_err(|_| malformed(&port.name, "has another number of elements"))
        };
        outputs.iter().zip(&self.outputs).map(real).collect()
    }

    /// Operations of one sample: two for each multiplication of a product, one for each element of
    /// a linear term and of a table look-up.
    #[must_use]
    pub fn operations(&self) -> u64 {
        let size = |shape: &[usize]| shape.iter().fold(1u64, |n, &d| n.saturating_mul(d as u64));
        let term = |expression: &Expression, term: &Term| {
            let own = size(&expression.shape);
            match term {
                Term::Linear { .. } => own,
                Term::Product { contracted, .. } => {
                    own.saturating_mul(size(contracted)).saturating_mul(2)
                }
            }
        };
        let expression = |e: &Expression| {
            e.terms
                .iter()
                .fold(0u64, |n, t| n.saturating_add(term(e, t)))
        };
        let nodes = self
            .nodes
            .iter()
            .map(|n| expression(&n.expression).saturating_add(size(&n.expression.shape)));
        let outputs = self.outputs.iter().map(|(_, e)| expression(e));
        nodes.chain(outputs).fold(0, u64::saturating_add)
    }
}

pub(super) fn round(value: f32, port: &Port, range: &super::TensorRange) -> i32 {
    let steps = f64::from(value) / f64::from(port.scale);
    (steps.round_ties_even() as i32).clamp(range.low, range.high)
}

/// Indices as they are: one out of range has no nearest one.
fn indices(tensor: &TensorData, range: &super::TensorRange) -> Result<Vec<i32>, String> {
    let values: Vec<i64> = if tensor.dtype() == DType::I64 {
        let (words, _) = tensor.data().as_chunks::<8>();
        words.iter().map(|w| i64::from_le_bytes(*w)).collect()
    } else {
        let (words, _) = tensor.data().as_chunks::<4>();
        let words = words.iter().map(|w| i32::from_le_bytes(*w));
        words.map(i64::from).collect()
    };
    let (low, high) = (range.low, range.high);
    let fits = |v: i64| i32::try_from(v).ok().filter(|v| (low..=high).contains(v));
    values
        .into_iter()
        .map(|v| fits(v).ok_or_else(|| format!("holds index {v}, {low} to {high} exist")))
        .collect()
}

fn shown(dims: &[Dim]) -> String {
    let dims: Vec<String> = dims.iter().map(Dim::to_string).collect();
    format!("[{}]", dims.join(", "))
}

impl IntegerGraph {
    /// Runs the graph on real inputs, rounded; gives real outputs.
    ///
    /// # Errors
    /// What does not fit.
    pub fn infer(&self, inputs: &[TensorData]) -> Result<Vec<TensorData>, IntegerError> {
        let rounded = self.skeleton().round(inputs)?;
        let trace = self.run(&rounded.inputs, rounded.samples)?;
        self.skeleton()
            .real_outputs(&trace.outputs, rounded.samples)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Factor, Relation, Source, TensorRange, View};
    use super::*;

    /// `y = 3 · x`, in steps of a half, for one row of two.
    fn graph(rows: usize) -> IntegerGraph {
        let port = |name: &str| Port::real(name, 0.5);
        let factor = |axis: usize| Factor {
            axes: vec![axis],
            dims: vec![axis],
            relation: Relation::Identity,
        };
        let skeleton = Skeleton {
            inputs: vec![(
                port("x"),
                TensorRange {
                    shape: vec![rows, 2],
                    low: -10,
                    high: 10,
                },
            )],
            constants: vec![],
            tables: vec![],
            nodes: vec![],
            outputs: vec![(
                port("y"),
                Expression {
                    shape: vec![rows, 2],
                    terms: vec![Term::Linear {
                        coefficient: 3,
                        view: View {
                            source: Source::Input(0),
                            factors: vec![factor(0), factor(1)],
                        },
                    }],
                },
            )],
        };
        IntegerGraph::new(skeleton, vec![]).unwrap()
    }

    fn tensor(name: &str, shape: &[u64], values: &[f32]) -> TensorData {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        TensorData::new(name, DType::F32, shape.to_vec(), data).unwrap()
    }

    #[test]
    fn real_tensors_are_rounded_clamped_and_scaled_back() {
        let graph = graph(1);
        // 0.25 and 0.75 lie between two steps and go to the even one; 99 is clamped.
        let x = tensor("x", &[2, 2], &[0.25, 0.75, 99.0, -1.0]);
        let y = tensor("y", &[2, 2], &[0.0, 3.0, 15.0, -3.0]);
        assert_eq!(graph.infer(&[x]).unwrap(), [y]);
        assert_eq!(
            graph.skeleton().input_specs()[0].shape[0].to_string(),
            BATCH
        );
        assert_eq!(graph.skeleton().operations(), 2);
    }

    #[test]
    fn a_graph_without_a_batch_takes_one_sample() {
        let graph = graph(2);
        let x = tensor("x", &[2, 2], &[1.0; 4]);
        assert_eq!(
            graph.infer(&[x]).unwrap(),
            [tensor("y", &[2, 2], &[3.0; 4])]
        );
        assert!(graph.infer(&[tensor("x", &[4, 2], &[1.0; 8])]).is_err());
        assert!(graph.skeleton().real_outputs(&[vec![0; 8]], 2).is_err());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let graph = graph(1);
        for bad in [
            vec![],
            vec![tensor("z", &[1, 2], &[0.0; 2])],
            vec![tensor("x", &[1, 3], &[0.0; 3])],
            vec![tensor("x", &[2], &[0.0; 2])],
            vec![tensor("x", &[0, 2], &[])],
            vec![tensor("x", &[1, 2], &[0.0, f32::NAN])],
            vec![TensorData::new("x", DType::U8, vec![1, 2], vec![0; 2]).unwrap()],
            vec![
                tensor("x", &[1, 2], &[0.0; 2]),
                tensor("x", &[1, 2], &[0.0; 2]),
            ],
        ] {
            assert!(graph.infer(&bad).is_err(), "{bad:?}");
        }
    }
}
