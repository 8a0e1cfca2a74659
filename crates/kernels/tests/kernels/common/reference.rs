//! Errors of the transcendental functions, measured against binary64.

use lemma_kernels::math;

/// One function, its reference, and the error it stays within.
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) ours: fn(f32) -> f32,
    pub(crate) exact: fn(f64) -> f64,
    /// Units in the last place.
    #[allow(dead_code, reason = "the test compares, the program prints")]
    pub(crate) bound: f64,
}

pub(crate) const FUNCTIONS: &[Function] = &[
    Function {
        name: "exp",
        ours: math::exp,
        exact: f64::exp,
        bound: 1.0,
    },
    Function {
        name: "log",
        ours: math::log,
        exact: f64::ln,
        bound: 1.0,
    },
    Function {
        name: "tanh",
        ours: math::tanh,
        exact: f64::tanh,
        bound: 1.4,
    },
    Function {
        name: "erf",
        ours: math::erf,
        exact: erf,
        bound: 1.2,
    },
    Function {
        name: "sigmoid",
        ours: math::sigmoid,
        exact: |x| 1.0 / (1.0 + (-x).exp()),
        bound: 1.6,
    },
    Function {
        name: "softplus",
        ours: math::softplus,
        exact: softplus,
        bound: 1.8,
    },
    Function {
        name: "sin",
        ours: math::sin,
        exact: f64::sin,
        bound: 1.1,
    },
    Function {
        name: "cos",
        ours: math::cos,
        exact: f64::cos,
        bound: 1.1,
    },
    Function {
        name: "elu",
        ours: |x| math::elu(x, 1.0),
        exact: elu,
        bound: 1.5,
    },
    Function {
        name: "pow 3",
        ours: |x| math::pow(x, 3.0),
        exact: |x| x * x * x,
        bound: 0.501,
    },
    Function {
        name: "pow -0.7",
        ours: |x| math::pow(x, -0.7),
        exact: |x| x.powf(f64::from(-0.7f32)),
        bound: 0.501,
    },
    Function {
        name: "1.7 pow",
        ours: |x| math::pow(1.7, x),
        exact: |x| f64::from(1.7f32).powf(x),
        bound: 0.501,
    },
];

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn elu(x: f64) -> f64 {
    if x > 0.0 { x } else { x.exp_m1() + 0.0 }
}

/// Error function: the Taylor series up to 2, beyond it the continued fraction of its complement.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    if x.is_nan() {
        return x;
    }
    if a > 6.0 {
        return x.signum();
    }
    let y = if a < 2.0 {
        let (mut term, mut sum) = (a, a);
        let mut n = 0.0;
        while term.abs() > sum * 1e-18 {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let mut fraction = a;
        for n in (1..120).rev() {
            fraction = a + f64::from(n) / 2.0 / fraction;
        }
        1.0 - (-a * a).exp() / (fraction * std::f64::consts::PI.sqrt())
    };
    y.copysign(x)
}

/// Where a function is farthest from its reference.
pub(crate) struct Worst {
    pub(crate) ulps: f64,
    pub(crate) x: f32,
}

/// The largest error over every `step`-th bit pattern. Where the exact value is NaN, infinite
/// or zero, or rounds to an infinity, anything else than that counts as infinitely wrong.
pub(crate) fn largest_error(function: &Function, step: usize) -> Worst {
    let mut worst = Worst { ulps: 0.0, x: 0.0 };
    for bits in (0..=u32::MAX).step_by(step) {
        let x = f32::from_bits(bits);
        let ulps = error((function.ours)(x), (function.exact)(f64::from(x)));
        if ulps > worst.ulps {
            worst = Worst { ulps, x };
        }
    }
    worst
}

fn error(found: f32, exact: f64) -> f64 {
    let nearest = exact as f32;
    if nearest.is_nan() || nearest.is_infinite() || exact == 0.0 {
        let same = nearest.to_bits() == found.to_bits()
            || nearest.is_nan() && found.to_bits() == 0x7fc0_0000;
        return if same { 0.0 } else { f64::INFINITY };
    }
    if !found.is_finite() {
        return f64::INFINITY;
    }
    // The spacing of binary32 values around the exact one.
    let exponent = ((exact.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    let spacing = 2f64.powi(exponent.max(-126) - 23);
    (f64::from(found) - exact).abs() / spacing
}
