//! The protobuf wire format, read in place.
//!
//! Nothing is copied: a message is a slice, and byte and text fields are slices of it. The reader
//! walks every field once, so the work and the memory of a decoder built on it are bounded by the
//! input's own size, and by what the decoder counts.

use crate::error::ImportError;

/// One field of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a> {
    /// The field number.
    pub(crate) number: u32,
    /// Where its value begins in the whole input.
    pub(crate) offset: usize,
    pub(crate) value: Value<'a>,
}

/// The value of a field, by wire type.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// Reads the fields of one message.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
}

pub(crate) type Wire<T> = Result<T, ImportError>;

pub(crate) fn encoding<T>(offset: usize, what: impl Into<String>) -> Wire<T> {
    Err(ImportError::Encoding {
        offset,
        what: what.into(),
    })
}

impl<'a> Reader<'a> {
    /// Reads a message that begins at `offset` of the whole input.
    pub(crate) fn new(bytes: &'a [u8], offset: usize) -> Reader<'a> {
        Reader {
            rest: bytes,
            offset,
        }
    }

    /// The next field, or `None` at the end of the message.
    pub(crate) fn next(&mut self) -> Wire<Option<Field<'a>>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let start = self.offset;
        let key = self.varint()?;
        let number = match u32::try_from(key >> 3) {
            Ok(number) if number != 0 => number,
            _ => return encoding(start, "a field number is out of range"),
        };
        let offset = self.offset;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let at = self.offset;
                let length = self.varint()?;
                match usize::try_from(length) {
                    Ok(length) if length <= self.rest.len() => Value::Bytes(self.take(length)?),
                    _ => return encoding(at, format!("a length of {length} runs past the end")),
                }
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
            other => return encoding(start, format!("wire type {other} is not supported")),
        };
        let offset = match value {
            Value::Bytes(bytes) => self.offset - bytes.len(),
            _ => offset,
        };
        Ok(Some(Field {
            number,
            offset,
            value,
        }))
    }

    /// The next varint of a packed list, or `None` at its end.
    pub(crate) fn next_varint(&mut self) -> Wire<Option<u64>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.varint().map(Some)
    }

    fn varint(&mut self) -> Wire<u64> {
        let mut value = 0u64;
        for i in 0..10 {
            let Some(&byte) = self.rest.get(i) else {
                return encoding(self.offset, "a number ends early");
            };
            // The tenth byte holds the one bit that is left of 64.
            if i == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.take(i + 1)?;
                return Ok(value);
            }
        }
        encoding(self.offset, "a number has more than 64 bits")
    }

    fn array<const N: usize>(&mut self) -> Wire<[u8; N]> {
        let Some((head, _)) = self.rest.split_first_chunk::<N>() else {
            return encoding(self.offset, "a number ends early");
        };
        let head = *head;
        self.take(N)?;
        Ok(head)
    }

    fn take(&mut self, count: usize) -> Wire<&'a [u8]> {
        let Some((head, tail)) = self.rest.split_at_checked(count) else {
            return encoding(self.offset, "the message ends early");
        };
        self.rest = tail;
        self.offset += count;
        Ok(head)
    }
}

impl<'a> Field<'a> {
    /// The error that this field has another wire type than its meaning calls for.
    fn mismatch<T>(&self, wanted: &str) -> Wire<T> {
        encoding(
            self.offset,
            format!("field {} is not {wanted}", self.number),
        )
    }

    pub(crate) fn int(&self) -> Wire<i64> {
        match self.value {
            Value::Varint(v) => Ok(v.cast_signed()),
            _ => self.mismatch("an integer"),
        }
    }

    pub(crate) fn float(&self) -> Wire<f32> {
        match self.value {
            Value::Fixed32(v) => Ok(f32::from_bits(v)),
            _ => self.mismatch("a float"),
        }
    }

    pub(crate) fn bytes(&self) -> Wire<&'a [u8]> {
        match self.value {
            Value::Bytes(v) => Ok(v),
            _ => self.mismatch("a byte string"),
        }
    }

    pub(crate) fn message(&self) -> Wire<Reader<'a>> {
        Ok(Reader::new(self.bytes()?, self.offset))
    }

    pub(crate) fn text(&self, limit: usize) -> Wire<&'a str> {
        let bytes = self.bytes()?;
        if bytes.len() > limit {
            return Err(ImportError::Limit {
                what: "bytes of a name",
                found: bytes.len() as u64,
                limit: limit as u64,
            });
        }
        std::str::from_utf8(bytes).or_else(|_| encoding(self.offset, "a text is not UTF-8"))
    }

    /// Appends a repeated integer, packed or not; at most `limit` in all.
    pub(crate) fn ints(&self, out: &mut Vec<i64>, limit: usize) -> Wire<()> {
        match self.value {
            Value::Varint(v) => self.push(out, v.cast_signed(), limit),
            Value::Bytes(bytes) => {
                let mut reader = Reader::new(bytes, self.offset);
                while let Some(v) = reader.next_varint()? {
                    self.push(out, v.cast_signed(), limit)?;
                }
                Ok(())
            }
            _ => self.mismatch("a list of integers"),
        }
    }

    /// Appends a repeated float, packed or not; at most `limit` in all.
    pub(crate) fn floats(&self, out: &mut Vec<f32>, limit: usize) -> Wire<()> {
        match self.value {
            Value::Fixed32(v) => self.push(out, f32::from_bits(v), limit),
            Value::Bytes(bytes) => match bytes.as_chunks() {
                (chunks, []) => chunks
                    .iter()
                    .try_for_each(|c| self.push(out, f32::from_le_bytes(*c), limit)),
                _ => self.mismatch("a list of floats"),
            },
            _ => self.mismatch("a list of floats"),
        }
    }

    /// Appends a repeated double, packed or not; at most `limit` in all.
    pub(crate) fn doubles(&self, out: &mut Vec<f64>, limit: usize) -> Wire<()> {
        match self.value {
            Value::Fixed64(v) => self.push(out, f64::from_bits(v), limit),
            Value::Bytes(bytes) => match bytes.as_chunks() {
                (chunks, []) => chunks
                    .iter()
                    .try_for_each(|c| self.push(out, f64::from_le_bytes(*c), limit)),
                _ => self.mismatch("a list of doubles"),
            },
            _ => self.mismatch("a list of doubles"),
        }
    }

    fn push<T>(&self, out: &mut Vec<T>, value: T, limit: usize) -> Wire<()> {
        if out.len() == limit {
            return encoding(
                self.offset,
                format!("field {} has more than {limit} entries", self.number),
            );
        }
        out.push(value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_of_every_length_and_no_longer() {
        let read = |bytes: &[u8]| Reader::new(bytes, 0).next_varint();
        assert_eq!(read(&[0x96, 0x01]).unwrap(), Some(150));
        let max = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(read(&max).unwrap(), Some(u64::MAX));
        let mut over = max;
        over[9] = 2;
        assert!(read(&over).is_err());
        assert!(read(&[0x80; 11]).is_err());
        assert!(read(&[0x80]).is_err());
    }

    #[test]
    fn a_length_past_the_end_is_refused_with_its_place() {
        // Field 1, wire type 2, 200 bytes of which none is there.
        let error = Reader::new(&[0x0a, 0xc8, 0x01], 10).next().unwrap_err();
        assert!(
            matches!(error, ImportError::Encoding { offset: 11, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("200"));
    }

    #[test]
    fn groups_and_field_zero_are_refused() {
        assert!(Reader::new(&[0x0b], 0).next().is_err());
        assert!(Reader::new(&[0x00, 0x00], 0).next().is_err());
    }
}
