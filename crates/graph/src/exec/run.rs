//! Runs of programs.

use std::sync::Arc;

use lemma_kernels as kernels;
use lemma_kernels::int8::{self, FiltersInt8Last, Int8, Output, PackedInt8, Quantised};
use lemma_kernels::{FiltersLast, Isa, PackedB, Strided, Threads};
use lemma_types::tensor::DType;

use super::chain::Values;
use super::images::Part;
use super::integer::{Dequantised, Integer, Sink, Sums};
use super::memory::{Held, Slab};
use super::{Action, Arena, At, Batched, Matrices, Program, Step};
use crate::error::{OpError, RunError};
use crate::graph::{Graph, Ref};
use crate::operator::{Concrete, Eval, Operands, Operator, Prepared, typed};
use crate::ops::layout::Transpose;
use crate::ops::quantize::{self, widened};
use crate::ops::unreachable_type;
use crate::plan::{Step as Planned, failed};
use crate::tensor::{Storage, Tensor};

/// Values that are worth a task of a normalisation.
const TASK: usize = 1 << 13;

/// What a run works on.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) planned: &'a [Planned],
    pub(crate) prepared: &'a [Option<Prepared>],
    pub(crate) inputs: &'a [&'a Tensor],
    /// What steps that are carried out image by image read of the rest.
    pub(crate) outside: &'a [Part<'a>],
    pub(crate) isa: Isa,
    pub(crate) threads: &'a Threads,
}

/// Carries a program out; gives the outputs of the graph.
pub(crate) fn run(
    program: &Program,
    cx: &Context<'_>,
    arena: &mut Arena,
) -> Result<Vec<Tensor>, RunError> {
    arena.fit(program);
    let mut values: Vec<Option<Held>> = Vec::new();
    values.resize_with(program.values, || None);
    for step in &program.steps {
        cx.step(program, step, &mut values, arena)
            .map_err(|source| failed(&cx.graph.nodes[step.node], source))?;
        arena.release(program, step, &mut values);
    }
    let outputs = program.outputs.iter();
    Ok(outputs.map(|&at| cx.find(at, &values).clone()).collect())
}

/// What the steps of a run read.
struct Reader<'t, 'a> {
    cx: &'t Context<'a>,
    values: &'t [Option<Held>],
}

impl<'t> Values<'t> for Reader<'t, '_> {
    fn floats(&self, at: At) -> Result<&'t [f32], OpError> {
        self.cx.floats(at, self.values)
    }

    fn bytes(&self, at: At) -> Result<Int8<'t>, OpError> {
        self.cx.int8(at, self.values)
    }

    fn tensor(&self, at: At) -> &'t Tensor {
        self.cx.find(at, self.values)
    }
}

impl<'a> Context<'a> {
    /// The elements of an operand of f32.
    fn floats<'t>(&'t self, at: At, values: &'t [Option<Held>]) -> Result<&'t [f32], OpError>
    where
        'a: 't,
    {
        match at {
            At::Value(id) => values[id]
                .as_ref()
                .and_then(Held::floats)
                .ok_or_else(|| OpError::shape("an operand is not of f32")),
            At::Outside(i) => match self.outside[i] {
                Part::Floats(elements) => Ok(elements),
                Part::Bytes(_) => Err(OpError::shape("an operand is not of f32")),
            },
            _ => typed(self.find(at, values)),
        }
    }

    /// An operand that a tensor was made of.
    fn find<'t>(&'t self, at: At, values: &'t [Option<Held>]) -> &'t Tensor
    where
        'a: 't,
    {
        match at {
            At::Input(i) => self.inputs[i],
            At::Constant(_) => self.there(at, values).unwrap_or_else(|| {
                unreachable!("only operators that hold a constant packed lack it")
            }),
            At::Known(i, output) => &self.planned[i].known.as_ref().expect("known outputs")[output],
            At::Value(id) => match &values[id] {
                Some(Held::Tensor(tensor)) => tensor,
                _ => unreachable!("values are made before they are read, as what is read"),
            },
            At::Outside(_) => unreachable!("steps on images read elements"),
        }
    }

    /// An operand of an operator by itself, unless that has it packed.
    fn there<'t>(&'t self, at: At, values: &'t [Option<Held>]) -> Option<&'t Tensor>
    where
        'a: 't,
    {
        match at {
            At::Constant(i) => self.graph.constants[i].tensor.as_ref(),
            _ => Some(self.find(at, values)),
        }
    }

    fn packed<T: 'static>(&self, step: &Step) -> Result<&T, OpError> {
        let prepared = self.prepared[step.packed].as_ref();
        prepared
            .and_then(|p| p.downcast_ref())
            .ok_or_else(|| OpError::shape("an operand was not packed"))
    }

    pub(super) fn step(
        &self,
        program: &Program,
        step: &Step,
        values: &mut [Option<Held>],
        arena: &mut Arena,
    ) -> Result<(), OpError> {
        match &step.action {
            Action::Plain => {
                let outputs = self.plain(step, values)?;
                for (&id, tensor) in step.writes.iter().zip(outputs) {
                    values[id] = Some(Held::Tensor(tensor));
                }
                return Ok(());
            }
            Action::Alias(at) => {
                let tensor = self.find(*at, values).with_shape(step.shape.clone());
                values[step.writes[0]] = Some(Held::Tensor(tensor));
                return Ok(());
            }
            _ => {}
        }
        let Some(slot) = step.slot else {
            values[step.writes[0]] = Some(Held::Tensor(self.bytes(step, values, arena)?));
            return Ok(());
        };
        let len = step.shape.iter().product();
        let taken = match (&step.action, step.in_place) {
            (
                Action::Chain {
                    x: At::Value(x), ..
                },
                true,
            ) => own(&mut values[*x]),
            _ => None,
        };
        let in_place = taken.is_some();
        let size = program.slots[slot];
        let mut y = match taken {
            Some(taken) => taken,
            None if step.slab => arena.slab(slot, size, len),
            None => Slab::first(arena.take(slot, size, len), len),
        };
        self.compute(step, values, in_place, arena, y.elements())?;
        values[step.writes[0]] = Some(if step.slab {
            Held::Slab(y)
        } else {
            Held::Tensor(Tensor::from_parts(step.shape.clone(), y.into_elements()))
        });
        Ok(())
    }

    fn plain(&self, step: &Step, values: &[Option<Held>]) -> Result<Vec<Tensor>, OpError> {
        let node = &self.graph.nodes[step.node];
        let mut sources = step.plain.iter();
        let operands: Vec<Option<&Tensor>> = node
            .inputs
            .iter()
            .map(|input: &Option<Ref>| {
                input.and_then(|_| sources.next().and_then(|&at| self.there(at, values)))
            })
            .collect();
        node.op.eval(&Eval {
            isa: self.isa,
            threads: self.threads,
            inputs: Operands(&operands),
            outputs: &self.planned[step.node].outputs,
            prepared: self.prepared[step.node].as_ref(),
        })
    }

    pub(super) fn compute(
        &self,
        step: &Step,
        values: &[Option<Held>],
        in_place: bool,
        arena: &Arena,
        y: &mut [f32],
    ) -> Result<(), OpError> {
        let (isa, threads) = (self.isa, self.threads);
        let slice = |at: At| self.floats(at, values);
        match &step.action {
            Action::Product { a, rows, chain } => {
                let (a, b) = (slice(*a)?, self.packed::<PackedB>(step)?);
                chain.resolve(&Reader { cx: self, values }, |chain| {
                    kernels::gemm_with(isa, threads, *rows, a, b, chain, y);
                })
            }
            Action::Batched(batched) => self.batched(batched, values, y),
            Action::Conv {
                x,
                gate,
                input,
                geometry,
                chain,
            } => {
                let (x, filters) = (slice(*x)?, self.packed::<FiltersLast>(step)?);
                let gate = gate.map(slice).transpose()?;
                let conv = geometry;
                chain.resolve(&Reader { cx: self, values }, |chain| match gate {
                    Some(gate) => {
                        kernels::conv_last_gated(isa, threads, conv, x, gate, filters, chain, y);
                    }
                    None => kernels::conv_last(isa, threads, conv, *input, x, filters, chain, y),
                })
            }
            Action::Pool {
                x,
                geometry,
                pooling,
                channels,
            } => {
                kernels::pool_last(isa, threads, geometry, *pooling, *channels, slice(*x)?, y);
                Ok(())
            }
            Action::Places { x, op, sizes } => {
                kernels::reduce_with(isa, threads, *op, *sizes, slice(*x)?, y);
                Ok(())
            }
            Action::Chain { x, n, chain } => {
                if !in_place {
                    y.copy_from_slice(slice(*x)?);
                }
                chain.apply(isa, threads, *n, &Reader { cx: self, values }, y)
            }
            Action::Norm {
                x,
                scale,
                bias,
                epsilon,
                root_mean_square,
            } => {
                let (x, scale) = (slice(*x)?, slice(*scale)?);
                let bias = bias.map(slice).transpose()?;
                let size = (TASK / scale.len()).max(1) * scale.len();
                threads.chunks(y, size, |i, y| {
                    let x = &x[i * size..][..y.len()];
                    if *root_mean_square {
                        kernels::rms_norm(isa, *epsilon, scale, x, y);
                    } else {
                        kernels::layer_norm(isa, *epsilon, scale, bias, x, y);
                    }
                });
                Ok(())
            }
            Action::Transpose {
                x,
                sizes: [batch, rows, columns],
            } => {
                kernels::transpose(threads, *batch, *rows, *columns, slice(*x)?, y);
                Ok(())
            }
            Action::Images(images) => {
                let part = |at| self.part(at, values);
                images.run(self, part, &arena.inner, y, |cx, step, values, arena, y| {
                    cx.compute(step, values, false, arena, y)
                })
            }
            Action::Integer(integer) => self.integer(step, integer, values, Output::Float(y)),
            Action::Dequantise(d) => self.dequantise(d, values, Output::Float(y)),
            Action::Plain
            | Action::Alias(_)
            | Action::Quantise { .. }
            | Action::Largest { .. }
            | Action::Turn { .. } => Ok(()),
        }
    }

    /// What a step makes of 8-bit integers.
    fn bytes(
        &self,
        step: &Step,
        values: &[Option<Held>],
        arena: &mut Arena,
    ) -> Result<Tensor, OpError> {
        let len = step.shape.iter().product();
        if let Action::Largest {
            x,
            geometry,
            channels,
        } = &step.action
        {
            let x = self.int8(*x, values)?;
            return Ok(largest(self, geometry, *channels, x, &step.shape, arena));
        }
        if let Action::Turn { x, shape, order } = &step.action {
            let x = self.find(*x, values).with_shape(shape.clone());
            return self.reordered(&x, order, step);
        }
        let Some(sink) = step.action.sink() else {
            let (Action::Transpose { x, sizes }, shape) = (&step.action, step.shape.clone()) else {
                return Err(OpError::shape("a step makes no integers"));
            };
            let x = self.find(*x, values);
            return Ok(match x.storage() {
                Storage::U8(x) => {
                    let y = self.turned(x, *sizes, arena.unsigned.take(len));
                    Tensor::from_parts(shape, y)
                }
                Storage::I8(x) => {
                    let y = self.turned(x, *sizes, arena.signed.take(len));
                    Tensor::from_parts(shape, y)
                }
                _ => return Err(unreachable_type(x.dtype())),
            });
        };
        Ok(if sink.to == DType::U8 {
            let mut y = arena.unsigned.take(len);
            self.quantised(step, sink, values, arena, Quantised::Unsigned(&mut y))?;
            Tensor::from_parts(step.shape.clone(), y)
        } else {
            let mut y = arena.signed.take(len);
            self.quantised(step, sink, values, arena, Quantised::Signed(&mut y))?;
            Tensor::from_parts(step.shape.clone(), y)
        })
    }

    /// A tensor with its dimensions in another order.
    fn reordered(&self, x: &Tensor, order: &[usize], step: &Step) -> Result<Tensor, OpError> {
        let op = Transpose {
            perm: order.to_vec(),
        };
        let mut made = op.eval(&Eval {
            isa: self.isa,
            threads: self.threads,
            inputs: Operands(&[Some(x)]),
            outputs: &[Concrete {
                dtype: x.dtype(),
                shape: step.shape.clone(),
            }],
            prepared: None,
        })?;
        made.pop()
            .ok_or_else(|| OpError::shape("a transposition makes one tensor"))
    }

    fn turned<T: Copy + Send + Sync>(
        &self,
        x: &[T],
        [batch, rows, columns]: [usize; 3],
        mut y: Vec<T>,
    ) -> Vec<T> {
        kernels::transpose(self.threads, batch, rows, columns, x, &mut y);
        y
    }

    /// What a step quantises.
    fn quantised(
        &self,
        step: &Step,
        sink: Sink,
        values: &[Option<Held>],
        arena: &Arena,
        y: Quantised<'_>,
    ) -> Result<(), OpError> {
        let scale = self.number(sink.scale, values)?;
        let zero = self.zero(sink.zero, values)?;
        let part = |at| self.part(at, values);
        match (&step.action, y) {
            (Action::Integer(integer), y) => {
                self.integer(step, integer, values, Output::Quantised { y, scale, zero })
            }
            (Action::Dequantise(dequantised), y) => {
                self.dequantise(dequantised, values, Output::Quantised { y, scale, zero })
            }
            (Action::Quantise { x, .. }, y) => {
                let x = self.floats(*x, values)?;
                int8::quantize(self.isa, self.threads, x, scale, zero, y);
                Ok(())
            }
            (Action::Images(images), Quantised::Unsigned(y)) => {
                images.run(self, part, &arena.inner, y, |cx, step, values, arena, y| {
                    cx.quantised(step, sink, values, arena, Quantised::Unsigned(y))
                })
            }
            (Action::Images(images), Quantised::Signed(y)) => {
                images.run(self, part, &arena.inner, y, |cx, step, values, arena, y| {
                    cx.quantised(step, sink, values, arena, Quantised::Signed(y))
                })
            }
            _ => Err(OpError::shape("a step makes no integers")),
        }
    }

    /// The elements of an operand of f32 or of 8-bit integers.
    fn part<'t>(&'t self, at: At, values: &'t [Option<Held>]) -> Result<Part<'t>, OpError> {
        match self.floats(at, values) {
            Ok(elements) => Ok(Part::Floats(elements)),
            Err(_) => self.int8(at, values).map(Part::Bytes),
        }
    }

    /// The one element of a tensor of f32.
    fn number(&self, at: At, values: &[Option<Held>]) -> Result<f32, OpError> {
        let first = self.floats(at, values)?.first().copied();
        first.ok_or_else(|| OpError::shape("an operand is empty"))
    }

    /// One zero point, or 0.
    fn zero(&self, at: Option<At>, values: &[Option<Held>]) -> Result<i32, OpError> {
        let zeros = self.zeros(at, values)?;
        let first = zeros.first().copied();
        first.ok_or_else(|| OpError::shape("an operand is empty"))
    }

    fn zeros(&self, at: Option<At>, values: &[Option<Held>]) -> Result<Vec<i32>, OpError> {
        at.map_or(Ok(vec![0]), |at| widened(self.find(at, values)))
    }

    fn int8<'t>(&'t self, at: At, values: &'t [Option<Held>]) -> Result<Int8<'t>, OpError> {
        if let At::Outside(i) = at {
            return match self.outside[i] {
                Part::Bytes(elements) => Ok(elements),
                Part::Floats(_) => Err(OpError::shape("an operand is not of 8-bit integers")),
            };
        }
        let tensor = self.find(at, values);
        quantize::bytes(tensor).ok_or_else(|| unreachable_type(tensor.dtype()))
    }

    fn integer(
        &self,
        step: &Step,
        integer: &Integer,
        values: &[Option<Held>],
        to: Output<'_>,
    ) -> Result<(), OpError> {
        let (isa, threads) = (self.isa, self.threads);
        let reader = Reader { cx: self, values };
        let x = self.int8(integer.x, values)?;
        let zero = self.zero(integer.zero, values)?;
        match &integer.sums {
            Sums::Product { rows, zeros } => {
                let b = self.packed::<PackedInt8>(step)?;
                let zeros = self.zeros(*zeros, values)?;
                integer.chain.resolve(&reader, |chain| {
                    int8::gemm_int8_with(isa, threads, *rows, x, zero, b, &zeros, chain, to);
                })
            }
            Sums::Pairs(pairs) => {
                let right = self.int8(pairs.b.at, values)?;
                let b_zero = self.zero(pairs.zero, values)?;
                integer.chain.resolve(&reader, |chain| {
                    pairs.multiply(isa, threads, (x, zero), (right, b_zero), chain, to);
                })
            }
            Sums::Conv(geometry) => {
                let filters = self.packed::<FiltersInt8Last>(step)?;
                integer.chain.resolve(&reader, |chain| {
                    int8::conv_int8_last(isa, threads, geometry, x, zero, filters, chain, to);
                })
            }
        }
    }

    fn dequantise(
        &self,
        d: &Dequantised,
        values: &[Option<Held>],
        to: Output<'_>,
    ) -> Result<(), OpError> {
        let x = self.int8(d.x, values)?;
        let (scale, zero) = (self.number(d.scale, values)?, self.zero(d.zero, values)?);
        d.chain.resolve(&Reader { cx: self, values }, |chain| {
            int8::dequantize(self.isa, self.threads, x, scale, zero, d.n, chain, to);
        })
    }

    fn batched(&self, b: &Batched, values: &[Option<Held>], y: &mut [f32]) -> Result<(), OpError> {
        let slice = |at: At| self.floats(at, values);
        let operand = |m: &'_ Matrices| -> Result<(&[f32], usize, usize), OpError> {
            Ok((slice(m.at)?, m.row, m.column))
        };
        let [left, right] = [operand(&b.a)?, operand(&b.b)?];
        let strided = |(values, row, column), batch| Strided {
            values,
            batch,
            row,
            column,
        };
        b.chain.resolve(&Reader { cx: self, values }, |chain| {
            kernels::matmul_strided(
                self.isa,
                self.threads,
                b.sizes,
                &b.batch,
                &strided(left, &b.a.batch),
                &strided(right, &b.b.batch),
                chain,
                y,
                &b.c_batch,
                b.c_row,
            );
        })
    }
}

/// The largest integers under a window, channels last.
fn largest(
    cx: &Context<'_>,
    geometry: &kernels::Pool,
    channels: usize,
    x: Int8<'_>,
    shape: &[usize],
    arena: &mut Arena,
) -> Tensor {
    let len = shape.iter().product();
    let (isa, threads) = (cx.isa, cx.threads);
    match x {
        Int8::Unsigned(x) => {
            let mut y = arena.unsigned.take(len);
            kernels::max_pool_last(isa, threads, geometry, channels, u8::MIN, x, &mut y);
            Tensor::from_parts(shape.to_vec(), y)
        }
        Int8::Signed(x) => {
            let mut y = arena.signed.take(len);
            kernels::max_pool_last(isa, threads, geometry, channels, i8::MIN, x, &mut y);
            Tensor::from_parts(shape.to_vec(), y)
        }
    }
}

/// Takes the elements of a value, unless somebody else holds them too.
fn own(value: &mut Option<Held>) -> Option<Slab> {
    let tensor = match value.take()? {
        Held::Slab(slab) => return Some(slab),
        Held::Tensor(tensor) => tensor,
    };
    let shape = tensor.shape().to_vec();
    let storage = match tensor.into_storage() {
        Storage::F32(shared) => match Arc::try_unwrap(shared) {
            Ok(elements) => {
                let len = elements.len();
                return Some(Slab::first(elements, len));
            }
            Err(shared) => Storage::F32(shared),
        },
        storage => storage,
    };
    *value = Some(Held::Tensor(Tensor::from_storage(shape, storage)));
    None
}
