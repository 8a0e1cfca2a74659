//! Functions of one 8-bit integer that gives one: 256 values are computed, all others looked up.

use super::Int8;
use super::finish::{Output, Quantisation, Quantised, dequantize};
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
    /// The bits of the function's value for the bits of each integer.
    pub(super) values: [u8; 256],
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
                values: all(isa, how, &Chain::new(&end), to),
            })
        })
    }

    /// Takes integers to the values of the function.
    pub(super) fn look_up(&self, integers: &mut [u8]) {
        for integer in integers {
            *integer = self.values[usize::from(*integer)];
        }
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
    let table = all(isa, from, chain, how(to_scale, to_zero, y.signed()));
    let (x, y) = (x.bits(), y.bits());
    threads.chunks(y, TASK, |i, y| {
        for (y, &x) in y.iter_mut().zip(&x[i * TASK..]) {
            *y = table[usize::from(x)];
        }
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
