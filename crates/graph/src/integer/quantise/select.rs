//! Choosing: rows by their index, and the index of the largest element.

use lemma_types::tensor::DType;

use super::super::{MAX_TABLE_BITS, QuantiseError};
use super::build::{Lazy, NARROW, PRECISE, Value, Width, size};
use super::lower::Lowering;
use super::rows::rows;

type Lowered = Result<Value, QuantiseError>;

/// Something that is 0 or 1.
const BIT: Width = Width(1);

impl Lowering<'_> {
    /// 0, 1, 2 … as a constant tensor.
    fn numbers(&mut self, count: usize) -> Lazy {
        let values = (0..count as i32).collect();
        let source = self.builder.constant(&[count], values, None);
        Lazy::tensor(source, vec![count], 1.0)
    }

    /// A type of indices for another: the integers stay.
    pub(super) fn cast(&self) -> Lowered {
        let indices = [DType::I64, DType::I32];
        let value = self.value(0)?;
        if value.function.is_some()
            || value.base.scale != 1.0
            || !indices.contains(&self.outputs[0].dtype)
        {
            return Err(self.unsupported("only a cast from indices to indices has an integer form"));
        }
        Ok(self.result((*value.base).clone()))
    }

    /// Rows of a constant matrix by index: `Σ_v [index = v] · row v`.
    pub(super) fn embedding(&mut self) -> Lowered {
        let bytes = self.attributes();
        let axis = bytes
            .first_chunk::<8>()
            .map_or(0, |w| u64::from_le_bytes(*w));
        let table = self.constant(0)?.clone();
        let index = self.value(1)?;
        let count = table.shape().first().copied().unwrap_or(0);
        if axis != 0 {
            return Err(self.unsupported(
                "only rows, along the first axis, can be chosen by computed indices",
            ));
        }
        if index.function.is_some() || index.base.scale != 1.0 || !index.base.movable() {
            return Err(self.unsupported("its indices must be those of an input"));
        }
        if count >= 1 << (MAX_TABLE_BITS - 1) {
            let most = 1 << (MAX_TABLE_BITS - 1);
            return Err(self.unsupported(format!(
                "it chooses among {count} rows, at most {most} are supported"
            )));
        }
        let chosen = index.shape().to_vec();
        let cube = [&chosen[..], &[count]].concat();
        let each = |place: fn(usize, usize) -> usize| -> Vec<u32> {
            (0..size(&cube)).map(|i| place(i, count) as u32).collect()
        };
        let left = index.base.moved(&each(|i, n| i / n), cube.clone(), &[]);
        let right = self
            .numbers(count)
            .moved(&each(|i, n| i % n), cube.clone(), &[]);
        let mut difference = left;
        difference.terms.extend(right.times(-1).terms);
        let label = self.label.clone();
        let hit = self
            .builder
            .exact(&difference, |v| i64::from(v == 0), &label)?;
        // Axes: those of the indices, those of a row, and the rows, which are summed over.
        let row = &table.shape()[1..];
        let shape = [&chosen[..], row].concat();
        let last = shape.len();
        let axes: Vec<usize> = (0..chosen.len()).chain([last]).collect();
        let map: Vec<u32> = (0..size(&cube) as u32).collect();
        let hit = Value::new(hit, &label, BIT);
        let left = self.shown(&hit, BIT, &axes, &cube, &map)?;
        let own: Vec<usize> = std::iter::once(last).chain(chosen.len()..last).collect();
        let values = self.floats(&table)?.to_vec();
        let right = self.weights(&values, table.shape(), &own, NARROW);
        Ok(self.result(self.product(shape, vec![count], &left, &right)))
    }

    /// The index of the largest element along an axis: a tournament of neighbours, so that of equals the first (or last) is
    /// the first operand of every round. `i = i₂ + [x₁ ≥ x₂] · (i₁ − i₂)`.
    pub(super) fn arg_max(&mut self) -> Lowered {
        let bytes = self.attributes();
        let (words, flags) = bytes.as_chunks::<8>();
        let axis = words.first().map_or(0, |w| u64::from_le_bytes(*w) as usize);
        let last = flags.get(1).is_some_and(|&f| f != 0);
        let value = self.value(0)?;
        let (from, shape) = (value.shape().to_vec(), self.shape());
        let mut taps = from[axis];
        if !(2..=1 << 14).contains(&taps) {
            return Err(self.unsupported(format!(
                "it compares {taps} elements: 2 to 16384 are supported"
            )));
        }
        let most = taps as i64 - 1;
        let wide = self.wide;
        let lazy = self.builder.round(&value, wide)?;
        let (low, high) = self
            .builder
            .range(&lazy)
            .ok_or_else(|| self.unsupported("its operand cannot be rounded"))?;
        let outputs = size(&shape);
        let label = self.label.clone();
        let (mut values, mut places) = ((*lazy).clone(), rows(&from, &[axis]));
        let (mut indices, mut numbers) = (self.numbers(taps), Vec::new());
        numbers.extend((0..outputs).flat_map(|_| 0..taps as u32));
        while taps > 1 {
            let half = taps.div_ceil(2);
            let level = [&shape[..], &[half]].concat();
            let pick = |map: &[u32], second: usize| -> Vec<u32> {
                (0..outputs * half)
                    .map(|i| map[i / half * taps + (2 * (i % half) + second).min(taps - 1)])
                    .collect()
            };
            let [first, second] =
                [0, 1].map(|s| values.moved(&pick(&places, s), level.clone(), &[]));
            let mut difference = first;
            difference.terms.extend(second.times(-1).terms);
            let excess = self.builder.exact(&difference, |v| v.max(0), &label)?;
            let wins = move |v: i64| i64::from(if last { v > 0 } else { v >= 0 });
            let wins = self.builder.exact(&difference, wins, &label)?;
            let mut larger = second;
            larger.terms.extend(excess.terms);
            let within = |v: i64| v.clamp(i64::from(low), i64::from(high));
            let larger = self.builder.exact(&larger, within, &label)?;

            let every: Vec<usize> = (0..level.len()).collect();
            let map: Vec<u32> = (0..size(&level) as u32).collect();
            let wins = self.shown(&Value::new(wins, &label, BIT), BIT, &every, &level, &map)?;
            let number = Value::new(indices.clone(), &label, PRECISE);
            let mut chosen = indices.moved(&pick(&numbers, 1), level.clone(), &[]);
            for (place, sign) in [(0, 1), (1, -1)] {
                let other = self.shown(&number, PRECISE, &every, &level, &pick(&numbers, place))?;
                let term = self
                    .product(level.clone(), Vec::new(), &wins, &other)
                    .times(sign);
                chosen.terms.extend(term.terms);
            }
            indices = self.builder.exact(&chosen, |v| v.clamp(0, most), &label)?;
            values = larger;
            taps = half;
            places = (0..(outputs * half) as u32).collect();
            numbers = places.clone();
        }
        Ok(Value::new(
            indices.moved(&numbers, shape, &[]),
            &label,
            PRECISE,
        ))
    }
}
