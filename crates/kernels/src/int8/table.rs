//! Functions of one 8-bit integer that gives one: 256 values are computed, all others looked up.

use super::Int8;
use super::finish::dequantize;
use super::quantise::{Output, Quantisation, Quantised};
use crate::chain::{Chain, Link, Source};
use crate::elementwise::{Binary, Unary};
use crate::isa::Isa;
use crate::threads::Threads;

/// Fewest values for which a table is worth its own.
const FEWEST: usize = 1 << 11;

/// Values worth a task of their own.
const TASK: usize = 1 << 15;

/// Whether the results of a chain on so many values should be looked up: each depends on its value alone, and is more than
/// a few instructions away from it.
pub(super) fn is_worth(chain: &Chain<'_>, len: usize) -> bool {
    len >= FEWEST && are_dear_alone(chain.links())
}

fn are_dear_alone(links: &[Link<'_>]) -> bool {
    let alone = |source: &Source<'_>| matches!(source, Source::Value(_) | Source::Scalar(_));
    let dear = |link: &Link<'_>| match link {
        Link::Unary(op, _) => *op != Unary::Relu,
        Link::Binary(op, ..) => matches!(op, Binary::Pow | Binary::Fmod),
        _ => false,
    };
    links.iter().any(dear)
        && links.iter().all(|link| match link {
            Link::Binary(_, a, b) => alone(a) && alone(b),
            Link::Unary(..) | Link::Requantise(..) => true,
            Link::Softmax(_) | Link::Select(..) | Link::Dequantise(..) => false,
        })
}

/// The end of a chain that is a function of one 8-bit integer, and gives one.
pub(super) struct End {
    /// Links before it.
    pub(super) begin: usize,
    /// How these give the integer.
    pub(super) how: Quantisation,
    /// The function.
    pub(super) table: Table,
}

/// A byte for each byte.
pub(super) struct Table {
    values: [u8; 256],
    /// The same by the high halves of bytes, as vectors look it up, where the machine has AVX2.
    #[cfg(target_arch = "x86_64")]
    changes: Option<[[u8; 16]; 16]>,
}

impl Table {
    /// The bits of a chain's result for those of each integer.
    fn of(isa: Isa, from: Quantisation, chain: &Chain<'_>, to: Quantisation) -> Table {
        let values = all(isa, from, chain, to);
        Table {
            values,
            #[cfg(target_arch = "x86_64")]
            changes: (isa != Isa::PORTABLE).then(|| avx2::changes(&values)),
        }
    }

    /// Takes bytes to those of the table.
    pub(super) fn look_up(&self, bytes: &mut [u8]) {
        #[cfg(target_arch = "x86_64")]
        let bytes = match &self.changes {
            // SAFETY: all instruction sets but the portable one have AVX2.
            Some(changes) => unsafe { avx2::look_up(changes, bytes) },
            None => bytes,
        };
        for byte in bytes {
            *byte = self.values[usize::from(*byte)];
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    //! A shuffle looks up 16 bytes by the low halves of others, and gives 0 where the highest bit of these is set. So high halves
    //! are gone through, eight without that bit and eight with it, 16 taken off the bytes each time, and what is found added up
    //! without carry: a byte finds what belongs to its own high half and to all before it.

    use std::arch::x86_64::*;

    /// What is found for each high half: how its values differ from those for the one before.
    pub(super) fn changes(values: &[u8; 256]) -> [[u8; 16]; 16] {
        let values = values.as_chunks::<16>().0;
        std::array::from_fn(|high| match high % 8 {
            0 => values[high],
            _ => std::array::from_fn(|low| values[high][low] ^ values[high - 1][low]),
        })
    }

    /// Takes bytes, 32 at a time, to those of a table; gives what is left.
    #[target_feature(enable = "avx2")]
    pub(super) fn look_up<'a>(changes: &[[u8; 16]; 16], bytes: &'a mut [u8]) -> &'a mut [u8] {
        let (pairs, rest) = bytes.as_chunks_mut::<64>();
        for pair in pairs {
            let (first, second) = pair.split_at_mut(32);
            some(changes, [first, second]);
        }
        let (one, rest) = rest.as_chunks_mut::<32>();
        for one in one {
            some(changes, [one]);
        }
        rest
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn some<const N: usize>(changes: &[[u8; 16]; 16], bytes: [&mut [u8]; N]) {
        let (step, top) = (_mm256_set1_epi8(16), _mm256_set1_epi8(-128));
        let mut sums = [_mm256_setzero_si256(); N];
        for (half, changes) in changes.chunks_exact(8).enumerate() {
            let mut left = sums;
            for (left, bytes) in left.iter_mut().zip(&bytes) {
                // SAFETY: 32 bytes.
                *left = unsafe { _mm256_loadu_si256(bytes[..32].as_ptr().cast()) };
                if half == 1 {
                    *left = _mm256_xor_si256(*left, top);
                }
            }
            for change in changes {
                // SAFETY: 16 bytes.
                let change = unsafe { _mm_loadu_si128(change.as_ptr().cast()) };
                let change = _mm256_broadcastsi128_si256(change);
                for (left, sum) in left.iter_mut().zip(&mut sums) {
                    *sum = _mm256_xor_si256(*sum, _mm256_shuffle_epi8(change, *left));
                    // Those with the bit keep it.
                    *left = _mm256_subs_epi8(*left, step);
                }
            }
        }
        for (sum, bytes) in sums.into_iter().zip(bytes) {
            // SAFETY: 32 bytes.
            unsafe { _mm256_storeu_si256(bytes[..32].as_mut_ptr().cast(), sum) };
        }
    }
}

impl End {
    /// The end of a chain whose `len` results are quantised, if it is worth looking up.
    pub(super) fn of(isa: Isa, chain: &Chain<'_>, len: usize, to: Quantisation) -> Option<End> {
        let links = chain.links();
        if len < FEWEST || links.len() < chain.all().len() {
            return None;
        }
        (1..links.len()).find_map(|begin| {
            let how = match links[begin - 1] {
                Link::Requantise(value, how) if value + 1 == begin => how,
                _ => return None,
            };
            let end = (links[begin..].iter())
                .map(|link| counted_from(begin, link))
                .collect::<Option<Vec<_>>>()?;
            are_dear_alone(&end).then(|| End {
                begin,
                how,
                table: Table::of(isa, how, &Chain::new(&end), to),
            })
        })
    }
}

/// The same link where value `first` is the first one; `None` if it reads one before.
fn counted_from<'a>(first: usize, link: &Link<'a>) -> Option<Link<'a>> {
    let source = |source: Source<'a>| match source {
        Source::Value(v) => v.checked_sub(first).map(Source::Value),
        other => Some(other),
    };
    Some(match *link {
        Link::Unary(op, v) => Link::Unary(op, v.checked_sub(first)?),
        Link::Binary(op, a, b) => Link::Binary(op, source(a)?, source(b)?),
        Link::Requantise(v, how) => Link::Requantise(v.checked_sub(first)?, how),
        _ => return None,
    })
}

/// [`dequantize`] to 8-bit integers, looked up.
pub(super) fn look_up(
    isa: Isa,
    threads: &Threads,
    x: Int8<'_>,
    (scale, zero): (f32, i32),
    chain: &Chain<'_>,
    y: Quantised<'_>,
    (to_scale, to_zero): (f32, i32),
) {
    let how = |scale, zero, signed| Quantisation {
        scale,
        zero,
        signed,
    };
    let from = how(scale, zero, matches!(x, Int8::Signed(_)));
    let table = Table::of(isa, from, chain, how(to_scale, to_zero, y.signed()));
    let (x, y) = (x.bits(), y.bits());
    threads.chunks(y, TASK, |i, y| {
        y.copy_from_slice(&x[i * TASK..][..y.len()]);
        table.look_up(y);
    });
}

/// The bits of a chain's result for those of each integer.
fn all(isa: Isa, from: Quantisation, chain: &Chain<'_>, to: Quantisation) -> [u8; 256] {
    let integers: [u8; 256] = std::array::from_fn(|i| i as u8);
    let signed = integers.map(u8::cast_signed);
    let x = match from.signed {
        false => Int8::Unsigned(&integers),
        true => Int8::Signed(&signed),
    };
    let mut table = [0; 256];
    let y = Output::Quantised {
        y: Quantised::Unsigned(&mut table).with_sign(to.signed),
        scale: to.scale,
        zero: to.zero,
    };
    let one = Threads::single();
    dequantize(isa, &one, x, from.scale, from.zero, 256, chain, y);
    table
}
