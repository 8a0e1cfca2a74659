//! ONNX files taken apart and put together again, to change them in ways an exporter might.

/// One field of a protobuf message.
#[derive(Clone)]
pub enum Field {
    Varint(u64, u64),
    Bytes(u64, Vec<u8>),
    /// Fixed-width, with its key.
    Raw(u64, Vec<u8>),
}

impl Field {
    pub fn number(&self) -> u64 {
        match self {
            Field::Varint(n, _) | Field::Bytes(n, _) => *n,
            Field::Raw(key, _) => key >> 3,
        }
    }
}

fn read_varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (byte, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take(bytes: &mut &[u8], count: usize) -> Vec<u8> {
    let (head, rest) = bytes.split_at(count);
    *bytes = rest;
    head.to_vec()
}

pub fn decode(mut bytes: &[u8]) -> Vec<Field> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = read_varint(&mut bytes);
        fields.push(match key & 7 {
            0 => Field::Varint(key >> 3, read_varint(&mut bytes)),
            1 => Field::Raw(key, take(&mut bytes, 8)),
            2 => {
                let length = read_varint(&mut bytes) as usize;
                Field::Bytes(key >> 3, take(&mut bytes, length))
            }
            _ => Field::Raw(key, take(&mut bytes, 4)),
        });
    }
    fields
}

pub fn encode(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields {
        match field {
            Field::Varint(n, value) => {
                write_varint(n << 3, &mut out);
                write_varint(*value, &mut out);
            }
            Field::Bytes(n, bytes) => {
                write_varint((n << 3) | 2, &mut out);
                write_varint(bytes.len() as u64, &mut out);
                out.extend(bytes);
            }
            Field::Raw(key, bytes) => {
                write_varint(*key, &mut out);
                out.extend(bytes);
            }
        }
    }
    out
}

/// Changes the fields of the graph of a model.
pub fn edit_graph(model: &[u8], edit: impl FnOnce(&mut Vec<Field>)) -> Vec<u8> {
    let mut fields = decode(model);
    for field in &mut fields {
        if let Field::Bytes(7, graph) = field {
            let mut inside = decode(graph);
            edit(&mut inside);
            *graph = encode(&inside);
            break;
        }
    }
    encode(&fields)
}

fn text(fields: &[Field], number: u64) -> Vec<Vec<u8>> {
    let named = fields.iter().filter(|f| f.number() == number);
    named
        .filter_map(|f| match f {
            Field::Bytes(_, bytes) => Some(bytes.clone()),
            _ => None,
        })
        .collect()
}

/// Gives every node and every value inside the graph another name.
pub fn rename(graph: &mut [Field]) {
    let interface: Vec<Vec<u8>> = graph
        .iter()
        .filter_map(|f| match f {
            Field::Bytes(11 | 12, info) => text(&decode(info), 1).pop(),
            _ => None,
        })
        .collect();
    rename_around(graph, &interface);
}

/// The same, where some names stay; inputs and outputs of graphs inside are renamed too.
fn rename_around(graph: &mut [Field], kept: &[Vec<u8>]) {
    let renamed = |name: &mut Vec<u8>| {
        if !name.is_empty() && !kept.contains(name) {
            *name = [b"other/", &name[..]].concat();
        }
    };
    for field in graph {
        let (names, bytes): (&[u64], _) = match field {
            Field::Bytes(1, bytes) => (&[1, 2, 3], bytes),
            Field::Bytes(5, bytes) => (&[8], bytes),
            Field::Bytes(11 | 12, bytes) => (&[1], bytes),
            _ => continue,
        };
        let mut inside = decode(bytes);
        for field in &mut inside {
            match field {
                Field::Bytes(number, name) if names.contains(number) => renamed(name),
                // Attributes, which only nodes have.
                Field::Bytes(5, attribute) if names.len() == 3 => {
                    *attribute = rename_in_attribute(attribute, kept);
                }
                _ => {}
            }
        }
        *bytes = encode(&inside);
    }
}

fn rename_in_attribute(attribute: &[u8], kept: &[Vec<u8>]) -> Vec<u8> {
    let mut fields = decode(attribute);
    for field in &mut fields {
        if let Field::Bytes(6, graph) = field {
            let mut inner = decode(graph);
            rename_around(&mut inner, kept);
            *graph = encode(&inner);
        }
    }
    encode(&fields)
}

fn text_field(number: u64, text: &str) -> Field {
    Field::Bytes(number, text.as_bytes().to_vec())
}

/// A node; attributes are lists of integers, but some are one.
pub fn node(op: &str, inputs: &[&str], output: &str, attributes: &[(&str, &[i64])]) -> Field {
    let mut fields: Vec<Field> = inputs.iter().map(|i| text_field(1, i)).collect();
    fields.push(text_field(2, output));
    fields.push(text_field(3, op));
    fields.push(text_field(4, op));
    for (name, values) in attributes {
        let one = ["group", "axis", "transB"].contains(name);
        let (kind, number) = if one { (2, 3) } else { (7, 8) };
        let mut attribute = vec![text_field(1, name), Field::Varint(20, kind)];
        attribute.extend(
            values
                .iter()
                .map(|v| Field::Varint(number, v.cast_unsigned())),
        );
        fields.push(Field::Bytes(5, encode(&attribute)));
    }
    Field::Bytes(1, encode(&fields))
}

/// A declaration of a tensor of FP32 with a symbol for each negative dimension.
pub fn value(number: u64, name: &str, dims: &[i64]) -> Field {
    typed(number, name, 1, dims)
}

/// The same, of ONNX's code for an element type.
pub fn typed(number: u64, name: &str, code: u64, dims: &[i64]) -> Field {
    let dims = dims.iter().enumerate().map(|(axis, &d)| {
        let dim = if d < 0 {
            text_field(2, &format!("d{axis}"))
        } else {
            Field::Varint(1, d.unsigned_abs())
        };
        Field::Bytes(1, encode(&[dim]))
    });
    let shape = encode(&dims.collect::<Vec<_>>());
    let tensor = encode(&[Field::Varint(1, code), Field::Bytes(2, shape)]);
    let kind = encode(&[Field::Bytes(1, tensor)]);
    Field::Bytes(
        number,
        encode(&[text_field(1, name), Field::Bytes(2, kind)]),
    )
}

/// An initializer of FP32.
pub fn floats(name: &str, dims: &[i64], values: &[f32]) -> Field {
    let mut fields: Vec<Field> = dims
        .iter()
        .map(|d| Field::Varint(1, d.unsigned_abs()))
        .collect();
    let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    fields.extend([
        Field::Varint(2, 1),
        text_field(8, name),
        Field::Bytes(9, raw),
    ]);
    Field::Bytes(5, encode(&fields))
}

/// An initializer of INT8.
pub fn bytes(name: &str, dims: &[i64], values: &[i8]) -> Field {
    let mut fields: Vec<Field> = dims
        .iter()
        .map(|d| Field::Varint(1, d.unsigned_abs()))
        .collect();
    let raw = values.iter().map(|v| v.cast_unsigned()).collect();
    fields.extend([
        Field::Varint(2, 3),
        text_field(8, name),
        Field::Bytes(9, raw),
    ]);
    Field::Bytes(5, encode(&fields))
}

/// An initializer of INT64, a vector.
pub fn ints(name: &str, values: &[i64]) -> Field {
    let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let fields = [
        Field::Varint(1, values.len() as u64),
        Field::Varint(2, 7),
        text_field(8, name),
        Field::Bytes(9, raw),
    ];
    Field::Bytes(5, encode(&fields))
}

/// A model of operator set 17 with this graph.
pub fn model(graph: &[Field]) -> Vec<u8> {
    let opset = encode(&[Field::Varint(2, 17)]);
    encode(&[
        Field::Varint(1, 8),
        Field::Bytes(7, encode(graph)),
        Field::Bytes(8, opset),
    ])
}
