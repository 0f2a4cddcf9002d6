//! Values to bytes. Written from the end to the front, so that lengths are known when they are written.

use base::quantity::Quantity;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::{FIXED64, LEN, PREFIX, VARINT};
use crate::types::{Either, Field, Object, Schema, Type, Wire};

/// A buffer filled from its end.
struct Back {
    bytes: Vec<u8>,
    at: usize,
}

impl Back {
    fn new() -> Back {
        Back { bytes: vec![0; 1024], at: 1024 }
    }

    fn len(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn put(&mut self, bytes: &[u8]) {
        if self.at < bytes.len() {
            let used = self.len();
            let size = (self.bytes.len() * 2).max((used + bytes.len()).next_power_of_two());
            let mut grown = vec![0; size];
            grown[size - used..].copy_from_slice(&self.bytes[self.at..]);
            (self.bytes, self.at) = (grown, size - used);
        }
        self.at -= bytes.len();
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
    }

    fn varint(&mut self, mut n: u64) {
        let (mut buffer, mut used) = ([0u8; 10], 0);
        loop {
            buffer[used] = (n & 0x7f) as u8 | if n > 0x7f { 0x80 } else { 0 };
            used += 1;
            n >>= 7;
            if n == 0 {
                break;
            }
        }
        self.put(&buffer[..used]);
    }

    fn tag(&mut self, tag: u32, form: u32) {
        self.varint(u64::from(tag << 3 | form));
    }

    /// Closes a message or text that began when the buffer had `end` bytes.
    fn close(&mut self, tag: u32, end: usize) {
        self.varint((self.len() - end) as u64);
        self.tag(tag, LEN);
    }

    fn text(&mut self, tag: u32, bytes: &[u8]) {
        self.put(bytes);
        self.varint(bytes.len() as u64);
        self.tag(tag, LEN);
    }

    fn number(&mut self, tag: u32, n: u64) {
        self.varint(n);
        self.tag(tag, VARINT);
    }

    fn finish(self) -> Vec<u8> {
        self.bytes[self.at..].to_vec()
    }
}

/// Encodes a canonical value without envelope. What does not fit its schema counts as zero.
pub fn encode(schema: &Schema, value: &Value) -> Vec<u8> {
    let mut out = Back::new();
    message(&mut out, schema, value);
    out.finish()
}

/// Encodes an object with the envelope of its `apiVersion` and `kind`.
pub fn encode_object(schema: &Schema, api_version: &str, kind: &str, value: &Value) -> Vec<u8> {
    let mut out = Back::new();
    envelope(&mut out, api_version, kind, |out| message(out, schema, value));
    out.finish()
}

/// Puts an encoded message into an envelope.
pub fn wrap(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = Back::new();
    envelope(&mut out, api_version, kind, |out| out.put(raw));
    out.finish()
}

/// A list in its envelope, from the encoded `ListMeta` and the encoded items.
pub fn encode_list<'a>(
    api_version: &str,
    kind: &str,
    metadata: &[u8],
    items: impl DoubleEndedIterator<Item = &'a [u8]>,
) -> Vec<u8> {
    let mut out = Back::new();
    envelope(&mut out, api_version, kind, |out| {
        for item in items.rev() {
            out.text(2, item);
        }
        out.text(1, metadata);
    });
    out.finish()
}

/// A watch event, without envelope and length frame: its type and the object's bytes with their envelope.
pub fn encode_watch_event(event_type: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Back::new();
    let end = out.len();
    out.text(1, object);
    out.close(2, end);
    out.text(1, event_type.as_bytes());
    out.finish()
}

fn envelope(out: &mut Back, api_version: &str, kind: &str, raw: impl FnOnce(&mut Back)) {
    out.text(4, b"");
    out.text(3, b"");
    let end = out.len();
    raw(out);
    out.close(2, end);
    let end = out.len();
    out.text(2, kind.as_bytes());
    out.text(1, api_version.as_bytes());
    out.close(1, end);
    out.put(PREFIX);
}

/// Objects with more fields look their values up one by one.
const SLOTS: usize = 64;

fn object(out: &mut Back, object: &Object, map: Option<&Map<String, Value>>) {
    // A value has few of its type's fields: finding the field of each entry is cheaper than the entry of each field.
    let mut slots = [None; SLOTS];
    let slotted = object.fields.len() <= SLOTS;
    for (name, value) in map.into_iter().flatten().filter(|(_, v)| slotted && !v.is_null()) {
        if let Some(i) = object.index(name) {
            slots[i] = Some(value);
        }
    }
    for wire in object.wire.iter().rev() {
        match wire {
            Wire::Field(i) if slotted => field(out, &object.fields[*i], slots[*i]),
            Wire::Field(i) => {
                let of = &object.fields[*i];
                let value = map.and_then(|m| m.get(of.name.as_ref())).filter(|v| !v.is_null());
                field(out, of, value);
            }
            Wire::Inline(tag, inner) => {
                let end = out.len();
                self::object(out, inner, map);
                out.close(*tag, end);
            }
        }
    }
}

fn field(out: &mut Back, field: &Field, value: Option<&Value>) {
    match (&field.schema.ty, value) {
        (Type::List(item), Some(Value::Array(items))) => {
            for v in items.iter().rev() {
                one(out, field.tag, item, v);
            }
        }
        (Type::Map(item), Some(Value::Object(entries))) => {
            for (key, v) in entries.iter().rev() {
                let end = out.len();
                one(out, 2, item, v);
                out.text(1, key.as_bytes());
                out.close(field.tag, end);
            }
        }
        (Type::List(_) | Type::Map(_), _) => {}
        (_, Some(v)) => one(out, field.tag, &field.schema, v),
        (Type::Bytes | Type::WrappedStrings(_) | Type::Either(..), None) => {}
        (_, None) if field.pointer => {}
        (_, None) => one(out, field.tag, &field.schema, &Value::Null),
    }
}

/// One value under its tag.
fn one(out: &mut Back, tag: u32, schema: &Schema, value: &Value) {
    match &schema.ty {
        Type::Bool => out.number(tag, u64::from(value.as_bool().unwrap_or(false))),
        Type::Int32 | Type::Int64 => out.number(tag, value.as_i64().unwrap_or(0) as u64),
        Type::Float => {
            out.put(&value.as_f64().unwrap_or(0.0).to_le_bytes());
            out.tag(tag, FIXED64);
        }
        Type::String => out.text(tag, value.as_str().unwrap_or("").as_bytes()),
        Type::Bytes => {
            let bytes = STANDARD.decode(value.as_str().unwrap_or("")).unwrap_or_default();
            out.text(tag, &bytes);
        }
        _ => {
            let end = out.len();
            message(out, schema, value);
            out.close(tag, end);
        }
    }
}

/// The fields of a message.
fn message(out: &mut Back, schema: &Schema, value: &Value) {
    match &schema.ty {
        Type::Object(o) => object(out, o.get(), value.as_object()),
        Type::Quantity => match value {
            Value::String(text) => out.text(1, text.as_bytes()),
            _ => out.text(1, Quantity::default().to_string().as_bytes()),
        },
        Type::IntOrString => {
            let text = value.as_str();
            out.text(3, text.unwrap_or("").as_bytes());
            out.number(2, value.as_i64().unwrap_or(0) as u64);
            out.number(1, u64::from(text.is_some()));
        }
        Type::Time | Type::MicroTime => {
            if let Some(time) = value.as_str().and_then(|t| base::time::parse(t).ok()) {
                let nanos = time.subsec_nanosecond();
                let (seconds, nanos) = if nanos < 0 {
                    (time.as_second() - 1, nanos + 1_000_000_000)
                } else {
                    (time.as_second(), nanos)
                };
                out.number(2, nanos as u64);
                out.number(1, seconds as u64);
            }
        }
        Type::Duration => {
            let nanos = value.as_str().and_then(|t| crate::duration::parse(t).ok()).unwrap_or(0);
            out.number(1, nanos as u64);
        }
        Type::Raw if !value.is_null() => out.text(1, value.to_string().as_bytes()),
        Type::WrappedStrings(_) => {
            for text in value.as_array().into_iter().flatten().rev() {
                out.text(1, text.as_str().unwrap_or("").as_bytes());
            }
        }
        Type::Either(form, o) => either(out, *form, &Schema::new(Type::Object(o.clone())), value),
        _ => {}
    }
}

fn either(out: &mut Back, form: Either, schema: &Schema, value: &Value) {
    let (allows, schema_tag) = if form == Either::Bool { (true, 2) } else { (false, 1) };
    match value {
        Value::Object(_) => one(out, schema_tag, schema, value),
        Value::Array(items) if form == Either::Schemas => {
            for item in items.iter().rev() {
                one(out, 2, schema, item);
            }
        }
        Value::Array(items) => {
            for item in items.iter().rev() {
                out.text(2, item.as_str().unwrap_or("").as_bytes());
            }
        }
        _ => {}
    }
    if allows {
        out.number(1, u64::from(value.as_bool().unwrap_or(value.is_object())));
    }
}
