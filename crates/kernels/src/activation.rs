//! Activation functions that models spell out in elementary operations, in a few passes instead of one for each.
//!
//! They have the bits of the operations one by one: each is rounded by itself. Only NaN is made canonical once, at the end,
//! to which every operation hands it on.

use crate::chain::{Chain, Link, Source};
use crate::elementwise::{Binary, Staged, Unary};
use crate::isa::{Isa, Kernel};
use crate::math;

/// What some links make of one value x.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Activation {
    /// x · sigmoid(x), product and function rounded apart: not [`Unary::Silu`], which is −0 where the sigmoid is 0.
    Gate,
    /// (x · (erf(x ÷ root) + one)) · half.
    Erf { root: f32, one: f32, half: f32 },
    /// (x · half) · (tanh((x + x³ · cubic) · scale) + one).
    Tanh {
        half: f32,
        cubic: f32,
        scale: f32,
        one: f32,
    },
}

/// An activation as part of a chain.
pub(crate) struct Found {
    pub(crate) activation: Activation,
    /// The value that it is applied to.
    pub(crate) of: usize,
    /// How many links it is.
    pub(crate) links: usize,
}

impl Activation {
    pub(crate) fn apply(self, isa: Isa, y: &mut [f32]) {
        match self {
            Activation::Gate => isa.run(Staged {
                y,
                first: math::sigmoid_stage,
                second: math::gated_by_sigmoid,
            }),
            Activation::Erf { root, one, half } => isa.run(Inner {
                y,
                inner: |x| x / root,
                stage: math::erf_stage,
                outer: |x, z, stage| math::canonical((x * (math::erf_by(z, stage) + one)) * half),
            }),
            Activation::Tanh {
                half,
                cubic,
                scale,
                one,
            } => isa.run(Inner {
                y,
                inner: |x| (x + math::pow(x, 3.0) * cubic) * scale,
                stage: math::tanh_stage,
                outer: |x, z, stage| math::canonical((x * half) * (math::tanh_by(z, stage) + one)),
            }),
        }
    }
}

/// A function of x and of z, which is made of x; what is long is done for many values before the next step, as
/// [`Staged`] says.
struct Inner<'a, F, G, H> {
    y: &'a mut [f32],
    inner: F,
    /// Of z.
    stage: G,
    /// Of x, z and its stage.
    outer: H,
}

impl<F, G, H> Kernel for Inner<'_, F, G, H>
where
    F: Fn(f32) -> f32,
    G: Fn(f32) -> f32,
    H: Fn(f32, f32, f32) -> f32,
{
    type Output = ();

    #[inline(always)]
    fn run(self) {
        /// Values between the steps: 1 KiB, twice.
        const LEN: usize = 256;
        let (mut inner, mut stage) = ([0.0; LEN], [0.0; LEN]);
        for y in self.y.chunks_mut(LEN) {
            let (inner, stage) = (&mut inner[..y.len()], &mut stage[..y.len()]);
            for (z, &x) in inner.iter_mut().zip(y.iter()) {
                *z = (self.inner)(x);
            }
            for (stage, &z) in stage.iter_mut().zip(inner.iter()) {
                *stage = (self.stage)(z);
            }
            for ((y, &z), &stage) in y.iter_mut().zip(inner.iter()).zip(stage.iter()) {
                *y = (self.outer)(*y, z, stage);
            }
        }
    }
}

impl<'a> Chain<'a> {
    /// The activation that the links from `i` on are, if nobody else reads what it is applied to or what they make of that.
    pub(crate) fn activation(&self, i: usize) -> Option<Found> {
        let tried: [(usize, Find<'a>); 3] = [(2, Part::gate), (5, Part::erf), (8, Part::tanh)];
        tried.into_iter().find_map(|(links, find)| {
            let part = Part(self.all().get(..i + links)?, i);
            let (activation, of) = find(part, i + links)?;
            let inner = (i + 1..i + links).chain([of]);
            let mut inner = inner.filter(|&value| self.is_read_from(i + links, value));
            inner.next().is_none().then_some(Found {
                activation,
                of,
                links,
            })
        })
    }
}

/// Links, and from which on they may belong to an activation. Value `i` is what link `i − 1` gives. Each activation is a
/// tree of as many links as are looked at, so that it is all of them.
#[derive(Clone, Copy)]
struct Part<'a>(&'a [Link<'a>], usize);

/// Finds what activation gives a value, and of which one.
type Find<'a> = fn(Part<'a>, usize) -> Option<(Activation, usize)>;

impl Part<'_> {
    fn gate(self, value: usize) -> Option<(Activation, usize)> {
        self.both(Binary::Mul, value, |x, sigmoid| {
            let own = self.unary(Unary::Sigmoid, sigmoid)? == x;
            own.then_some((Activation::Gate, x))
        })
    }

    fn erf(self, value: usize) -> Option<(Activation, usize)> {
        let (product, half) = self.scalar(Binary::Mul, value)?;
        self.both(Binary::Mul, product, |x, sum| {
            let (erf, one) = self.scalar(Binary::Add, sum)?;
            let (of, root) = self.scalar(Binary::Div, self.unary(Unary::Erf, erf)?)?;
            (of == x).then_some((Activation::Erf { root, one, half }, x))
        })
    }

    fn tanh(self, value: usize) -> Option<(Activation, usize)> {
        self.both(Binary::Mul, value, |product, sum| {
            let (x, half) = self.scalar(Binary::Mul, product)?;
            let (tanh, one) = self.scalar(Binary::Add, sum)?;
            let (inner, scale) = self.scalar(Binary::Mul, self.unary(Unary::Tanh, tanh)?)?;
            let cubic = self.both(Binary::Add, inner, |own, term| {
                let (power, cubic) = self.scalar(Binary::Mul, term)?;
                (own == x && self.scalar(Binary::Pow, power)? == (x, 3.0)).then_some(cubic)
            })?;
            let tanh = Activation::Tanh {
                half,
                cubic,
                scale,
                one,
            };
            Some((tanh, x))
        })
    }

    /// The link that gives a value.
    fn link(&self, value: usize) -> Option<&Link<'_>> {
        (value > self.1).then(|| &self.0[value - 1])
    }

    /// The value that a function is applied to for this one.
    fn unary(&self, op: Unary, value: usize) -> Option<usize> {
        match *self.link(value)? {
            Link::Unary(own, of) if own == op => Some(of),
            _ => None,
        }
    }

    /// The value and the number that this value is made of.
    fn scalar(&self, op: Binary, value: usize) -> Option<(usize, f32)> {
        match *self.link(value)? {
            Link::Binary(own, Source::Value(of), Source::Scalar(number)) if own == op => {
                Some((of, number))
            }
            Link::Binary(own, Source::Scalar(number), Source::Value(of))
                if own == op && op.commutes() =>
            {
                Some((of, number))
            }
            _ => None,
        }
    }

    /// What is found of the two values that this one is made of, in the one order or the other.
    fn both<T>(
        &self,
        op: Binary,
        value: usize,
        find: impl Fn(usize, usize) -> Option<T>,
    ) -> Option<T> {
        match *self.link(value)? {
            Link::Binary(own, Source::Value(a), Source::Value(b)) if own == op => {
                find(a, b).or_else(|| find(b, a))
            }
            _ => None,
        }
    }
}
