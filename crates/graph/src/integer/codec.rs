//! The canonical encoding of an integer graph, and its digest.
//!
//! Little-endian integers; lists and texts are preceded by their number in four bytes. Tables are
//! written as runs of equal entries and relations as differences, both in LEB128: they are most of
//! a skeleton otherwise. There is one encoding of each graph: a decoder that finds another one refuses it.

use lemma_types::{Digest, tensor::DType};

use super::{
    Expression, Factor, IntegerError, IntegerGraph, Node, Port, Relation, Skeleton, Source, Table,
    TensorRange, Term, View,
};

/// The largest encoding that is read.
pub const MAX_BYTES: usize = 1 << 30;

const MAGIC: &[u8; 8] = b"lemmaig\x02";
const SKELETON_CONTEXT: &str = "lemma integer graph v1 skeleton";
const GRAPH_CONTEXT: &str = "lemma integer graph v1";

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn u8(&mut self, v: u8) {
        self.0.push(v);
    }

    fn u32(&mut self, v: u32) {
        self.0.extend(v.to_le_bytes());
    }

    fn i32(&mut self, v: i32) {
        self.0.extend(v.to_le_bytes());
    }

    fn size(&mut self, v: usize) {
        self.u32(v as u32);
    }

    fn number(&mut self, mut v: u32) {
        while v >= 0x80 {
            self.u8(v as u8 | 0x80);
            v >>= 7;
        }
        self.u8(v as u8);
    }

    /// Small magnitudes take few bytes, whatever their sign.
    fn signed(&mut self, v: i32) {
        self.number(((v << 1) ^ (v >> 31)).cast_unsigned());
    }

    fn table(&mut self, v: &Table) {
        self.u8(v.bits() as u8);
        let mut before = 0;
        for run in v.entries.chunk_by(|a, b| a == b) {
            let value = i32::from(run[0]);
            self.signed(value - before);
            self.number(run.len() as u32 - 1);
            before = value;
        }
    }

    fn pairs(&mut self, v: &[(u32, u32)]) {
        self.size(v.len());
        let mut before = (0u32, 0u32);
        for &(row, column) in v {
            self.signed(row.wrapping_sub(before.0).cast_signed());
            self.signed(column.wrapping_sub(before.1).cast_signed());
            before = (row, column);
        }
    }

    fn text(&mut self, v: &str) {
        self.size(v.len());
        self.0.extend(v.as_bytes());
    }

    fn sizes(&mut self, v: &[usize]) {
        self.u8(v.len() as u8);
        v.iter().for_each(|&d| self.size(d));
    }

    fn members(&mut self, v: &[usize]) {
        self.u8(v.len() as u8);
        v.iter().for_each(|&d| self.u8(d as u8));
    }

    fn range(&mut self, v: &TensorRange) {
        self.sizes(&v.shape);
        self.i32(v.low);
        self.i32(v.high);
    }

    fn port(&mut self, v: &Port) {
        self.text(&v.name);
        self.u8(match v.dtype {
            DType::I64 => 1,
            DType::I32 => 2,
            _ => 0,
        });
        self.u32(v.scale.to_bits());
    }

    fn view(&mut self, v: &View) {
        let (kind, number) = match v.source {
            Source::Input(i) => (0, i),
            Source::Constant(i) => (1, i),
            Source::Node(i) => (2, i),
        };
        self.u8(kind);
        self.size(number);
        self.u8(v.factors.len() as u8);
        for factor in &v.factors {
            self.members(&factor.axes);
            self.members(&factor.dims);
            match &factor.relation {
                Relation::Identity => self.u8(0),
                Relation::Pairs(pairs) => {
                    self.u8(1);
                    self.pairs(pairs);
                }
            }
        }
    }

    fn expression(&mut self, v: &Expression) {
        self.sizes(&v.shape);
        self.size(v.terms.len());
        for term in &v.terms {
            match term {
                Term::Linear { coefficient, view } => {
                    self.u8(0);
                    self.i32(*coefficient);
                    self.view(view);
                }
                Term::Product {
                    coefficient,
                    left,
                    right,
                    contracted,
                } => {
                    self.u8(1);
                    self.i32(*coefficient);
                    self.sizes(contracted);
                    self.view(left);
                    self.view(right);
                }
            }
        }
    }
}

struct Reader<'a>(&'a [u8]);

type Read<T> = Result<T, IntegerError>;

fn wrong<T>(reason: &'static str) -> Read<T> {
    Err(IntegerError::Encoding(reason))
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Read<&'a [u8]> {
        match self.0.split_at_checked(n) {
            Some((head, rest)) => {
                self.0 = rest;
                Ok(head)
            }
            None => wrong("it ends too early"),
        }
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u8(&mut self) -> Read<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Read<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn i32(&mut self) -> Read<i32> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    fn size(&mut self) -> Read<usize> {
        Ok(self.u32()? as usize)
    }

    fn number(&mut self) -> Read<u32> {
        let mut v = 0u32;
        for shift in (0..32).step_by(7) {
            let byte = self.u8()?;
            let bits = u32::from(byte & 0x7f);
            if bits << shift >> shift != bits || (byte == 0 && shift > 0) {
                return wrong("a number is too large, or longer than it needs to be");
            }
            v |= bits << shift;
            if byte < 0x80 {
                return Ok(v);
            }
        }
        wrong("a number is too large, or longer than it needs to be")
    }

    fn signed(&mut self) -> Read<i32> {
        let v = self.number()?;
        Ok((v >> 1).cast_signed() ^ -(v & 1).cast_signed())
    }

    /// `left` is how many entries all tables together may still have.
    fn table(&mut self, left: &mut usize) -> Read<Table> {
        let bits = u32::from(self.u8()?);
        if bits > super::MAX_TABLE_BITS || *left < 1 << bits {
            return wrong("a table is too large");
        }
        let size = 1usize << bits;
        *left -= size;
        let mut entries = Vec::with_capacity(size);
        let mut value = 0i32;
        while entries.len() < size {
            let change = self.signed()?;
            let length = self.number()? as usize;
            if change == 0 && !entries.is_empty() {
                return wrong("a run of a table ends before its entries change");
            }
            value = value.wrapping_add(change);
            let Ok(entry) = i16::try_from(value) else {
                return wrong("an entry of a table is too large");
            };
            if length >= size - entries.len() {
                return wrong("a run of a table is too long");
            }
            entries.extend(std::iter::repeat_n(entry, length + 1));
        }
        Ok(Table { entries })
    }

    fn pairs(&mut self) -> Read<Vec<(u32, u32)>> {
        let mut before = (0u32, 0u32);
        self.list(2, |r| {
            let row = before.0.wrapping_add(r.signed()?.cast_unsigned());
            let column = before.1.wrapping_add(r.signed()?.cast_unsigned());
            before = (row, column);
            Ok(before)
        })
    }

    /// The number of items that take at least `least` bytes each: never more than are there.
    fn count(&mut self, least: usize) -> Read<usize> {
        let n = self.size()?;
        if n > self.0.len() / least {
            return wrong("a list is longer than what follows");
        }
        Ok(n)
    }

    fn list<T>(
        &mut self,
        least: usize,
        mut item: impl FnMut(&mut Self) -> Read<T>,
    ) -> Read<Vec<T>> {
        let n = self.count(least)?;
        (0..n).map(|_| item(self)).collect()
    }

    fn short_list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        let n = self.u8()?;
        (0..n).map(|_| item(self)).collect()
    }

    fn text(&mut self) -> Read<String> {
        let n = self.count(1)?;
        match std::str::from_utf8(self.take(n)?) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => wrong("a name is not UTF-8"),
        }
    }

    fn range(&mut self) -> Read<TensorRange> {
        Ok(TensorRange {
            shape: self.short_list(Self::size)?,
            low: self.i32()?,
            high: self.i32()?,
        })
    }

    fn port(&mut self) -> Read<Port> {
        let name = self.text()?;
        let dtype = match self.u8()? {
            0 => DType::F32,
            1 => DType::I64,
            2 => DType::I32,
            _ => return wrong("a port is of an unknown type"),
        };
        let scale = f32::from_bits(self.u32()?);
        if !(scale.is_finite() && scale > 0.0) || (dtype != DType::F32 && scale != 1.0) {
            return wrong("a scale is not positive, or that of indices is not 1");
        }
        Ok(Port { name, scale, dtype })
    }

    fn view(&mut self) -> Read<View> {
        let kind = self.u8()?;
        let number = self.size()?;
        let source = match kind {
            0 => Source::Input(number),
            1 => Source::Constant(number),
            2 => Source::Node(number),
            _ => return wrong("a view has an unknown kind of source"),
        };
        let factors = self.short_list(|r| {
            let members = |r: &mut Self| r.short_list(|r| r.u8().map(usize::from));
            Ok(Factor {
                axes: members(r)?,
                dims: members(r)?,
                relation: match r.u8()? {
                    0 => Relation::Identity,
                    1 => Relation::Pairs(r.pairs()?),
                    _ => return wrong("a view has an unknown kind of relation"),
                },
            })
        })?;
        Ok(View { source, factors })
    }

    fn expression(&mut self) -> Read<Expression> {
        Ok(Expression {
            shape: self.short_list(Self::size)?,
            terms: self.list(11, |r| {
                let kind = r.u8()?;
                let coefficient = r.i32()?;
                Ok(match kind {
                    0 => Term::Linear {
                        coefficient,
                        view: r.view()?,
                    },
                    1 => Term::Product {
                        coefficient,
                        contracted: r.short_list(Self::size)?,
                        left: r.view()?,
                        right: r.view()?,
                    },
                    _ => return wrong("a term is of an unknown kind"),
                })
            })?,
        })
    }
}

impl Skeleton {
    /// The canonical bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.0.extend(MAGIC);
        w.size(self.inputs.len());
        for (port, range) in &self.inputs {
            w.port(port);
            w.range(range);
        }
        w.size(self.constants.len());
        self.constants.iter().for_each(|range| w.range(range));
        w.size(self.tables.len());
        self.tables.iter().for_each(|table| w.table(table));
        w.size(self.nodes.len());
        for node in &self.nodes {
            w.text(&node.label);
            w.expression(&node.expression);
            w.i32(node.offset);
            w.u8(node.shift as u8);
            w.size(node.table);
        }
        w.size(self.outputs.len());
        for (port, expression) in &self.outputs {
            w.port(port);
            w.expression(expression);
        }
        w.0
    }

    /// Reads canonical bytes and checks what they say.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Skeleton, IntegerError> {
        let mut r = Reader(bytes);
        let skeleton = Skeleton::read(&mut r)?;
        if !r.0.is_empty() {
            return wrong("something follows its end");
        }
        Ok(skeleton)
    }

    fn read(r: &mut Reader<'_>) -> Read<Skeleton> {
        if r.take(MAGIC.len())? != MAGIC {
            return wrong("it does not begin like one of this version");
        }
        let skeleton = Skeleton {
            inputs: r.list(18, |r| Ok((r.port()?, r.range()?)))?,
            constants: r.list(9, Reader::range)?,
            tables: {
                let mut left = super::MAX_ENTRIES;
                r.list(3, |r| r.table(&mut left))?
            },
            nodes: r.list(22, |r| {
                Ok(Node {
                    label: r.text()?,
                    expression: r.expression()?,
                    offset: r.i32()?,
                    shift: u32::from(r.u8()?),
                    table: r.size()?,
                })
            })?,
            outputs: r.list(18, |r| Ok((r.port()?, r.expression()?)))?,
        };
        skeleton.check()?;
        Ok(skeleton)
    }

    /// The digest of the canonical bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::new(blake3::derive_key(SKELETON_CONTEXT, &self.to_bytes()))
    }
}

/// Whether constants of this range are stored in one byte each.
fn narrow(range: &TensorRange) -> bool {
    range.low >= i32::from(i8::MIN) && range.high <= i32::from(i8::MAX)
}

impl IntegerGraph {
    fn constant_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (values, range) in self.constants().iter().zip(&self.skeleton().constants) {
            if narrow(range) {
                bytes.extend(values.iter().map(|&v| v as u8));
            } else {
                bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
            }
        }
        bytes
    }

    /// The canonical bytes: the skeleton's, then the constants.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.skeleton().to_bytes();
        bytes.extend(self.constant_bytes());
        bytes
    }

    /// Reads canonical bytes and checks the graph.
    ///
    /// # Errors
    /// What is wrong with the bytes or the graph, as [`IntegerGraph::new`].
    pub fn from_bytes(bytes: &[u8]) -> Result<IntegerGraph, IntegerError> {
        if bytes.len() > MAX_BYTES {
            return wrong("it is too large");
        }
        let mut r = Reader(bytes);
        let skeleton = Skeleton::read(&mut r)?;
        let mut constants = Vec::with_capacity(skeleton.constants.len());
        for range in &skeleton.constants {
            constants.push(if narrow(range) {
                let bytes = r.take(range.len())?;
                bytes.iter().map(|b| i32::from(b.cast_signed())).collect()
            } else {
                let (words, _) = r.take(range.len() * 4)?.as_chunks();
                words.iter().map(|w| i32::from_le_bytes(*w)).collect()
            });
        }
        if !r.0.is_empty() {
            return wrong("something follows its end");
        }
        IntegerGraph::new(skeleton, constants)
    }

    /// The digest of the graph: over the skeleton's digest and the constants.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let constants = blake3::hash(&self.constant_bytes());
        let skeleton = self.skeleton().digest();
        let parts = [&skeleton.as_bytes()[..], constants.as_bytes()].concat();
        Digest::new(blake3::derive_key(GRAPH_CONTEXT, &parts))
    }
}
