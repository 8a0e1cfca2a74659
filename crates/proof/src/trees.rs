//! Merkle trees that are shared: a model's serves every proof, and is not copied for each.

use std::sync::Arc;

use p3_commit::{BatchOpening, BatchOpeningRef, Mmcs};
use p3_matrix::{Dimensions, Matrix};

/// A scheme of vector commitments whose trees are shared when they are cloned.
#[derive(Clone, Debug)]
pub(crate) struct Shared<M>(pub(crate) M);

impl<T: Send + Sync + Clone, M: Mmcs<T>> Mmcs<T> for Shared<M> {
    type ProverData<A> = Arc<M::ProverData<A>>;
    type Commitment = M::Commitment;
    type Proof = M::Proof;
    type MultiProof = M::MultiProof;
    type Error = M::Error;

    fn commit<A: Matrix<T>>(&self, inputs: Vec<A>) -> (Self::Commitment, Self::ProverData<A>) {
        let (commitment, data) = self.0.commit(inputs);
        (commitment, Arc::new(data))
    }

    fn open_batch<A: Matrix<T>>(
        &self,
        index: usize,
        data: &Self::ProverData<A>,
    ) -> BatchOpening<T, Self> {
        let (values, proof) = self.0.open_batch(index, data).unpack();
        BatchOpening::new(values, proof)
    }

    fn get_matrices<'a, A: Matrix<T>>(&self, data: &'a Self::ProverData<A>) -> Vec<&'a A> {
        self.0.get_matrices(data)
    }

    fn verify_batch(
        &self,
        commitment: &Self::Commitment,
        dimensions: &[Dimensions],
        index: usize,
        opening: BatchOpeningRef<'_, T, Self>,
    ) -> Result<(), Self::Error> {
        let (values, proof) = opening.unpack();
        let opening = BatchOpeningRef::new(values, proof);
        self.0.verify_batch(commitment, dimensions, index, opening)
    }

    fn open_multi_batch<A: Matrix<T>>(
        &self,
        indices: &[usize],
        data: &Self::ProverData<A>,
    ) -> (Vec<Vec<Vec<T>>>, Self::MultiProof) {
        self.0.open_multi_batch(indices, data)
    }

    fn verify_multi_batch<R: AsRef<[T]> + PartialEq>(
        &self,
        commitment: &Self::Commitment,
        dimensions: &[Dimensions],
        indices: &[usize],
        values: &[Vec<R>],
        proof: &Self::MultiProof,
    ) -> Result<(), Self::Error> {
        self.0
            .verify_multi_batch(commitment, dimensions, indices, values, proof)
    }
}
