//! From sums to values: f32, a chain of elementwise operations, and 8-bit integers again.

use super::Int8;
#[cfg(target_arch = "x86_64")]
use super::finish512::Avx512;
#[cfg(target_arch = "x86_64")]
use super::fixed::{Bytes, Fixed};
use super::ops::{self, Op, Operand};
use super::pack::COLUMNS;
use super::quantise::{Output, Quantisation, Quantised, TASK};
use super::table::{self, End};
use super::walk::{Finish, Place, Tile};
#[cfg(target_arch = "x86_64")]
use super::{fixed256, fixed512};
use crate::chain::Chain;
use crate::elementwise::Binary;
use crate::isa::{Isa, Kernel};
use crate::math::canonical;
use crate::threads::{Slots, Threads};

/// Values that are handled at a time.
const PIECE: usize = 256;

/// `y[i] = f32(x[i] − zero) × scale`, followed by a chain, on rows of `n` values.
///
/// # Panics
/// If the lengths differ, the values are no whole number of rows, or an operand of the chain does
/// not fit.
#[allow(clippy::too_many_arguments, reason = "what, how, and what follows")]
pub fn dequantize(
    isa: Isa,
    threads: &Threads,
    x: Int8<'_>,
    scale: f32,
    zero: i32,
    n: usize,
    chain: &Chain<'_>,
    y: Output<'_>,
) {
    assert_eq!(x.len(), y.len(), "dequantize: lengths differ");
    assert!(
        n > 0 && x.len().is_multiple_of(n),
        "dequantize: {} values are no rows of {n}",
        x.len()
    );
    chain.check("dequantize", x.len() / n, n);
    let y = match y {
        Output::Quantised {
            y,
            scale: to_scale,
            zero: to_zero,
        } if table::is_worth(chain, x.len()) => {
            let to = (to_scale, to_zero);
            return table::look_up(isa, threads, x, (scale, zero), chain, y, to);
        }
        y => y,
    };
    // Rows matter to chains alone, and short ones take long.
    let n = match chain.is_empty() && x.len() <= TASK {
        true => x.len().max(1),
        false => n,
    };
    let m = x.len() / n;
    let together = (TASK / n).max(1);
    let store = Finished::new(isa, n, chain, y);
    let signed = matches!(x, Int8::Signed(_));
    let how = Quantisation {
        scale,
        zero,
        signed,
    };
    // The scale as the first of the operations.
    #[cfg(target_arch = "x86_64")]
    let first = [Op::Binary(Binary::Mul, Operand::Scalar(scale))];
    #[cfg(target_arch = "x86_64")]
    let scaled = store.ops.as_ref().map(|ops| [&first, &ops[..]].concat());
    threads.run(m.div_ceil(together), |task| {
        let row = task * together;
        let rows = together.min(m - row);
        let x = x.part(row * n..(row + rows) * n);
        #[cfg(target_arch = "x86_64")]
        if let (Some(ops), Some(wide)) = (&scaled, Avx512::on(isa)) {
            for i in 0..rows {
                // SAFETY: rows of a task are its own.
                unsafe { wide.row(&store, ops, row + i, x.part(i * n..(i + 1) * n), zero) };
            }
            return;
        }
        if store.ops.is_some() {
            return isa.run(Pieces {
                x,
                how,
                row,
                store: &store,
            });
        }
        let mut values = vec![0.0; rows * n];
        isa.run(Widen {
            x,
            how,
            y: &mut values,
        });
        // SAFETY: rows of a task are its own.
        unsafe { store.rows(row, &mut values) };
    });
}

/// Takes sums through a chain to an output.
pub(super) struct Finished<'a, 'c> {
    isa: Isa,
    pub(super) n: usize,
    chain: Chain<'c>,
    /// The chain, if each link works on the value before it.
    ops: Option<Vec<Op<'c>>>,
    /// The same in fixed point, if it can be that.
    #[cfg(target_arch = "x86_64")]
    fixed: Option<Fixed<'c>>,
    pub(super) to: To<'a>,
    /// What the integers that come of that are taken to.
    end: Option<Box<End>>,
}

pub(super) enum To<'a> {
    Float(Slots<'a, f32>),
    Unsigned(Slots<'a, u8>, Quantisation),
    Signed(Slots<'a, i8>, Quantisation),
}

impl<'a, 'c> Finished<'a, 'c> {
    /// The way of the sums of a product; where its end is a function of one integer, that is looked up.
    pub(super) fn of_sums(isa: Isa, n: usize, chain: &Chain<'c>, out: Output<'a>) -> Self {
        let Output::Quantised { y, scale, zero } = out else {
            return Finished::new(isa, n, chain, out);
        };
        let to = Quantisation {
            scale,
            zero,
            signed: y.signed(),
        };
        let Some(end) = End::of(isa, chain, y.len(), to) else {
            return Finished::new(isa, n, chain, Output::Quantised { y, scale, zero });
        };
        // The last link before is the quantisation itself.
        let out = Output::Quantised {
            y: y.with_sign(end.how.signed),
            scale: end.how.scale,
            zero: end.how.zero,
        };
        let chain = chain.until(end.begin - 1);
        Finished {
            end: Some(Box::new(end)),
            ..Finished::new(isa, n, &chain, out)
        }
    }

    fn new(isa: Isa, n: usize, chain: &Chain<'c>, out: Output<'a>) -> Self {
        let to = match out {
            Output::Float(y) => To::Float(Slots::of(y)),
            Output::Quantised { y, scale, zero } => {
                let how = |signed| Quantisation {
                    scale,
                    zero,
                    signed,
                };
                match y {
                    Quantised::Unsigned(y) => To::Unsigned(Slots::of(y), how(false)),
                    Quantised::Signed(y) => To::Signed(Slots::of(y), how(true)),
                }
            }
        };
        let ops = ops::of_chain(chain);
        #[cfg(target_arch = "x86_64")]
        let fixed = match (&ops, isa == Isa::PORTABLE) {
            (Some(ops), false) => Fixed::of(isa, ops, &to),
            _ => None,
        };
        Finished {
            isa,
            n,
            chain: *chain,
            ops,
            #[cfg(target_arch = "x86_64")]
            fixed,
            to,
            end: None,
        }
    }

    /// Takes values of whole rows from row `first` on.
    ///
    /// # Safety
    /// Nobody else uses these rows of the result.
    pub(super) unsafe fn rows(&self, first: usize, values: &mut [f32]) {
        self.chain.apply(self.isa, first, self.n, values);
        let (at, store) = (first * self.n, self);
        self.isa.run(Write { store, at, values });
    }

    /// Writes values from place `at` on.
    ///
    /// # Safety
    /// Nobody else uses this part of the result.
    #[inline(always)]
    unsafe fn write(&self, at: usize, values: &[f32]) {
        // SAFETY: the caller's part of the result.
        unsafe {
            match &self.to {
                To::Float(y) => {
                    for (y, &x) in y.slice(at, values.len()).iter_mut().zip(values) {
                        *y = canonical(x);
                    }
                }
                To::Unsigned(y, how) => how.narrow(values, y.slice(at, values.len())),
                To::Signed(y, how) => how.narrow(values, y.slice(at, values.len())),
            }
        }
    }

    /// Takes values from column `column` of a row on through `ops` and writes them.
    ///
    /// # Safety
    /// Nobody else uses this part of the result.
    #[inline(always)]
    pub(super) unsafe fn go_on(
        &self,
        ops: &[Op<'_>],
        row: usize,
        column: usize,
        values: &mut [f32],
    ) {
        let at = row * self.n + column;
        if ops.iter().any(|op| matches!(op, Op::Keep)) {
            let mut kept = [0.0f32; PIECE];
            let kept = &mut kept[..values.len()];
            for op in ops {
                match op {
                    Op::Keep => kept.copy_from_slice(values),
                    _ => op.apply(at, column, kept, values),
                }
            }
        } else {
            for op in ops {
                op.apply(at, column, &[], values);
            }
        }
        // SAFETY: the caller's part of the result.
        unsafe { self.write(at, values) };
    }
}

impl Finish for Finished<'_, '_> {
    unsafe fn finish(&self, at: Place, tile: &mut Tile) {
        // SAFETY: the caller's part of the result.
        unsafe { self.tile(at, tile) };
        if let Some(End { table, .. }) = self.end.as_deref() {
            // Whole rows follow each other.
            let (rows, width) = match at.width == self.n {
                true => (1, at.count * self.n),
                false => (at.count, at.width),
            };
            for row in at.row..at.row + rows {
                // SAFETY: as above; they have been written.
                unsafe {
                    if let Some(integers) = self.bytes(row * self.n + at.column, width) {
                        table.look_up(std::slice::from_raw_parts_mut(integers, width));
                    }
                }
            }
        }
    }
}

impl Finished<'_, '_> {
    /// Where `len` bytes of the result lie from place `at` on, if it has such.
    ///
    /// # Safety
    /// Nobody else writes what is written there.
    unsafe fn bytes(&self, at: usize, len: usize) -> Option<*mut u8> {
        // SAFETY: the caller's promise.
        unsafe {
            match &self.to {
                To::Float(_) => None,
                To::Unsigned(y, _) => Some(y.pointer(at, len)),
                To::Signed(y, _) => Some(y.pointer(at, len).cast()),
            }
        }
    }

    /// Takes a tile through the chain.
    ///
    /// # Safety
    /// Nobody else uses this part of the result.
    unsafe fn tile(&self, at: Place, tile: &mut Tile) {
        let Some(ops) = &self.ops else {
            return self.by_chain(at, tile);
        };
        let tile = &tile[..at.count];
        #[cfg(target_arch = "x86_64")]
        if let Some(fixed) = &self.fixed {
            // SAFETY: the caller's part of the result.
            let mut uncertain = unsafe { self.to_bytes(fixed, at, tile) };
            while uncertain != 0 {
                let i = uncertain.trailing_zeros() as usize;
                let (row, count) = (at.row + i, 1);
                // SAFETY: as above.
                unsafe { self.by_ops(ops, Place { row, count, ..at }, &tile[i..]) };
                uncertain &= uncertain - 1;
            }
            return;
        }
        // SAFETY: the caller's part of the result.
        unsafe { self.by_ops(ops, at, tile) };
    }

    /// Takes a tile to bytes in fixed point; a bit for each row that says whether these are not certain.
    ///
    /// # Safety
    /// Nobody else uses this part of the result.
    #[cfg(target_arch = "x86_64")]
    unsafe fn to_bytes(&self, fixed: &Fixed<'_>, at: Place, tile: &[[i32; COLUMNS]]) -> u8 {
        let place = at.row * self.n + at.column;
        let len = (at.count - 1) * self.n + at.width;
        // SAFETY: what lies between the caller's parts is not written.
        let to = unsafe { self.bytes(place, len) }.expect("only bytes are made in fixed point");
        let bytes = Bytes {
            fixed,
            column: at.column,
            width: at.width,
            place,
            to,
            apart: self.n,
        };
        // SAFETY: the rows have their places, and fixed point is had only where the machine has these instructions.
        unsafe {
            match Avx512::on(self.isa) {
                Some(_) => fixed512::rows(&bytes, tile),
                None => fixed256::rows(&bytes, tile),
            }
        }
    }

    /// Takes a tile through the operations.
    ///
    /// # Safety
    /// Nobody else uses this part of the result.
    unsafe fn by_ops(&self, ops: &[Op<'_>], at: Place, tile: &[[i32; COLUMNS]]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = Avx512::on(self.isa) {
            // SAFETY: the caller's part of the result.
            return unsafe { wide.tile(self, ops, at, tile) };
        }
        let store = self;
        self.isa.run(FinishTile {
            store,
            ops,
            at,
            tile,
        });
    }

    /// Takes a tile through a chain that is none of operations.
    fn by_chain(&self, at: Place, tile: &Tile) {
        for (i, sums) in tile[..at.count].iter().enumerate() {
            let mut values = [0.0; COLUMNS];
            self.isa.run(Float {
                sums,
                values: &mut values,
            });
            let (row, values) = (at.row + i, &mut values[..at.width]);
            self.chain
                .apply_part(self.isa, row, self.n, at.column, values);
            let (store, at) = (self, row * self.n + at.column);
            self.isa.run(Write { store, at, values });
        }
    }
}

/// Sums as f32.
struct Float<'a> {
    sums: &'a [i32; COLUMNS],
    values: &'a mut [f32; COLUMNS],
}

impl Kernel for Float<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for j in 0..COLUMNS {
            self.values[j] = self.sums[j] as f32;
        }
    }
}

/// A tile whose chain is `ops`; who makes one owns that part of the result.
struct FinishTile<'a, 'o, 'c> {
    store: &'a Finished<'o, 'c>,
    ops: &'a [Op<'c>],
    at: Place,
    tile: &'a [[i32; COLUMNS]],
}

impl Kernel for FinishTile<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        // Known lengths make better loops.
        match self.at.width {
            COLUMNS => self.columns(COLUMNS),
            width => self.columns(width),
        }
    }
}

impl FinishTile<'_, '_, '_> {
    #[inline(always)]
    fn columns(self, width: usize) {
        let (column, ops) = (self.at.column, self.ops);
        for (i, sums) in self.tile[..self.at.count].iter().enumerate() {
            let mut values = [0.0f32; COLUMNS];
            let values = &mut values[..width];
            let sums = &sums[..width];
            let rest = match ops {
                [
                    Op::Binary(Binary::Mul, Operand::Columns(scale)),
                    Op::Binary(Binary::Add, Operand::Columns(bias)),
                    rest @ ..,
                ] => {
                    let (scale, bias) = (&scale[column..][..width], &bias[column..][..width]);
                    for j in 0..width {
                        values[j] = sums[j] as f32 * scale[j] + bias[j];
                    }
                    rest
                }
                [Op::Binary(Binary::Mul, Operand::Columns(scale)), rest @ ..] => {
                    let scale = &scale[column..][..width];
                    for j in 0..width {
                        values[j] = sums[j] as f32 * scale[j];
                    }
                    rest
                }
                _ => {
                    for j in 0..width {
                        values[j] = sums[j] as f32;
                    }
                    ops
                }
            };
            // SAFETY: who made this owns the part of the result.
            unsafe { self.store.go_on(rest, self.at.row + i, column, values) };
        }
    }
}

/// Integers of some rows, whose chain is one of operations; who makes one owns those rows of the result.
struct Pieces<'a, 'o, 'c> {
    x: Int8<'a>,
    how: Quantisation,
    row: usize,
    store: &'a Finished<'o, 'c>,
}

impl Kernel for Pieces<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let n = self.store.n;
        let ops = self.store.ops.as_deref().unwrap_or_default();
        let mut values = [0.0f32; PIECE];
        for i in 0..self.x.len() / n {
            for column in (0..n).step_by(PIECE) {
                let values = &mut values[..PIECE.min(n - column)];
                let at = i * n + column;
                self.how.values(self.x.part(at..at + values.len()), values);
                // SAFETY: who made this owns the rows.
                unsafe { self.store.go_on(ops, self.row + i, column, values) };
            }
        }
    }
}

/// Values as they are; who makes one owns that part of the result.
struct Write<'a, 'o, 'c> {
    store: &'a Finished<'o, 'c>,
    at: usize,
    values: &'a [f32],
}

impl Kernel for Write<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        // SAFETY: who made this owns the part of the result.
        unsafe { self.store.write(self.at, self.values) };
    }
}

/// Dequantisation of some values.
struct Widen<'a> {
    x: Int8<'a>,
    how: Quantisation,
    y: &'a mut [f32],
}

impl Kernel for Widen<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.how.values(self.x, self.y);
    }
}
