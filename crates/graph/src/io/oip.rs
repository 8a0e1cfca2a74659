//! Tensors of the Open Inference Protocol in JSON:
//! `{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 1]}`.
//!
//! Data may be flat or nested as the shape is. Numbers become elements by one rule: a number is
//! first rounded to the nearest f64, then, for narrower floats, to the nearest f32 and from there
//! to the nearest 16-bit float. Integers have to be integers, and to fit. Elements are collected
//! as they are read, eight bytes for each, so that a body takes no more than a few times its own
//! size.
//!
//! JSON has no NaN and no infinities. A tensor that holds one cannot be given or shown in JSON:
//! the binary extension of the protocol and `.npy` files carry every bit.

use std::fmt;

use lemma_kernels::half;
use lemma_types::limits;
use lemma_types::tensor::{DType, TensorData};
use serde::de::{self, DeserializeSeed, SeqAccess, Visitor};
use serde::ser::{self, SerializeMap, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::tensor::{Bf16, Element, F16, Storage, Tensor};

/// Why JSON does not make a tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OipError {
    /// The text is not JSON of the expected form.
    #[error("malformed JSON: {0}")]
    Json(String),
    /// No data beside the tensor's description.
    #[error("tensor `{0}` has no data")]
    NoData(String),
    /// Nested data of another shape than the one given.
    #[error("tensor `{name}`: data are nested as {found:?}, shape is {shape:?}")]
    Nesting {
        /// The tensor.
        name: String,
        /// The shape of the nested lists.
        found: Vec<u64>,
        /// The shape given.
        shape: Vec<u64>,
    },
    /// The shape calls for another number of elements.
    #[error("tensor `{name}`: {found} elements are given for shape {shape:?}")]
    Count {
        /// The tensor.
        name: String,
        /// The number of elements given.
        found: usize,
        /// The shape.
        shape: Vec<u64>,
    },
    /// Elements that are not of the datatype.
    #[error("tensor `{name}`: {reason}")]
    Elements {
        /// The tensor.
        name: String,
        /// Which element, and what is wrong with it.
        reason: String,
    },
    /// The tensor as a whole.
    #[error(transparent)]
    Tensor(#[from] lemma_types::tensor::TensorError),
}

/// A tensor as a request has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonTensor {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its element type.
    pub datatype: DType,
    /// Its elements, unless they travel beside the JSON (binary extension).
    #[serde(default)]
    pub data: Option<Elements>,
    /// Parameters of the protocol, such as `binary_data_size`.
    #[serde(default)]
    pub parameters: Option<serde_json::Map<String, serde_json::Value>>,
}

impl TryFrom<JsonTensor> for TensorData {
    type Error = OipError;

    fn try_from(json: JsonTensor) -> Result<TensorData, OipError> {
        let JsonTensor {
            name, shape, data, ..
        } = json;
        let Some(data) = data else {
            return Err(OipError::NoData(name));
        };
        data.check(&name, &shape)?;
        let bytes = data
            .values
            .encode(json.datatype)
            .map_err(|reason| OipError::Elements {
                name: name.clone(),
                reason,
            })?;
        Ok(TensorData::new(name, json.datatype, shape, bytes)?)
    }
}

/// Reads the inputs of a request: an object with a list `inputs`, as the protocol has it. Other
/// members are not looked at.
///
/// # Errors
/// When the text is not of that form, or a tensor is malformed.
pub fn read_inputs(text: &[u8]) -> Result<Vec<TensorData>, OipError> {
    #[derive(Deserialize)]
    struct Request {
        inputs: Vec<JsonTensor>,
    }
    let request: Request =
        serde_json::from_slice(text).map_err(|e| OipError::Json(e.to_string()))?;
    request
        .inputs
        .into_iter()
        .map(TensorData::try_from)
        .collect()
}

/// A tensor that serialises as the protocol has it, with flat data.
///
/// Serialisation fails where an element is NaN or infinite, and says so.
#[derive(Clone, Copy, Debug)]
pub struct AsJson<'a>(pub &'a TensorData);

impl Serialize for AsJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let data = Tensor::from_data(self.0).map_err(ser::Error::custom)?;
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("name", self.0.name())?;
        map.serialize_entry("shape", self.0.shape())?;
        map.serialize_entry("datatype", &self.0.dtype())?;
        map.serialize_entry(
            "data",
            &Flat {
                name: self.0.name(),
                data: &data,
            },
        )?;
        map.end()
    }
}

/// The elements of a tensor as a flat list.
struct Flat<'a> {
    name: &'a str,
    data: &'a Tensor,
}

impl Flat<'_> {
    fn floats<S: Serializer, T: Copy, N: Serialize + Copy + Into<f64>>(
        &self,
        serializer: S,
        values: &[T],
        number: impl Fn(T) -> N,
    ) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(values.len()))?;
        for (index, &value) in values.iter().enumerate() {
            let number = number(value);
            let wide: f64 = number.into();
            if !wide.is_finite() {
                return Err(ser::Error::custom(format!(
                    "element {index} of tensor `{}` is {wide}, for which JSON has no number: ask for binary output or .npy",
                    self.name
                )));
            }
            list.serialize_element(&number)?;
        }
        list.end()
    }
}

impl Serialize for Flat<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.data.storage() {
            Storage::F32(v) => self.floats(serializer, v, |x| x),
            Storage::F64(v) => self.floats(serializer, v, |x| x),
            Storage::F16(v) => self.floats(serializer, v, |x: F16| half::f16_to_f32(x.0)),
            Storage::Bf16(v) => self.floats(serializer, v, |x: Bf16| half::bf16_to_f32(x.0)),
            Storage::Bool(v) => serializer.collect_seq(v.iter()),
            Storage::U8(v) => serializer.collect_seq(v.iter()),
            Storage::I8(v) => serializer.collect_seq(v.iter()),
            Storage::U16(v) => serializer.collect_seq(v.iter()),
            Storage::I16(v) => serializer.collect_seq(v.iter()),
            Storage::U32(v) => serializer.collect_seq(v.iter()),
            Storage::I32(v) => serializer.collect_seq(v.iter()),
            Storage::U64(v) => serializer.collect_seq(v.iter()),
            Storage::I64(v) => serializer.collect_seq(v.iter()),
        }
    }
}

/// Elements as they were read: flat or nested.
#[derive(Clone, Debug, Default)]
pub struct Elements {
    values: Values,
    /// The shape of the nested lists, outermost first.
    shape: Vec<u64>,
}

impl Elements {
    fn check(&self, name: &str, shape: &[u64]) -> Result<(), OipError> {
        if self.shape.len() > 1 && self.shape != shape {
            return Err(OipError::Nesting {
                name: name.to_owned(),
                found: self.shape.clone(),
                shape: shape.to_vec(),
            });
        }
        let count = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        if count != Some(self.values.len() as u64) {
            return Err(OipError::Count {
                name: name.to_owned(),
                found: self.values.len(),
                shape: shape.to_vec(),
            });
        }
        Ok(())
    }
}

/// Numbers of the narrowest kind that holds all that were read.
#[derive(Clone, Debug)]
enum Values {
    Bools(Vec<bool>),
    Ints(Vec<i64>),
    /// Some beyond the range of `i64`, none negative.
    Wide(Vec<u64>),
    Floats {
        values: Vec<f64>,
        /// The first that was not written as an integer of 64 bits.
        first: usize,
    },
}

impl Default for Values {
    fn default() -> Values {
        Values::Ints(Vec::new())
    }
}

impl Values {
    fn len(&self) -> usize {
        match self {
            Values::Bools(v) => v.len(),
            Values::Ints(v) => v.len(),
            Values::Wide(v) => v.len(),
            Values::Floats { values, .. } => values.len(),
        }
    }

    fn push_bool(&mut self, value: bool) -> Result<(), &'static str> {
        match self {
            Values::Bools(v) => v.push(value),
            _ if self.len() == 0 => *self = Values::Bools(vec![value]),
            _ => return Err("numbers and truth values are mixed"),
        }
        Ok(())
    }

    fn push_int(&mut self, value: i64) -> Result<(), &'static str> {
        match self {
            Values::Bools(_) => return Err("numbers and truth values are mixed"),
            Values::Ints(v) => v.push(value),
            Values::Wide(v) => match u64::try_from(value) {
                Ok(value) => v.push(value),
                Err(_) => return self.push_float(value as f64),
            },
            Values::Floats { values, .. } => values.push(value as f64),
        }
        Ok(())
    }

    fn push_wide(&mut self, value: u64) -> Result<(), &'static str> {
        if let Ok(value) = i64::try_from(value) {
            return self.push_int(value);
        }
        match self {
            Values::Wide(v) => {
                v.push(value);
                Ok(())
            }
            Values::Ints(v) => match v.iter().map(|&i| u64::try_from(i)).collect() {
                Ok(wide) => {
                    *self = Values::Wide(wide);
                    self.push_wide(value)
                }
                Err(_) => self.push_float(value as f64),
            },
            _ => self.push_float(value as f64),
        }
    }

    fn push_float(&mut self, value: f64) -> Result<(), &'static str> {
        let mut values: Vec<f64> = match std::mem::take(self) {
            Values::Bools(_) => return Err("numbers and truth values are mixed"),
            Values::Floats { mut values, first } => {
                values.push(value);
                *self = Values::Floats { values, first };
                return Ok(());
            }
            Values::Ints(v) => v.into_iter().map(|i| i as f64).collect(),
            Values::Wide(v) => v.into_iter().map(|i| i as f64).collect(),
        };
        let first = values.len();
        values.push(value);
        *self = Values::Floats { values, first };
        Ok(())
    }

    /// The canonical bytes of the elements as `dtype`, or what is wrong with one of them.
    fn encode(&self, dtype: DType) -> Result<Vec<u8>, String> {
        match dtype {
            DType::Bool => match self {
                Values::Bools(v) => Ok(bytes(v)),
                _ if self.len() == 0 => Ok(Vec::new()),
                _ => Err("elements of BOOL are written true and false".into()),
            },
            DType::U8 => self.integers::<u8>(),
            DType::I8 => self.integers::<i8>(),
            DType::U16 => self.integers::<u16>(),
            DType::I16 => self.integers::<i16>(),
            DType::U32 => self.integers::<u32>(),
            DType::I32 => self.integers::<i32>(),
            DType::U64 => self.integers::<u64>(),
            DType::I64 => self.integers::<i64>(),
            DType::F64 => self.floats(dtype, |x| x, f64::is_finite),
            DType::F32 => self.floats(dtype, |x| x as f32, |x| x.is_finite()),
            DType::F16 => {
                let narrow = |x: f64| F16(half::f32_to_f16(x as f32));
                self.floats(dtype, narrow, |x| half::f16_to_f32(x.0).is_finite())
            }
            DType::Bf16 => {
                let narrow = |x: f64| Bf16(half::f32_to_bf16(x as f32));
                self.floats(dtype, narrow, |x| half::bf16_to_f32(x.0).is_finite())
            }
        }
    }

    fn integers<T: Element + TryFrom<i64> + TryFrom<u64>>(&self) -> Result<Vec<u8>, String> {
        let misfit = |i: usize, v: &dyn fmt::Display| {
            format!("element {i} is {v}, which does not fit {}", T::DTYPE)
        };
        let values: Result<Vec<T>, String> = match self {
            Values::Ints(v) => {
                let fit = |(i, &v): (usize, &i64)| T::try_from(v).map_err(|_| misfit(i, &v));
                v.iter().enumerate().map(fit).collect()
            }
            Values::Wide(v) => {
                let fit = |(i, &v): (usize, &u64)| T::try_from(v).map_err(|_| misfit(i, &v));
                v.iter().enumerate().map(fit).collect()
            }
            Values::Floats { values, first } => Err(format!(
                "element {first} is {}, which is no element of {}",
                values[*first],
                T::DTYPE
            )),
            Values::Bools(_) => Err(format!("truth values are no elements of {}", T::DTYPE)),
        };
        values.map(|v| bytes(&v))
    }

    fn floats<T: Element>(
        &self,
        dtype: DType,
        narrow: impl Fn(f64) -> T,
        finite: impl Fn(T) -> bool,
    ) -> Result<Vec<u8>, String> {
        let one = |i: usize, x: f64| {
            let value = narrow(x);
            match finite(value) {
                true => Ok(value),
                false => Err(format!("element {i} is {x}, beyond the range of {dtype}")),
            }
        };
        let values: Result<Vec<T>, String> = match self {
            Values::Bools(_) => Err(format!("truth values are no elements of {dtype}")),
            Values::Ints(v) => v
                .iter()
                .enumerate()
                .map(|(i, &x)| one(i, x as f64))
                .collect(),
            Values::Wide(v) => v
                .iter()
                .enumerate()
                .map(|(i, &x)| one(i, x as f64))
                .collect(),
            Values::Floats { values, .. } => {
                values.iter().enumerate().map(|(i, &x)| one(i, x)).collect()
            }
        };
        values.map(|v| bytes(&v))
    }
}

fn bytes<T: Element>(values: &[T]) -> Vec<u8> {
    let mut out = Vec::with_capacity(values.len() * T::DTYPE.size());
    T::encode(values, &mut out);
    out
}

impl<'de> Deserialize<'de> for Elements {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Elements, D::Error> {
        let mut elements = Elements::default();
        let top = Level {
            elements: &mut elements,
            depth: 0,
        };
        match top.deserialize(deserializer)? {
            Item::List => Ok(elements),
            Item::Number => Err(de::Error::custom("data must be a list")),
        }
    }
}

/// What a value in the data is.
#[derive(PartialEq)]
enum Item {
    Number,
    List,
}

/// One value within `depth` lists.
struct Level<'e> {
    elements: &'e mut Elements,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = Item;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Item, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Level<'_> {
    fn number<E: de::Error>(self, pushed: Result<(), &'static str>) -> Result<Item, E> {
        pushed.map(|()| Item::Number).map_err(E::custom)
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, a truth value or a list of them; NaN and infinities travel in binary or .npy only")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Item, E> {
        let pushed = self.elements.values.push_bool(value);
        self.number(pushed)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Item, E> {
        let pushed = self.elements.values.push_int(value);
        self.number(pushed)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Item, E> {
        let pushed = self.elements.values.push_wide(value);
        self.number(pushed)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Item, E> {
        let pushed = self.elements.values.push_float(value);
        self.number(pushed)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Item, A::Error> {
        let Level { elements, depth } = self;
        if depth == limits::RANK {
            return Err(de::Error::custom("data are nested too deep"));
        }
        // The first list of each depth says how long all of that depth are, and how deep they go.
        let first = elements.shape.len() == depth;
        if first {
            elements.shape.push(0);
        }
        let (mut length, mut lists_at_first) = (0u64, false);
        while let Some(item) = list.next_element_seed(Level {
            elements,
            depth: depth + 1,
        })? {
            length += 1;
            let lists_below = elements.shape.len() > depth + 1;
            let numbers_before = length > 1 && !lists_at_first;
            lists_at_first |= length == 1 && item == Item::List;
            if (item == Item::List) != lists_below || (numbers_before && item == Item::List) {
                return Err(de::Error::custom("data mix numbers and lists"));
            }
        }
        if first {
            elements.shape[depth] = length;
        }
        match elements.shape[depth] == length {
            true => Ok(Item::List),
            false => Err(de::Error::custom("data are lists of different lengths")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(shape: &str, datatype: &str, data: &str) -> Result<TensorData, OipError> {
        let text = format!(
            r#"{{"inputs":[{{"name":"x","shape":{shape},"datatype":"{datatype}","data":{data}}}]}}"#
        );
        read_inputs(text.as_bytes()).map(|mut inputs| inputs.remove(0))
    }

    fn message(shape: &str, datatype: &str, data: &str) -> String {
        parse(shape, datatype, data).unwrap_err().to_string()
    }

    fn f32s(tensor: &TensorData) -> Vec<f32> {
        f32::decode(tensor.data()).unwrap()
    }

    #[test]
    fn flat_and_nested_data_mean_the_same() {
        let flat = parse("[2,2]", "FP32", "[1, 2.5, -3, 1e-3]").unwrap();
        assert_eq!(f32s(&flat), [1.0, 2.5, -3.0, 1e-3]);
        assert_eq!(
            parse("[2,2]", "FP32", "[[1, 2.5], [-3, 1e-3]]").unwrap(),
            flat
        );
        assert_eq!(parse("[0]", "INT8", "[]").unwrap().data(), [0u8; 0]);
        assert_eq!(parse("[]", "INT8", "[-1]").unwrap().data(), [255]);
    }

    #[test]
    fn integers_are_exact_over_their_whole_range() {
        let wide = parse("[2]", "UINT64", "[18446744073709551615, 1]").unwrap();
        assert_eq!(u64::decode(wide.data()).unwrap(), [u64::MAX, 1]);
        let wide = parse("[2]", "UINT64", "[1, 18446744073709551615]").unwrap();
        assert_eq!(u64::decode(wide.data()).unwrap(), [1, u64::MAX]);
        let ints = parse("[2]", "INT64", "[-9223372036854775808, 9007199254740993]").unwrap();
        assert_eq!(
            i64::decode(ints.data()).unwrap(),
            [i64::MIN, 9_007_199_254_740_993]
        );
    }

    #[test]
    fn misfits_name_the_tensor_and_the_element() {
        assert!(message("[2]", "UINT8", "[1, 256]").contains("tensor `x`: element 1 is 256"));
        assert!(message("[2]", "INT32", "[1, 1.5]").contains("element 1 is 1.5"));
        assert!(message("[1]", "FP32", "[1e39]").contains("beyond the range of FP32"));
        assert!(message("[1]", "FP16", "[65520]").contains("beyond the range of FP16"));
        assert!(message("[1]", "BOOL", "[1]").contains("true and false"));
        assert!(message("[1]", "FP32", "[true]").contains("truth values"));
        assert!(message("[3]", "FP32", "[1, 2]").contains("2 elements are given"));
        assert!(message("[2,2]", "FP32", "[[1, 2, 3, 4]]").contains("nested as [1, 4]"));
        assert!(message("[2,2]", "FP32", "[[1, 2], [3]]").contains("different lengths"));
        assert!(message("[2,2]", "FP32", "[[1, 2], 3]").contains("mix numbers and lists"));
        assert!(message("[2,2]", "FP32", "[1, [2, 3]]").contains("mix numbers and lists"));
        assert!(message("[2]", "FP32", "[1, true]").contains("mixed"));
        assert!(message("[1]", "FP32", "[null]").contains("NaN"));
        assert!(message("[1]", "FP32", "[NaN]").contains("malformed JSON"));
        assert!(message("[1]", "BYTES", "[1]").contains("unknown datatype"));
        assert!(
            message("[18446744073709551615, 2]", "FP32", "[1]").contains("1 elements are given")
        );
        let deep = format!("{}1{}", "[".repeat(40), "]".repeat(40));
        assert!(message("[1]", "FP32", &deep).contains("too deep"));
        let absent = read_inputs(br#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32"}]}"#);
        assert_eq!(absent, Err(OipError::NoData("x".into())));
    }

    #[test]
    fn what_is_not_finite_is_no_json() {
        let bytes: Vec<u8> = [1f32, f32::NAN]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let tensor = TensorData::new("y", DType::F32, vec![2], bytes).unwrap();
        let error = serde_json::to_string(&AsJson(&tensor))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("element 1 of tensor `y` is NaN") && error.contains("binary"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn finite_floats_survive_the_way_through_json(bits in proptest::collection::vec(any::<u32>(), 0..20)) {
            let values: Vec<f32> = bits.into_iter().map(f32::from_bits).filter(|v| v.is_finite()).collect();
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let tensor = TensorData::new("y", DType::F32, vec![values.len() as u64], bytes).unwrap();
            let text = serde_json::to_string(&AsJson(&tensor)).unwrap();
            let back = TensorData::try_from(serde_json::from_str::<JsonTensor>(&text).unwrap()).unwrap();
            prop_assert_eq!(back, tensor);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[\\[\\]{},:\" a-z0-9.eE+-]{0,80}") {
            let _ = read_inputs(text.as_bytes());
            let _ = parse("[2]", "FP32", &text);
        }
    }
}
