//! Tensors become matrices and vectors that products and norms take.

use lemma_kernels::{PackedMatrix, Room, Threads};

use crate::tensors::{Tensor, TensorError, Tensors};

/// A matrix and what is added to its products.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) weights: PackedMatrix,
    pub(crate) bias: Option<Vec<f32>>,
}

/// The tensors of a model, on their way into memory.
#[derive(Debug)]
pub(crate) struct Weights<'a> {
    pub(crate) threads: &'a Threads,
    pub(crate) tensors: &'a Tensors<'a>,
    room: Room,
}

impl<'a> Weights<'a> {
    pub(crate) fn new(threads: &'a Threads, tensors: &'a Tensors<'a>) -> Weights<'a> {
        Weights {
            threads,
            tensors,
            room: Room::new(tensors.bytes()),
        }
    }

    pub(crate) fn tensor(&self, name: &str) -> Result<&Tensor<'a>, TensorError> {
        self.tensors
            .get(name)
            .ok_or_else(|| TensorError::Missing(name.to_owned()))
    }

    pub(crate) fn matrix(
        &self,
        name: &str,
        n: usize,
        k: usize,
    ) -> Result<PackedMatrix, TensorError> {
        let tensor = self.tensor(name)?;
        check_shape(name, tensor, &[n, k])?;
        self.pack(name, tensor, n, k)
    }

    pub(crate) fn pack(
        &self,
        name: &str,
        tensor: &Tensor<'_>,
        n: usize,
        k: usize,
    ) -> Result<PackedMatrix, TensorError> {
        let (format, data) = (tensor.format, tensor.data);
        let matrix = PackedMatrix::pack_in(&self.room, self.threads, format, n, k, data);
        self.tensors.release(data);
        matrix.map_err(|_| TensorError::size(name))
    }

    /// A matrix with its bias, if the files have one.
    pub(crate) fn linear(&self, name: &str, n: usize, k: usize) -> Result<Linear, TensorError> {
        let bias = bias_of(name);
        let bias = match self.tensors.get(&bias) {
            Some(_) => Some(self.vector(&bias, n)?),
            None => None,
        };
        let weights = self.matrix(name, n, k)?;
        Ok(Linear { weights, bias })
    }

    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, TensorError> {
        let tensor = self.tensor(name)?;
        check_shape(name, tensor, &[len])?;
        if tensor.format.is_quantised() {
            return Err(TensorError::Dense(name.to_owned()));
        }
        // One row of a matrix is read as its format says.
        let row = PackedMatrix::pack(&Threads::single(), tensor.format, 1, len, tensor.data)
            .map_err(|_| TensorError::size(name))?;
        let mut out = vec![0.0; len];
        row.row(0, &mut out);
        Ok(out)
    }
}

/// The bias that belongs to a matrix.
fn bias_of(weight: &str) -> String {
    format!("{}.bias", weight.strip_suffix(".weight").unwrap_or(weight))
}

pub(crate) fn check_shape(
    name: &str,
    tensor: &Tensor<'_>,
    expected: &[usize],
) -> Result<(), TensorError> {
    if tensor.shape != expected {
        return Err(TensorError::Shape {
            name: name.to_owned(),
            found: tensor.shape.clone(),
            expected: expected.to_vec(),
        });
    }
    Ok(())
}
