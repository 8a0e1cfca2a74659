//! The integer graph under construction.
//!
//! Every value of the float graph is a [`Value`]: a sum that has not been rounded yet
//! ([`Lazy`]), and a function that is still to be applied to it. Only when something needs the
//! elements themselves is the sum rounded into a node, and function and rounding become one table.
//! The calibration samples run along, so that every scale is chosen from what the integer graph
//! itself computes.

use std::cell::RefCell;
use std::rc::Rc;

use super::super::bounds::{self, Interval};
use super::super::execute::Execution;
use super::super::view::{NOTHING, factorise};
use super::super::{
    Expression, MAX_TABLE_BITS, Node, QuantiseError, SUM_BITS, Skeleton, Source, Table,
    TensorRange, Term, View, batched_term,
};

/// A function of one real value, over many values at once.
pub(super) type Function = Rc<dyn Fn(&[f64]) -> Vec<f64>>;

/// The range that a rounded value is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Width(pub(super) i32);

/// Operands of products of many terms: 8 bits.
pub(super) const NARROW: Width = Width(127);

/// Values of which there are few: 16 bits.
pub(super) const PRECISE: Width = Width(i16::MAX as i32);

/// A term of a sum.
#[derive(Clone)]
pub(super) enum LazyTerm {
    /// Elements of a tensor, through a map from the sum's indices followed by those of further
    /// axes, over which is summed.
    Linear {
        coefficient: i64,
        source: Source,
        map: Rc<Vec<u32>>,
        summed: Vec<usize>,
    },
    /// A product over the sum's axes and contracted ones.
    Product {
        coefficient: i64,
        left: View,
        right: View,
        contracted: Vec<usize>,
    },
}

/// A sum that has not been rounded: an element of 1 stands for `scale`.
#[derive(Clone)]
pub(super) struct Lazy {
    pub(super) shape: Vec<usize>,
    pub(super) terms: Vec<LazyTerm>,
    pub(super) scale: f64,
}

/// What a value has been rounded to, for each range.
type Rounded = Rc<RefCell<Vec<(Width, Rc<Lazy>)>>>;

/// A value of the float graph.
#[derive(Clone)]
pub(super) struct Value {
    pub(super) base: Rc<Lazy>,
    pub(super) function: Option<Function>,
    pub(super) label: Rc<str>,
    /// The range that its consumers want.
    pub(super) width: Width,
    /// What it has been rounded to.
    pub(super) rounded: Rounded,
}

impl Value {
    pub(super) fn new(base: Lazy, label: &Rc<str>, width: Width) -> Value {
        Value {
            base: Rc::new(base),
            function: None,
            label: label.clone(),
            width,
            rounded: Rc::default(),
        }
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.base.shape
    }
}

pub(super) fn size(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// The map of a tensor onto itself.
pub(super) fn identity(n: usize) -> Rc<Vec<u32>> {
    Rc::new((0..n as u32).collect())
}

impl Lazy {
    /// A tensor as it is.
    pub(super) fn tensor(source: Source, shape: Vec<usize>, scale: f64) -> Lazy {
        Lazy {
            terms: vec![LazyTerm::Linear {
                coefficient: 1,
                source,
                map: identity(size(&shape)),
                summed: Vec::new(),
            }],
            shape,
            scale,
        }
    }

    /// Whether elements can be moved without rounding first.
    pub(super) fn movable(&self) -> bool {
        self.terms
            .iter()
            .all(|t| matches!(t, LazyTerm::Linear { summed, .. } if summed.is_empty()))
    }

    /// The one tensor that this is a map of, if it is.
    pub(super) fn single(&self) -> Option<(Source, &Rc<Vec<u32>>)> {
        match &self.terms[..] {
            [
                LazyTerm::Linear {
                    coefficient: 1,
                    source,
                    map,
                    summed,
                },
            ] if summed.is_empty() => Some((*source, map)),
            _ => None,
        }
    }

    /// The elements at `indices` (or zero at [`NOTHING`]), for `shape` followed by summed axes.
    ///
    /// # Panics
    /// When the value is not movable.
    pub(super) fn moved(&self, indices: &[u32], shape: Vec<usize>, summed: &[usize]) -> Lazy {
        let terms = self.terms.iter().map(|term| match term {
            LazyTerm::Linear {
                coefficient,
                source,
                map,
                ..
            } => LazyTerm::Linear {
                coefficient: *coefficient,
                source: *source,
                map: Rc::new(
                    indices
                        .iter()
                        .map(|&i| {
                            if i == NOTHING {
                                NOTHING
                            } else {
                                map[i as usize]
                            }
                        })
                        .collect(),
                ),
                summed: summed.to_vec(),
            },
            LazyTerm::Product { .. } => unreachable!("only movable values are moved"),
        });
        Lazy {
            terms: terms.collect(),
            shape,
            scale: self.scale,
        }
    }

    /// The same with all coefficients multiplied.
    pub(super) fn times(&self, factor: i64) -> Lazy {
        let mut result = self.clone();
        for term in &mut result.terms {
            match term {
                LazyTerm::Linear { coefficient, .. } | LazyTerm::Product { coefficient, .. } => {
                    *coefficient = coefficient.saturating_mul(factor);
                }
            }
        }
        result
    }
}

/// The graph so far, and what it computes on the calibration samples.
pub(super) struct Builder {
    pub(super) skeleton: Skeleton,
    pub(super) constants: Vec<Vec<i32>>,
    pub(super) count: usize,
    pub(super) inputs: Vec<Vec<i32>>,
    batched: Skeleton,
    values: Vec<Vec<i32>>,
    pub(super) table_bits: u32,
    /// Nodes whose tables clamp.
    families: Vec<(usize, Family)>,
}

impl Builder {
    pub(super) fn new(count: usize, table_bits: u32) -> Builder {
        let empty = Skeleton {
            inputs: Vec::new(),
            constants: Vec::new(),
            tables: Vec::new(),
            nodes: Vec::new(),
            outputs: Vec::new(),
        };
        Builder {
            skeleton: empty.clone(),
            batched: empty,
            constants: Vec::new(),
            count,
            inputs: Vec::new(),
            values: Vec::new(),
            table_bits,
            families: Vec::new(),
        }
    }

    /// Adds an input with its calibration values.
    pub(super) fn input(&mut self, port: super::super::Port, range: TensorRange, values: Vec<i32>) {
        let shape = [&[self.count], &range.shape[..]].concat();
        let batched = TensorRange { shape, ..range };
        self.batched.inputs.push((port.clone(), batched));
        self.skeleton.inputs.push((port, range));
        self.inputs.push(values);
    }

    /// Adds a constant, unless an equal one is there.
    pub(super) fn constant(
        &mut self,
        shape: &[usize],
        values: Vec<i32>,
        width: Option<Width>,
    ) -> Source {
        let (low, high) = match width {
            Some(Width(q)) => (-q, q),
            None => (
                values.iter().min().copied().unwrap_or(0),
                values.iter().max().copied().unwrap_or(0),
            ),
        };
        let range = TensorRange {
            shape: shape.to_vec(),
            low,
            high,
        };
        let same = |i: &usize| self.skeleton.constants[*i] == range && self.constants[*i] == values;
        let found = (0..self.constants.len()).find(same);
        Source::Constant(found.unwrap_or_else(|| {
            self.skeleton.constants.push(range.clone());
            self.batched.constants.push(range);
            self.constants.push(values);
            self.constants.len() - 1
        }))
    }

    /// The expression of a sum; `None` where a sum reads an element repeatedly.
    pub(super) fn expression(&self, lazy: &Lazy) -> Result<Option<Expression>, QuantiseError> {
        let mut terms = Vec::with_capacity(lazy.terms.len());
        for term in &lazy.terms {
            let overflow = |c: i64| {
                i32::try_from(c).map_err(|_| super::super::IntegerError::Malformed {
                    place: "a sum".into(),
                    reason: "the scales of its terms differ too much".into(),
                })
            };
            terms.push(match term {
                LazyTerm::Linear {
                    coefficient,
                    source,
                    map,
                    summed,
                } => {
                    let axes = [&lazy.shape[..], summed].concat();
                    let reduced: Vec<bool> =
                        (0..axes.len()).map(|a| a >= lazy.shape.len()).collect();
                    let dims = self.skeleton.source(*source).shape;
                    let Some(factors) = factorise(map, &axes, &dims, &reduced) else {
                        return Ok(None);
                    };
                    Term::Linear {
                        coefficient: overflow(*coefficient)?,
                        view: View {
                            source: *source,
                            factors,
                        },
                    }
                }
                LazyTerm::Product {
                    coefficient,
                    left,
                    right,
                    contracted,
                } => Term::Product {
                    coefficient: overflow(*coefficient)?,
                    left: left.clone(),
                    right: right.clone(),
                    contracted: contracted.clone(),
                },
            });
        }
        Ok(Some(Expression {
            shape: lazy.shape.clone(),
            terms,
        }))
    }

    /// The expression of a sum that reads no element twice.
    pub(super) fn sum(&self, lazy: &Lazy) -> Result<Expression, QuantiseError> {
        Ok(self
            .expression(lazy)?
            .ok_or_else(|| super::super::IntegerError::Malformed {
                place: "a sum".into(),
                reason: "reads an element of its operand repeatedly".into(),
            })?)
    }

    fn evaluate(&mut self, expression: &Expression) -> Vec<i64> {
        let batched = Expression {
            shape: [&[self.count], &expression.shape[..]].concat(),
            terms: expression.terms.iter().map(batched_term).collect(),
        };
        let run = Execution {
            skeleton: &self.batched,
            inputs: &self.inputs,
            constants: &self.constants,
            values: std::mem::take(&mut self.values),
        };
        let sums = run.evaluate(&batched);
        self.values = run.values;
        sums
    }

    fn table(&mut self, entries: Vec<i16>) -> usize {
        let table = Table { entries };
        let known = self.skeleton.tables.iter().position(|t| *t == table);
        known.unwrap_or_else(|| {
            self.skeleton.tables.push(table.clone());
            self.batched.tables.push(table);
            self.skeleton.tables.len() - 1
        })
    }

    fn push(&mut self, node: Node, sums: &[i64]) -> Source {
        let entries = &self.skeleton.tables[node.table].entries;
        let values = sums.iter().map(|s| {
            let index = (s + i64::from(node.offset)) >> node.shift;
            i32::from(entries[index as usize])
        });
        self.values.push(values.collect());
        let expression = Expression {
            shape: [&[self.count], &node.expression.shape[..]].concat(),
            terms: node.expression.terms.iter().map(batched_term).collect(),
        };
        self.batched.nodes.push(Node {
            expression,
            ..node.clone()
        });
        self.skeleton.nodes.push(node);
        Source::Node(self.skeleton.nodes.len() - 1)
    }

    /// The interval of a sum, and its values on the calibration samples.
    fn observe(
        &mut self,
        expression: &Expression,
        label: &str,
    ) -> Result<(Interval, Vec<i64>), QuantiseError> {
        let interval = bounds::expression(expression, &self.skeleton, &self.constants, label)?;
        Ok((interval, self.evaluate(expression)))
    }

    /// Rounds a value to a range, unless it has been.
    pub(super) fn round(&mut self, value: &Value, width: Width) -> Result<Rc<Lazy>, QuantiseError> {
        if let Some((_, lazy)) = value.rounded.borrow().iter().find(|(w, _)| *w == width) {
            return Ok(lazy.clone());
        }
        if let (Some((source, _)), None) = (value.base.single(), &value.function) {
            let range = self.skeleton.source(source);
            if range.low >= -width.0 && range.high <= width.0 {
                return Ok(value.base.clone());
            }
        }
        let expression = self.sum(&value.base)?;
        let lazy = Rc::new(self.round_sum(
            expression,
            value.base.scale,
            value.function.as_ref(),
            width,
            None,
            &value.label,
        )?);
        value.rounded.borrow_mut().push((width, lazy.clone()));
        Ok(lazy)
    }

    /// Rounds `function(scale · sum)` to integers of a range; the scale of the result follows from
    /// the calibration samples unless it is given.
    pub(super) fn round_sum(
        &mut self,
        expression: Expression,
        scale: f64,
        function: Option<&Function>,
        Width(top): Width,
        given: Option<f64>,
        label: &str,
    ) -> Result<Lazy, QuantiseError> {
        let (interval, sums) = self.observe(&expression, label)?;
        let apply = |x: Vec<f64>| match function {
            Some(f) => f(&x),
            None => x,
        };
        let real = apply(sums.iter().map(|&s| s as f64 * scale).collect());
        let largest = real.iter().fold(0f64, |m, v| m.max(v.abs()));
        let rectifier = function.is_some_and(is_rectifier);
        if given.is_none() && (function.is_none() || rectifier) {
            let step = if largest.is_finite() {
                largest / f64::from(top) / scale
            } else {
                1.0
            };
            return self.clamp(
                expression,
                &sums,
                interval,
                scale,
                step,
                (rectifier, top),
                label,
            );
        }
        let step = given.unwrap_or(if largest > 0.0 && largest.is_finite() {
            largest / f64::from(top)
        } else {
            1.0 / f64::from(top)
        });
        // A thousand entries over what was observed.
        let low = sums.iter().min().copied().unwrap_or(0);
        let high = sums.iter().max().copied().unwrap_or(0);
        let shift = floor_log2((high - low) as f64 / f64::from(top.min(127)) / 8.0);
        let (shift, offset, bits) = self.window(interval, shift, label)?;
        let middle = |i: i64| ((i << shift) - offset + ((1i64 << shift) >> 1)) as f64 * scale;
        let points = (0..1i64 << bits).map(middle).collect();
        let entries = apply(points).into_iter().map(|y| {
            let rounded = (y / step).round_ties_even();
            if rounded.is_nan() {
                0
            } else {
                rounded.clamp(-f64::from(top), f64::from(top)) as i16
            }
        });
        let entries: Vec<i16> = entries.collect();
        let table = self.table(entries);
        let shape = expression.shape.clone();
        let node = Node {
            label: label.to_owned(),
            expression,
            offset: offset as i32,
            shift,
            table,
        };
        let source = self.push(node, &sums);
        Ok(Lazy::tensor(source, shape, step))
    }

    /// Rounds a sum by about `step`, to at most ±`top`, negative values to zero if `rectifier`.
    ///
    /// The step is made `ratio · 2ˢʰⁱᶠᵗ` with a small ratio, and zero lies in the middle of the
    /// table: so the same table serves many nodes, and a prover pays for it once.
    #[allow(clippy::too_many_arguments)]
    fn clamp(
        &mut self,
        expression: Expression,
        sums: &[i64],
        interval: Interval,
        scale: f64,
        step: f64,
        (rectifier, top): (bool, i32),
        label: &str,
    ) -> Result<Lazy, QuantiseError> {
        let finest = if top > NARROW.0 { 1 } else { 4 };
        let mut shift = floor_log2(step / f64::from(finest));
        let (ratio, bits) = loop {
            let ratio = ((step / f64::from(1u32 << shift)).ceil() as i64).max(1);
            let reach = interval.high.max(-interval.low) >> shift;
            let bits = 64 - (reach + 1).leading_zeros() + 1;
            if ratio < 2 * i64::from(finest) && bits <= self.table_bits.min(MAX_TABLE_BITS) {
                break (ratio, bits);
            }
            shift += 1;
            if shift + bits > SUM_BITS + 1 {
                return Err(too_wide(interval, label));
            }
        };
        let family = Family {
            rectifier,
            ratio,
            top,
        };
        let table = self.table(family.entries(bits));
        let node = Node {
            label: label.to_owned(),
            offset: Family::offset(bits, shift),
            shift,
            table,
            expression,
        };
        let shape = node.expression.shape.clone();
        self.families.push((self.skeleton.nodes.len(), family));
        let source = self.push(node, sums);
        let step = ratio as f64 * f64::from(1u32 << shift) * scale;
        Ok(Lazy::tensor(source, shape, step))
    }

    /// Lets every node with a clamping table use the largest of its family, and drops the others.
    pub(super) fn share_tables(&mut self) {
        let bits =
            |skeleton: &Skeleton, node: usize| skeleton.tables[skeleton.nodes[node].table].bits();
        for (node, family) in self.families.clone() {
            let same = self.families.iter().filter(|(_, f)| *f == family);
            let shift = self.skeleton.nodes[node].shift;
            let largest = same
                .map(|(other, _)| bits(&self.skeleton, *other))
                .filter(|b| b + shift <= SUM_BITS)
                .max();
            if let Some(largest) = largest.filter(|&b| b > bits(&self.skeleton, node)) {
                let table = self.table(family.entries(largest));
                let node = &mut self.skeleton.nodes[node];
                node.table = table;
                node.offset = Family::offset(largest, shift);
            }
        }
        let used: Vec<usize> = (0..self.skeleton.tables.len())
            .filter(|t| self.skeleton.nodes.iter().any(|n| n.table == *t))
            .collect();
        for node in &mut self.skeleton.nodes {
            node.table = used.iter().position(|t| *t == node.table).unwrap_or(0);
        }
        self.skeleton.tables = used
            .iter()
            .map(|&t| self.skeleton.tables[t].clone())
            .collect();
    }

    /// Shift, offset and table bits for sums of an interval, such that zero lies in the middle of
    /// an entry's range.
    fn window(
        &self,
        interval: Interval,
        shift: u32,
        label: &str,
    ) -> Result<(u32, i64, u32), QuantiseError> {
        for shift in shift..SUM_BITS {
            let half = (1i64 << shift) >> 1;
            let below = (-interval.low.min(0) - half).max(0);
            let offset = ((below + (1 << shift) - 1) >> shift << shift) + half;
            let entries = ((interval.high.max(0) + offset) >> shift) + 1;
            let bits = 64 - (entries - 1).leading_zeros();
            if shift + bits > SUM_BITS {
                break;
            }
            if bits <= self.table_bits.min(MAX_TABLE_BITS) {
                return Ok((shift, offset, bits));
            }
        }
        let most = 1i64 << (SUM_BITS - 1);
        Err(QuantiseError::Integer(
            super::super::IntegerError::Overflow {
                place: label.to_owned(),
                low: interval.low,
                high: interval.high,
                floor: -most,
                ceiling: most,
            },
        ))
    }

    /// An exact function of the integers of a sum.
    pub(super) fn exact(
        &mut self,
        lazy: &Lazy,
        function: impl Fn(i64) -> i64,
        label: &str,
    ) -> Result<Lazy, QuantiseError> {
        let expression = self.sum(lazy)?;
        let (interval, sums) = self.observe(&expression, label)?;
        let (shift, offset, bits) = self.window(interval, 0, label)?;
        if shift != 0 {
            return Err(QuantiseError::Integer(
                super::super::IntegerError::Malformed {
                    place: label.to_owned(),
                    reason: "its values are too wide for an exact table".into(),
                },
            ));
        }
        let limits = (i64::from(i16::MIN), i64::from(i16::MAX));
        let entries = (0..1i64 << bits)
            .map(|i| function(i - offset).clamp(limits.0, limits.1) as i16)
            .collect();
        let table = self.table(entries);
        let node = Node {
            label: label.to_owned(),
            expression,
            offset: offset as i32,
            shift: 0,
            table,
        };
        let source = self.push(node, &sums);
        Ok(Lazy::tensor(source, lazy.shape.clone(), lazy.scale))
    }

    /// Bits by which a sum can be multiplied and still leaves room for what may be added to it;
    /// negative if there is none.
    pub(super) fn room(&self, lazy: &Lazy) -> Result<i32, QuantiseError> {
        let Some(expression) = self.expression(lazy)? else {
            return Ok(0);
        };
        let interval = bounds::expression(&expression, &self.skeleton, &self.constants, "a sum")?;
        let reach = interval.high.max(-interval.low).max(1);
        Ok(27 - (64 - reach.leading_zeros()) as i32)
    }

    /// The declared range of a single tensor.
    pub(super) fn range(&self, lazy: &Lazy) -> Option<(i32, i32)> {
        let (source, _) = lazy.single()?;
        let range = self.skeleton.source(source);
        Some((range.low, range.high))
    }

    /// The sum of two values of one shape, on a common scale.
    pub(super) fn add(&self, a: &Lazy, b: &Lazy) -> Lazy {
        let (fine, coarse) = if a.scale <= b.scale { (a, b) } else { (b, a) };
        // Enough bits that the ratio of the scales is met to a part in 2⁹.
        let ratio = coarse.scale / fine.scale;
        let extra = (9.0 - ratio.log2()).ceil().clamp(0.0, 9.0) as u32;
        let exact = (ratio - ratio.round()).abs() < 1e-9 * ratio;
        let extra = if exact { 0 } else { extra };
        let factor = (ratio * f64::from(1u32 << extra)).round().min(1e15) as i64;
        let mut sum = fine.times(1 << extra);
        sum.scale = fine.scale / f64::from(1u32 << extra);
        sum.terms.extend(coarse.times(factor).terms);
        sum
    }
}

/// Tables that clamp and nothing else, but for the number of their entries.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Family {
    rectifier: bool,
    /// Entries for each step of the result.
    ratio: i64,
    top: i32,
}

impl Family {
    fn entries(self, bits: u32) -> Vec<i16> {
        let low = if self.rectifier { 0 } else { -self.top };
        let entry = |i: i64| {
            let rounded = ((i - (1 << (bits - 1))) as f64 / self.ratio as f64).round_ties_even();
            rounded.clamp(f64::from(low), f64::from(self.top)) as i16
        };
        (0..1i64 << bits).map(entry).collect()
    }

    fn offset(bits: u32, shift: u32) -> i32 {
        (1i32 << (bits - 1 + shift)) + ((1i32 << shift) >> 1)
    }
}

fn is_rectifier(function: &Function) -> bool {
    let points = [-1e6, -3.5, -1e-3, 0.0, 1e-3, 3.5, 1e6];
    let same = |(y, x): (f64, f64)| (y - x.max(0.0)).abs() <= 1e-6 * x.abs();
    function(&points).into_iter().zip(points).all(same)
}

fn too_wide(interval: Interval, label: &str) -> QuantiseError {
    let most = 1i64 << (SUM_BITS - 1);
    QuantiseError::Integer(super::super::IntegerError::Overflow {
        place: label.to_owned(),
        low: interval.low,
        high: interval.high,
        floor: -most,
        ceiling: most,
    })
}

/// The largest power of two not above `x`, as an exponent; 0 for what is below 2.
fn floor_log2(x: f64) -> u32 {
    if x >= 2.0 {
        (x.log2().floor() as u32).min(SUM_BITS - 1)
    } else {
        0
    }
}
