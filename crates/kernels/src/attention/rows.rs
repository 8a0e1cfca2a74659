//! What a decoder does to rows beside products and attention: rotation, gates, residual sums.

use crate::isa::{Isa, Kernel};
use crate::math;

/// Which values of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Neighbours: 2i and 2i + 1.
    Neighbours,
    /// Halves of the rotated part: i and i + half.
    Halves,
}

/// Rotates the first `2 × cos.len()` values of each head of one row: with a and b the two values
/// of pair i, a becomes `fma(a, cos[i], −(b × sin[i]))`, b becomes `fma(a, sin[i], b × cos[i])`.
///
/// # Panics
/// If `cos` and `sin` differ in length, a head is shorter than its rotated part, or `row` is no
/// whole number of heads.
pub fn rotate(
    isa: Isa,
    rotation: Rotation,
    head_dim: usize,
    cos: &[f32],
    sin: &[f32],
    row: &mut [f32],
) {
    assert!(
        cos.len() == sin.len() && 2 * cos.len() <= head_dim && row.len().is_multiple_of(head_dim),
        "rotate: {} pairs, heads of {head_dim}, a row of {}",
        cos.len(),
        row.len()
    );
    isa.run(Rotate {
        rotation,
        head_dim,
        cos,
        sin,
        row,
    });
}

struct Rotate<'a> {
    rotation: Rotation,
    head_dim: usize,
    cos: &'a [f32],
    sin: &'a [f32],
    row: &'a mut [f32],
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let half = self.cos.len();
        for head in self.row.chunks_exact_mut(self.head_dim) {
            let head = &mut head[..2 * half];
            match self.rotation {
                Rotation::Neighbours => {
                    let (pairs, _) = head.as_chunks_mut::<2>();
                    for ((pair, cos), sin) in pairs.iter_mut().zip(self.cos).zip(self.sin) {
                        *pair = turn(*pair, *cos, *sin);
                    }
                }
                Rotation::Halves => {
                    let (first, second) = head.split_at_mut(half);
                    let angles = self.cos.iter().zip(self.sin);
                    for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(angles) {
                        [*a, *b] = turn([*a, *b], *cos, *sin);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn turn([a, b]: [f32; 2], cos: f32, sin: f32) -> [f32; 2] {
    [
        math::canonical(a.mul_add(cos, -(b * sin))),
        math::canonical(a.mul_add(sin, b * cos)),
    ]
}

/// The function of a gated unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// x · sigmoid(x).
    Silu,
    /// The tanh form of x · Φ(x).
    GeluTanh,
}

/// `gate[i] = f(gate[i]) × up[i]`.
///
/// # Panics
/// If the lengths differ.
pub fn gated(isa: Isa, f: Gate, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "gated: lengths differ");
    match f {
        Gate::Silu => isa.run(Gated {
            gate,
            up,
            f: math::silu,
        }),
        Gate::GeluTanh => isa.run(Gated {
            gate,
            up,
            f: math::gelu_tanh,
        }),
    }
}

struct Gated<'a, F> {
    gate: &'a mut [f32],
    up: &'a [f32],
    f: F,
}

impl<F: Fn(f32) -> f32> Kernel for Gated<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (gate, up) in self.gate.iter_mut().zip(self.up) {
            *gate = math::canonical((self.f)(*gate) * up);
        }
    }
}

/// `x[i] = x[i] + y[i mod y.len()]`: a residual sum, or a bias for each row.
///
/// # Panics
/// If the length of `y` does not divide that of `x`.
pub fn add_in_place(isa: Isa, x: &mut [f32], y: &[f32]) {
    assert!(
        x.is_empty() || (!y.is_empty() && x.len().is_multiple_of(y.len())),
        "add: {} values to {}",
        y.len(),
        x.len()
    );
    isa.run(Add { x, y });
}

struct Add<'a> {
    x: &'a mut [f32],
    y: &'a [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for row in self.x.chunks_exact_mut(self.y.len().max(1)) {
            for (x, y) in row.iter_mut().zip(self.y) {
                *x = math::add(*x, *y);
            }
        }
    }
}
