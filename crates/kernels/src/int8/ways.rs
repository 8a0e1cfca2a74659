//! The ways to multiply a tile, one for each kind of instructions.

#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
use super::pack::{COLUMNS, PackedInt8, UNITS};
use super::walk::{Lines, ROWS, Rows};
use super::{ZeroPoints, portable};
#[cfg(target_arch = "x86_64")]
use super::{
    amx::{self, Amx, Copied},
    avx2::{Apart, Avx2},
    near::Near,
    vnni::{AvxVnni, Vnni},
};
use crate::isa::Isa;

/// How the rows of a product are multiplied.
#[derive(Clone, Copy)]
pub(super) struct Way {
    isa: Isa,
    #[cfg(target_arch = "x86_64")]
    amx: Option<Amx>,
}

impl Way {
    /// The way for `m` rows and so many steps of a packed matrix.
    pub(super) fn of(isa: Isa, m: usize, steps: usize) -> Way {
        let _ = (m, steps);
        Way {
            isa,
            #[cfg(target_arch = "x86_64")]
            amx: Amx::on(isa).filter(|_| m >= amx::FEWEST && steps > 0),
        }
    }

    /// Rows that a task has, if `rows` would do and there are enough.
    pub(super) fn whole(self, rows: usize) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self.amx.is_some() {
            return rows.next_multiple_of(amx::HEIGHT);
        }
        rows.next_multiple_of(ROWS)
    }

    /// Rows that are multiplied at once, of as many as a task has.
    pub(super) fn at_once(self, rows: usize) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self.amx.is_some() {
            return rows;
        }
        let _ = rows;
        ROWS
    }

    /// Bytes that a row is copied to, which a task goes over again.
    pub(super) fn copied(self, steps: usize) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self.amx.is_some() {
            return Copied::bytes_of_row(steps);
        }
        let _ = steps;
        0
    }

    /// Bytes that a task of so many rows holds, at most, beside a tile.
    pub(super) fn held(self, rows: usize, steps: usize) -> u64 {
        #[cfg(target_arch = "x86_64")]
        if self.amx.is_some() {
            let sums = COLUMNS * size_of::<i32>();
            return rows.saturating_mul(Copied::bytes_of_row(steps).saturating_add(sums)) as u64;
        } else if Avx2::alone(self.isa).is_some() {
            return rows.saturating_mul(Apart::bytes_of_row(steps)) as u64;
        }
        let _ = (rows, steps);
        0
    }
}

/// The rows of a task, as the instruction set reads them.
pub(super) struct Tiles<'a> {
    way: Way,
    rows: &'a Rows<'a>,
    b: &'a PackedInt8,
    #[cfg(target_arch = "x86_64")]
    split: Option<Split<'a>>,
}

/// Rows that are read from elsewhere, whole or in pieces.
#[cfg(target_arch = "x86_64")]
enum Split<'a> {
    Copied(Copied),
    Near(Near<'a>),
    Apart(Apart),
}

impl<'a> Tiles<'a> {
    pub(super) fn new(
        way: Way,
        rows: &'a Rows<'a>,
        zeros: ZeroPoints<'_>,
        b: &'a PackedInt8,
    ) -> Tiles<'a> {
        #[cfg(target_arch = "x86_64")]
        let split = if let Some(amx) = way.amx {
            Some(Split::Copied(amx.copy(rows)))
        } else if let Some(avx2) = Avx2::alone(way.isa) {
            let near = zeros
                .first()
                .and_then(|&zero| Near::new(avx2, rows, zero, b));
            Some(near.map_or_else(|| Split::Apart(avx2.apart(rows)), Split::Near))
        } else {
            None
        };
        let _ = zeros;
        Tiles {
            way,
            rows,
            b,
            #[cfg(target_arch = "x86_64")]
            split,
        }
    }

    /// What is subtracted from the values of the rows before they are multiplied, where the instructions want values
    /// with a sign, or small ones.
    pub(super) fn middle(&self) -> i32 {
        #[cfg(target_arch = "x86_64")]
        let middle = match &self.split {
            Some(Split::Near(near)) => i32::from(near.low),
            Some(Split::Apart(_)) => 128,
            Some(Split::Copied(_)) | None => 0,
        };
        #[cfg(target_arch = "aarch64")]
        let middle = Neon::on(self.way.isa).map_or(0, |_| 128);
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let middle = 0;
        middle
    }

    /// Σ (a − middle)·b of as many rows as are multiplied [at once](Way::at_once), or fewer, from `first` on and one panel,
    /// added to what the sums of a row begin with.
    ///
    /// # Safety
    /// There are lines for as many rows as are multiplied at once, with their places, which nobody else uses: 16 for each
    /// unit of the panel, and all 64 if there is none. As many as there are rows suffice if that is no more than [`ROWS`].
    pub(super) unsafe fn multiply(
        &self,
        [first, count]: [usize; 2],
        index: usize,
        begin: &[i32; COLUMNS],
        to: Lines,
    ) {
        let rows = self.rows.part(first, count);
        let panel = self.b.panel(index);
        let steps = rows.runs.len() * rows.steps;
        let units = panel.len().checked_div(steps).unwrap_or(0);
        assert!(
            (1..=self.way.at_once(count)).contains(&count)
                && units <= UNITS
                && panel.len() == units * steps,
            "a tile of the packed operand"
        );
        // SAFETY: the caller's promise.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if units > 0 {
                match &self.split {
                    Some(Split::Copied(copied)) => {
                        return copied.multiply(panel, units, begin, to);
                    }
                    Some(Split::Near(near)) => {
                        return near.multiply([first, count], [index, units], panel, begin, to);
                    }
                    Some(Split::Apart(apart)) => {
                        return apart.multiply([first, count], panel, units, begin, to);
                    }
                    None => {}
                }
                if let Some(vnni) = Vnni::on(self.way.isa) {
                    return vnni.multiply(&rows, panel, units, begin, to);
                }
                if let Some(vnni) = AvxVnni::on(self.way.isa) {
                    return vnni.multiply(&rows, panel, units, begin, to);
                }
            }
            #[cfg(target_arch = "aarch64")]
            if let Some(neon) = Neon::on(self.way.isa)
                && units > 0
            {
                return neon.multiply(&rows, panel, units, begin, to);
            }
            let _ = self.way.isa;
            portable::multiply(&rows, panel, units, begin, to);
        }
    }
}
