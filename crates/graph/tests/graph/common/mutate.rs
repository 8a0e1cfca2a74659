//! Models with one thing changed that the wire format does not show: a number, a name, an
//! operator, a dimension, a few bytes of a constant.

use super::onnx::{Field, decode, encode};

/// A reproducible source of choices.
pub struct Choices(pub u64);

impl Choices {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound.max(1)
    }

    fn of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// Messages whose fields are worth changing one by one.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Model,
    Opset,
    Graph,
    Node,
    Attribute,
    Tensor,
    Info,
    Type,
    TensorType,
    Shape,
    Dim,
}

/// The kind of message in a field, if it is one.
fn inside(kind: Kind, number: u64) -> Option<Kind> {
    Some(match (kind, number) {
        (Kind::Model, 7) => Kind::Graph,
        (Kind::Model, 8) => Kind::Opset,
        (Kind::Graph, 1) => Kind::Node,
        (Kind::Graph, 5) | (Kind::Attribute, 5) => Kind::Tensor,
        (Kind::Graph, 11 | 12) => Kind::Info,
        (Kind::Node, 5) => Kind::Attribute,
        (Kind::Info, 2) => Kind::Type,
        (Kind::Type, 1) => Kind::TensorType,
        (Kind::TensorType, 2) => Kind::Shape,
        (Kind::Shape, 1) => Kind::Dim,
        _ => return None,
    })
}

const NUMBERS: [i64; 16] = [
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    9,
    16,
    -1,
    -2,
    -3,
    1 << 20,
    1 << 40,
    i64::MAX,
    i64::MIN,
];

const OPERATORS: [&str; 86] = [
    "Abs",
    "Add",
    "And",
    "ArgMax",
    "ArgMin",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "CastLike",
    "Ceil",
    "Clip",
    "Concat",
    "ConstantOfShape",
    "Conv",
    "Cos",
    "CumSum",
    "Div",
    "Dropout",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "Flatten",
    "Floor",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Greater",
    "GroupNormalization",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "InstanceNormalization",
    "IsInf",
    "IsNaN",
    "LayerNormalization",
    "LeakyRelu",
    "Less",
    "Log",
    "LogSoftmax",
    "MatMul",
    "Max",
    "MaxPool",
    "Mean",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    "Neg",
    "Not",
    "OneHot",
    "Or",
    "PRelu",
    "Pad",
    "Pow",
    "RMSNormalization",
    "Range",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceProd",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Selu",
    "Shape",
    "Sigmoid",
    "Sign",
    "Size",
    "Slice",
    "Softmax",
    "Split",
    "Squeeze",
    "Sub",
    "Sum",
    "Tile",
    "TopK",
    "Transpose",
    "Trilu",
    "Unsqueeze",
    "Where",
];

/// Names of values in a graph.
fn names(model: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    collect(Kind::Model, &decode(model), &mut found);
    found.push(Vec::new());
    found
}

fn collect(kind: Kind, fields: &[Field], found: &mut Vec<Vec<u8>>) {
    for field in fields {
        let Field::Bytes(number, bytes) = field else {
            continue;
        };
        match (kind, number) {
            (Kind::Node, 1 | 2) | (Kind::Info, 1) | (Kind::Tensor, 8) => found.push(bytes.clone()),
            _ => {
                if let Some(kind) = inside(kind, *number) {
                    collect(kind, &decode(bytes), found);
                }
            }
        }
    }
}

/// The model with one change.
pub fn mutate(model: &[u8], choices: &mut Choices) -> Vec<u8> {
    let names = names(model);
    let mut fields = decode(model);
    change(Kind::Model, &mut fields, &names, choices);
    encode(&fields)
}

fn change(kind: Kind, fields: &mut Vec<Field>, names: &[Vec<u8>], choices: &mut Choices) {
    if fields.is_empty() {
        return;
    }
    let at = choices.below(fields.len());
    // Mostly go deeper; now and then remove, repeat or swap what is here.
    match choices.below(12) {
        0 if kind != Kind::Model => {
            fields.remove(at);
            return;
        }
        1 if kind != Kind::Model => {
            fields.push(fields[at].clone());
            return;
        }
        2 => {
            let other = choices.below(fields.len());
            fields.swap(at, other);
            return;
        }
        _ => {}
    }
    match &mut fields[at] {
        Field::Varint(_, value) => *value = choices.of(&NUMBERS).cast_unsigned(),
        Field::Raw(_, bytes) => overwrite(bytes, choices),
        Field::Bytes(number, bytes) => match (kind, *number) {
            (Kind::Node, 4) => *bytes = choices.of(&OPERATORS).as_bytes().to_vec(),
            (Kind::Node, 1 | 2) | (Kind::Info, 1) | (Kind::Tensor, 8) => {
                *bytes = choices.of(names).clone()
            }
            (kind, number) => match inside(kind, number) {
                Some(kind) => {
                    let mut fields = decode(bytes);
                    change(kind, &mut fields, names, choices);
                    *bytes = encode(&fields);
                }
                // Packed numbers of an attribute or the dimensions of a tensor.
                None if matches!((kind, number), (Kind::Attribute, 8) | (Kind::Tensor, 1 | 7)) => {
                    let count = choices.below(5);
                    let numbers =
                        (0..count).map(|_| Field::Varint(0, choices.of(&NUMBERS).cast_unsigned()));
                    let packed: Vec<Field> = numbers.collect();
                    // Each is encoded with a key of one byte, which is cut off.
                    *bytes = packed
                        .iter()
                        .flat_map(|n| encode(std::slice::from_ref(n))[1..].to_vec())
                        .collect();
                }
                None => overwrite(bytes, choices),
            },
        },
    }
}

/// Overwrites one aligned number.
fn overwrite(bytes: &mut [u8], choices: &mut Choices) {
    let width = *choices.of(&[1, 4, 8]);
    let chunks = bytes.len() / width;
    if chunks == 0 {
        return;
    }
    let at = choices.below(chunks) * width;
    let special = [
        *choices.of(&NUMBERS),
        i64::from(f32::NAN.to_bits()),
        i64::from(f32::INFINITY.to_bits()),
        i64::from((-0f32).to_bits()),
    ];
    let value = choices.of(&special).to_le_bytes();
    bytes[at..at + width].copy_from_slice(&value[..width]);
}
