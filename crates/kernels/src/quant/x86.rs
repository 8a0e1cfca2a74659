//! What the tiles of both x86-64 instruction sets share.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{Format, Line, Panel};

// Formats as numbers, since a parameter cannot be an enum.
pub(super) const Q8_0: u8 = 0;
pub(super) const Q4_0: u8 = 1;
pub(super) const Q4K: u8 = 2;
pub(super) const Q5K: u8 = 3;
pub(super) const Q6K: u8 = 4;

pub(super) const fn format(number: u8) -> Format {
    match number {
        Q8_0 => Format::Q8_0,
        Q4_0 => Format::Q4_0,
        Q4K => Format::Q4K,
        Q5K => Format::Q5K,
        _ => Format::Q6K,
    }
}

/// Calls `tile::<format, height>` with the arguments, both as numbers.
macro_rules! dispatch {
    ($format:ident, $height:ident, $tile:ident $arguments:tt) => {
        match $format {
            Format::Q8_0 => dispatch!(@ Q8_0 $height $tile $arguments),
            Format::Q4_0 => dispatch!(@ Q4_0 $height $tile $arguments),
            Format::Q4K => dispatch!(@ Q4K $height $tile $arguments),
            Format::Q5K => dispatch!(@ Q5K $height $tile $arguments),
            Format::Q6K => dispatch!(@ Q6K $height $tile $arguments),
            Format::F32 | Format::F16 | Format::BF16 => unreachable!("dense weights have no codes"),
        }
    };
    (@ $f:ident $height:ident $tile:ident $arguments:tt) => {
        dispatch!(@ $f $height $tile $arguments: 1 2 3 4 5 6)
    };
    (@ $f:ident $height:ident $tile:ident $arguments:tt: $($h:literal)+) => {
        match $height {
            $($h => $tile::<$f, $h> $arguments,)+
            _ => unreachable!("slivers have 1 to 6 rows"),
        }
    };
}
pub(super) use dispatch;

/// Lines of codes, at least, by which memory is asked for ahead: 32 KiB for each of two panels.
const AHEAD: usize = 512;

/// How many lines of codes ahead to ask, where a tile of `R` rows reads so many of each panel: the next pairs lie behind them.
/// Their scales it asks for at once, if it is one row.
#[inline(always)]
pub(super) fn ahead<const R: usize>(panels: [Panel<'_>; 2], lines: usize) -> usize {
    let pair = 2 * lines.max(1);
    let pairs = AHEAD.div_ceil(pair);
    if R == 1 {
        for panel in panels {
            fetch(panel.scales, pairs * 2 * panel.scales.len());
        }
    }
    pairs * pair
}

/// Asks for the lines that lie so many lines ahead, up to the second-level cache. A single row makes
/// little of each line, and panels are too short for the processor to notice that they are read in
/// order.
#[inline(always)]
pub(super) fn fetch(lines: &[Line], ahead: usize) {
    for line in lines {
        let line = std::ptr::from_ref(line).wrapping_add(ahead);
        // SAFETY: a hint, which reads nothing; every x86-64 has it.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
    }
}
