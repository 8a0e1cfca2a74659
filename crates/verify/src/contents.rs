//! Whether tensors are what a model's signature asks for.

use std::collections::BTreeMap;

use lemma_types::tensor::{Dim, TensorData, TensorSpec};

/// Numbers that symbolic dimensions stand for, in one request and its response.
#[derive(Debug, Default)]
pub(crate) struct Symbols<'a>(BTreeMap<&'a str, u64>);

impl<'a> Symbols<'a> {
    /// Checks names, element types and shapes, in the signature's order.
    pub(crate) fn match_signature(
        &mut self,
        kind: &str,
        specs: &'a [TensorSpec],
        tensors: &[TensorData],
    ) -> Result<(), String> {
        if specs.len() != tensors.len() {
            return Err(format!(
                "{} {kind} tensors were supplied, the model has {}",
                tensors.len(),
                specs.len()
            ));
        }
        for (spec, tensor) in specs.iter().zip(tensors) {
            if spec.name != tensor.name() {
                return Err(format!(
                    "{kind} `{}` was supplied where the model has `{}`",
                    tensor.name(),
                    spec.name
                ));
            }
            if spec.dtype != tensor.dtype() {
                return Err(format!(
                    "{kind} `{}` has datatype {}, the model's has {}",
                    spec.name,
                    tensor.dtype(),
                    spec.dtype
                ));
            }
            if !self.match_shape(&spec.shape, tensor.shape()) {
                return Err(format!(
                    "{kind} `{}` has shape {:?}, the model's has {}",
                    spec.name,
                    tensor.shape(),
                    show_shape(&spec.shape)
                ));
            }
        }
        Ok(())
    }

    fn match_shape(&mut self, dims: &'a [Dim], shape: &[u64]) -> bool {
        dims.len() == shape.len()
            && dims.iter().zip(shape).all(|(dim, size)| match dim {
                Dim::Fixed(fixed) => fixed == size,
                Dim::Symbol(name) => self.0.entry(name).or_insert(*size) == size,
            })
    }
}

fn show_shape(dims: &[Dim]) -> String {
    let dims: Vec<String> = dims.iter().map(Dim::to_string).collect();
    format!("[{}]", dims.join(", "))
}

/// Elements of all tensors together: what receipts count as usage.
pub(crate) fn elements(tensors: &[TensorData]) -> u64 {
    tensors
        .iter()
        .fold(0, |sum, tensor| sum.saturating_add(tensor.elements()))
}

#[cfg(test)]
mod tests {
    use lemma_types::tensor::DType;

    use super::*;

    fn spec(name: &str, dtype: DType, shape: &[Dim]) -> TensorSpec {
        TensorSpec {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
        }
    }

    fn bytes(name: &str, shape: &[u64]) -> TensorData {
        let size = shape.iter().product::<u64>() as usize;
        TensorData::new(name, DType::U8, shape.to_vec(), vec![0; size]).unwrap()
    }

    #[test]
    fn every_part_of_a_signature_counts() {
        let batch = Dim::Symbol("batch".to_owned());
        let specs = [
            spec("a", DType::U8, &[batch.clone(), Dim::Fixed(2)]),
            spec("b", DType::U8, &[batch]),
        ];
        let check =
            |tensors: &[TensorData]| Symbols::default().match_signature("input", &specs, tensors);
        assert_eq!(check(&[bytes("a", &[3, 2]), bytes("b", &[3])]), Ok(()));
        for wrong in [
            vec![bytes("a", &[3, 2])],
            vec![bytes("b", &[3]), bytes("a", &[3, 2])],
            vec![bytes("a", &[3, 2]), bytes("b", &[4])],
            vec![bytes("a", &[3, 3]), bytes("b", &[3])],
            vec![bytes("a", &[6]), bytes("b", &[6])],
        ] {
            assert!(check(&wrong).is_err(), "{wrong:?}");
        }
        let floats = [spec("a", DType::F32, &[Dim::Fixed(1)])];
        let wrong_type = Symbols::default().match_signature("input", &floats, &[bytes("a", &[1])]);
        assert!(wrong_type.unwrap_err().contains("FP32"));
    }

    #[test]
    fn a_symbol_means_the_same_in_request_and_response() {
        let specs = [spec("x", DType::U8, &[Dim::Symbol("n".to_owned())])];
        let mut symbols = Symbols::default();
        assert_eq!(
            symbols.match_signature("input", &specs, &[bytes("x", &[2])]),
            Ok(())
        );
        assert!(
            symbols
                .match_signature("output", &specs, &[bytes("x", &[3])])
                .is_err()
        );
    }
}
