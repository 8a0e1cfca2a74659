//! Elementwise kernels: the same bits on every instruction set, and the written special values.

use crate::common::{Source, assert_canonical, assert_same_bits, specials};
use lemma_kernels::{Binary, Isa, Unary, binary, math, unary, unary_in_place};

const UNARY: [Unary; 27] = [
    Unary::Abs,
    Unary::Ceil,
    Unary::Clip {
        min: -1.0,
        max: 0.75,
    },
    Unary::Cos,
    Unary::Elu { alpha: 0.7 },
    Unary::Erf,
    Unary::Exp,
    Unary::Floor,
    Unary::Gelu,
    Unary::GeluTanh,
    Unary::HardSigmoid {
        alpha: 0.2,
        beta: 0.5,
    },
    Unary::HardSwish,
    Unary::LeakyRelu { alpha: 0.01 },
    Unary::Log,
    Unary::Neg,
    Unary::Reciprocal,
    Unary::Relu,
    Unary::Round,
    Unary::Rsqrt,
    Unary::Sigmoid,
    Unary::Sign,
    Unary::Silu,
    Unary::Sin,
    Unary::Softplus,
    Unary::Softsign,
    Unary::Sqrt,
    Unary::Tanh,
];

const BINARY: [Binary; 8] = [
    Binary::Add,
    Binary::Sub,
    Binary::Mul,
    Binary::Div,
    Binary::Max,
    Binary::Min,
    Binary::Pow,
    Binary::Fmod,
];

fn apply(isa: Isa, op: Unary, x: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    unary(isa, op, x, &mut y);
    y
}

/// The value of a function at one point, the same on every instruction set.
fn at(op: Unary, x: f32) -> f32 {
    let all: Vec<f32> = Isa::available()
        .into_iter()
        .map(|isa| apply(isa, op, &[x; 33])[32])
        .collect();
    assert!(
        all.iter().all(|y| y.to_bits() == all[0].to_bits()),
        "{op:?}({x:e}): {all:?}"
    );
    all[0]
}

fn binary_at(op: Binary, a: f32, b: f32) -> f32 {
    let mut y = [0.0];
    binary(Isa::detect(), op, &[a], &[b], &mut y);
    y[0]
}

#[test]
fn every_instruction_set_gives_the_bits_of_the_portable_one() {
    let mut x = specials();
    x.extend(Source::new(21).wild(2000));
    // Every exponent, both signs, many mantissas.
    x.extend((0..=u32::MAX).step_by(65_521).map(f32::from_bits));
    for op in UNARY {
        let expected = apply(Isa::PORTABLE, op, &x);
        assert_canonical(&expected, format!("{op:?}"));
        for isa in Isa::available() {
            assert_same_bits(&apply(isa, op, &x), &expected, format!("{isa} {op:?}"));
            let mut y = x.clone();
            unary_in_place(isa, op, &mut y);
            assert_same_bits(&y, &expected, format!("{isa} {op:?} in place"));
        }
    }
}

#[test]
fn no_value_depends_on_its_neighbours() {
    let x = Source::new(22).wild(70);
    for op in UNARY {
        for isa in Isa::available() {
            let whole = apply(isa, op, &x);
            for n in 0..x.len() {
                assert_same_bits(
                    &apply(isa, op, &x[..n]),
                    &whole[..n],
                    format!("{isa} {op:?}"),
                );
            }
        }
    }
}

#[test]
fn binary_kernels_agree_for_every_pairing() {
    let mut source = Source::new(23);
    let specials = specials();
    let n = specials.len();
    // Every special value with every other.
    let a: Vec<f32> = (0..n * n).map(|i| specials[i / n]).collect();
    let pairs = [
        (a, specials),
        (source.wild(4000), source.wild(4000)),
        (source.wild(77), source.wild(1)),
    ];
    for (a, b) in &pairs {
        for op in BINARY {
            let mut expected = vec![0.0; a.len()];
            binary(Isa::PORTABLE, op, a, b, &mut expected);
            assert_canonical(&expected, format!("{op:?}"));
            for isa in Isa::available() {
                let mut y = vec![0.0; a.len()];
                binary(isa, op, a, b, &mut y);
                assert_same_bits(&y, &expected, format!("{isa} {op:?}"));
            }
        }
    }
}

#[test]
fn operands_repeat() {
    let mut source = Source::new(24);
    for (m, n, len) in [
        (1, 1, 5),
        (1, 12, 24),
        (12, 1, 36),
        (4, 12, 24),
        (12, 12, 12),
        (4, 6, 24),
        (6, 4, 12),
        (1, 1, 0),
        (0, 0, 0),
    ] {
        let (a, b) = (source.values(m), source.values(n));
        for isa in Isa::available() {
            let mut y = vec![0.0; len];
            binary(isa, Binary::Sub, &a, &b, &mut y);
            let expected: Vec<f32> = (0..len).map(|i| a[i % m] - b[i % n]).collect();
            assert_same_bits(&y, &expected, format!("{isa} {m} {n} {len}"));
        }
    }
}

#[test]
#[should_panic(expected = "length 3 of the right operand does not divide the output's 4")]
fn an_operand_that_does_not_fit_is_refused() {
    binary(
        Isa::PORTABLE,
        Binary::Add,
        &[0.0; 4],
        &[0.0; 3],
        &mut [0.0; 4],
    );
}

const INF: f32 = f32::INFINITY;
const NAN: f32 = f32::NAN;

#[test]
fn special_values_of_one_argument() {
    let table: &[(Unary, f32, f32)] = &[
        (Unary::Exp, -0.0, 1.0),
        (Unary::Exp, INF, INF),
        (Unary::Exp, -INF, 0.0),
        (Unary::Exp, 88.73, INF),
        (Unary::Exp, -103.9, f32::from_bits(1)),
        (Unary::Exp, -104.0, 0.0),
        (Unary::Log, 0.0, -INF),
        (Unary::Log, -0.0, -INF),
        (Unary::Log, 1.0, 0.0),
        (Unary::Log, INF, INF),
        (Unary::Log, -1.0, NAN),
        (Unary::Log, -INF, NAN),
        (Unary::Tanh, -0.0, -0.0),
        (Unary::Tanh, INF, 1.0),
        (Unary::Tanh, -INF, -1.0),
        (Unary::Erf, -0.0, -0.0),
        (Unary::Erf, INF, 1.0),
        (Unary::Erf, -INF, -1.0),
        (Unary::Sigmoid, 0.0, 0.5),
        (Unary::Sigmoid, INF, 1.0),
        (Unary::Sigmoid, -INF, 0.0),
        (Unary::Gelu, INF, INF),
        (Unary::Gelu, -INF, -0.0),
        (Unary::GeluTanh, INF, INF),
        (Unary::GeluTanh, -INF, -0.0),
        (Unary::Silu, -INF, -0.0),
        (Unary::HardSwish, -INF, -0.0),
        (Unary::HardSwish, INF, INF),
        (Unary::Softplus, INF, INF),
        (Unary::Softplus, -INF, 0.0),
        (Unary::Sin, -0.0, -0.0),
        (Unary::Sin, INF, NAN),
        (Unary::Cos, 0.0, 1.0),
        (Unary::Cos, -INF, NAN),
        (Unary::Relu, -0.0, 0.0),
        (Unary::Relu, -INF, 0.0),
        (Unary::Neg, 0.0, -0.0),
        (Unary::Abs, -0.0, 0.0),
        (Unary::Sqrt, -0.0, -0.0),
        (Unary::Sqrt, -1.0, NAN),
        (Unary::Rsqrt, 0.0, INF),
        (Unary::Rsqrt, -0.0, -INF),
        (Unary::Reciprocal, -0.0, -INF),
        (Unary::Reciprocal, -INF, -0.0),
        (Unary::Sign, -0.0, -0.0),
        (Unary::Sign, -1e-40, -1.0),
        (Unary::Round, 0.5, 0.0),
        (Unary::Round, 1.5, 2.0),
        (Unary::Round, -0.5, -0.0),
        (Unary::Ceil, -0.5, -0.0),
        (Unary::Floor, -0.0, -0.0),
        (Unary::Elu { alpha: 2.0 }, -INF, -2.0),
        (Unary::Elu { alpha: 2.0 }, -0.0, 0.0),
        (Unary::Elu { alpha: 2.0 }, INF, INF),
        (Unary::LeakyRelu { alpha: 0.1 }, -0.0, -0.0),
        (
            Unary::Clip {
                min: -0.0,
                max: 0.0,
            },
            -5.0,
            -0.0,
        ),
        (Unary::Clip { min: 2.0, max: 1.0 }, 5.0, 1.0),
    ];
    for &(op, x, expected) in table {
        let found = at(op, x);
        let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        assert!(same, "{op:?}({x:e}) = {found:e}, not {expected:e}");
    }
    for op in UNARY {
        for payload in [0x7f80_0001, 0x7fc0_0001, 0xffc0_0000, 0xff80_0001] {
            assert_eq!(
                at(op, f32::from_bits(payload)).to_bits(),
                0x7fc0_0000,
                "{op:?}"
            );
        }
    }
}

#[test]
fn minimum_and_maximum_order_zeros_and_keep_nan() {
    for (a, b, low, high) in [
        (0.0, -0.0, -0.0, 0.0f32),
        (-0.0, 0.0, -0.0, 0.0),
        (-0.0, -0.0, -0.0, -0.0),
        (1.0, 2.0, 1.0, 2.0),
        (-INF, INF, -INF, INF),
        (0.0, 1e-45, 0.0, 1e-45),
    ] {
        assert_eq!(binary_at(Binary::Min, a, b).to_bits(), low.to_bits());
        assert_eq!(binary_at(Binary::Max, a, b).to_bits(), high.to_bits());
    }
    for op in [Binary::Min, Binary::Max] {
        assert_eq!(binary_at(op, 1.0, -NAN).to_bits(), 0x7fc0_0000);
        assert_eq!(
            binary_at(op, f32::from_bits(0x7f80_0001), INF).to_bits(),
            0x7fc0_0000
        );
    }
}

/// The table of IEEE 754-2019, 9.2.1.
#[test]
fn powers_have_the_special_values_of_the_standard() {
    let table: &[(f32, f32, f32)] = &[
        (NAN, 0.0, 1.0),
        (INF, -0.0, 1.0),
        (1.0, NAN, 1.0),
        (1.0, INF, 1.0),
        (-1.0, INF, 1.0),
        (-1.0, -INF, 1.0),
        (0.0, -3.0, INF),
        (-0.0, -3.0, -INF),
        (-0.0, -2.0, INF),
        (-0.0, -INF, INF),
        (-0.0, -0.5, INF),
        (0.0, 3.0, 0.0),
        (-0.0, 3.0, -0.0),
        (-0.0, 2.0, 0.0),
        (-0.0, 0.5, 0.0),
        (0.5, INF, 0.0),
        (0.5, -INF, INF),
        (-2.0, INF, INF),
        (-2.0, -INF, 0.0),
        (INF, 0.1, INF),
        (INF, -0.1, 0.0),
        (-INF, -3.0, -0.0),
        (-INF, -2.5, 0.0),
        (-INF, 3.0, -INF),
        (-INF, 2.0, INF),
        (-INF, 0.5, INF),
        (-2.0, 3.0, -8.0),
        (-2.0, 4.0, 16.0),
        (-2.0, -1.0, -0.5),
        (-2.0, 0.5, NAN),
        (-2.0, 16_777_217.0, INF),
        (2.0, -149.0, f32::from_bits(1)),
        (2.0, -150.0, 0.0),
        (2.0, 127.0, 1.701_411_8e38),
        (2.0, 128.0, INF),
        (4097.0, 2.0, 4097.0 * 4097.0),
        (NAN, 2.0, NAN),
        (2.0, NAN, NAN),
    ];
    for &(x, y, expected) in table {
        let found = math::pow(x, y);
        let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        assert!(same, "pow({x:e}, {y:e}) = {found:e}, not {expected:e}");
    }
}

#[test]
fn formulas_match_their_definitions() {
    let mut source = Source::new(25);
    for _ in 0..20_000 {
        let x = source.value() * 8.0;
        let exact = f64::from(x);
        let close = |found: f32, exact: f64, what: &str| {
            assert!(
                (f64::from(found) - exact).abs() < 1e-6 * (1.0 + exact.abs()),
                "{what} of {x}: {found} for {exact}"
            );
        };
        let sigmoid = 1.0 / (1.0 + (-exact).exp());
        let cubic =
            (2.0 / std::f64::consts::PI).sqrt() * (exact + 0.044715 * exact * exact * exact);
        close(math::silu(x), exact * sigmoid, "silu");
        close(
            math::gelu_tanh(x),
            0.5 * exact * (1.0 + cubic.tanh()),
            "gelu_tanh",
        );
        close(math::softsign(x), exact / (1.0 + exact.abs()), "softsign");
        close(
            math::hard_swish(x),
            exact * (exact / 6.0 + 0.5).clamp(0.0, 1.0),
            "hard_swish",
        );
        close(
            math::hard_sigmoid(x, 0.2, 0.5),
            (0.2 * exact + 0.5).clamp(0.0, 1.0),
            "hard_sigmoid",
        );
        close(
            math::leaky_relu(x, 0.1),
            if x < 0.0 { 0.1 * exact } else { exact },
            "leaky_relu",
        );
        close(math::fmod(x, 0.3), exact % f64::from(0.3f32), "fmod");
        // gelu(x) + gelu(−x) = x · erf(x/√2), and erf is tested by itself.
        close(
            math::gelu(x) + math::gelu(-x),
            f64::from(math::erf((exact / 2f64.sqrt()) as f32)) * exact,
            "gelu",
        );
    }
}
