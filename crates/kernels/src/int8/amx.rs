//! Tiles with AMX: 32 rows by 32 columns in four of its eight registers, which are tiles of 16 rows of 64 bytes.
//!
//! One instruction adds the products of 16 rows of 64 bytes and 16 columns of as many: 16 steps of a panel as it lies in memory.
//! Rows are copied so that those of a tile are equally far apart and end in bytes that are 0.
//!
//! The instructions are written out here: the compiler uses none of these registers, so what one piece of code leaves in them the
//! next one finds.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18, and volume 2, `TDPBUSD`.

use std::arch::asm;
use std::marker::PhantomData;
use std::sync::OnceLock;

use super::pack::{COLUMNS, QUAD, Quad, UNIT, UNITS};
use super::walk::{Lines, Rows};
use crate::isa::Isa;

/// Rows of two tiles, which are multiplied at once.
pub(super) const HEIGHT: usize = 2 * TALL;

/// Fewest rows of a product for which tiles are worth while: they take as long for one row as for sixteen.
pub(super) const FEWEST: usize = 9;

/// Rows of a tile, and bytes of a row: of the left operand, or sums of a unit.
const TALL: usize = 16;
const WIDE: usize = 64;

/// Steps of a panel in a tile.
const STEPS: usize = WIDE / QUAD;

/// Tiles along k whose products are added to the sums of all rows before the next ones': with these, two units of a panel stay
/// in the first-level cache.
const BLOCK: usize = 8;

/// Bytes that are fetched while tiles are multiplied.
const FETCH: usize = 512;

/// Proof that this machine has AMX, and that this process may use it.
#[derive(Clone, Copy)]
pub(super) struct Amx(());

impl Amx {
    pub(super) fn on(isa: Isa) -> Option<Amx> {
        static PERMITTED: OnceLock<bool> = OnceLock::new();
        (isa.is_avx512() && *PERMITTED.get_or_init(|| has_amx() && permitted())).then_some(Amx(()))
    }

    /// Copies rows, and readies the tiles of this thread until the copy is dropped.
    pub(super) fn copy(self, rows: &Rows<'_>) -> Copied {
        let run = rows.steps * QUAD;
        let apart = Copied::bytes_of_row(rows.runs.len() * rows.steps);
        let mut values = vec![0; rows.starts.len().next_multiple_of(HEIGHT) * apart];
        for (&start, to) in rows.starts.iter().zip(values.chunks_exact_mut(apart)) {
            for (from, to) in rows.runs.iter().zip(to.chunks_exact_mut(run)) {
                to.copy_from_slice(&rows.values[start + from..][..run]);
            }
        }
        // SAFETY: `self` is proof that this thread may.
        unsafe { configure() };
        Copied {
            values,
            apart,
            here: PhantomData,
        }
    }
}

/// Whether the processor has tiles, and products of bytes of them.
fn has_amx() -> bool {
    const TILE: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    let both = TILE | INT8;
    std::arch::x86_64::__cpuid_count(7, 0).edx & both == both
}

/// Asks the system for the use of tiles, which needs room where threads that wait are kept.
///
/// Source: the Linux kernel's documentation, arch/x86/xstate, "Dynamic features".
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: two integers are all that this call reads.
    unsafe {
        libc::syscall(
            libc::SYS_arch_prctl,
            ARCH_REQ_XCOMP_PERM,
            XFEATURE_XTILEDATA,
        ) == 0
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn permitted() -> bool {
    false
}

/// Rows for tiles, on the thread that copied them.
pub(super) struct Copied {
    /// Of each row all runs, one after another.
    values: Vec<u8>,
    /// How far rows are apart.
    apart: usize,
    /// The tiles are this thread's.
    here: PhantomData<*const u8>,
}

impl Drop for Copied {
    fn drop(&mut self) {
        // SAFETY: there is a `Copied`, so the machine has the instruction. Nobody else's tiles are in these registers.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}

/// Says of all registers that they are whole tiles.
///
/// # Safety
/// The machine has tiles, and this process may use them.
unsafe fn configure() {
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        bytes_of_row: [u16; 16],
        rows: [u8; 16],
    }
    let mut whole = Configuration {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        bytes_of_row: [0; 16],
        rows: [0; 16],
    };
    whole.bytes_of_row[..8].fill(WIDE as u16);
    whole.rows[..8].fill(TALL as u8);
    // SAFETY: the caller's promise; 64 bytes.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const whole, options(readonly, nostack, preserves_flags))
    };
}

impl Copied {
    /// How far rows of so many steps are apart: an odd number of cache lines, as rows that are a power of two apart would share
    /// their places in the cache.
    pub(super) fn bytes_of_row(steps: usize) -> usize {
        (steps.div_ceil(STEPS) | 1) * WIDE
    }

    /// Sums of all rows; those up to a multiple of 32 have sums as well.
    ///
    /// # Safety
    /// There are so many lines of 16 places for each unit, which nobody else uses.
    pub(super) unsafe fn multiply(
        &self,
        panel: &[Quad],
        units: usize,
        begin: &[i32; COLUMNS],
        to: Lines,
    ) {
        let tile = units * STEPS;
        let whole = panel.len() / tile;
        let (panel, rest) = panel.split_at(whole * tile);
        // The rest of the steps, and others that are multiplied by 0.
        let mut last = [Quad([0; QUAD * UNIT]); STEPS * UNITS];
        last[..rest.len()].copy_from_slice(rest);
        let all = whole + usize::from(!rest.is_empty());
        let block = all.div_ceil(all.div_ceil(BLOCK));
        for first in (0..all).step_by(block) {
            let end = all.min(first + block);
            let panel = &panel[first * tile..end.min(whole) * tile];
            let mut next = panel.as_ptr_range().end.cast::<u8>();
            let after = next.wrapping_add(block * tile * size_of::<Quad>());
            for unit in (0..units).step_by(2) {
                // Where there is no second unit, the first one is taken twice.
                let pair = [unit, (unit + 1).min(units - 1)];
                for (row, rows) in self.values.chunks_exact(HEIGHT * self.apart).enumerate() {
                    let tiles = |at: usize, panel: &[Quad], next| Tiles {
                        rows: [0, TALL * self.apart]
                            .map(|row| rows.as_ptr().wrapping_add(row + at * WIDE)),
                        apart: self.apart,
                        units: pair.map(|unit| panel.as_ptr().wrapping_add(unit)),
                        step: units * size_of::<Quad>(),
                        count: panel.len() / tile,
                        next,
                    };
                    let lines = pair.map(|unit| to.at(row * HEIGHT, unit * UNIT));
                    // SAFETY: the tiles are ready as long as `self` is there; rows and panels have so many bytes, and lines
                    // the places.
                    unsafe {
                        match first {
                            0 => load(pair.map(|unit| begin.as_ptr().wrapping_add(unit * UNIT)), 0),
                            _ => load(lines.map(<*mut i32>::cast_const), to.apart),
                        }
                        tiles(first, panel, (next < after).then_some(next)).multiply();
                        next = next.wrapping_add(panel.len() / tile * FETCH);
                        if end > whole {
                            tiles(whole, &last[..tile], None).multiply();
                        }
                        store(lines, to.apart);
                    }
                }
            }
        }
    }
}

/// Sums begin with lines of two units that are `apart` places apart.
///
/// # Safety
/// The tiles are ready, and there are 32 lines of 16 values each, or one if `apart` is 0.
unsafe fn load([first, second]: [*const i32; 2], apart: usize) {
    let below = TALL * apart;
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tileloadd tmm0, [{} + {apart}*4]",
            "tileloadd tmm1, [{} + {apart}*4]",
            "tileloadd tmm2, [{} + {apart}*4]",
            "tileloadd tmm3, [{} + {apart}*4]",
            in(reg) first,
            in(reg) second,
            in(reg) first.wrapping_add(below),
            in(reg) second.wrapping_add(below),
            apart = in(reg) apart,
            options(readonly, nostack, preserves_flags)
        );
    }
}

/// What is multiplied: 2 tiles of rows by 2 of columns, so many times.
struct Tiles {
    rows: [*const u8; 2],
    /// How far rows are apart.
    apart: usize,
    units: [*const Quad; 2],
    /// How far steps are apart.
    step: usize,
    count: usize,
    /// What is multiplied later, to be fetched.
    next: Option<*const u8>,
}

impl Tiles {
    /// Adds the products to the sums.
    ///
    /// # Safety
    /// The tiles are ready, and there are `count` tiles each to be read.
    unsafe fn multiply(self) {
        if self.count == 0 {
            return;
        }
        macro_rules! multiply {
            ($($fetch:literal)*; $next:expr) => {
                asm!(
                    "2:",
                    "tileloadd tmm4, [{upper} + {apart}*1]",
                    "tileloadd tmm6, [{left} + {step}*1]",
                    "tileloadd tmm5, [{lower} + {apart}*1]",
                    "tileloadd tmm7, [{right} + {step}*1]",
                    $($fetch,)*
                    "tdpbusd tmm0, tmm4, tmm6",
                    "tdpbusd tmm1, tmm4, tmm7",
                    "tdpbusd tmm2, tmm5, tmm6",
                    "tdpbusd tmm3, tmm5, tmm7",
                    "add {upper}, {wide}",
                    "add {lower}, {wide}",
                    "add {left}, {steps}",
                    "add {right}, {steps}",
                    "add {next}, {fetch}",
                    "dec {count}",
                    "jnz 2b",
                    upper = inout(reg) self.rows[0] => _,
                    lower = inout(reg) self.rows[1] => _,
                    left = inout(reg) self.units[0] => _,
                    right = inout(reg) self.units[1] => _,
                    count = inout(reg) self.count => _,
                    next = inout(reg) $next => _,
                    apart = in(reg) self.apart,
                    step = in(reg) self.step,
                    steps = in(reg) STEPS * self.step,
                    wide = const WIDE,
                    fetch = const FETCH,
                    options(readonly, nostack)
                )
            };
        }
        // SAFETY: the caller's promise.
        unsafe {
            match self.next {
                None => multiply!(; 0usize),
                Some(next) => multiply!(
                    "prefetcht1 [{next}]" "prefetcht1 [{next} + 64]" "prefetcht1 [{next} + 128]" "prefetcht1 [{next} + 192]"
                    "prefetcht1 [{next} + 256]" "prefetcht1 [{next} + 320]" "prefetcht1 [{next} + 384]" "prefetcht1 [{next} + 448]";
                    next
                ),
            }
        }
    }
}

/// Writes the sums of two units, in lines that are `apart` places apart.
///
/// # Safety
/// The tiles are ready, and there are 32 lines of 16 places each.
unsafe fn store([first, second]: [*mut i32; 2], apart: usize) {
    let below = TALL * apart;
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tilestored [{} + {apart}*4], tmm0",
            "tilestored [{} + {apart}*4], tmm1",
            "tilestored [{} + {apart}*4], tmm2",
            "tilestored [{} + {apart}*4], tmm3",
            in(reg) first,
            in(reg) second,
            in(reg) first.wrapping_add(below),
            in(reg) second.wrapping_add(below),
            apart = in(reg) apart,
            options(nostack, preserves_flags)
        );
    }
}
