//! Steps that are carried out image by image.
//!
//! What a convolution makes of a batch may be larger than any cache, so that the next step reads it from memory. Steps
//! that treat each image alone are therefore gathered into one, which takes the first image through all of them, then the
//! next; the threads share the images. It ends where filters weigh more than what they are applied to: there it is better
//! that many images share what is read of the filters.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use lemma_kernels::int8::{FiltersInt8Last, Int8};
use lemma_kernels::{Conv, FiltersLast, Isa, Threads};

use super::chain::{ChainSpec, LinkSpec, Operand};
use super::integer::{Dequantised, Integer, Sink, Sums, convolution_scratch};
use super::memory::{Held, Value, lay_out, reads};
use super::run::Context;
use super::{Action, Arena, At, Id, Program, Step};
use crate::error::OpError;

/// Bytes of filters that stay in the cache from one image to the next.
const HELD_FILTERS: u64 = 256 << 10;

/// Fewest convolutions that are worth the trouble.
const FEWEST: usize = 2;

/// Places of an image below which the images of a batch had better go through a convolution together, as rows of one
/// product.
const FEW_PLACES: usize = 16;

/// Elements that steps on one image read of the rest of a program.
#[derive(Clone, Copy)]
pub(crate) enum Part<'a> {
    Floats(&'a [f32]),
    Bytes(Int8<'a>),
}

impl<'a> Part<'a> {
    /// One of `count` equal parts.
    fn share(self, count: usize, index: usize) -> Part<'a> {
        let of = |len: usize| index * (len / count)..(index + 1) * (len / count);
        match self {
            Part::Floats(x) => Part::Floats(&x[of(x.len())]),
            Part::Bytes(Int8::Unsigned(x)) => Part::Bytes(Int8::Unsigned(&x[of(x.len())])),
            Part::Bytes(Int8::Signed(x)) => Part::Bytes(Int8::Signed(&x[of(x.len())])),
        }
    }
}

/// Steps on one image after the other.
#[derive(Debug)]
pub(super) struct Images {
    count: usize,
    /// What the steps read of the rest of the program: [`At::Outside`] counts these.
    pub(super) operands: Vec<Outside>,
    /// The steps for one image. The last one makes what the rest of the program reads.
    program: Program,
}

/// An operand of steps that are carried out for each image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Outside {
    pub(super) at: At,
    /// Whether each image has its part, or all have the same.
    each: bool,
}

/// Gathers steps where that is worth it; `scratch` is what each of them holds besides.
pub(super) fn gather(
    steps: &mut Vec<Step>,
    scratch: &mut Vec<(u64, u64)>,
    values: &[Value],
    outputs: &[At],
) {
    // The last step that reads each value, the caller counting as one more step.
    let mut last_read = vec![0; values.len()];
    for (index, step) in steps.iter().enumerate() {
        for at in reads(&step.action, &step.plain) {
            if let At::Value(id) = at {
                last_read[id] = index;
            }
        }
    }
    for at in outputs {
        if let At::Value(id) = *at {
            last_read[id] = steps.len();
        }
    }
    let mut found = Vec::new();
    let mut index = 0;
    while index < steps.len() {
        match Images::of(&steps[index..], index, scratch, values, &last_read) {
            Some((images, end)) => {
                found.push((end - 1, images));
                index = end;
            }
            None => index += 1,
        }
    }
    let held = std::mem::take(scratch);
    let mut found = found.into_iter().peekable();
    for (index, (step, own)) in std::mem::take(steps).into_iter().zip(held).enumerate() {
        let Some((last, images)) = found.next_if(|(last, _)| *last == index) else {
            let covered = found.peek().is_some_and(|(last, images)| {
                (last + 1 - images.program.steps.len()..*last).contains(&index)
            });
            if !covered {
                steps.push(step);
                scratch.push(own);
            }
            continue;
        };
        debug_assert_eq!(last, index);
        scratch.push((0, images.program.memory(1).0));
        let reads = images.operands.iter().map(|outside| outside.at);
        steps.push(Step {
            free: reads.filter_map(id).collect(),
            action: Action::Images(Box::new(images)),
            ..step
        });
    }
}

fn id(at: At) -> Option<Id> {
    match at {
        At::Value(id) => Some(id),
        _ => None,
    }
}

/// An operand that is the same in every run: it is read where it lies.
fn fixed(at: At) -> Option<At> {
    matches!(at, At::Constant(_) | At::Known(..)).then_some(at)
}

/// The geometry of a convolution.
fn convolution(action: &Action) -> Option<&Conv> {
    match action {
        Action::Conv { geometry, .. } => Some(geometry),
        Action::Integer(integer) => match &integer.sums {
            Sums::Conv(geometry) => Some(geometry),
            _ => None,
        },
        _ => None,
    }
}

impl Images {
    /// As many of these steps as can be gathered, the first being number `first` of all; and the number of the step after
    /// them.
    fn of(
        steps: &[Step],
        first: usize,
        scratch: &[(u64, u64)],
        values: &[Value],
        last_read: &[usize],
    ) -> Option<(Images, usize)> {
        convolution(&steps[0].action)?;
        let count = *steps[0].shape.first().filter(|&&n| n > 1)?;
        let mut one = One {
            count,
            operands: Vec::new(),
            inner: BTreeMap::new(),
        };
        let mut program = Vec::new();
        // Up to where all but the last step's value are read by these steps alone: steps, operands, values.
        let mut whole = (0, 0);
        let (mut convolutions, mut many_places) = (0, false);
        for (i, step) in steps.iter().enumerate() {
            let Some(step) = one.step(step, values) else {
                break;
            };
            if let Some(geometry) = convolution(&step.action) {
                many_places = geometry.output_len() >= FEW_PLACES * geometry.out_channels();
                convolutions += usize::from(many_places);
            }
            let made = values[steps[i].writes[0]].slotted || step.action.sink().is_some();
            program.push(step);
            let end = first + i + 1;
            let outside = one.inner.keys().filter(|&&id| last_read[id] >= end);
            if convolutions >= FEWEST
                && many_places
                && outside.count() == 1
                && made
                && last_read[steps[i].writes[0]] >= end
            {
                whole = (i + 1, one.operands.len());
            }
        }
        let (end, operands) = whole;
        if end == 0 {
            return None;
        }
        program.truncate(end);
        one.operands.truncate(operands);
        let inner: Vec<Value> = (steps[..end].iter())
            .map(|step| Value {
                elements: values[step.writes[0]].elements / count,
                bytes: values[step.writes[0]].bytes / count as u64,
                slotted: values[step.writes[0]].slotted,
                aliases: Vec::new(),
            })
            .collect();
        let scratch: Vec<(u64, u64)> = (program.iter().zip(&scratch[first..]))
            .map(|(step, &held)| match &step.action {
                Action::Integer(integer) => match &integer.sums {
                    Sums::Conv(own) => convolution_scratch(own),
                    _ => held,
                },
                _ => held,
            })
            .collect();
        let mut program = Program {
            outputs: vec![At::Value(end - 1)],
            values: inner.len(),
            ..Program::of(program)
        };
        lay_out(&mut program, &inner, &scratch);
        Some((
            Images {
                count,
                operands: one.operands,
                program,
            },
            first + end,
        ))
    }

    /// The quantisation with which the last step ends.
    pub(super) fn sink(&self) -> Option<Sink> {
        self.program.steps.last()?.action.sink()
    }

    /// Takes all images through the steps; `read` gives the elements of an operand, and `last` carries the last step out.
    pub(super) fn run<'t, T: Send>(
        &self,
        cx: &Context<'_>,
        read: impl Fn(At) -> Result<Part<'t>, OpError>,
        arenas: &Mutex<Vec<Arena>>,
        y: &mut [T],
        last: impl Fn(&Context<'_>, &Step, &[Option<Held>], &Arena, &mut [T]) -> Result<(), OpError>
        + Sync,
    ) -> Result<(), OpError> {
        let operands = (self.operands.iter())
            .map(|operand| read(operand.at))
            .collect::<Result<Vec<_>, _>>()?;
        let lock = || arenas.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = Mutex::new(None);
        let one = |threads: &Threads, image: usize, y: &mut [T]| {
            let part = |(outside, values): (&Outside, &Part<'t>)| match outside.each {
                true => values.share(self.count, image),
                false => *values,
            };
            let parts: Vec<Part<'_>> = self.operands.iter().zip(&operands).map(part).collect();
            let cx = Context {
                outside: &parts,
                threads,
                ..*cx
            };
            let mut arena = lock().pop().unwrap_or_default();
            if let Err(error) = self.image(&cx, &mut arena, y, &last) {
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
            lock().push(arena);
        };
        let (threads, len) = (cx.threads, y.len() / self.count);
        // So many that none waits long for the others at the end.
        let shared = self.count.is_multiple_of(threads.count()) || self.count > 4 * threads.count();
        if shared && threads.count() > 1 {
            threads.chunks(y, len, |image, y| one(&Threads::single(), image, y));
        } else {
            for (image, y) in y.chunks_exact_mut(len).enumerate() {
                one(threads, image, y);
            }
        }
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        failed.map_or(Ok(()), Err)
    }

    /// Takes one image through the steps.
    fn image<T>(
        &self,
        cx: &Context<'_>,
        arena: &mut Arena,
        y: &mut [T],
        make: impl Fn(&Context<'_>, &Step, &[Option<Held>], &Arena, &mut [T]) -> Result<(), OpError>,
    ) -> Result<(), OpError> {
        let program = &self.program;
        arena.fit(program);
        let mut values: Vec<Option<Held>> = Vec::new();
        values.resize_with(program.values, || None);
        let Some((last, steps)) = program.steps.split_last() else {
            return Ok(());
        };
        for step in steps {
            cx.step(program, step, &mut values, arena)?;
            arena.release(program, step, &mut values);
        }
        make(cx, last, &values, arena, y)?;
        arena.release(program, last, &mut values);
        Ok(())
    }
}

/// Steps on a batch as steps on one image.
struct One {
    /// Images of the batch.
    count: usize,
    operands: Vec<Outside>,
    /// The values that the steps make, by their number in the whole program.
    inner: BTreeMap<Id, Id>,
}

impl One {
    /// A step for one image, if it treats each image alone.
    fn step(&mut self, step: &Step, values: &[Value]) -> Option<Step> {
        let [written] = step.writes[..] else {
            return None;
        };
        let Value {
            elements,
            bytes,
            slotted,
            ..
        } = values[written];
        if step.shape.first() != Some(&self.count) || !(slotted || bytes == elements as u64) {
            return None;
        }
        let mut shape = step.shape.clone();
        shape[0] = 1;
        let action = match slotted {
            true => self.action(step, shape.iter().product())?,
            false => self.integers(&step.action, shape.iter().product())?,
        };
        let id = self.inner.len();
        self.inner.insert(written, id);
        let free = reads(&action, &[]).into_iter().filter_map(self::id);
        Some(Step {
            node: step.node,
            packed: step.packed,
            writes: vec![id],
            free: free.collect(),
            action,
            slot: None,
            slab: false,
            shape,
            in_place: false,
            plain: Vec::new(),
        })
    }

    fn action(&mut self, step: &Step, elements: usize) -> Option<Action> {
        let count = self.count;
        Some(match &step.action {
            Action::Conv {
                x,
                gate,
                input,
                geometry,
                chain,
            } => {
                let own = geometry.share(count)?;
                let weight = FiltersLast::bytes(&own);
                let values = (own.input_len() + own.output_len()) * size_of::<f32>();
                if weight > HELD_FILTERS.max(values as u64) {
                    return None;
                }
                let rows = elements / own.out_channels();
                let gate = match gate {
                    Some(gate) => Some(self.at(*gate, true)?),
                    None => None,
                };
                Action::Conv {
                    x: self.at(*x, true)?,
                    gate,
                    input: *input,
                    geometry: own,
                    chain: self.chain(chain, rows)?,
                }
            }
            Action::Pool {
                x,
                geometry,
                pooling,
                channels,
            } => Action::Pool {
                x: self.at(*x, true)?,
                geometry: geometry.share(count)?,
                pooling: *pooling,
                channels: *channels,
            },
            Action::Places { x, op, sizes } if sizes[0] == count => Action::Places {
                x: self.at(*x, true)?,
                op: *op,
                sizes: [1, sizes[1], sizes[2]],
            },
            Action::Chain { x, n, chain } => Action::Chain {
                x: self.at(*x, true)?,
                n: *n,
                chain: self.chain(chain, elements / n)?,
            },
            Action::Transpose { x, sizes } if sizes[0] == count => Action::Transpose {
                x: self.at(*x, true)?,
                sizes: [1, sizes[1], sizes[2]],
            },
            action => return self.integers(action, elements),
        })
    }

    /// What a step on integers is, or one that makes some.
    fn integers(&mut self, action: &Action, elements: usize) -> Option<Action> {
        Some(match action {
            Action::Integer(integer) => {
                let Sums::Conv(geometry) = &integer.sums else {
                    return None;
                };
                let own = geometry.share(self.count)?;
                let values = (own.input_len() + own.output_len()) as u64;
                if FiltersInt8Last::bytes(Isa::detect(), &own) > HELD_FILTERS.max(values) {
                    return None;
                }
                let rows = elements / own.out_channels();
                Action::Integer(Box::new(Integer {
                    x: self.at(integer.x, true)?,
                    zero: Self::zero(integer.zero)?,
                    sums: Sums::Conv(Box::new(own)),
                    chain: self.chain(&integer.chain, rows)?,
                    sink: Self::sink(integer.sink)?,
                }))
            }
            Action::Largest {
                x,
                geometry,
                channels,
            } => Action::Largest {
                x: self.at(*x, true)?,
                geometry: geometry.share(self.count)?,
                channels: *channels,
            },
            Action::Dequantise(d) => Action::Dequantise(Box::new(Dequantised {
                x: self.at(d.x, true)?,
                scale: fixed(d.scale)?,
                zero: Self::zero(d.zero)?,
                n: d.n,
                chain: self.chain(&d.chain, elements / d.n)?,
                sink: Self::sink(d.sink)?,
            })),
            Action::Quantise { x, sink } => Action::Quantise {
                x: self.at(*x, true)?,
                sink: Self::sink(Some(*sink))??,
            },
            _ => return None,
        })
    }

    /// A quantisation, if it is known before the run.
    fn sink(sink: Option<Sink>) -> Option<Option<Sink>> {
        sink.map_or(Some(None), |sink| {
            let (scale, zero) = (fixed(sink.scale)?, Self::zero(sink.zero)?);
            Some(Some(Sink {
                scale,
                zero,
                ..sink
            }))
        })
    }

    /// A zero point, likewise.
    fn zero(zero: Option<At>) -> Option<Option<At>> {
        zero.map_or(Some(None), |at| fixed(at).map(Some))
    }

    /// An operand, of which each image has its part or all have the same.
    fn at(&mut self, at: At, each: bool) -> Option<At> {
        if let At::Value(id) = at
            && let Some(&inner) = self.inner.get(&id)
        {
            // Of these values one image has only its own part.
            return each.then_some(At::Value(inner));
        }
        let outside = Outside { at, each };
        let known = self.operands.iter().position(|&o| o == outside);
        Some(At::Outside(known.unwrap_or_else(|| {
            self.operands.push(outside);
            self.operands.len() - 1
        })))
    }

    /// A chain on the rows of one image, if its operands lie image by image.
    fn chain(&mut self, chain: &ChainSpec, rows: usize) -> Option<ChainSpec> {
        let links = chain.links.iter().map(|link| {
            Some(match link {
                LinkSpec::Binary(op, a, b) => {
                    LinkSpec::Binary(*op, self.operand(*a, rows)?, self.operand(*b, rows)?)
                }
                LinkSpec::Unary(..) | LinkSpec::Softmax(_) => link.clone(),
                LinkSpec::Dequantise(at, how) => {
                    LinkSpec::Dequantise(self.at(*at, true)?, Self::sink(Some(*how))??)
                }
                LinkSpec::Requantise(v, how) => LinkSpec::Requantise(*v, Self::sink(Some(*how))??),
                LinkSpec::Select { .. } => return None,
            })
        });
        Some(ChainSpec {
            links: links.collect::<Option<_>>()?,
        })
    }

    fn operand(&mut self, operand: Operand, rows: usize) -> Option<Operand> {
        let mut part = |at: At, divide: usize, modulo: usize| -> Option<(At, usize, usize)> {
            if (divide, modulo) == (1, usize::MAX) {
                Some((self.at(at, true)?, divide, modulo))
            } else if (divide, modulo) == (rows, self.count) {
                Some((self.at(at, true)?, 1, 1))
            } else if rows.is_multiple_of(divide.checked_mul(modulo)?) {
                Some((self.at(at, false)?, divide, modulo))
            } else {
                None
            }
        };
        Some(match operand {
            Operand::Value(v) => Operand::Value(v),
            Operand::Rows { at, divide, modulo } => {
                let (at, divide, modulo) = part(at, divide, modulo)?;
                Operand::Rows { at, divide, modulo }
            }
            Operand::Each { at, divide, modulo } => {
                let (at, divide, modulo) = part(at, divide, modulo)?;
                Operand::Each { at, divide, modulo }
            }
            Operand::Scalar(at) => Operand::Scalar(self.at(at, false)?),
        })
    }
}
