//! The bits of every kernel, frozen.
//!
//! A digest that changes means that results of the network change: it needs a new version of the
//! numeric specification, never just a new digest.

use crate::common::Source;
use lemma_kernels::{
    Binary, Conv, ConvSpec, Isa, PackedB, PackedFilters, Pool, PoolSpec, Reduction, Unary,
    average_pool, binary, conv, dot, gemm, half, layer_norm, log_softmax, matmul, max_pool, reduce,
    rms_norm, softmax, unary,
};

/// First 16 hexadecimal digits of the BLAKE3 digest of the little-endian bits.
fn digest(values: &[f32]) -> String {
    let mut hasher = blake3::Hasher::new();
    for v in values {
        hasher.update(&v.to_bits().to_le_bytes());
    }
    hasher.finalize().to_hex()[..16].to_string()
}

/// Fails unless the kernel gives the frozen bits on every instruction set.
#[track_caller]
fn frozen(name: &str, expected: &str, kernel: impl Fn(Isa) -> Vec<f32>) {
    for isa in Isa::available() {
        assert_eq!(digest(&kernel(isa)), expected, "{name} on {isa}");
    }
}

fn elementwise_inputs(seed: u64) -> Vec<f32> {
    let mut x = crate::common::specials();
    let mut source = Source::new(seed);
    x.extend(source.wild(3000));
    x.extend(source.values(3000).iter().map(|v| v * 20.0));
    x
}

#[test]
fn unary_kernels() {
    let x = elementwise_inputs(101);
    for (op, expected) in [
        (Unary::Abs, "0fac4e9d2eab7ccf"),
        (Unary::Ceil, "1899cf9ad652dc0b"),
        (
            Unary::Clip {
                min: -0.5,
                max: 6.0,
            },
            "8118267ad6d53635",
        ),
        (Unary::Cos, "10d6a2ec0ed6a074"),
        (Unary::Elu { alpha: 1.5 }, "597947ee58c37ffb"),
        (Unary::Erf, "ceb5387cb13c6a2f"),
        (Unary::Exp, "61627a97ef0f2b40"),
        (Unary::Floor, "7a03936db4af40a6"),
        (Unary::Gelu, "24609626bcca153e"),
        (Unary::GeluTanh, "561765221eeba8c5"),
        (
            Unary::HardSigmoid {
                alpha: 0.2,
                beta: 0.5,
            },
            "cc503ba080f1cd84",
        ),
        (Unary::HardSwish, "b869e5645c43cae4"),
        (Unary::LeakyRelu { alpha: 0.01 }, "4379173d1d72458b"),
        (Unary::Log, "dbcf1ab8da1279c0"),
        (Unary::Neg, "f5f3a73a80c12e5e"),
        (Unary::Reciprocal, "9bb47e454a63ffb7"),
        (Unary::Relu, "19712626d90eb936"),
        (Unary::Round, "d85ad21acb87d1ad"),
        (Unary::Rsqrt, "881292629a390c21"),
        (Unary::Sigmoid, "cb4966d53d27b2c1"),
        (Unary::Sign, "29beb4a95a88fcc8"),
        (Unary::Silu, "3522e557b4b1a574"),
        (Unary::Sin, "44c8e5db4a5ec376"),
        (Unary::Softplus, "10b9b28f05b9d5ca"),
        (Unary::Softsign, "78072c60b827e790"),
        (Unary::Sqrt, "e130cafc14b935a8"),
        (Unary::Tanh, "5387f37982cacbdc"),
    ] {
        frozen(&format!("{op:?}"), expected, |isa| {
            let mut y = vec![0.0; x.len()];
            unary(isa, op, &x, &mut y);
            y
        });
    }
}

#[test]
fn binary_kernels() {
    let (a, b) = (elementwise_inputs(102), elementwise_inputs(103));
    for (op, expected) in [
        (Binary::Add, "3521bfad1cc42839"),
        (Binary::Sub, "3d0c0459566681a5"),
        (Binary::Mul, "e0a1950fb3b1dadb"),
        (Binary::Div, "a0a7590c96211e72"),
        (Binary::Max, "4fb472a3c6349e16"),
        (Binary::Min, "99a6ef8ff935c4ca"),
        (Binary::Pow, "9027dff3ddf2f415"),
        (Binary::Fmod, "0189223dd90e6eb9"),
    ] {
        frozen(&format!("{op:?}"), expected, |isa| {
            let mut y = vec![0.0; a.len()];
            // Shifted, so that specials meet ordinary values too.
            binary(isa, op, &a[7..], &b[..b.len() - 7], &mut y[7..]);
            binary(isa, op, &a[..7], &b[3..10], &mut y[..7]);
            y
        });
    }
}

#[test]
fn products() {
    let mut source = Source::new(104);
    let (m, k, n) = (29, 600, 70);
    let (a, b) = (source.values(m * k), source.values(k * n));
    frozen("gemm", "31223b913f275973", |isa| {
        let mut c = vec![0.0; m * n];
        gemm(isa, m, &a, &PackedB::pack(&b, k, n, false), &mut c);
        c
    });
    frozen("one row", "357d3b8a57fdca2f", |isa| {
        let mut c = vec![0.0; n];
        gemm(isa, 1, &a[..k], &PackedB::pack(&b, k, n, true), &mut c);
        c
    });
    frozen("matmul", "ddd7b683ba968fbd", |isa| {
        let mut c = vec![0.0; 5 * 2 * n];
        matmul(
            isa,
            5,
            2,
            300,
            n,
            &a[..5 * 2 * 300],
            &b[..300 * n],
            true,
            &mut c,
        );
        c
    });
    frozen("dot", "857a0d4c36f55537", |isa| {
        (0..20)
            .map(|i| dot(isa, &a[i..50 * i], &b[i..50 * i]))
            .collect()
    });
}

#[test]
fn convolutions() {
    let mut source = Source::new(105);
    for (channels, groups, stride, expected) in [
        ([40, 14], 1, 1, "30b42b5277f44aa1"),
        ([6, 12], 3, 2, "69e460e732e5a78e"),
        ([9, 9], 9, 1, "ae622499a5c3210e"),
    ] {
        let shape = Conv::new(&ConvSpec {
            batch: 2,
            in_channels: channels[0],
            out_channels: channels[1],
            groups,
            input: &[13, 11],
            kernel: &[3, 3],
            strides: &[stride, 1],
            dilations: &[1, 2],
            pads_begin: &[1, 2],
            pads_end: &[0, 1],
        })
        .expect("a valid geometry");
        let x = source.values(shape.input_len());
        let filters = PackedFilters::pack(&shape, &source.values(shape.filter_len()));
        let bias = source.values(shape.out_channels());
        frozen(&format!("conv of {groups} groups"), expected, |isa| {
            let mut y = vec![0.0; shape.output_len()];
            conv(isa, &shape, &x, &filters, Some(&bias), &mut y);
            y
        });
    }
}

#[test]
fn pools() {
    let pool = Pool::new(&PoolSpec {
        planes: 3,
        input: &[13, 18],
        kernel: &[3, 2],
        strides: &[2, 2],
        dilations: &[1, 2],
        pads_begin: &[1, 0],
        pads_end: &[2, 1],
        ceil_mode: true,
    })
    .expect("a valid geometry");
    let x = Source::new(106).values(pool.input_len());
    type Kernel<'a> = &'a dyn Fn(Isa, &mut [f32]);
    let largest: Kernel<'_> = &|isa, y| max_pool(isa, &pool, &x, y);
    let mean: Kernel<'_> = &|isa, y| average_pool(isa, &pool, false, &x, y);
    let padded: Kernel<'_> = &|isa, y| average_pool(isa, &pool, true, &x, y);
    for (name, expected, kernel) in [
        ("largest", "a9546252aa88fa8f", largest),
        ("mean", "040e103fb9014a62", mean),
        ("padded mean", "b8f802ec4b8c9101", padded),
    ] {
        frozen(name, expected, |isa| {
            let mut y = vec![0.0; pool.output_len()];
            kernel(isa, &mut y);
            y
        });
    }
}

#[test]
fn reductions() {
    let x = Source::new(107).values(6 * 333);
    for (op, expected) in [
        (Reduction::Sum, "378503a47cf6e41e"),
        (Reduction::Mean, "a5b5700620efe029"),
        (Reduction::Prod, "cb7a3801e5d35ef4"),
        (Reduction::Max, "e89b45960d47c6e2"),
        (Reduction::Min, "00c2b6c2e21b54d4"),
        (Reduction::L1, "c869decb5cc3d144"),
        (Reduction::L2, "dfa097b0b7944920"),
        (Reduction::SumSquare, "a798f403b313d9a1"),
        (Reduction::LogSum, "ffa26349027c5e41"),
        (Reduction::LogSumExp, "ba39d81117ef0404"),
    ] {
        frozen(&format!("{op:?}"), expected, |isa| {
            let (mut rows, mut columns) = (vec![0.0; 54], vec![0.0; 6]);
            reduce(isa, op, 54, 37, 1, &x, &mut rows);
            reduce(isa, op, 1, 333, 6, &x, &mut columns);
            rows.extend(columns);
            rows
        });
    }
}

#[test]
fn rows() {
    let mut source = Source::new(108);
    let cols = 101;
    let x: Vec<f32> = source.values(7 * cols).iter().map(|v| v * 9.0).collect();
    let (scale, bias) = (source.values(cols), source.values(cols));
    type Kernel<'a> = &'a dyn Fn(Isa, &mut [f32]);
    let softmaxes: Kernel<'_> = &|isa, y| softmax(isa, cols, &x, y);
    let logs: Kernel<'_> = &|isa, y| log_softmax(isa, cols, &x, y);
    let layers: Kernel<'_> = &|isa, y| layer_norm(isa, 1e-5, &scale, Some(&bias), &x, y);
    let plain: Kernel<'_> = &|isa, y| layer_norm(isa, 1e-5, &scale, None, &x, y);
    let roots: Kernel<'_> = &|isa, y| rms_norm(isa, 1e-6, &scale, &x, y);
    for (name, expected, kernel) in [
        ("softmax", "8a315a553e65f9dc", softmaxes),
        ("log softmax", "835ebdf4d6237ce0", logs),
        ("layer norm", "18b05b1d833d899f", layers),
        ("plain layer norm", "386020c92495f259", plain),
        ("RMS norm", "61fb01483908d32d", roots),
    ] {
        frozen(name, expected, |isa| {
            let mut y = vec![0.0; x.len()];
            kernel(isa, &mut y);
            y
        });
    }
}

#[test]
fn storage_formats() {
    let x = elementwise_inputs(109);
    let mut narrow = vec![0; x.len()];
    frozen("binary16", "78af437d3e85d617", |isa| {
        let (mut narrow, mut wide) = (narrow.clone(), vec![0.0; x.len()]);
        half::f32_to_f16_slice(isa, &x, &mut narrow);
        half::f16_to_f32_slice(isa, &narrow, &mut wide);
        wide
    });
    half::f32_to_bf16_slice(Isa::detect(), &x, &mut narrow);
    frozen("bfloat16", "e13088f5791d661e", |isa| {
        let mut wide = vec![0.0; x.len()];
        half::bf16_to_f32_slice(isa, &narrow, &mut wide);
        wide
    });
}
