//! Bytes to values. Tolerates unknown tags; bounded by the input's length and by [`MAX_DEPTH`].

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Number, Value};

use super::{FIXED32, FIXED64, LEN, PREFIX, VARINT};
use crate::types::{Either, Object, Schema, Type, Wire};

/// Deeper messages are refused.
pub const MAX_DEPTH: usize = 128;

/// What is wrong with the bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end within a field.
    #[error("unexpected EOF")]
    Eof,
    /// A number longer than ten bytes.
    #[error("proto: integer overflow")]
    Overflow,
    /// A field of another wire type than its schema's.
    #[error("proto: wrong wireType = {0} for field {1}")]
    WireType(u32, String),
    /// A tag of 0 or a group.
    #[error("proto: illegal tag {0} (wire type {1})")]
    IllegalTag(u32, u32),
    /// Raw JSON that is none.
    #[error("{0}")]
    Json(String),
    /// Nested beyond the limit.
    #[error("proto: message nested deeper than {MAX_DEPTH}")]
    Depth,
    /// The prefix is missing.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Prefix,
}

/// An opened envelope.
#[derive(Debug)]
pub struct Envelope<'a> {
    /// The object's `apiVersion`, may be empty.
    pub api_version: &'a str,
    /// The object's `kind`, may be empty.
    pub kind: &'a str,
    /// The object's message.
    pub raw: &'a [u8],
    /// Empty for protobuf.
    pub content_type: &'a str,
}

type Decode<T> = Result<T, DecodeError>;

enum Item<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Decode<u64> {
        let (mut out, mut shift) = (0u64, 0);
        loop {
            let (&byte, rest) = self.bytes.split_first().ok_or(DecodeError::Eof)?;
            self.bytes = rest;
            if shift > 63 {
                return Err(DecodeError::Overflow);
            }
            out |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(out);
            }
            shift += 7;
        }
    }

    fn take(&mut self, len: u64) -> Decode<&'a [u8]> {
        let len = usize::try_from(len).map_err(|_| DecodeError::Eof)?;
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or(DecodeError::Eof)?;
        self.bytes = rest;
        Ok(taken)
    }

    /// The next field, or `None` at the end.
    fn next(&mut self) -> Decode<Option<(u32, u32, Item<'a>)>> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let head = self.varint()?;
        let (tag, form) = ((head >> 3) as u32, (head & 7) as u32);
        let item = match form {
            VARINT => Item::Number(self.varint()?),
            FIXED64 => Item::Number(le(self.take(8)?)),
            FIXED32 => Item::Number(le(self.take(4)?)),
            LEN => {
                let len = self.varint()?;
                Item::Bytes(self.take(len)?)
            }
            _ => return Err(DecodeError::IllegalTag(tag, form)),
        };
        if tag == 0 {
            return Err(DecodeError::IllegalTag(tag, form));
        }
        Ok(Some((tag, form, item)))
    }
}

fn le(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Opens the envelope of an object on the wire.
pub fn open(bytes: &[u8]) -> Decode<Envelope<'_>> {
    let body = bytes.strip_prefix(PREFIX).ok_or(DecodeError::Prefix)?;
    let utf8 =
        |b| std::str::from_utf8(b).map_err(|_| DecodeError::Json("proto: invalid UTF-8 string".to_string()));
    let mut out = Envelope { api_version: "", kind: "", raw: &[], content_type: "" };
    let mut reader = Reader { bytes: body };
    while let Some((tag, _, item)) = reader.next()? {
        match (tag, item) {
            (1, Item::Bytes(meta)) => {
                let mut meta = Reader { bytes: meta };
                while let Some((tag, _, item)) = meta.next()? {
                    match (tag, item) {
                        (1, Item::Bytes(b)) => out.api_version = utf8(b)?,
                        (2, Item::Bytes(b)) => out.kind = utf8(b)?,
                        _ => {}
                    }
                }
            }
            (2, Item::Bytes(raw)) => out.raw = raw,
            (4, Item::Bytes(b)) => out.content_type = utf8(b)?,
            _ => {}
        }
    }
    Ok(out)
}

/// Decodes a message without envelope. Absent fields stay absent; [`crate::canonicalize`] completes the value.
pub fn decode(schema: &Schema, bytes: &[u8]) -> Decode<Value> {
    message(schema, bytes, 0)
}

fn object(object: &Object, bytes: &[u8], map: &mut Map<String, Value>, depth: usize) -> Decode<()> {
    if depth > MAX_DEPTH {
        return Err(DecodeError::Depth);
    }
    let tag_of = |w: &Wire| match w {
        Wire::Field(i) => object.fields[*i].tag,
        Wire::Inline(tag, _) => *tag,
    };
    let mut reader = Reader { bytes };
    while let Some((tag, form, item)) = reader.next()? {
        let Ok(at) = object.wire.binary_search_by_key(&tag, tag_of) else { continue };
        match (&object.wire[at], item) {
            (Wire::Inline(_, inner), Item::Bytes(b)) => self::object(inner, b, map, depth + 1)?,
            (Wire::Inline(_, inner), _) => return Err(DecodeError::WireType(form, inner.name.to_string())),
            (Wire::Field(i), item) => {
                let field = &object.fields[*i];
                let fail = || DecodeError::WireType(form, field.name.to_string());
                match &field.schema.ty {
                    Type::List(of) => {
                        let list = map.entry(field.name.as_ref()).or_insert_with(|| Value::Array(Vec::new()));
                        let Value::Array(list) = list else { return Err(fail()) };
                        match (&of.ty, item) {
                            (Type::Bool | Type::Int32 | Type::Int64, Item::Bytes(packed)) => {
                                let mut packed = Reader { bytes: packed };
                                while !packed.bytes.is_empty() {
                                    let n = packed.varint()?;
                                    list.push(one(of, VARINT, Item::Number(n), depth)?.ok_or_else(fail)?);
                                }
                            }
                            (_, item) => list.push(one(of, form, item, depth)?.ok_or_else(fail)?),
                        }
                    }
                    Type::Map(of) => {
                        let Item::Bytes(b) = item else { return Err(fail()) };
                        let (key, value) = entry(of, b, depth + 1)?;
                        let entries =
                            map.entry(field.name.as_ref()).or_insert_with(|| Value::Object(Map::new()));
                        if let Value::Object(entries) = entries {
                            entries.insert(key, value);
                        }
                    }
                    _ => {
                        let value = one(&field.schema, form, item, depth)?.ok_or_else(fail)?;
                        if !value.is_null() {
                            map.insert(field.name.to_string(), value);
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

fn entry(of: &Schema, bytes: &[u8], depth: usize) -> Decode<(String, Value)> {
    let (mut key, mut value) = (String::new(), None);
    let mut reader = Reader { bytes };
    while let Some((tag, form, item)) = reader.next()? {
        match (tag, item) {
            (1, Item::Bytes(b)) => key = text(b),
            (2, item) => {
                let decoded = one(of, form, item, depth)?;
                value = Some(decoded.ok_or_else(|| DecodeError::WireType(form, "Value".to_string()))?);
            }
            _ => {}
        }
    }
    Ok((key, value.unwrap_or_else(|| crate::canonical::zero(of))))
}

/// One value; `None` if its wire type is another than the schema's.
fn one(schema: &Schema, form: u32, item: Item<'_>, depth: usize) -> Decode<Option<Value>> {
    Ok(Some(match (&schema.ty, form, item) {
        (Type::Bool, VARINT, Item::Number(n)) => Value::Bool(n != 0),
        (Type::Int32, VARINT, Item::Number(n)) => Value::from(n as i32),
        (Type::Int64, VARINT, Item::Number(n)) => Value::from(n as i64),
        (Type::Float, FIXED64, Item::Number(n)) => {
            Value::Number(Number::from_f64(f64::from_bits(n)).unwrap_or_else(|| Number::from(0)))
        }
        (Type::String, LEN, Item::Bytes(b)) => Value::String(text(b)),
        (Type::Bytes, LEN, Item::Bytes(b)) => Value::String(STANDARD.encode(b)),
        (Type::Bool | Type::Int32 | Type::Int64 | Type::Float | Type::String | Type::Bytes, ..) => {
            return Ok(None);
        }
        (_, LEN, Item::Bytes(b)) => message(schema, b, depth + 1)?,
        _ => return Ok(None),
    }))
}

fn message(schema: &Schema, bytes: &[u8], depth: usize) -> Decode<Value> {
    if depth > MAX_DEPTH {
        return Err(DecodeError::Depth);
    }
    if let Type::Object(o) = &schema.ty {
        let mut map = Map::new();
        object(o.get(), bytes, &mut map, depth)?;
        return Ok(Value::Object(map));
    }
    // Every other message has at most four fields: its numbers and its last texts by tag.
    let (mut numbers, mut texts, mut all) = ([None::<u64>; 4], [None::<&[u8]>; 4], Vec::new());
    let mut reader = Reader { bytes };
    while let Some((tag, _, item)) = reader.next()? {
        let at = tag as usize;
        match item {
            Item::Number(n) if at < 4 => numbers[at] = Some(n),
            Item::Bytes(b) if at < 4 => {
                texts[at] = Some(b);
                all.push((at, b));
            }
            _ => {}
        }
    }
    Ok(match &schema.ty {
        Type::Quantity => {
            Value::String(texts[1].filter(|t| !t.is_empty()).map_or_else(|| "0".to_string(), text))
        }
        Type::IntOrString if numbers[1] == Some(1) => Value::String(texts[3].map_or_else(String::new, text)),
        Type::IntOrString => Value::from(numbers[2].unwrap_or(0) as i32),
        Type::Time | Type::MicroTime if bytes.is_empty() => Value::Null,
        Type::Time | Type::MicroTime => {
            let micro = matches!(schema.ty, Type::MicroTime);
            time(numbers[1].unwrap_or(0) as i64, numbers[2].unwrap_or(0) as i32, micro)
        }
        Type::Duration => Value::String(crate::duration::format(numbers[1].unwrap_or(0) as i64)),
        Type::Raw => match texts[1] {
            None => Value::Null,
            Some(json) => crate::json::parse(json, None).map_err(|e| DecodeError::Json(e.to_string()))?.value,
        },
        Type::WrappedStrings(_) => {
            Value::Array(all.iter().filter(|(at, _)| *at == 1).map(|(_, b)| Value::String(text(b))).collect())
        }
        Type::Either(form, o) => {
            let schema = Schema::new(Type::Object(o.clone()));
            let schema_at = if *form == Either::Bool { 2 } else { 1 };
            match (texts[schema_at], form) {
                (Some(b), _) => message(&schema, b, depth + 1)?,
                (None, Either::Bool) => Value::Bool(numbers[1].unwrap_or(0) != 0),
                (None, Either::Schemas) => {
                    let items = all.iter().filter(|(at, _)| *at == 2);
                    Value::Array(items.map(|(_, b)| message(&schema, b, depth + 1)).collect::<Decode<_>>()?)
                }
                (None, Either::Strings) => {
                    let items = all.iter().filter(|(at, _)| *at == 2);
                    Value::Array(items.map(|(_, b)| Value::String(text(b))).collect())
                }
            }
        }
        _ => Value::Null,
    })
}

fn time(seconds: i64, nanos: i32, micro: bool) -> Value {
    let nanos = if micro { nanos / 1000 * 1000 } else { 0 };
    let Ok(time) = Timestamp::new(seconds, nanos) else { return Value::Null };
    Value::String(if micro { base::time::format_micros(time) } else { base::time::format_seconds(time) })
}
