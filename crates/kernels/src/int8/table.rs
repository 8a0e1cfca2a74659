//! Functions of one 8-bit integer that gives one: 256 values are computed, all others looked up.

use super::Int8;
use super::finish::{Output, Quantised, dequantize};
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
    let alone = |source: &Source<'_>| matches!(source, Source::Value(_) | Source::Scalar(_));
    let links = chain.links();
    let dear = |link: &Link<'_>| match link {
        Link::Unary(op, _) => *op != Unary::Relu,
        Link::Binary(op, ..) => matches!(op, Binary::Pow | Binary::Fmod),
        _ => false,
    };
    len >= FEWEST
        && links.iter().any(dear)
        && links.iter().all(|link| match link {
            Link::Binary(_, a, b) => alone(a) && alone(b),
            Link::Unary(..) | Link::Requantise(..) => true,
            Link::Softmax(_) | Link::Select(..) | Link::Dequantise(..) => false,
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
    let all: [u8; 256] = std::array::from_fn(|i| i as u8);
    let signed = all.map(u8::cast_signed);
    let all = match x {
        Int8::Unsigned(_) => Int8::Unsigned(&all),
        Int8::Signed(_) => Int8::Signed(&signed),
    };
    let make = |y: Quantised<'_>| {
        let to = Output::Quantised {
            y,
            scale: to_scale,
            zero: to_zero,
        };
        dequantize(isa, &Threads::single(), all, scale, zero, 256, chain, to);
    };
    match y {
        Quantised::Unsigned(y) => {
            let mut table = [0; 256];
            make(Quantised::Unsigned(&mut table));
            find(threads, x, &table, y);
        }
        Quantised::Signed(y) => {
            let mut table = [0; 256];
            make(Quantised::Signed(&mut table));
            find(threads, x, &table, y);
        }
    }
}

fn find<T: Copy + Send + Sync>(threads: &Threads, x: Int8<'_>, table: &[T; 256], y: &mut [T]) {
    threads.chunks(y, TASK, |i, y| {
        let part = i * TASK..i * TASK + y.len();
        match x {
            Int8::Unsigned(x) => {
                for (y, &x) in y.iter_mut().zip(&x[part]) {
                    *y = table[usize::from(x)];
                }
            }
            Int8::Signed(x) => {
                for (y, &x) in y.iter_mut().zip(&x[part]) {
                    *y = table[usize::from(x.cast_unsigned())];
                }
            }
        }
    });
}
