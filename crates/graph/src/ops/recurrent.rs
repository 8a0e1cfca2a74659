//! Recurrent networks: simple, gated, and long short-term memory.

use lemma_kernels as kernels;
use lemma_kernels::{PackedB, Unary as U};
use lemma_types::tensor::DType;

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type, show};
use crate::operator::{Concrete, Eval, Operands, Operator};
use crate::ops::expect;
use crate::tensor::Tensor;

/// Which network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Rnn,
    /// `linear_first`: the product with the last state is made before it is gated.
    Gru {
        linear_first: bool,
    },
    /// `coupled`: what is let in is what is not kept.
    Lstm {
        coupled: bool,
    },
}

impl Cell {
    fn gates(self) -> usize {
        match self {
            Cell::Rnn => 1,
            Cell::Gru { .. } => 3,
            Cell::Lstm { .. } => 4,
        }
    }

    /// Activations of one direction.
    pub(crate) fn functions(self) -> usize {
        match self {
            Cell::Rnn => 1,
            Cell::Gru { .. } => 2,
            Cell::Lstm { .. } => 3,
        }
    }
}

/// An activation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Activation {
    Unary(U),
    /// alpha · x + beta.
    Affine(f32, f32),
    /// alpha · tanh(beta · x).
    ScaledTanh(f32, f32),
    /// x where it is at least alpha, else 0.
    Thresholded(f32),
}

impl Activation {
    fn apply(self, isa: kernels::Isa, values: &mut [f32]) {
        match self {
            Activation::Unary(function) => kernels::unary_in_place(isa, function, values),
            Activation::Affine(alpha, beta) => {
                values.iter_mut().for_each(|v| *v = alpha * *v + beta);
            }
            Activation::ScaledTanh(alpha, beta) => {
                values.iter_mut().for_each(|v| *v = beta * *v);
                kernels::unary_in_place(isa, U::Tanh, values);
                values.iter_mut().for_each(|v| *v = alpha * *v);
            }
            Activation::Thresholded(alpha) => values.iter_mut().for_each(|v| {
                if *v < alpha {
                    *v = 0.0;
                }
            }),
        }
    }

    fn attributes(self, canon: &mut Canon) {
        match self {
            Activation::Unary(function) => {
                let op = crate::ops::unary::Unary(function);
                canon.u8(0).text(op.name());
                op.attributes(canon);
            }
            Activation::Affine(a, b) => {
                canon.u8(1).f32(a).f32(b);
            }
            Activation::ScaledTanh(a, b) => {
                canon.u8(2).f32(a).f32(b);
            }
            Activation::Thresholded(a) => {
                canon.u8(3).f32(a);
            }
        }
    }
}

/// Operands: data `[length, batch, inputs]`, weights of the data `[directions, gates · hidden,
/// inputs]`, weights of the state `[directions, gates · hidden, hidden]`, and optionally biases
/// `[directions, 2 · gates · hidden]`, lengths of the sequences, the first state `[directions,
/// batch, hidden]`, the first memory, and weights from memory to gates `[directions, 3 · hidden]`.
/// Outputs: states `[length, directions, batch, hidden]`, the last state, the last memory.
#[derive(Debug)]
pub(crate) struct Recurrent {
    pub(crate) cell: Cell,
    /// For each direction, whether it goes from the end.
    pub(crate) directions: Vec<bool>,
    /// For each direction.
    pub(crate) activations: Vec<Activation>,
    pub(crate) clip: Option<f32>,
}

/// What a direction works with.
struct Direction<'a> {
    functions: &'a [Activation],
    /// Products of the data with its weights: `[length, batch, gates · hidden]`.
    data: Vec<f32>,
    /// Weights of the state, and for a gated network those of its third gate apart.
    state: PackedB,
    candidate: Option<PackedB>,
    bias: Option<&'a [f32]>,
    peepholes: Option<&'a [f32]>,
    hidden: usize,
    gates: usize,
}

impl Direction<'_> {
    /// Bias of the data's and of the state's weights for an element of a gate.
    fn biases(&self, at: usize) -> (f32, f32) {
        self.bias
            .map_or((0.0, 0.0), |b| (b[at], b[self.gates * self.hidden + at]))
    }
}

impl Recurrent {
    fn bound(&self, isa: kernels::Isa, values: &mut [f32]) {
        if let Some(most) = self.clip {
            let function = U::Clip {
                min: -most,
                max: most,
            };
            kernels::unary_in_place(isa, function, values);
        }
    }

    /// (data + state) + (bias + bias) of one row, bounded.
    fn gate(
        &self,
        isa: kernels::Isa,
        d: &Direction<'_>,
        data: &[f32],
        state: &[f32],
        first: usize,
    ) -> Vec<f32> {
        let mut values: Vec<f32> = data
            .iter()
            .zip(state)
            .enumerate()
            .map(|(i, (x, h))| {
                let (w, r) = d.biases(first + i);
                (x + h) + (w + r)
            })
            .collect();
        self.bound(isa, &mut values);
        values
    }

    /// One step of one sequence.
    fn step(
        &self,
        isa: kernels::Isa,
        d: &Direction<'_>,
        data: &[f32],
        h: &mut [f32],
        c: &mut [f32],
    ) {
        let n = d.hidden;
        let mut product = vec![0f32; d.state.n()];
        kernels::gemm(isa, 1, h, &d.state, &mut product);
        match self.cell {
            Cell::Rnn => {
                let mut next = self.gate(isa, d, data, &product, 0);
                d.functions[0].apply(isa, &mut next);
                h.copy_from_slice(&next);
            }
            Cell::Gru { linear_first } => {
                let mut gates = self.gate(isa, d, &data[..2 * n], &product[..2 * n], 0);
                d.functions[0].apply(isa, &mut gates);
                let (update, reset) = gates.split_at(n);
                let mut candidate = match (&d.candidate, linear_first) {
                    (Some(weights), false) => {
                        let gated: Vec<f32> = reset.iter().zip(&*h).map(|(r, h)| r * h).collect();
                        let mut made = vec![0f32; n];
                        kernels::gemm(isa, 1, &gated, weights, &mut made);
                        self.gate(isa, d, &data[2 * n..], &made, 2 * n)
                    }
                    _ => {
                        let element = |i: usize| {
                            let (w, r) = d.biases(2 * n + i);
                            let linear = product[2 * n + i] + r;
                            (data[2 * n + i] + reset[i] * linear) + w
                        };
                        let mut values: Vec<f32> = (0..n).map(element).collect();
                        self.bound(isa, &mut values);
                        values
                    }
                };
                d.functions[1].apply(isa, &mut candidate);
                for i in 0..n {
                    h[i] = (1.0 - update[i]) * candidate[i] + update[i] * h[i];
                }
            }
            Cell::Lstm { coupled } => self.remember(isa, d, (data, &product), h, c, coupled),
        }
    }

    /// A step with memory. Gates: input, output, forget, cell.
    fn remember(
        &self,
        isa: kernels::Isa,
        d: &Direction<'_>,
        (data, product): (&[f32], &[f32]),
        h: &mut [f32],
        c: &mut [f32],
        coupled: bool,
    ) {
        let n = d.hidden;
        let peep = |gate: usize, i: usize, c: f32| d.peepholes.map_or(0.0, |p| p[gate * n + i] * c);
        let raw = |gate: usize, c: &[f32]| {
            let place = |i: usize| {
                let at = gate * n + i;
                let (w, r) = d.biases(at);
                let sum = (data[at] + product[at]) + (w + r);
                // Peepholes are in the order input, output, forget; the cell has none.
                if gate == 3 || d.peepholes.is_none() {
                    sum
                } else {
                    sum + peep(gate, i, c[i])
                }
            };
            let mut values: Vec<f32> = (0..n).map(place).collect();
            self.bound(isa, &mut values);
            values
        };
        let mut input = raw(0, c);
        d.functions[0].apply(isa, &mut input);
        let forget: Vec<f32> = if coupled {
            input.iter().map(|i| 1.0 - i).collect()
        } else {
            let mut forget = raw(2, c);
            d.functions[0].apply(isa, &mut forget);
            forget
        };
        let mut cell = raw(3, c);
        d.functions[1].apply(isa, &mut cell);
        for i in 0..n {
            c[i] = forget[i] * c[i] + input[i] * cell[i];
        }
        let mut output = raw(1, c);
        d.functions[0].apply(isa, &mut output);
        let mut shown = c.to_vec();
        d.functions[2].apply(isa, &mut shown);
        for i in 0..n {
            h[i] = output[i] * shown[i];
        }
    }

    fn direction<'a>(&'a self, cx: &Eval<'a>, which: usize) -> Result<Direction<'a>, OpError> {
        let x = cx.inputs.need(0)?.shape();
        let r = cx.inputs.need(2)?.shape();
        let (inputs, hidden, gates) = (x[2], r[2], self.cell.gates());
        let wide = gates * hidden;
        let weights = &cx.slice::<f32>(1)?[which * wide * inputs..][..wide * inputs];
        let state = &cx.slice::<f32>(2)?[which * wide * hidden..][..wide * hidden];
        let rows = x[0] * x[1];
        let mut data = vec![0f32; rows * wide];
        if !data.is_empty() {
            let packed = PackedB::pack(weights, inputs, wide, true);
            kernels::gemm(cx.isa, rows, cx.slice(0)?, &packed, &mut data);
        }
        let part = |index: usize, size: usize| -> Result<Option<&'a [f32]>, OpError> {
            let all = cx.maybe_slice::<f32>(index)?;
            Ok(all.map(|all| &all[which * size..][..size]))
        };
        let functions = self.cell.functions();
        Ok(Direction {
            functions: &self.activations[which * functions..][..functions],
            data,
            candidate: matches!(self.cell, Cell::Gru { .. })
                .then(|| PackedB::pack(&state[2 * hidden * hidden..], hidden, hidden, true)),
            state: PackedB::pack(state, hidden, wide, true),
            bias: part(3, 2 * wide)?,
            peepholes: part(7, 3 * hidden)?,
            hidden,
            gates,
        })
    }

    fn run(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let [length, batch, _] = *cx.inputs.need(0)?.shape() else {
            return Err(OpError::shape("data has three dimensions"));
        };
        let lengths: Vec<usize> = match cx.inputs.get(4) {
            None => vec![length; batch],
            Some(tensor) => {
                let given = crate::fact::integers(tensor).unwrap_or_default();
                let fits = |&n: &i64| usize::try_from(n).ok().filter(|&n| n <= length);
                let lengths: Option<Vec<usize>> = given.iter().map(fits).collect();
                lengths
                    .filter(|l| l.len() == batch)
                    .ok_or_else(|| OpError::value(format!("sequences of {given:?} of {length}")))?
            }
        };
        let (mut y, count) = (cx.zeros::<f32>(), self.directions.len());
        let state = |index: usize| -> Result<Vec<f32>, OpError> {
            let given = cx.maybe_slice::<f32>(index)?;
            Ok(given.map_or_else(|| vec![0f32; cx.outputs[1].len()], <[f32]>::to_vec))
        };
        let (mut h, mut c) = (state(5)?, state(6)?);
        for (which, &backwards) in self.directions.iter().enumerate() {
            let d = self.direction(cx, which)?;
            let (n, wide) = (d.hidden, d.gates * d.hidden);
            for (b, &steps) in lengths.iter().enumerate() {
                let own = (which * batch + b) * n..(which * batch + b + 1) * n;
                for step in 0..steps {
                    let t = if backwards { steps - 1 - step } else { step };
                    let data = &d.data[(t * batch + b) * wide..][..wide];
                    self.step(cx.isa, &d, data, &mut h[own.clone()], &mut c[own.clone()]);
                    let out = ((t * count + which) * batch + b) * n;
                    y[out..out + n].copy_from_slice(&h[own.clone()]);
                }
            }
        }
        for values in [&mut y, &mut h, &mut c] {
            values.iter_mut().for_each(|v| *v = kernels::canonical(*v));
        }
        let outputs = [y, h, c].into_iter().zip(cx.outputs);
        Ok(outputs
            .map(|(values, out)| Tensor::from_parts(out.shape.clone(), values))
            .collect())
    }
}

impl Operator for Recurrent {
    fn name(&self) -> &'static str {
        match self.cell {
            Cell::Rnn => "RNN/1",
            Cell::Gru { .. } => "GRU/1",
            Cell::Lstm { .. } => "LSTM/1",
        }
    }

    fn attributes(&self, canon: &mut Canon) {
        if let Cell::Gru { linear_first: flag } | Cell::Lstm { coupled: flag } = self.cell {
            canon.flag(flag);
        }
        canon.size(self.directions.len());
        self.directions.iter().for_each(|&d| {
            canon.flag(d);
        });
        self.activations.iter().for_each(|a| a.attributes(canon));
        match self.clip {
            None => canon.u8(0),
            Some(most) => canon.u8(1).f32(most),
        };
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (x, w, r) = (inputs.need(0)?, inputs.need(1)?, inputs.need(2)?);
        let count = Sym::size(self.directions.len());
        let ([length, batch, size], [_, _, hidden]) = (x.shape(), r.shape()) else {
            return Err(OpError::shape("data and weights have three dimensions"));
        };
        let Some(n) = hidden.known().and_then(|n| usize::try_from(n).ok()) else {
            return Err(OpError::operand("input 2", "its shape must be known"));
        };
        let gates = self.cell.gates();
        let wide = n
            .checked_mul(2 * gates)
            .ok_or_else(|| OpError::shape("sizes overflow"))?
            / 2;
        let rows = Sym::size(wide);
        let (n, b) = (hidden.clone(), batch.clone());
        let state = vec![count.clone(), b.clone(), n.clone()];
        let wanted: [(usize, DType, Vec<Sym>); 8] = [
            (0, DType::F32, x.shape().to_vec()),
            (
                1,
                DType::F32,
                vec![count.clone(), rows.clone(), size.clone()],
            ),
            (2, DType::F32, vec![count.clone(), rows.clone(), n.clone()]),
            (3, DType::F32, vec![count.clone(), Sym::size(2 * wide)]),
            (4, DType::I32, vec![b.clone()]),
            (5, DType::F32, state.clone()),
            (6, DType::F32, state.clone()),
            (
                7,
                DType::F32,
                vec![count.clone(), Sym::size(3 * wide / gates)],
            ),
        ];
        for (index, dtype, shape) in wanted {
            let Some(fact) = inputs.get(index) else {
                continue;
            };
            let what = crate::operator::ordinal(index);
            expect(fact, &what, &[dtype])?;
            let fits = fact.rank() == shape.len()
                && fact
                    .shape()
                    .iter()
                    .zip(&shape)
                    .all(|(a, b)| a.unify(b).is_some());
            if !fits {
                return Err(OpError::operand(
                    what,
                    format!("{} is not {}", show(fact.shape()), show(&shape)),
                ));
            }
        }
        let _ = w;
        let all = vec![length.clone(), count, b, n];
        let mut outputs = vec![
            Type::new(DType::F32, all),
            Type::new(DType::F32, state.clone()),
        ];
        if matches!(self.cell, Cell::Lstm { .. }) {
            outputs.push(Type::new(DType::F32, state));
        }
        Ok(outputs)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        self.run(cx)
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        let (Some(x), Some(r)) = (inputs.get(0), inputs.get(2)) else {
            return 0;
        };
        // Each state is a row times the weights of data and state.
        let each = (self.cell.gates() * (x.shape[2] + r.shape[2]) + 8) as u64;
        (outputs[0].len() as u64).saturating_mul(each)
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        let bytes = |i| inputs.get(i).map_or(0, Concrete::bytes);
        let products = outputs[0].bytes().saturating_mul(self.cell.gates() as u64);
        // Weights packed, rounded up to 32 columns.
        let columns = inputs.get(1).map_or(1, |w| w.shape[1].max(1));
        let spread = (columns.next_multiple_of(32) / columns + 1) as u64;
        products
            .saturating_add((bytes(1) + 2 * bytes(2)).saturating_mul(spread))
            .saturating_add(outputs[1].bytes().saturating_mul(4) + (1 << 16))
            .saturating_add(bytes(3))
    }
}
