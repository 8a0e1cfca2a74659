//! Pooling over windows.

use lemma_kernels as kernels;
use lemma_kernels::PoolSpec;
use lemma_types::tensor::DType;

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type};
use crate::operator::{Concrete, Eval, Operands, Operator};
use crate::ops::conv::{Sliding, known_where};
use crate::ops::expect;
use crate::tensor::Tensor;

/// What is made of a window.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PoolKind {
    Max,
    /// The mean; `include_pad` counts positions of the padding as zeros.
    Average {
        include_pad: bool,
    },
}

/// Pooling of `[batch, channels, …]` over one to three spatial axes.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) kind: PoolKind,
    pub(crate) ceil_mode: bool,
    pub(crate) window: Sliding,
}

impl Pool {
    pub(crate) fn geometry(
        &self,
        planes: usize,
        spatial: &[usize],
    ) -> Result<kernels::Pool, OpError> {
        let pads = self.window.pads(spatial)?;
        Ok(kernels::Pool::new(&PoolSpec {
            planes,
            input: spatial,
            kernel: &self.window.kernel,
            strides: &self.window.strides,
            dilations: &self.window.dilations,
            pads_begin: &pads.before,
            pads_end: &pads.after,
            ceil_mode: self.ceil_mode,
        })?)
    }
}

impl Operator for Pool {
    fn name(&self) -> &'static str {
        match self.kind {
            PoolKind::Max => "MaxPool/1",
            PoolKind::Average { .. } => "AveragePool/1",
        }
    }

    fn attributes(&self, canon: &mut Canon) {
        if let PoolKind::Average { include_pad } = self.kind {
            canon.flag(include_pad);
        }
        canon.flag(self.ceil_mode);
        self.window.attributes(canon);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        expect(x, "input 0", &[DType::F32])?;
        let [batch, channels, spatial @ ..] = x.shape() else {
            return Err(OpError::shape(
                "data needs a batch, a channel, and spatial dimensions",
            ));
        };
        self.window.check_rank(spatial.len())?;
        let planes = batch
            .mul(channels)
            .known()
            .and_then(|n| usize::try_from(n).ok());
        let sizes = self.window.stand_in(spatial)?;
        let geometry = self.geometry(planes.unwrap_or(1), &sizes)?;
        let mut shape: Vec<Sym> = vec![batch.clone(), channels.clone()];
        shape.extend(known_where(spatial, &geometry.output_shape()));
        Ok(vec![Type::new(DType::F32, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.inputs.need(0)?;
        let [batch, channels, spatial @ ..] = x.shape() else {
            return Err(OpError::shape("data needs at least three dimensions"));
        };
        let mut y = cx.zeros();
        let geometry = self.geometry(batch * channels, spatial)?;
        match self.kind {
            PoolKind::Max => kernels::max_pool(cx.isa, &geometry, cx.slice(0)?, &mut y),
            PoolKind::Average { include_pad } => {
                kernels::average_pool(cx.isa, &geometry, include_pad, cx.slice(0)?, &mut y);
            }
        }
        cx.output(y)
    }

    fn cost(&self, _: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        let window = self
            .window
            .kernel
            .iter()
            .fold(1u64, |n, &k| n.saturating_mul(k as u64));
        (outputs[0].len() as u64).saturating_mul(window)
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        inputs.get(0).map_or(0, |x| {
            let planes = x.shape[0] * x.shape[1];
            self.window
                .padded_bytes(planes, &x.shape[2..], &outputs[0].shape[2..])
        })
    }
}
