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
    let renamed = |name: &mut Vec<u8>| {
        if !name.is_empty() && !interface.contains(name) {
            *name = [b"other/", &name[..]].concat();
        }
    };
    for field in graph {
        let (names, bytes): (&[u64], _) = match field {
            Field::Bytes(1, bytes) => (&[1, 2, 3], bytes),
            Field::Bytes(5, bytes) => (&[8], bytes),
            _ => continue,
        };
        let mut inside = decode(bytes);
        for field in &mut inside {
            if let Field::Bytes(number, name) = field
                && names.contains(number)
            {
                renamed(name);
            }
        }
        *bytes = encode(&inside);
    }
}
