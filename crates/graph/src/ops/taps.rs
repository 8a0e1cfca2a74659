//! Windows walked place by place: plain definitions for operators that no kernel makes fast.

use crate::error::OpError;
use crate::ops::broadcast::strides;
use crate::ops::conv::Sliding;

/// Which input lies under which position of which window, along each axis.
pub(crate) struct Taps {
    /// For each axis, output and position of the window: the place in the input, if there is one.
    axes: Vec<Vec<Vec<Option<usize>>>>,
    input: Vec<usize>,
    output: Vec<usize>,
    kernel: Vec<usize>,
}

impl Sliding {
    /// The places of all windows over an input of these sizes.
    pub(crate) fn taps(&self, input: &[usize], output: &[usize]) -> Result<Taps, OpError> {
        let pads = self.pads(input)?;
        let axis = |i: usize| {
            let place = |o: usize, k: usize| {
                let at = o.checked_mul(self.strides[i])?;
                let at = at.checked_add(k.checked_mul(self.dilations[i])?)?;
                at.checked_sub(pads.before[i]).filter(|&p| p < input[i])
            };
            let window = |o| (0..self.kernel[i]).map(|k| place(o, k)).collect();
            (0..output[i]).map(window).collect()
        };
        Ok(Taps {
            axes: (0..input.len()).map(axis).collect(),
            input: input.to_vec(),
            output: output.to_vec(),
            kernel: self.kernel.clone(),
        })
    }

    /// Bytes that [`Sliding::taps`] holds.
    pub(crate) fn tap_bytes(&self, output: &[usize]) -> u64 {
        let along = |(&o, &k): (&usize, &usize)| (o as u64).saturating_mul(16 * k as u64 + 24);
        let axes = output.iter().zip(&self.kernel).map(along);
        axes.fold(0, u64::saturating_add)
    }
}

impl Taps {
    /// Positions of one window and their places in the input.
    pub(crate) fn window(&self, o: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        let (out, own, taps) = (
            strides(&self.output),
            strides(&self.input),
            strides(&self.kernel),
        );
        let rows: Vec<&[Option<usize>]> = (0..self.axes.len())
            .map(|i| &self.axes[i][o / out[i] % self.output[i]][..])
            .collect();
        (0..self.kernel.iter().product()).filter_map(move |tap| {
            let mut at = 0;
            for (i, row) in rows.iter().enumerate() {
                at += own[i] * row[tap / taps[i] % self.kernel[i]]?;
            }
            Some((tap, at))
        })
    }
}
