//! The bits of a second engine, written from the specification in another language and another
//! arithmetic (`scripts/second_engine.py`).

use lemma_kernels::{
    Binary, Isa, PackedB, Reduction, Unary, binary, gemm, half, layer_norm, log_softmax, product,
    reduce, rms_norm, softmax, unary,
};

fn unary_named(name: &str) -> Option<Unary> {
    Some(match name {
        "exp" => Unary::Exp,
        "log" => Unary::Log,
        "tanh" => Unary::Tanh,
        "erf" => Unary::Erf,
        "sigmoid" => Unary::Sigmoid,
        "softplus" => Unary::Softplus,
        "sin" => Unary::Sin,
        "cos" => Unary::Cos,
        "gelu" => Unary::Gelu,
        "gelu_tanh" => Unary::GeluTanh,
        "silu" => Unary::Silu,
        "elu" => Unary::Elu { alpha: 1.5 },
        "leaky_relu" => Unary::LeakyRelu { alpha: 0.01 },
        "hard_sigmoid" => Unary::HardSigmoid {
            alpha: 0.2,
            beta: 0.5,
        },
        "hard_swish" => Unary::HardSwish,
        "softsign" => Unary::Softsign,
        "relu" => Unary::Relu,
        "sqrt" => Unary::Sqrt,
        "rsqrt" => Unary::Rsqrt,
        "reciprocal" => Unary::Reciprocal,
        _ => return None,
    })
}

fn reduction_named(name: &str) -> Option<Reduction> {
    Some(match name {
        "sum" => Reduction::Sum,
        "mean" => Reduction::Mean,
        "prod" => Reduction::Prod,
        "max" => Reduction::Max,
        "min" => Reduction::Min,
        "l1" => Reduction::L1,
        "l2" => Reduction::L2,
        "sum_square" => Reduction::SumSquare,
        "log_sum" => Reduction::LogSum,
        "log_sum_exp" => Reduction::LogSumExp,
        _ => return None,
    })
}

/// What our kernel makes of a line's inputs.
fn computed(isa: Isa, name: &str, inputs: &[Vec<f32>]) -> Vec<f32> {
    let x = &inputs[0];
    let mut y = vec![0.0; x.len()];
    if let Some(op) = unary_named(name) {
        unary(isa, op, x, &mut y);
        return y;
    }
    if let Some(op) = reduction_named(name) {
        y.truncate(1);
        reduce(isa, op, 1, x.len(), 1, x, &mut y);
        return y;
    }
    match name {
        "pow" => binary(isa, Binary::Pow, x, &inputs[1], &mut y),
        "softmax" => softmax(isa, x.len(), x, &mut y),
        "log_softmax" => log_softmax(isa, x.len(), x, &mut y),
        "layer_norm" => layer_norm(isa, 1e-5, &inputs[1], Some(&inputs[2]), x, &mut y),
        "rms_norm" => rms_norm(isa, 1e-6, &inputs[1], x, &mut y),
        "product" => {
            y.truncate(1);
            let b = PackedB::pack(&inputs[1], x.len(), 1, false);
            gemm(isa, 1, x, &b, &mut y);
            assert_eq!(y[0].to_bits(), product(x, |k| inputs[1][k]).to_bits());
        }
        _ => panic!("unknown operator {name}"),
    }
    y
}

fn words(field: &str) -> Vec<u32> {
    field
        .split_whitespace()
        .map(|word| u32::from_str_radix(word, 16).expect("hexadecimal bits"))
        .collect()
}

fn floats(field: &str) -> Vec<f32> {
    words(field).into_iter().map(f32::from_bits).collect()
}

#[test]
fn the_second_engine_agrees_on_every_bit() {
    let mut lines = 0;
    for line in include_str!("vectors.txt").lines() {
        let fields: Vec<&str> = line.split('|').collect();
        let (name, inputs) = (fields[0].trim(), &fields[1..fields.len() - 1]);
        let inputs: Vec<Vec<f32>> = inputs.iter().map(|field| floats(field)).collect();
        let expected = words(fields[fields.len() - 1]);
        for isa in Isa::available() {
            let found: Vec<u32> = match name {
                "f16" | "bf16" => {
                    let narrow = match name {
                        "f16" => half::f32_to_f16_slice,
                        _ => half::f32_to_bf16_slice,
                    };
                    let mut y = vec![0; inputs[0].len()];
                    narrow(isa, &inputs[0], &mut y);
                    y.into_iter().map(u32::from).collect()
                }
                _ => {
                    let y = computed(isa, name, &inputs);
                    y.into_iter().map(f32::to_bits).collect()
                }
            };
            assert_eq!(found.len(), expected.len(), "{name}");
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert!(
                    found == expected,
                    "{isa} {name}, value {i} of {:e}: {found:08x} here, {expected:08x} there",
                    inputs[0][i.min(inputs[0].len() - 1)]
                );
            }
        }
        lines += 1;
    }
    assert_eq!(lines, 100);
}
