//! Random graphs of the operators that a program fuses, turns and overwrites: a run has the bits of one that
//! evaluates operator by operator, whatever the graph. More of them: `RANDOM_GRAPHS=5000 cargo test …`.

use crate::common::onnx::{Field, bytes, floats, ints, model, node, typed, value};
use crate::common::plain_and_fused;
use lemma_graph::{Limits, Model, NoFiles, Tensor};

/// Fixed numbers.
struct Source(u64);

impl Source {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// In [−2, 2), now and then something odd.
    fn values(&mut self, n: usize) -> Vec<f32> {
        let one = |s: &mut Source| match s.below(40) {
            0 => s.of(&[0.0, -0.0, f32::INFINITY, f32::NAN, 1e-40, 3e38]),
            _ => s.below(1 << 20) as f32 / (1 << 18) as f32 - 2.0,
        };
        (0..n).map(|_| one(self)).collect()
    }
}

/// A value: its name, its shape, and whether it is of 8-bit integers.
#[derive(Clone)]
struct Value {
    name: String,
    shape: Vec<i64>,
    integers: bool,
}

struct Random {
    source: Source,
    graph: Vec<Field>,
    values: Vec<Value>,
    names: usize,
}

const UNARY: [&str; 7] = ["Relu", "Sigmoid", "Tanh", "Erf", "Neg", "Abs", "Sqrt"];
const BINARY: [&str; 6] = ["Add", "Sub", "Mul", "Div", "Max", "Min"];

impl Random {
    fn name(&mut self) -> String {
        self.names += 1;
        format!("v{}", self.names)
    }

    fn constant(&mut self, shape: &[i64]) -> String {
        let name = self.name();
        let n: i64 = shape.iter().product();
        let values = self.source.values(n as usize);
        self.graph.push(floats(&name, shape, &values));
        name
    }

    fn made(&mut self, op: &str, from: &[&str], shape: &[i64], attributes: &[(&str, &[i64])]) {
        let name = self.name();
        self.graph.push(node(op, from, &name, attributes));
        self.values.push(Value {
            name,
            shape: shape.to_vec(),
            integers: op == "QuantizeLinear",
        });
    }

    fn step(&mut self) {
        let at = match self.source.below(3) {
            0 => self.source.below(self.values.len()),
            _ => self.values.len() - 1,
        };
        let x = self.values[at].clone();
        let (name, shape) = (x.name.as_str(), &x.shape[..]);
        if x.integers {
            return self.made("DequantizeLinear", &[name, "step", "zero"], shape, &[]);
        }
        match self.source.below(13) {
            0 => {
                let op = self.source.of(&UNARY);
                self.made(op, &[name], shape, &[]);
            }
            1 | 2 => {
                // With itself, another value of the shape, or a constant that is repeated.
                let op = self.source.of(&BINARY);
                let same = |v: &&Value| v.shape == shape && !v.integers;
                let others: Vec<String> = self
                    .values
                    .iter()
                    .filter(same)
                    .map(|v| v.name.clone())
                    .collect();
                let other = match self.source.below(3) {
                    0 => {
                        let own: Vec<i64> = shape
                            .iter()
                            .map(|&d| if self.source.below(2) == 0 { 1 } else { d })
                            .collect();
                        let skipped = self.source.below(own.len());
                        self.constant(&own[skipped..])
                    }
                    _ => others[self.source.below(others.len())].clone(),
                };
                let pair = match self.source.below(2) {
                    0 => [name, &other],
                    _ => [&other, name],
                };
                self.made(op, &pair, shape, &[]);
            }
            3 => self.made("Clip", &[name, "low", "high"], shape, &[]),
            4 => self.made("Softmax", &[name], shape, &[]),
            5 => {
                let gain = self.constant(&shape[shape.len() - 1..]);
                self.made("LayerNormalization", &[name, &gain], shape, &[]);
            }
            6 => {
                let mut order: Vec<i64> = (0..shape.len() as i64).collect();
                let turn = self.source.below(order.len());
                order.rotate_left(turn);
                if self.source.below(2) == 0 {
                    order.swap(0, shape.len() - 1);
                }
                let out: Vec<i64> = order.iter().map(|&i| shape[i as usize]).collect();
                self.made("Transpose", &[name], &out, &[("perm", &order)]);
            }
            7 => {
                let all: i64 = shape.iter().product();
                let out = match self.source.below(3) {
                    0 => vec![all],
                    1 => vec![shape[0], all / shape[0]],
                    _ => [&[1], shape].concat(),
                };
                if out.len() <= 4 {
                    let dims = self.name();
                    self.graph.push(ints(&dims, &out));
                    self.made("Reshape", &[name, &dims], &out, &[]);
                }
            }
            8 if shape.len() >= 2 => {
                let (k, n) = (shape[shape.len() - 1], self.source.of(&[1, 5, 17, 70]));
                let out = [&shape[..shape.len() - 1], &[n]].concat();
                let w = match self.source.below(2) {
                    0 => self.constant(&[k, n]),
                    _ => self.dequantised(&[k, n]),
                };
                self.made("MatMul", &[name, &w], &out, &[]);
            }
            9 if shape.len() == 4 => self.convolve(&x),
            10 if shape.len() == 4 => {
                let size = shape[2].min(shape[3]).min(2);
                let out = [shape[0], shape[1], shape[2] - size + 1, shape[3] - size + 1];
                let op = self.source.of(&["MaxPool", "AveragePool"]);
                self.made(op, &[name], &out, &[("kernel_shape", &[size, size])]);
            }
            11 if shape.len() == 4 => {
                let out = [shape[0], shape[1], 1, 1];
                self.made("GlobalAveragePool", &[name], &out, &[]);
            }
            _ => self.made("QuantizeLinear", &[name, "step", "zero"], shape, &[]),
        }
    }

    /// A constant of dequantised 8-bit integers.
    fn dequantised(&mut self, shape: &[i64]) -> String {
        let (stored, name) = (self.name(), self.name());
        let n: i64 = shape.iter().product();
        let values: Vec<i8> = (0..n).map(|_| self.source.below(256) as u8 as i8).collect();
        self.graph.push(bytes(&stored, shape, &values));
        let from = [&stored[..], "step", "zero"];
        self.graph.push(node("DequantizeLinear", &from, &name, &[]));
        name
    }

    fn convolve(&mut self, x: &Value) {
        let [batch, channels, height, width] = x.shape[..] else {
            return;
        };
        let size = self.source.of(&[1, 2, 3]).min(height).min(width);
        let stride = self.source.of(&[1, 1, 2]);
        let pad = self.source.below(size as usize) as i64;
        let groups = match self.source.below(3) {
            0 => channels,
            1 if channels % 2 == 0 => 2,
            _ => 1,
        };
        let out = match groups == channels {
            true => channels,
            false => groups * self.source.of(&[1, 3, 10]),
        };
        let shape = [out, channels / groups, size, size];
        let w = match self.source.below(2) {
            0 => self.constant(&shape),
            _ => self.dequantised(&shape),
        };
        let bias = self.constant(&[out]);
        let along = |n: i64| (n + 2 * pad - size) / stride + 1;
        let result = [batch, out, along(height), along(width)];
        self.made(
            "Conv",
            &[&x.name, &w, &bias],
            &result,
            &[
                ("group", &[groups]),
                ("strides", &[stride, stride]),
                ("pads", &[pad; 4]),
            ],
        );
    }
}

#[test]
fn random_graphs_run_as_their_operators_do() {
    let count = std::env::var("RANDOM_GRAPHS").ok();
    let count: u64 = count.and_then(|n| n.parse().ok()).unwrap_or(300);
    for seed in 0..count {
        let mut random = Random {
            source: Source(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            graph: vec![
                floats("low", &[], &[-0.75]),
                floats("high", &[], &[1.5]),
                floats("step", &[], &[0.03]),
                bytes("zero", &[], &[-3]),
            ],
            values: Vec::new(),
            names: 0,
        };
        let shape = match random.source.below(3) {
            0 => vec![2, 3, 7],
            _ => vec![
                random.source.of(&[1, 2]),
                random.source.of(&[3, 6, 20]),
                5,
                6,
            ],
        };
        random.values.push(Value {
            name: "x".into(),
            shape: shape.clone(),
            integers: false,
        });
        for _ in 0..3 + random.source.below(14) {
            random.step();
        }
        // The last value is an output, and some in the middle are.
        let mut graph = random.graph;
        graph.push(value(11, "x", &shape));
        let last = random.values.len() - 1;
        for (i, v) in random.values.iter().enumerate() {
            if i > 0 && (i == last || random.source.below(5) == 0) {
                let code = if v.integers { 3 } else { 1 };
                graph.push(typed(12, &v.name, code, &v.shape));
            }
        }
        if last == 0 {
            continue;
        }
        let n: i64 = shape.iter().product();
        let dims: Vec<usize> = shape.iter().map(|&d| d as usize).collect();
        let x = Tensor::new(&dims, random.source.values(n as usize)).unwrap();
        let model = Model::load(model(&graph), &NoFiles, &Limits::small())
            .unwrap_or_else(|e| panic!("graph {seed} is refused: {e}"));
        plain_and_fused(&model, &x, &[1, 2], &format!("graph {seed}"));
    }
}
