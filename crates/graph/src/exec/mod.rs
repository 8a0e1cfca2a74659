//! How a plan is carried out: operators fused, values laid out for the kernels, memory reused.
//!
//! A [`Program`] is derived from a graph and the shapes of one plan. It computes the same bits as
//! the operators one by one, as tests compare; nothing of it is committed to. Five things make it
//! faster:
//!
//! * **Chains**: elementwise operators that follow a product, a convolution or each other are
//!   applied to values that are still in the cache ([`lemma_kernels::Chain`]).
//! * **Layout**: convolutions and what follows them keep their values with the channels last; a
//!   transposition around a product is a matter of strides.
//! * **Integers**: sums of products of 8-bit integers go on as f32 while they are in the cache, up to
//!   quantisation.
//! * **Images**: of a batch that exceeds the caches, each image goes through as many steps as it can before the next.
//! * **Memory**: values of f32 live in slots that later values take over; memory of 8-bit integers is kept for later ones.

mod build;
mod chain;
mod fuse;
mod grow;
mod images;
mod integer;
mod memory;
mod pattern;
mod run;
mod turn;

use lemma_kernels as kernels;
use lemma_kernels::{Channels, Pooling, Reduction};

pub(crate) use build::build;
use chain::ChainSpec;
use images::Images;
use integer::{Dequantised, Integer, Sink};
pub(crate) use memory::Arena;
pub(crate) use run::{Context, run};

/// A value that a program makes, by number.
type Id = usize;

/// Where an operand comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Input(usize),
    Constant(usize),
    /// An output that follows from shapes and constants.
    Known(usize, usize),
    Value(Id),
    /// An operand of [`Images`] from the rest of the program.
    Outside(usize),
}

/// What one step does.
#[derive(Debug)]
enum Action {
    /// The operator by itself.
    Plain,
    /// The same elements under another shape.
    Alias(At),
    /// Rows of a tensor times a packed constant.
    Product {
        a: At,
        rows: usize,
        chain: ChainSpec,
    },
    /// Pairs of matrices inside tensors.
    Batched(Box<Batched>),
    /// A convolution by packed filters, into channels-last layout.
    Conv {
        x: At,
        /// What each channel of each image is multiplied by first.
        gate: Option<At>,
        input: Channels,
        geometry: kernels::Conv,
        chain: ChainSpec,
    },
    /// A window over values with the channels last.
    Pool {
        x: At,
        geometry: kernels::Pool,
        pooling: Pooling,
        channels: usize,
    },
    /// The largest integers under a window, channels last.
    Largest {
        x: At,
        geometry: kernels::Pool,
        channels: usize,
    },
    /// A reduction of all places of each image, channels last.
    Places {
        x: At,
        op: Reduction,
        sizes: [usize; 3],
    },
    /// A chain by itself, on the last dimension of this size.
    Chain { x: At, n: usize, chain: ChainSpec },
    /// A normalisation of rows.
    Norm {
        x: At,
        scale: At,
        bias: Option<At>,
        epsilon: f32,
        root_mean_square: bool,
    },
    /// Sums of products of 8-bit integers, and what follows.
    Integer(Box<Integer>),
    /// 8-bit integers as f32, and what follows.
    Dequantise(Box<Dequantised>),
    /// f32 as 8-bit integers.
    Quantise { x: At, sink: Sink },
    /// A transposition of `batch` matrices of rows × columns.
    Transpose { x: At, sizes: [usize; 3] },
    /// Integers of this shape with their dimensions in another order.
    Turn {
        x: At,
        shape: Vec<usize>,
        order: Vec<usize>,
    },
    /// Several of these, image by image.
    Images(Box<Images>),
}

/// Matrices of an operand: how far apart, for each dimension of the batch, and within.
#[derive(Debug)]
struct Matrices {
    at: At,
    batch: Vec<usize>,
    row: usize,
    column: usize,
}

#[derive(Debug)]
struct Batched {
    /// m, k, n.
    sizes: [usize; 3],
    batch: Vec<usize>,
    a: Matrices,
    b: Matrices,
    /// Steps of the result, for each dimension of the batch, and between rows.
    c_batch: Vec<usize>,
    c_row: usize,
    chain: ChainSpec,
}

#[derive(Debug)]
struct Step {
    /// The operator that the step stands for, the last of those it fuses.
    node: usize,
    /// The operator whose packed operand it uses.
    packed: usize,
    action: Action,
    /// What it makes, and in which slot; none where the step brings its own memory.
    writes: Vec<Id>,
    slot: Option<usize>,
    /// Whether what it makes stays in the slot, and is no tensor.
    slab: bool,
    /// The shape of what it makes in memory, unless the operator says.
    shape: Vec<usize>,
    /// Whether the operand of a chain is taken over.
    in_place: bool,
    /// The operands of an operator by itself, those that there are.
    plain: Vec<At>,
    /// Values that nobody reads after this step.
    free: Vec<Id>,
}

/// What a run does on inputs of some shapes.
#[derive(Debug)]
pub(crate) struct Program {
    steps: Vec<Step>,
    /// How many values there are.
    values: usize,
    /// The slot of each value that has one, or shares one.
    slot_of: Vec<Option<usize>>,
    /// Elements of each slot.
    slots: Vec<usize>,
    outputs: Vec<At>,
    /// Bytes held at the peak, besides constants and inputs: an upper bound.
    memory: u64,
    /// Bytes of 8-bit integers that are alive at one time, at most.
    bytes: u64,
    /// More of them for each thread.
    memory_per_thread: u64,
    /// The operator at which the peak is reached.
    peak: usize,
}

impl Program {
    /// One of these steps, nothing of whose values is known.
    fn of(steps: Vec<Step>) -> Program {
        Program {
            steps,
            values: 0,
            slot_of: Vec::new(),
            slots: Vec::new(),
            outputs: Vec::new(),
            memory: 0,
            bytes: 0,
            memory_per_thread: 0,
            peak: 0,
        }
    }

    /// Bytes held at the peak of a run on so many threads, and the operator at which.
    pub(crate) fn memory(&self, threads: usize) -> (u64, usize) {
        let more = self.memory_per_thread.saturating_mul(threads.max(1) as u64);
        (self.memory.saturating_add(more), self.peak)
    }
}
