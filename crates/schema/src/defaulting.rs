//! Puts the schema's defaults where values are absent, then runs the conditional defaults of built-in types.
//!
//! Works on canonical values. For a field whose absence is its zero value, zero counts as absent. Custom resources get
//! the defaults of their schema for absent fields and for nulls that are not allowed; such nulls without default go.

use std::collections::HashSet;

use base::quantity::Quantity;
use serde_json::{Map, Value};

use crate::types::{Either, Emit, Field, Object, Schema, Type};

/// Completes `value`.
pub fn default(schema: &Schema, value: &mut Value) {
    match (&schema.ty, value) {
        (Type::Object(o) | Type::Either(Either::Bool, o), Value::Object(map)) => object(o.get(), map),
        (Type::Map(item), Value::Object(map)) => {
            map.values_mut().for_each(|v| entry(item, v));
            if !item.nullable && !matches!(item.ty, Type::Any | Type::Raw) {
                map.retain(|_, v| !v.is_null());
            }
        }
        (Type::List(item), Value::Array(items)) => items.iter_mut().for_each(|v| entry(item, v)),
        _ => {}
    }
}

fn entry(schema: &Schema, value: &mut Value) {
    match (&schema.ty, &mut *value) {
        (Type::Quantity, Value::String(text)) => round_up(text),
        (_, Value::Null) if !schema.nullable => {
            if let Some(default) = schema.default() {
                *value = default.clone();
            }
        }
        _ => {}
    }
    default(schema, value);
}

/// Amounts in maps of quantities are whole thousandths.
fn round_up(text: &mut String) {
    if (text.ends_with(['n', 'u']) || text.contains('e'))
        && let Ok(quantity) = text.parse::<Quantity>()
        && quantity.nanos() % 1_000_000 != 0
    {
        *text = Quantity::from_millis(quantity.millis()).with_format(quantity.format()).to_string();
    }
}

/// Whether a schema of a custom resource says defaults anywhere.
pub fn declares(schema: &Schema) -> bool {
    schema.default().is_some()
        || match &schema.ty {
            Type::List(item) | Type::Map(item) => declares(item),
            Type::Object(o) | Type::Either(_, o) => {
                o.get().module.is_empty() && o.get().fields.iter().any(|field| declares(&field.schema))
            }
            _ => false,
        }
}

/// Whether anything at or below an object type has a default. Types of CRDs always count as having some.
fn has_defaults(object: &Object) -> bool {
    *object.defaults_below.get_or_init(|| {
        let mut seen = HashSet::new();
        finds_default(object, &mut seen)
    })
}

fn finds_default(object: &Object, seen: &mut HashSet<String>) -> bool {
    fn below(schema: &Schema, seen: &mut HashSet<String>) -> bool {
        match &schema.ty {
            // Maps of quantities are rounded.
            Type::Quantity => true,
            Type::List(item) | Type::Map(item) => below(item, seen),
            Type::Object(o) => seen.insert(o.name().to_string()) && finds_default(o.get(), seen),
            _ => false,
        }
    }
    object.module.is_empty()
        || object.hook.is_some()
        || object.fields.iter().any(|f| f.schema.default().is_some() || below(&f.schema, seen))
}

fn object(object: &Object, map: &mut Map<String, Value>) {
    if !has_defaults(object) {
        return;
    }
    let custom = object.module.is_empty();
    for field in &object.fields {
        if let Some(value) = field.schema.default()
            && is_absent(field, custom, map.get(field.name.as_ref()))
            && (custom || is_visible(field, value))
        {
            map.insert(field.name.to_string(), value.clone());
        }
        match map.get_mut(field.name.as_ref()) {
            Some(Value::Null) if custom && !field.schema.nullable => {
                map.remove(field.name.as_ref());
            }
            Some(value) => default(&field.schema, value),
            None => {}
        }
    }
    if let Some(hook) = object.hook {
        hook(map);
    }
}

fn is_absent(field: &Field, custom: bool, value: Option<&Value>) -> bool {
    match value {
        None => true,
        Some(Value::Null) => !(custom && field.schema.nullable),
        _ if custom || field.pointer => false,
        Some(Value::String(s)) => s.is_empty(),
        Some(Value::Number(n)) => n.as_f64() == Some(0.0),
        Some(Value::Array(a)) => a.is_empty(),
        Some(_) => false,
    }
}

/// Whether a default differs from absence.
fn is_visible(field: &Field, default: &Value) -> bool {
    let zero = match default {
        Value::String(s) => s.is_empty(),
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::Bool(b) => !b,
        _ => false,
    };
    field.pointer || field.emit == Emit::Keep || !zero
}
