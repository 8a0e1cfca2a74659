//! A run that fuses operators, turns layouts and reuses memory has the bits of one that evaluates
//! operator by operator: on every instruction set, for any number of threads and any batch.

use crate::common::onnx::{Field, bytes, floats, ints, model, node, typed, value};
use crate::common::plain_and_fused;
use lemma_graph::{Limits, Model, NoFiles, RunOptions, Tensor};

/// Fixed numbers in (−1, 1).
struct Source(u64);

impl Source {
    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n)
            .map(|_| {
                self.0 = self
                    .0
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect()
    }

    fn weights(&mut self, name: &str, shape: &[i64]) -> Field {
        let n: i64 = shape.iter().product();
        floats(name, shape, &self.values(n as usize))
    }
}

/// Runs a graph of one input `x` on several batches, fused and not.
fn check(graph: &[Field], row: &[usize]) {
    let model = Model::load(model(graph), &NoFiles, &Limits::small()).unwrap();
    let mut source = Source(7);
    let len: usize = row.iter().product();
    let all = source.values(9 * len);
    let mut alone: Option<Vec<Tensor>> = None;
    for batch in [9, 1, 2, 5] {
        let shape: Vec<usize> = [&[batch][..], row].concat();
        let x = Tensor::new(&shape, all[..batch * len].to_vec()).unwrap();
        let expected = plain_and_fused(&model, &x, &[1, 2, 3], &format!("batch {batch}"));
        // The first of a batch is what it is alone.
        let alone = alone.get_or_insert_with(|| expected.clone());
        for (one, found) in alone.iter().zip(&expected) {
            let (Some(one), Some(found)) = (one.as_slice::<f32>(), found.as_slice::<f32>()) else {
                continue;
            };
            let n = one.len().min(found.len()) / 9;
            assert!(
                one[..n]
                    .iter()
                    .zip(found)
                    .all(|(a, b)| a.to_bits() == b.to_bits())
            );
        }
    }
}

#[test]
fn attention() {
    let mut s = Source(1);
    let (len, heads, width) = (11, 3, 8);
    let d = heads * width;
    let transpose =
        |from: &str, to: &str, perm: &[i64]| node("Transpose", &[from], to, &[("perm", perm)]);
    let mut graph = vec![
        ints("apart", &[0, len, heads, width]),
        ints("together", &[0, len, d]),
        floats("scale", &[], &[0.35]),
        floats("root", &[], &[1.375]),
        floats("one", &[], &[1.0]),
        floats("half", &[], &[0.5]),
        floats("low", &[], &[-1e30]),
        s.weights("mask", &[1, 1, len, len]),
        s.weights("gain", &[d]),
        s.weights("shift", &[d]),
    ];
    for name in ["q", "k", "v", "o"] {
        graph.push(s.weights(&format!("w{name}"), &[d, d]));
        graph.push(s.weights(&format!("b{name}"), &[d]));
    }
    for name in ["q", "k", "v"] {
        let n = |suffix: &str| format!("{name}{suffix}");
        graph.push(node("MatMul", &["x", &format!("w{name}")], &n("0"), &[]));
        graph.push(node("Add", &[&format!("b{name}"), &n("0")], &n("1"), &[]));
        graph.push(node("Reshape", &[&n("1"), "apart"], &n("2"), &[]));
    }
    graph.extend([
        transpose("q2", "q3", &[0, 2, 1, 3]),
        transpose("k2", "k3", &[0, 2, 3, 1]),
        transpose("v2", "v3", &[0, 2, 1, 3]),
        node("MatMul", &["q3", "k3"], "s0", &[]),
        node("Mul", &["s0", "scale"], "s1", &[]),
        node("Add", &["s1", "mask"], "s2", &[]),
        node("Less", &["mask", "half"], "keep", &[]),
        node("Where", &["keep", "s2", "low"], "s2w", &[]),
        node("Softmax", &["s2w"], "s3", &[]),
        node("MatMul", &["s3", "v3"], "a0", &[]),
        transpose("a0", "a1", &[0, 2, 1, 3]),
        node("Reshape", &["a1", "together"], "a2", &[]),
        node("MatMul", &["a2", "wo"], "a3", &[]),
        node("Add", &["a3", "bo"], "a4", &[]),
        node("Add", &["a4", "x"], "a5", &[]),
        node("LayerNormalization", &["a5", "gain", "shift"], "n", &[]),
        s.weights("w1", &[d, 40]),
        s.weights("b1", &[40]),
        s.weights("w2", &[40, d]),
        node("MatMul", &["n", "w1"], "g0", &[]),
        node("Add", &["g0", "b1"], "g1", &[]),
        node("Div", &["g1", "root"], "g2", &[]),
        node("Erf", &["g2"], "g3", &[]),
        node("Add", &["g3", "one"], "g4", &[]),
        node("Mul", &["g1", "g4"], "g5", &[]),
        node("Mul", &["g5", "half"], "g6", &[]),
        node("MatMul", &["g6", "w2"], "y0", &[]),
        node("Add", &["y0", "n"], "y", &[]),
        // The same scores once more, read in the middle, and keys turned as they are.
        node("Relu", &["s1"], "z0", &[]),
        node("Where", &["keep", "low", "z0"], "z", &[]),
        node("Neg", &["k3"], "t", &[]),
        value(11, "x", &[-1, len, d]),
        value(12, "y", &[-1, len, d]),
        value(12, "z", &[-1, heads, len, len]),
        value(12, "t", &[-1, heads, width, len]),
        value(12, "a5", &[-1, len, d]),
    ]);
    check(&graph, &[len as usize, d as usize]);
}

#[test]
fn convolutions() {
    let mut s = Source(2);
    let mut graph = vec![
        floats("zero", &[], &[0.0]),
        floats("six", &[], &[6.0]),
        s.weights("plane", &[1, 20, 1, 1]),
    ];
    let mut conv = |name: &str, from: &str, shape: &[i64; 4], stride: i64, groups: &[i64]| {
        let (w, b) = (format!("{name}.w"), format!("{name}.b"));
        let pad = shape[2] / 2;
        graph.push(s.weights(&w, shape));
        graph.push(s.weights(&b, &shape[..1]));
        let attributes: [(&str, &[i64]); 4] = [
            ("kernel_shape", &shape[2..]),
            ("strides", &[stride, stride]),
            ("pads", &[pad, pad, pad, pad]),
            ("group", groups),
        ];
        graph.push(node("Conv", &[from, &w, &b], name, &attributes));
    };
    conv("c0", "x", &[12, 3, 5, 5], 2, &[1]);
    conv("c1", "p0", &[20, 12, 1, 1], 1, &[1]);
    conv("c2", "r1", &[20, 1, 3, 3], 1, &[20]);
    conv("e0", "g", &[5, 20, 1, 1], 1, &[1]);
    conv("e1", "f0", &[20, 5, 1, 1], 1, &[1]);
    conv("c3", "m", &[20, 20, 3, 3], 1, &[1]);
    conv("c4", "j", &[8, 10, 3, 3], 2, &[2]);
    graph.extend([
        node("Relu", &["c0"], "r0", &[]),
        node(
            "MaxPool",
            &["r0"],
            "p0",
            &[
                ("kernel_shape", &[3, 3]),
                ("strides", &[2, 2]),
                ("pads", &[1, 1, 1, 1]),
            ],
        ),
        node("Clip", &["c1", "zero", "six"], "r1", &[]),
        node("Sigmoid", &["c2"], "h", &[]),
        node("Mul", &["c2", "h"], "r2", &[]),
        node("GlobalAveragePool", &["r2"], "g", &[]),
        node("Relu", &["e0"], "f0", &[]),
        node("Sigmoid", &["e1"], "f1", &[]),
        node("Mul", &["f1", "r2"], "m", &[]),
        node("Add", &["c3", "r1"], "j0", &[]),
        node("Mul", &["j0", "plane"], "j1", &[]),
        node("Relu", &["j1"], "j", &[]),
        node("Flatten", &["j"], "flat", &[]),
        s_weights("out.w", 20 * 5 * 4),
        node("Gemm", &["flat", "out.w"], "y", &[]),
        value(11, "x", &[-1, 3, 17, 15]),
        value(12, "y", &[-1, 3]),
        value(12, "c4", &[-1, 8, 3, 2]),
        value(12, "r2", &[-1, 20, 5, 4]),
        value(12, "g", &[-1, 20, 1, 1]),
    ]);
    check(&graph, &[3, 17, 15]);
}

#[test]
fn images_go_through_convolutions_one_by_one() {
    let mut s = Source(8);
    let mut graph = vec![];
    let mut conv = |name: &str, from: &str, shape: &[i64; 4], groups: i64| {
        let (w, b) = (format!("{name}.w"), format!("{name}.b"));
        let pad = shape[2] / 2;
        graph.push(s.weights(&w, shape));
        graph.push(s.weights(&b, &shape[..1]));
        let attributes: [(&str, &[i64]); 3] = [
            ("kernel_shape", &shape[2..]),
            ("pads", &[pad, pad, pad, pad]),
            ("group", &[groups]),
        ];
        graph.push(node("Conv", &[from, &w, &b], name, &attributes));
    };
    conv("c0", "x", &[12, 3, 3, 3], 1);
    conv("c1", "r0", &[24, 12, 1, 1], 1);
    conv("c2", "c1", &[24, 1, 3, 3], 24);
    conv("e0", "g0", &[6, 24, 1, 1], 1);
    conv("e1", "f0", &[24, 6, 1, 1], 1);
    conv("c3", "m", &[12, 24, 1, 1], 1);
    graph.extend([
        node("Relu", &["c0"], "r0", &[]),
        // A gate of each channel, as in Squeeze-and-Excitation.
        node("Sigmoid", &["c2"], "h", &[]),
        node("Mul", &["c2", "h"], "r2", &[]),
        node("GlobalAveragePool", &["r2"], "g0", &[]),
        node("Relu", &["e0"], "f0", &[]),
        node("Sigmoid", &["e1"], "f1", &[]),
        node("Mul", &["r2", "f1"], "m", &[]),
        node("Add", &["c3", "r0"], "j", &[]),
        node("GlobalAveragePool", &["j"], "y", &[]),
        value(11, "x", &[-1, 3, 40, 40]),
        value(12, "y", &[-1, 12, 1, 1]),
    ]);
    check(&graph, &[3, 40, 40]);
    // One image holds some values of 40 × 40 × 24; as many as there are images would exceed this bound several times.
    let model = Model::load(model(&graph), &NoFiles, &Limits::small()).unwrap();
    let x = Tensor::new(&[16, 3, 40, 40], vec![0.5f32; 16 * 3 * 40 * 40]).unwrap();
    let options = RunOptions {
        memory: 1 << 20,
        ..RunOptions::default()
    };
    model.run(&[("x", x)], &options).unwrap();
}

fn s_weights(name: &str, k: i64) -> Field {
    Source(3).weights(name, &[k, 3])
}

/// Where both layouts of a convolution's output are one, its shape is still that of the graph.
#[test]
fn convolutions_to_one_place() {
    let mut s = Source(3);
    let graph = vec![
        s.weights("w", &[4, 3, 2]),
        s.weights("b", &[4]),
        node("Conv", &["x", "w", "b"], "y", &[("kernel_shape", &[2])]),
        node("Relu", &["y"], "z", &[]),
        value(11, "x", &[-1, 3, 2]),
        value(12, "y", &[-1, 4, 1]),
        value(12, "z", &[-1, 4, 1]),
    ];
    check(&graph, &[3, 2]);
}

/// A network of dequantised and quantised values, as quantisers write it.
#[test]
fn quantised_convolutions_and_products() {
    let mut s = Source(4);
    let mut graph = vec![
        floats("s", &[], &[0.02]),
        floats("t", &[], &[0.05]),
        floats("ws", &[], &[0.01]),
        bytes("z", &[], &[-5]),
        bytes("w0", &[], &[0]),
    ];
    let q =
        |from: &str, to: &str, scale: &str| node("QuantizeLinear", &[from, scale, "z"], to, &[]);
    let d =
        |from: &str, to: &str, scale: &str| node("DequantizeLinear", &[from, scale, "z"], to, &[]);
    let mut weights = |graph: &mut Vec<Field>, name: &str, shape: &[i64], each: bool| {
        let n: i64 = shape.iter().product();
        let values = s.values(n as usize);
        let values: Vec<i8> = values.iter().map(|v| (v * 127.0) as i8).collect();
        let (i, scales) = (format!("{name}.i"), format!("{name}.s"));
        graph.push(bytes(&i, shape, &values));
        if each {
            let some: Vec<f32> = (0..shape[0]).map(|i| 0.01 + i as f32 * 1e-3).collect();
            graph.push(floats(&scales, &shape[..1], &some));
            let axis = node("DequantizeLinear", &[&i, &scales], name, &[("axis", &[0])]);
            graph.push(axis);
        } else {
            graph.push(node("DequantizeLinear", &[&i, "ws", "w0"], name, &[]));
        }
    };
    weights(&mut graph, "c0.w", &[12, 3, 3, 3], true);
    weights(&mut graph, "c1.w", &[12, 12, 1, 1], false);
    weights(&mut graph, "c2.w", &[12, 1, 3, 3], true);
    weights(&mut graph, "c3.w", &[8, 6, 3, 3], false);
    weights(&mut graph, "g.w", &[5, 8], true);
    weights(&mut graph, "m.w", &[12, 7], false);
    let same: (&str, &[i64]) = ("pads", &[1, 1, 1, 1]);
    let bias: Vec<f32> = (0..12).map(|i| i as f32 * 0.1 - 0.5).collect();
    graph.extend([
        floats("b", &[12], &bias),
        floats("gb", &[5], &bias[..5]),
        q("x", "x1", "s"),
        d("x1", "x2", "s"),
        node("Conv", &["x2", "c0.w", "b"], "c0", &[same]),
        node("Relu", &["c0"], "r0", &[]),
        q("r0", "r1", "t"),
        d("r1", "r2", "t"),
        node(
            "MaxPool",
            &["r2"],
            "p0",
            &[("kernel_shape", &[2, 2]), ("strides", &[2, 2])],
        ),
        q("p0", "p1", "t"),
        d("p1", "p2", "t"),
        node("Conv", &["p2", "c1.w"], "c1", &[]),
        q("c1", "c1q", "s"),
        d("c1q", "c1d", "s"),
        node(
            "Conv",
            &["c1d", "c2.w", "b"],
            "c2",
            &[same, ("group", &[12])],
        ),
        q("c2", "c2q", "t"),
        d("c2q", "c2d", "t"),
        node("Add", &["c2d", "p2"], "a0", &[]),
        node("Relu", &["a0"], "a1", &[]),
        q("a1", "a2", "t"),
        d("a2", "a3", "t"),
        node(
            "Conv",
            &["a3", "c3.w"],
            "c3",
            &[("group", &[2]), ("strides", &[2, 2])],
        ),
        q("c3", "c3q", "s"),
        d("c3q", "c3d", "s"),
        node("GlobalAveragePool", &["c3d"], "f0", &[]),
        node("Flatten", &["f0"], "f1", &[]),
        q("f1", "f2", "s"),
        d("f2", "f3", "s"),
    ]);
    graph.extend([
        node("Gemm", &["f3", "g.w", "gb"], "y", &[("transB", &[1])]),
        node("Transpose", &["a3"], "m0", &[("perm", &[0, 2, 3, 1])]),
        q("m0", "m0q", "t"),
        d("m0q", "m0d", "t"),
        node("MatMul", &["m0d", "m.w"], "m1", &[]),
        node("Softmax", &["m1"], "m", &[]),
        q("m1", "mq", "t"),
        value(11, "x", &[-1, 3, 10, 8]),
        value(12, "y", &[-1, 5]),
        value(12, "m", &[-1, 5, 4, 7]),
        value(12, "a3", &[-1, 12, 5, 4]),
        typed(12, "mq", 3, &[-1, 5, 4, 7]),
        typed(12, "c1q", 3, &[-1, 12, 5, 4]),
    ]);
    check(&graph, &[3, 10, 8]);
}

/// Blocks of quantised convolutions, whose steps a batch goes through image by image.
#[test]
fn images_go_through_quantised_convolutions_one_by_one() {
    let mut s = Source(9);
    let mut graph = vec![
        floats("s", &[], &[0.02]),
        floats("t", &[], &[0.05]),
        bytes("z", &[], &[-5]),
    ];
    let mut conv = |graph: &mut Vec<Field>, from: &str, name: &str, shape: &[i64; 4]| {
        let n = shape.iter().product::<i64>() as usize;
        let values: Vec<i8> = s.values(n).iter().map(|v| (v * 127.0) as i8).collect();
        let bias: Vec<f32> = s.values(shape[0] as usize);
        let [w, scale, b, wide] = ["i", "s", "b", "w"].map(|part| format!("{name}.{part}"));
        let pad = shape[2] / 2;
        graph.extend([
            bytes(&w, shape, &values),
            floats(&scale, &shape[..1], &vec![0.004; shape[0] as usize]),
            floats(&b, &shape[..1], &bias),
            node("DequantizeLinear", &[&w, &scale], &wide, &[("axis", &[0])]),
            node(
                "Conv",
                &[from, &wide, &b],
                name,
                &[("pads", &[pad, pad, pad, pad])],
            ),
        ]);
    };
    // Quantises a value and dequantises it again.
    let again = |graph: &mut Vec<Field>, from: &str, scale: &str| {
        let (q, d) = (format!("{from}q"), format!("{from}d"));
        graph.push(node("QuantizeLinear", &[from, scale, "z"], &q, &[]));
        graph.push(node("DequantizeLinear", &[&q, scale, "z"], &d, &[]));
    };
    let pool: [(&str, &[i64]); 2] = [("kernel_shape", &[2, 2]), ("strides", &[1, 1])];
    again(&mut graph, "x", "s");
    conv(&mut graph, "xd", "c0", &[24, 3, 3, 3]);
    graph.push(node("Relu", &["c0"], "r0", &[]));
    again(&mut graph, "r0", "t");
    graph.push(node("MaxPool", &["r0d"], "p0", &pool));
    again(&mut graph, "p0", "t");
    conv(&mut graph, "p0d", "c1", &[24, 24, 3, 3]);
    again(&mut graph, "c1", "s");
    graph.push(node("Add", &["c1d", "p0d"], "a0", &[]));
    graph.push(node("Relu", &["a0"], "a1", &[]));
    again(&mut graph, "a1", "t");
    conv(&mut graph, "a1d", "c2", &[6, 24, 1, 1]);
    again(&mut graph, "c2", "s");
    graph.extend([
        node("GlobalAveragePool", &["c2d"], "y", &[]),
        value(11, "x", &[-1, 3, 20, 20]),
        value(12, "y", &[-1, 6, 1, 1]),
    ]);
    check(&graph, &[3, 20, 20]);
    // One image holds some values of 19 × 19 × 24; as many as there are images would exceed this bound.
    let model = Model::load(model(&graph), &NoFiles, &Limits::small()).unwrap();
    let x = Tensor::new(&[128, 3, 20, 20], vec![0.5f32; 128 * 3 * 20 * 20]).unwrap();
    let options = RunOptions {
        memory: 1 << 20,
        ..RunOptions::default()
    };
    model.run(&[("x", x)], &options).unwrap();
}

/// The meaning of a product of dequantised integers: one sum of integers, scaled.
#[test]
fn products_of_dequantised_integers_are_sums_of_integers() {
    // Sums of f32 in 2.1's order would round: 2²⁴ + 1 is no f32.
    let k = 600;
    let (a, w) = (vec![127i8; k], vec![127i8; k]);
    let graph = [
        floats("sa", &[], &[0.1]),
        floats("sw", &[1], &[0.3]),
        bytes("w", &[k as i64, 1], &w),
        node("DequantizeLinear", &["x", "sa"], "xd", &[]),
        node("DequantizeLinear", &["w", "sw"], "wd", &[("axis", &[1])]),
        node("MatMul", &["xd", "wd"], "y", &[]),
        typed(11, "x", 3, &[1, k as i64]),
        value(12, "y", &[1, 1]),
    ];
    let model = Model::load(model(&graph), &NoFiles, &Limits::small()).unwrap();
    let x = Tensor::new(&[1, k], a).unwrap();
    let run = model.run(&[("x", x)], &RunOptions::default()).unwrap();
    let sum = 127 * 127 * k as i32;
    let expected = sum as f32 * (0.1f32 * 0.3f32);
    assert_eq!(run.outputs[0].as_slice::<f32>().unwrap(), [expected]);
}

/// Attention of quantised values: both operands of its products depend on the input.
#[test]
fn products_of_two_quantised_values() {
    let (len, heads, width) = (9, 3, 20);
    let q =
        |from: &str, to: &str, scale: &str| node("QuantizeLinear", &[from, scale, "z"], to, &[]);
    let d =
        |from: &str, to: &str, scale: &str| node("DequantizeLinear", &[from, scale, "z"], to, &[]);
    let bias: Vec<f32> = (0..width).map(|i| i as f32 * 0.1 - 0.5).collect();
    let graph = [
        floats("s", &[], &[0.02]),
        floats("t", &[], &[0.3]),
        floats("u", &[], &[1.0 / 128.0]),
        bytes("z", &[], &[-5]),
        floats("b", &[width], &bias),
        ints("apart", &[0, len, heads, width]),
        q("x", "x1", "s"),
        d("x1", "x2", "s"),
        node("Reshape", &["x2", "apart"], "x3", &[]),
        node("Transpose", &["x3"], "k0", &[("perm", &[0, 2, 3, 1])]),
        node("Transpose", &["x3"], "v0", &[("perm", &[0, 2, 1, 3])]),
        q("k0", "k1", "s"),
        d("k1", "k2", "s"),
        q("v0", "v1", "s"),
        d("v1", "v2", "s"),
        node("MatMul", &["v2", "k2"], "s0", &[]),
        q("s0", "s1", "t"),
        d("s1", "s2", "t"),
        node("Softmax", &["s2"], "p0", &[]),
        q("p0", "p1", "u"),
        d("p1", "p2", "u"),
        node("MatMul", &["p2", "v2"], "a0", &[]),
        node("Add", &["a0", "b"], "a1", &[]),
        q("a1", "a2", "s"),
        d("a2", "a3", "s"),
        node("MatMul", &["v2", "k2"], "y", &[]),
        value(11, "x", &[-1, len, heads * width]),
        value(12, "y", &[-1, heads, len, len]),
        typed(12, "a2", 3, &[-1, heads, len, width]),
        value(12, "a3", &[-1, heads, len, width]),
    ];
    check(&graph, &[len as usize, (heads * width) as usize]);
}

/// A block of a transformer as quantisers write it: products by constants between transpositions, and GELU.
#[test]
fn a_block_of_a_quantised_transformer() {
    let (len, heads, width) = (7, 3, 20);
    let all = heads * width;
    let mut s = Source(5);
    let q =
        |from: &str, to: &str, scale: &str| node("QuantizeLinear", &[from, scale, "z"], to, &[]);
    let d =
        |from: &str, to: &str, scale: &str| node("DequantizeLinear", &[from, scale, "z"], to, &[]);
    let mut graph = vec![
        floats("s", &[], &[0.02]),
        floats("t", &[], &[0.05]),
        floats("u", &[], &[1.0 / 128.0]),
        floats("ws", &[], &[0.01]),
        floats("root", &[], &[std::f32::consts::SQRT_2]),
        floats("eight", &[], &[8.0]),
        floats("one", &[], &[1.0]),
        floats("half", &[], &[0.5]),
        bytes("z", &[], &[-5]),
        bytes("w0", &[], &[0]),
        ints("apart", &[0, len, heads, width]),
        ints("together", &[0, len, all]),
        floats("mask", &[1, 1, 1, len], &s.values(len as usize)),
        q("x", "x1", "s"),
        d("x1", "x2", "s"),
    ];
    // A product by a constant, quantised between it and its bias.
    let project = |graph: &mut Vec<Field>, s: &mut Source, from: &str, to: &str| {
        let values: Vec<i8> = s
            .values((all * all) as usize)
            .iter()
            .map(|v| (v * 127.0) as i8)
            .collect();
        let name = |part: &str| format!("{to}.{part}");
        graph.extend([
            bytes(&name("i"), &[all, all], &values),
            node(
                "DequantizeLinear",
                &[&name("i"), "ws", "w0"],
                &name("w"),
                &[],
            ),
            s.weights(&name("b"), &[all]),
            node("MatMul", &[from, &name("w")], &name("m"), &[]),
            q(&name("m"), &name("q"), "t"),
            d(&name("q"), &name("d"), "t"),
            node("Add", &[&name("b"), &name("d")], to, &[]),
        ]);
    };
    for (to, order) in [
        ("a", [0, 2, 1, 3]),
        ("b", [0, 2, 3, 1]),
        ("c", [0, 2, 1, 3]),
    ] {
        project(&mut graph, &mut s, "x2", to);
        let name = |part: &str| format!("{to}.{part}");
        graph.extend([
            node("Reshape", &[to, "apart"], &name("r"), &[]),
            node("Transpose", &[&name("r")], &name("t"), &[("perm", &order)]),
            q(&name("t"), &name("tq"), "s"),
            d(&name("tq"), &name("td"), "s"),
        ]);
    }
    graph.extend([
        node("MatMul", &["a.td", "b.td"], "s0", &[]),
        q("s0", "s1", "t"),
        d("s1", "s2", "t"),
        node("Div", &["s2", "eight"], "s3", &[]),
        node("Add", &["s3", "mask"], "s4", &[]),
        node("Softmax", &["s4"], "p0", &[]),
        q("p0", "p1", "u"),
        d("p1", "p2", "u"),
        node("MatMul", &["p2", "c.td"], "o0", &[]),
        q("o0", "o1", "s"),
        d("o1", "o2", "s"),
        node("Transpose", &["o2"], "o3", &[("perm", &[0, 2, 1, 3])]),
        node("Reshape", &["o3", "together"], "o4", &[]),
        q("o4", "o5", "t"),
        d("o5", "o6", "t"),
        // Values that were to be turned are read by something else too.
        node("Add", &["a.td", "c.td"], "turned", &[]),
    ]);
    project(&mut graph, &mut s, "o6", "e");
    graph.extend([
        node("Div", &["e", "root"], "g0", &[]),
        node("Erf", &["g0"], "g1", &[]),
        node("Add", &["g1", "one"], "g2", &[]),
        node("Mul", &["e", "g2"], "g3", &[]),
        node("Mul", &["g3", "half"], "g4", &[]),
        q("g4", "g5", "s"),
        d("g5", "y", "s"),
        value(11, "x", &[-1, len, all]),
        value(12, "y", &[-1, len, all]),
        value(12, "turned", &[-1, heads, len, width]),
        typed(12, "b.tq", 3, &[-1, heads, width, len]),
    ]);
    check(&graph, &[len as usize, all as usize]);
}
