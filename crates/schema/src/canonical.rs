//! The canonical form of a built-in value: types checked, scalars in their one spelling, unknown fields and nulls
//! gone, zero values dropped or written as the field's [`Emit`] says.
//!
//! This is what a typed decoder followed by a typed encoder would make of the value, done in place. Custom resources
//! pass untouched, except for their `metadata`.

use base::quantity::Quantity;
use base64::Engine;
use base64::engine::GeneralPurpose;
use serde_json::{Map, Value};

use crate::duration;
use crate::types::{Either, Emit, Field, Object, Schema, Type};

/// The value has another type than its schema, worded as Go's decoder does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TypeError(pub String);

/// Where a value is, for messages: the declaring type, and field names only.
#[derive(Clone, Copy)]
struct At<'a> {
    owner: &'a str,
    up: Option<&'a At<'a>>,
    name: &'a str,
}

impl At<'_> {
    fn path(&self) -> String {
        match self.up {
            Some(up) if !up.name.is_empty() => format!("{}.{}", up.path(), self.name),
            _ => self.name.to_string(),
        }
    }

    fn error(&self, got: &str, schema: &Schema) -> TypeError {
        let ty = go_type(schema);
        if self.name.is_empty() {
            return TypeError(format!("json: cannot unmarshal {got} into Go value of type {ty}"));
        }
        let path = self.path();
        TypeError(format!(
            "json: cannot unmarshal {got} into Go struct field {}.{path} of type {ty}",
            self.owner
        ))
    }
}

/// Brings `value` into canonical form.
pub fn canonicalize(schema: &Schema, value: &mut Value) -> Result<(), TypeError> {
    walk(schema, value, &At { owner: "", up: None, name: "" })
}

/// The Go name of a type, for messages.
fn go_type(schema: &Schema) -> String {
    match &schema.ty {
        Type::Bool => "bool".to_string(),
        Type::Int32 | Type::IntOrString => "int32".to_string(),
        Type::Int64 => "int64".to_string(),
        Type::Float => "float64".to_string(),
        Type::Bytes => "[]uint8".to_string(),
        Type::List(item) | Type::WrappedStrings(item) => format!("[]{}", go_type(item)),
        Type::Map(item) => format!("map[string]{}", go_type(item)),
        Type::Object(o) => {
            let object = o.get();
            let version = object.module.rsplit('_').next().unwrap_or("v1");
            format!("{version}.{}", object.name)
        }
        _ => "string".to_string(),
    }
}

fn got(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn walk(schema: &Schema, value: &mut Value, at: &At<'_>) -> Result<(), TypeError> {
    let wrong = |v: &Value| Err(at.error(got(v), schema));
    match (&schema.ty, &mut *value) {
        (Type::Raw | Type::Any | Type::Either(..), _) => either(schema, value, at),
        (Type::Object(o), Value::Object(map)) => object(o.get(), map, at),
        (Type::Map(item), Value::Object(map)) => {
            for v in map.values_mut() {
                if v.is_null() {
                    *v = zero(item);
                } else {
                    walk(item, v, at)?;
                }
            }
            Ok(())
        }
        (Type::List(item) | Type::WrappedStrings(item), Value::Array(items)) => {
            for v in items {
                if v.is_null() {
                    *v = zero(item);
                } else {
                    walk(item, v, at)?;
                }
            }
            Ok(())
        }
        (Type::Bool, Value::Bool(_)) | (Type::String | Type::IntOrString, Value::String(_)) => Ok(()),
        (Type::Float, Value::Number(_)) => Ok(()),
        (Type::Int64, Value::Number(n)) if n.is_i64() => Ok(()),
        (Type::Int32 | Type::IntOrString, Value::Number(n))
            if n.as_i64().is_some_and(|i| i32::try_from(i).is_ok()) =>
        {
            Ok(())
        }
        (Type::Int32 | Type::Int64 | Type::IntOrString, Value::Number(n)) => {
            Err(at.error(&format!("number {n}"), schema))
        }
        (Type::Quantity, _) => quantity(value),
        (Type::Time | Type::MicroTime, Value::String(text)) => time(&schema.ty, text),
        (Type::Bytes, Value::String(text)) => bytes(text),
        (Type::Duration, Value::String(text)) => {
            let parsed = duration::parse(text).map_err(|e| TypeError(e.to_string()))?;
            *text = duration::format(parsed);
            Ok(())
        }
        (_, other) => wrong(other),
    }
}

fn either(schema: &Schema, value: &mut Value, at: &At<'_>) -> Result<(), TypeError> {
    let Type::Either(form, o) = &schema.ty else { return Ok(()) };
    match (form, value) {
        (_, Value::Object(map)) => object(o.get(), map, at),
        (Either::Schemas, Value::Array(items)) => {
            for item in items {
                if let Value::Object(map) = item {
                    object(o.get(), map, at)?;
                }
            }
            Ok(())
        }
        (Either::Bool, Value::Bool(_)) | (Either::Strings, Value::Array(_)) => Ok(()),
        (Either::Bool, _) => Err(TypeError("boolean or JSON schema expected".to_string())),
        (_, other) => Err(at.error(got(other), schema)),
    }
}

fn quantity(value: &mut Value) -> Result<(), TypeError> {
    let text = match *value {
        Value::String(ref text) => text.clone(),
        ref other => other.to_string(),
    };
    let parsed: Quantity =
        text.parse().map_err(|e: base::quantity::QuantityError| TypeError(e.to_string()))?;
    let canonical = parsed.to_string();
    if value.as_str() != Some(&canonical) {
        *value = Value::String(canonical);
    }
    Ok(())
}

fn time(ty: &Type, text: &mut String) -> Result<(), TypeError> {
    let micro = matches!(ty, Type::MicroTime);
    let parsed = base::time::parse(text).map_err(|e| {
        let message = e.to_string();
        TypeError(if micro { message.replace("05Z07:00\"", "05.000000Z07:00\"") } else { message })
    })?;
    let canonical =
        if micro { base::time::format_micros(parsed) } else { base::time::format_seconds(parsed) };
    if *text != canonical {
        *text = canonical;
    }
    Ok(())
}

/// Go's base64: padded, line breaks ignored, trailing bits free.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    base64::engine::GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

fn bytes(text: &mut String) -> Result<(), TypeError> {
    if text.contains(['\n', '\r']) {
        text.retain(|c| c != '\n' && c != '\r');
    }
    let decoded = BASE64.decode(text.as_bytes()).map_err(|e| {
        let at = match e {
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
            _ => text.len() / 4 * 4,
        };
        TypeError(format!("illegal base64 data at input byte {at}"))
    })?;
    if !(text.len().is_multiple_of(4) && decoded.len().is_multiple_of(3)) {
        *text = BASE64.encode(decoded);
    }
    Ok(())
}

fn object(object: &Object, map: &mut Map<String, Value>, at: &At<'_>) -> Result<(), TypeError> {
    if object.module.is_empty() {
        return custom(object, map, at);
    }
    let mut wrong = None;
    map.retain(|name, value| {
        let Some(field) = object.field(name).filter(|_| !value.is_null() && wrong.is_none()) else {
            return false;
        };
        let here = At { owner: &field.owner, up: Some(at), name: &field.name };
        if let Err(e) = walk(&field.schema, value, &here) {
            wrong = Some(e);
        }
        if is_empty_list(field, value) {
            *value = Value::Null;
        }
        !drops(field, value)
    });
    if let Some(error) = wrong {
        return Err(error);
    }
    for field in object.written.iter().map(|i| &object.fields[*i as usize]) {
        if !map.contains_key(field.name.as_ref())
            && let Some(value) = absent(field)
        {
            map.insert(field.name.to_string(), value);
        }
    }
    Ok(())
}

/// Custom resources keep what they hold; only built-in parts such as `metadata` are brought into form.
fn custom(object: &Object, map: &mut Map<String, Value>, at: &At<'_>) -> Result<(), TypeError> {
    for field in &object.fields {
        let builtin = field.schema.object().is_some_and(|o| !o.module.is_empty());
        if let (true, Some(value)) = (builtin, map.get_mut(field.name.as_ref())) {
            walk(&field.schema, value, &At { owner: &object.name, up: Some(at), name: &field.name })?;
        }
    }
    Ok(())
}

/// Whether a field present with this canonical value is left out.
fn drops(field: &Field, value: &Value) -> bool {
    match field.emit {
        Emit::Keep => false,
        _ if field.pointer => false,
        Emit::OmitEmpty => match (&field.schema.ty, value) {
            (Type::Object(_) | Type::Quantity | Type::IntOrString | Type::Raw, _) => false,
            (_, Value::Object(m)) => m.is_empty(),
            (_, Value::Array(a)) => a.is_empty(),
            (_, Value::String(s)) => s.is_empty(),
            (_, Value::Bool(b)) => !b,
            (_, Value::Number(n)) => n.as_f64() == Some(0.0),
            (_, Value::Null) => false,
        },
        Emit::OmitZero => is_zero(value),
    }
}

/// Storage does not tell an empty list from none.
fn is_empty_list(field: &Field, value: &Value) -> bool {
    match (&field.schema.ty, value) {
        (Type::List(_), Value::Array(a)) => field.emit == Emit::Keep && !field.pointer && a.is_empty(),
        (Type::Map(_), Value::Object(m)) => field.emit == Emit::Keep && !field.pointer && m.is_empty(),
        _ => false,
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(m) => m.values().all(is_zero),
    }
}

/// What is written for a field that is not there.
fn absent(field: &Field) -> Option<Value> {
    match field.emit {
        _ if !field.is_always_written() => None,
        Emit::Keep if field.pointer => Some(Value::Null),
        _ => Some(zero(&field.schema)),
    }
}

/// The zero value of a type as the API writes it.
pub fn zero(schema: &Schema) -> Value {
    match &schema.ty {
        Type::Bool => Value::Bool(false),
        Type::Int32 | Type::Int64 | Type::Float | Type::IntOrString => Value::from(0),
        Type::String => Value::String(String::new()),
        Type::Quantity => Value::String("0".to_string()),
        Type::Duration => Value::String("0s".to_string()),
        Type::Object(o) if !o.get().module.is_empty() => {
            let mut map = Map::new();
            for field in &o.get().fields {
                if let Some(value) = absent(field) {
                    map.insert(field.name.to_string(), value);
                }
            }
            Value::Object(map)
        }
        _ => Value::Null,
    }
}
