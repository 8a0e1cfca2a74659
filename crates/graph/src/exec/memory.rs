//! Slots: which values of a program share memory, and the memory itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::integer::{Sink, Sums};
use super::{Action, At, Id, Program, Step};
use crate::tensor::{Storage, Tensor};

/// Memory kept from one run to the next.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    pub(super) slots: Vec<Vec<f32>>,
    /// Memory of 8-bit integers that nobody reads any more.
    pub(super) unsigned: Spare<u8>,
    pub(super) signed: Spare<i8>,
    /// That of steps which are carried out image by image, one for each thread.
    pub(super) inner: Arc<Mutex<Vec<Arena>>>,
}

impl Arena {
    /// Makes room for a program's slots, and keeps no more memory than it may hold.
    pub(super) fn fit(&mut self, program: &Program) {
        let kept: u64 = self.slots.iter().map(|v| v.capacity() as u64 * 4).sum();
        if kept > program.memory {
            *self = Arena::default();
        }
        self.slots.resize_with(program.slots.len(), Vec::new);
        self.unsigned.fit(program.bytes);
        self.signed.fit(program.bytes);
    }

    /// Takes over the memory of the values that nobody reads after a step.
    pub(super) fn release(&mut self, program: &Program, step: &Step, values: &mut [Option<Held>]) {
        for &id in &step.free {
            match (values[id].take(), program.slot_of[id]) {
                (Some(value), Some(slot)) => self.reclaim(slot, value),
                (Some(Held::Tensor(tensor)), None) => self.keep(tensor),
                _ => {}
            }
        }
    }

    /// Takes over the memory of a value that nobody else holds.
    fn reclaim(&mut self, slot: usize, value: Held) {
        match value {
            Held::Slab(slab) => self.slots[slot] = slab.values,
            Held::Tensor(tensor) => {
                if let Storage::F32(shared) = tensor.into_storage()
                    && let Some(values) = Arc::into_inner(shared)
                {
                    self.slots[slot] = values;
                }
            }
        }
    }

    /// Keeps the memory of 8-bit integers that nobody else holds.
    fn keep(&mut self, tensor: Tensor) {
        match tensor.into_storage() {
            Storage::U8(shared) => self.unsigned.keep(shared),
            Storage::I8(shared) => self.signed.keep(shared),
            _ => {}
        }
    }

    /// A slab of `len` elements in a slot, whatever they are.
    pub(super) fn slab(&mut self, slot: usize, size: usize, len: usize) -> Slab {
        let values = self.take(slot, size, len + SPARE);
        let start = values.as_ptr().align_offset(LINE).min(SPARE);
        Slab { values, start, len }
    }

    /// The elements of a slot, at least `len` of them, whatever they are. No more than these are cleared: what was cut off
    /// for a tensor before is far less than all that a slot may have to hold.
    pub(super) fn take(&mut self, slot: usize, size: usize, len: usize) -> Vec<f32> {
        let size = size + SPARE;
        let mut values = std::mem::take(&mut self.slots[slot]);
        if values.len() < len {
            if values.capacity() < len {
                // What was there is given back first.
                values = Vec::new();
                values.reserve_exact(size.max(len));
            }
            values.resize(len, 0.0);
        }
        values
    }
}

/// Memory of 8-bit integers that is kept for those that are made next: what is fresh from the system is cleared first,
/// page by page.
#[derive(Debug, Default)]
pub(super) struct Spare<T> {
    free: Vec<Vec<T>>,
    /// Bytes that may be kept.
    most: u64,
}

impl<T: Copy + Default> Spare<T> {
    /// Begins a run in which so many bytes may be kept.
    fn fit(&mut self, most: u64) {
        self.most = most;
        self.give_back();
    }

    /// Gives the smallest pieces back, until no more is kept than may be.
    fn give_back(&mut self) {
        let mut kept: u64 = self.free.iter().map(|v| v.capacity() as u64).sum();
        while kept > self.most
            && let Some(least) = (0..self.free.len()).min_by_key(|&i| self.free[i].capacity())
        {
            kept -= self.free.swap_remove(least).capacity() as u64;
        }
    }

    /// `len` values, whatever they are.
    pub(super) fn take(&mut self, len: usize) -> Vec<T> {
        let fits = (0..self.free.len()).filter(|&i| self.free[i].capacity() >= len);
        let Some(found) = fits.min_by_key(|&i| self.free[i].capacity()) else {
            return vec![T::default(); len];
        };
        let mut values = self.free.swap_remove(found);
        values.resize(len, T::default());
        values
    }

    fn keep(&mut self, shared: Arc<Vec<T>>) {
        if let Some(values) = Arc::into_inner(shared) {
            self.free.push(values);
            self.give_back();
        }
    }
}

/// Bytes of a line of the cache: a vector that lies on two of them takes twice as long to load.
const LINE: usize = 64;

/// How many times as large as a tensor the slot that it is made in may be.
const MUCH: usize = 4;

/// Elements that a slot has besides, so that one of the first begins a line.
const SPARE: usize = LINE / size_of::<f32>() - 1;

/// Elements within a slot.
#[derive(Debug)]
pub(super) struct Slab {
    pub(super) values: Vec<f32>,
    start: usize,
    len: usize,
}

impl Slab {
    /// The first elements of some, which need not begin a line.
    pub(super) fn first(values: Vec<f32>, len: usize) -> Slab {
        Slab {
            values,
            start: 0,
            len,
        }
    }

    pub(super) fn elements(&mut self) -> &mut [f32] {
        &mut self.values[self.start..][..self.len]
    }

    /// Exactly these elements.
    pub(super) fn into_elements(mut self) -> Vec<f32> {
        if self.start > 0 {
            let elements = self.start..self.start + self.len;
            self.values.copy_within(elements, 0);
        }
        self.values.truncate(self.len);
        self.values
    }
}

/// A value of a run.
#[derive(Debug)]
pub(super) enum Held {
    Tensor(Tensor),
    /// Elements within a slot, which steps of the program alone read.
    Slab(Slab),
}

impl Held {
    /// The elements, if they are of f32.
    pub(super) fn floats(&self) -> Option<&[f32]> {
        match self {
            Held::Tensor(tensor) => tensor.as_slice(),
            Held::Slab(slab) => slab.values.get(slab.start..slab.start + slab.len),
        }
    }
}

/// What is known of each value when memory is laid out.
pub(super) struct Value {
    pub(super) elements: usize,
    pub(super) bytes: u64,
    /// Whether a step of the program, not an operator, makes it, of f32.
    pub(super) slotted: bool,
    /// The values with whose memory it may be one.
    pub(super) aliases: Vec<Id>,
}

/// Lays out the memory of a program: frees values after their last use and gives slots.
pub(super) fn lay_out(program: &mut Program, values: &[Value], scratch: &[(u64, u64)]) {
    release(&mut program.steps, &program.outputs);
    find_slabs(&mut program.steps, &program.outputs, values);
    let mut layout = Layout {
        values,
        holders: Vec::new(),
        held: vec![Vec::new(); values.len()],
        sizes: Vec::new(),
        free: Vec::new(),
    };
    // Memory of operators that bring their own, as the steps go by.
    let (mut own, mut most, mut most_per_thread) = (0u64, 0u64, 0u64);
    // Of that, 8-bit integers.
    let mut bytes = 0u64;
    let are_bytes = |id: Id| !values[id].slotted && values[id].bytes == values[id].elements as u64;
    for (index, step) in program.steps.iter_mut().enumerate() {
        for &id in &step.writes {
            if !values[id].slotted {
                own = own.saturating_add(values[id].bytes);
            }
            if are_bytes(id) {
                bytes = bytes.saturating_add(values[id].bytes);
            }
        }
        program.bytes = program.bytes.max(bytes);
        layout.place(step);
        let (scratch, per_thread) = scratch[index];
        let now = own.saturating_add(scratch);
        if now > most {
            (most, program.peak) = (now, step.node);
        }
        most_per_thread = most_per_thread.max(per_thread);
        for &id in &step.free {
            if !values[id].slotted {
                own = own.saturating_sub(values[id].bytes);
            }
            if are_bytes(id) {
                bytes = bytes.saturating_sub(values[id].bytes);
            }
            layout.release(id);
        }
    }
    program.slot_of = layout.held.iter().map(|h| h.first().copied()).collect();
    let slots = layout
        .sizes
        .iter()
        .fold(0u64, |n, &s| n.saturating_add((s + SPARE) as u64 * 4));
    if slots > most {
        let largest = program
            .steps
            .iter()
            .max_by_key(|s| s.writes.iter().map(|&id| values[id].bytes).sum::<u64>());
        program.peak = largest.map_or(0, |s| s.node);
    }
    program.slots = layout.sizes;
    // As many are kept for those that are made next.
    program.memory = slots.saturating_add(most).saturating_add(program.bytes);
    program.memory_per_thread = most_per_thread;
}

/// Everything that a step reads.
pub(super) fn reads(action: &Action, plain: &[At]) -> Vec<At> {
    let with = |first: &[At], chain: &super::ChainSpec| -> Vec<At> {
        first.iter().copied().chain(chain.reads()).collect()
    };
    match action {
        Action::Plain => plain.to_vec(),
        Action::Alias(at) => vec![*at],
        Action::Product { a, chain, .. } => with(&[*a], chain),
        Action::Integer(i) => {
            let right = match &i.sums {
                Sums::Product { zeros, .. } => [None, *zeros],
                Sums::Pairs(pairs) => [Some(pairs.b.at), pairs.zero],
                Sums::Conv(_) => [None; 2],
            };
            let own = [Some(i.x), i.zero].into_iter().chain(right).flatten();
            let sink = i.sink.iter().flat_map(Sink::reads);
            own.chain(i.chain.reads()).chain(sink).collect()
        }
        Action::Dequantise(d) => {
            let own = [Some(d.x), Some(d.scale), d.zero].into_iter().flatten();
            let sink = d.sink.iter().flat_map(Sink::reads);
            own.chain(d.chain.reads()).chain(sink).collect()
        }
        Action::Quantise { x, sink } => [*x].into_iter().chain(sink.reads()).collect(),
        Action::Images(images) => images.operands.iter().map(|o| o.at).collect(),
        Action::Batched(b) => with(&[b.a.at, b.b.at], &b.chain),
        Action::Conv { x, gate, chain, .. } => {
            let own = [Some(*x), *gate].into_iter().flatten();
            own.chain(chain.reads()).collect()
        }
        Action::Chain { x, chain, .. } => with(&[*x], chain),
        Action::Pool { x, .. }
        | Action::Largest { x, .. }
        | Action::Places { x, .. }
        | Action::Transpose { x, .. }
        | Action::Turn { x, .. } => vec![*x],
        Action::Norm { x, scale, bias, .. } => [Some(*x), Some(*scale), *bias]
            .into_iter()
            .flatten()
            .collect(),
    }
}

/// Notes at each step which values are read there for the last time. A step that is given its
/// reads in `free` by the builder has them replaced.
fn release(steps: &mut [Step], outputs: &[At]) {
    let mut last: BTreeMap<Id, usize> = BTreeMap::new();
    for (index, step) in steps.iter().enumerate() {
        // Until now `free` held what the step reads.
        for &id in step.free.iter().chain(&step.writes) {
            last.insert(id, index);
        }
    }
    for at in outputs {
        if let At::Value(id) = at {
            last.remove(id);
        }
    }
    for step in steps.iter_mut() {
        step.free.clear();
    }
    for (id, index) in last {
        steps[index].free.push(id);
    }
    // A chain takes its operand over where nobody reads it later, and no other value is it.
    for step in steps {
        if let Action::Chain {
            x: At::Value(x),
            chain,
            ..
        } = &step.action
        {
            let again = chain.reads().any(|at| at == At::Value(*x));
            step.in_place = step.free.contains(x) && !again;
        }
    }
}

/// Notes which steps may leave what they make in a slot: where neither an operator by itself nor the caller asks for a
/// tensor, and none shares its elements.
fn find_slabs(steps: &mut [Step], outputs: &[At], values: &[Value]) {
    let mut asked = vec![false; values.len()];
    let mut ask = |at: &At| {
        if let At::Value(id) = at {
            asked[*id] = true;
        }
    };
    outputs.iter().for_each(&mut ask);
    for step in steps.iter() {
        step.plain.iter().for_each(&mut ask);
        if let Action::Alias(at) = &step.action {
            ask(at);
        }
    }
    for step in steps {
        step.slab = step
            .writes
            .iter()
            .all(|&id| values[id].slotted && !asked[id]);
    }
}

struct Layout<'a> {
    values: &'a [Value],
    /// For each slot, how many living values are in it.
    holders: Vec<usize>,
    /// The slots that each value keeps from being taken over.
    held: Vec<Vec<usize>>,
    sizes: Vec<usize>,
    free: Vec<usize>,
}

impl Layout<'_> {
    fn place(&mut self, step: &mut Step) {
        for &id in &step.writes {
            let mut slots: Vec<usize> = Vec::new();
            for &alias in &self.values[id].aliases {
                slots.extend(&self.held[alias]);
            }
            slots.sort_unstable();
            slots.dedup();
            if self.values[id].slotted {
                let slot = match (&step.action, step.in_place) {
                    (
                        Action::Chain {
                            x: At::Value(x), ..
                        },
                        true,
                    ) if self.alone(*x) => self.held[*x][0],
                    _ => {
                        step.in_place = false;
                        self.take(self.values[id].elements, step.slab)
                    }
                };
                step.slot = Some(slot);
                slots.insert(0, slot);
            }
            for &slot in &slots {
                self.holders[slot] += 1;
            }
            self.held[id] = slots;
        }
    }

    /// Whether a value has a slot of its own.
    fn alone(&self, id: Id) -> bool {
        matches!(self.held[id][..], [slot] if self.holders[slot] == 1)
    }

    /// A free slot: the smallest that is large enough, else the largest, which grows.
    ///
    /// What becomes a tensor, which is cut to its length and may be given away, takes none that is much larger: all that
    /// was cut off would have to be had from the system again, page by page, at each run.
    fn take(&mut self, len: usize, slab: bool) -> usize {
        let most = if slab {
            usize::MAX
        } else {
            len.saturating_mul(MUCH)
        };
        let fits = |&(_, slot): &(usize, &usize)| (len..=most).contains(&self.sizes[*slot]);
        let by_size = |(_, slot): &(usize, &usize)| self.sizes[**slot];
        let found = self
            .free
            .iter()
            .enumerate()
            .filter(fits)
            .min_by_key(by_size);
        let grows = |&(_, slot): &(usize, &usize)| self.sizes[*slot] < len;
        let smaller = self.free.iter().enumerate().filter(grows);
        let found = found.or_else(|| smaller.max_by_key(by_size));
        match found.map(|(i, _)| i) {
            Some(i) => {
                let slot = self.free.swap_remove(i);
                self.sizes[slot] = self.sizes[slot].max(len);
                slot
            }
            None => {
                self.sizes.push(len);
                self.holders.push(0);
                self.sizes.len() - 1
            }
        }
    }

    fn release(&mut self, id: Id) {
        for &slot in &self.held[id] {
            self.holders[slot] -= 1;
            if self.holders[slot] == 0 {
                self.free.push(slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_takes_no_slot_that_is_much_larger() {
        let mut layout = Layout {
            values: &[],
            holders: vec![0; 2],
            held: Vec::new(),
            sizes: vec![1000, 8],
            free: vec![0, 1],
        };
        // The small one grows; with none left that serves there is a new one.
        assert_eq!(layout.take(10, false), 1);
        assert_eq!(layout.take(249, false), 2);
        assert_eq!(layout.sizes, [1000, 10, 249]);
        assert_eq!(layout.take(250, false), 0);
        layout.free = vec![0, 1];
        assert_eq!(layout.take(11, true), 0);
        assert_eq!(layout.take(11, true), 1);
        assert_eq!(layout.sizes, [1000, 11, 249]);
    }
}
