//! Values: views into JSON where they come from there, so that nothing is converted that is not looked at.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value as Json;

use crate::budget::Budget;
use crate::error::EvalError;
use crate::opaque::Opaque;
use crate::types::{Decl, DeclKind, ListKind, Type};

/// A value. It may borrow from the objects that were bound.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number with sign.
    Int(i64),
    /// A whole number without sign.
    Uint(u64),
    /// A floating point number.
    Double(f64),
    /// Text.
    String(Text<'a>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// A point in time.
    Timestamp(Timestamp),
    /// Nanoseconds.
    Duration(i64),
    /// A list.
    List(List<'a>),
    /// A map or an object.
    Map(Map<'a>),
    /// A type by its name.
    Type(Arc<str>),
    /// A value that may be missing.
    Optional(Option<Arc<Value<'a>>>),
    /// A value of a library.
    Opaque(Opaque<'a>),
}

/// Text, borrowed or shared.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    /// From a bound object.
    Ref(&'a str),
    /// Made by the expression.
    Own(Arc<str>),
}

impl std::ops::Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        match self {
            Text::Ref(text) => text,
            Text::Own(text) => text,
        }
    }
}

/// A list.
#[derive(Clone, Debug)]
pub enum List<'a> {
    /// Of JSON, with the declaration of the elements and how they relate.
    Json(&'a [Json], Option<(&'a Decl, &'a ListKind)>),
    /// Made by the expression.
    Own(Arc<Vec<Value<'a>>>),
    /// One after the other.
    Joined(Arc<(List<'a>, List<'a>)>),
}

/// A map or object.
#[derive(Clone, Debug)]
pub enum Map<'a> {
    /// Of JSON, with its declaration.
    Json(&'a serde_json::Map<String, Json>, Option<&'a Decl>),
    /// Made by the expression.
    Own(Arc<BTreeMap<Key, Value<'a>>>),
    /// An object literal, with the name of its type.
    Object(Arc<str>, Arc<BTreeMap<Key, Value<'a>>>),
    /// Fields found out when asked for.
    Lazy(Lazy<'a>),
}

/// Fields that are found out only when an expression asks for them, such as a policy's variables.
pub trait Fields: Send + Sync {
    /// The field's value, `None` if there is no such field. What it costs is charged to the budget.
    fn get<'s>(&'s self, name: &str, budget: &mut Budget) -> Result<Option<Value<'s>>, EvalError>;

    /// Whether the operator `in` finds the field.
    fn has(&self, name: &str, budget: &mut Budget) -> Result<bool, EvalError> {
        Ok(self.get(name, budget)?.is_some())
    }
}

/// [`Fields`] as a value.
#[derive(Clone, Copy)]
pub struct Lazy<'a>(pub &'a dyn Fields);

impl fmt::Debug for Lazy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lazy")
    }
}

/// A key of a map. Numbers of any kind that are equal are the same key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number too large to have a sign.
    Uint(u64),
    /// Text.
    String(Arc<str>),
}

impl Key {
    /// The value as a key.
    pub(crate) fn of(value: &Value<'_>) -> Option<Key> {
        Some(match value {
            Value::Bool(b) => Key::Bool(*b),
            Value::Int(i) => Key::Int(*i),
            Value::Uint(u) => i64::try_from(*u).map_or(Key::Uint(*u), Key::Int),
            Value::Double(d) if d.fract() == 0.0 && *d >= -(2f64.powi(63)) && *d < 2f64.powi(63) => {
                Key::Int(*d as i64)
            }
            Value::String(Text::Own(text)) => Key::String(text.clone()),
            Value::String(Text::Ref(text)) => Key::String(Arc::from(*text)),
            _ => return None,
        })
    }

    /// The key as a value.
    pub fn value<'a>(&self) -> Value<'a> {
        match self {
            Key::Bool(b) => Value::Bool(*b),
            Key::Int(i) => Value::Int(*i),
            Key::Uint(u) => Value::Uint(*u),
            Key::String(text) => Value::String(Text::Own(text.clone())),
        }
    }
}

impl<'a> Value<'a> {
    /// Text made by an expression.
    pub fn text(text: impl Into<Arc<str>>) -> Value<'a> {
        Value::String(Text::Own(text.into()))
    }

    /// A list made by an expression.
    pub fn list(items: Vec<Value<'a>>) -> Value<'a> {
        Value::List(List::Own(Arc::new(items)))
    }

    /// A value that is there.
    pub(crate) fn some(value: Value<'a>) -> Value<'a> {
        Value::Optional(Some(Arc::new(value)))
    }

    /// A view of JSON as its declaration says; without one, as it looks.
    pub fn json(json: &'a Json, decl: Option<&'a Decl>) -> Value<'a> {
        let kind = decl.map(|d| &d.kind);
        match (json, kind) {
            (Json::Null, _) => Value::Null,
            (Json::Bool(b), _) => Value::Bool(*b),
            (Json::Number(n), Some(DeclKind::Plain(Type::Double))) => {
                Value::Double(n.as_f64().unwrap_or(0.0))
            }
            (Json::Number(n), _) => match (n.as_i64(), n.as_u64()) {
                (Some(i), _) => Value::Int(i),
                (_, Some(u)) => Value::Uint(u),
                _ => Value::Double(n.as_f64().unwrap_or(0.0)),
            },
            (Json::String(text), Some(DeclKind::Plain(of))) => formatted(text, of),
            (Json::String(text), _) => Value::String(Text::Ref(text)),
            (Json::Array(items), Some(DeclKind::List(of, kind))) => {
                Value::List(List::Json(items, Some((of, kind))))
            }
            (Json::Array(items), _) => Value::List(List::Json(items, None)),
            (Json::Object(map), Some(DeclKind::Map(_) | DeclKind::Object(_))) => {
                Value::Map(Map::Json(map, decl))
            }
            (Json::Object(map), _) => Value::Map(Map::Json(map, None)),
        }
    }

    /// The truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The name of the value's type.
    pub fn type_name(&self) -> &str {
        match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::List(_) => "list",
            Value::Map(Map::Object(name, _)) => name,
            Value::Map(_) => "map",
            Value::Type(_) => "type",
            Value::Optional(_) => "optional_type",
            Value::Opaque(opaque) => opaque.type_name(),
        }
    }

    /// The value as JSON, as far as it has a form there: times, durations and bytes become text; `None` for values of
    /// libraries and for types.
    pub fn to_json(&self) -> Option<Json> {
        Some(match self {
            Value::Null | Value::Optional(None) => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(i) => Json::from(*i),
            Value::Uint(u) => Json::from(*u),
            Value::Double(d) => serde_json::Number::from_f64(*d).map_or(Json::Null, Json::Number),
            Value::String(text) => Json::String(text.to_string()),
            Value::Bytes(bytes) => {
                use base64::Engine;
                Json::String(base64::engine::general_purpose::STANDARD.encode(bytes))
            }
            Value::Timestamp(time) => Json::String(time.to_string()),
            Value::Duration(nanos) => Json::String(crate::times::show_duration(*nanos)),
            Value::List(List::Json(items, _)) => Json::Array(items.to_vec()),
            Value::List(list) => Json::Array(list.iter().map(|v| v.to_json()).collect::<Option<_>>()?),
            Value::Map(Map::Json(map, _)) => Json::Object((*map).clone()),
            Value::Map(Map::Own(map) | Map::Object(_, map)) => {
                let mut out = serde_json::Map::new();
                for (key, value) in map.iter() {
                    let Key::String(key) = key else { return None };
                    out.insert(key.to_string(), value.to_json()?);
                }
                Json::Object(out)
            }
            Value::Optional(Some(value)) => value.to_json()?,
            Value::Map(Map::Lazy(_)) | Value::Type(_) | Value::Opaque(_) => return None,
        })
    }
}

fn formatted<'a>(text: &'a str, of: &Type) -> Value<'a> {
    use base64::Engine;
    let value = match of {
        Type::Timestamp => crate::times::timestamp_or_date(text).map(Value::Timestamp),
        Type::Duration => crate::times::duration(text).map(Value::Duration),
        Type::Bytes => {
            base64::engine::general_purpose::STANDARD.decode(text).ok().map(|b| Value::Bytes(b.into()))
        }
        _ => None,
    };
    value.unwrap_or(Value::String(Text::Ref(text)))
}

impl<'a> List<'a> {
    /// How many elements.
    pub fn len(&self) -> usize {
        match self {
            List::Json(items, _) => items.len(),
            List::Own(items) => items.len(),
            List::Joined(parts) => parts.0.len() + parts.1.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An element.
    pub fn get(&self, index: usize) -> Option<Value<'a>> {
        match self {
            List::Json(items, decl) => items.get(index).map(|json| Value::json(json, decl.map(|d| d.0))),
            List::Own(items) => items.get(index).cloned(),
            List::Joined(parts) => {
                let first = parts.0.len();
                if index < first { parts.0.get(index) } else { parts.1.get(index - first) }
            }
        }
    }

    /// The elements in order.
    pub fn iter(&self) -> Box<dyn Iterator<Item = Value<'a>> + '_> {
        match self {
            List::Joined(parts) => Box::new(parts.0.iter().chain(parts.1.iter())),
            list => Box::new((0..list.len()).filter_map(|i| list.get(i))),
        }
    }

    pub(crate) fn kind(&self) -> Option<&'a ListKind> {
        match self {
            List::Json(_, decl) => decl.map(|d| d.1),
            _ => None,
        }
    }
}

impl<'a> Map<'a> {
    /// How many entries; `None` if that cannot be known.
    pub fn len(&self) -> usize {
        match self {
            Map::Json(map, _) => map.len(),
            Map::Own(map) | Map::Object(_, map) => map.len(),
            Map::Lazy(_) => 0,
        }
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &Value<'_>, budget: &mut Budget) -> Result<Option<Value<'a>>, EvalError> {
        if let Value::String(text) = key {
            return self.field(text, budget);
        }
        match self {
            Map::Own(map) | Map::Object(_, map) => Ok(Key::of(key).and_then(|key| map.get(&key).cloned())),
            _ => Ok(None),
        }
    }

    /// The value of a field or of a text as key.
    pub(crate) fn field(&self, name: &str, budget: &mut Budget) -> Result<Option<Value<'a>>, EvalError> {
        Ok(match self {
            Map::Json(map, decl) => match decl.map(|d| &d.kind) {
                Some(DeclKind::Object(object)) => match object.fields.get(name) {
                    // A field that is null is as good as absent.
                    Some(field) => map
                        .get(&*field.json)
                        .filter(|json| !json.is_null())
                        .map(|json| Value::json(json, Some(&*field.decl))),
                    None => None,
                },
                Some(DeclKind::Map(of)) => map.get(name).map(|json| Value::json(json, Some(&**of))),
                _ => map.get(name).map(|json| Value::json(json, None)),
            },
            Map::Own(map) | Map::Object(_, map) => map.get(&Key::String(name.into())).cloned(),
            Map::Lazy(fields) => fields.0.get(name, budget)?,
        })
    }

    /// The entries, with the names of fields as expressions know them.
    pub fn entries(&self) -> Vec<(Key, Value<'a>)> {
        match self {
            Map::Json(map, decl) => match decl.map(|d| &d.kind) {
                Some(DeclKind::Object(object)) => object
                    .fields
                    .iter()
                    .filter_map(|(name, field)| {
                        let json = map.get(&*field.json).filter(|json| !json.is_null())?;
                        Some((Key::String(name.clone()), Value::json(json, Some(&*field.decl))))
                    })
                    .collect(),
                kind => {
                    let of = match kind {
                        Some(DeclKind::Map(of)) => Some(&**of),
                        _ => None,
                    };
                    let entry =
                        |(k, v): (&String, &'a Json)| (Key::String(k.as_str().into()), Value::json(v, of));
                    map.iter().map(entry).collect()
                }
            },
            Map::Own(map) | Map::Object(_, map) => map.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
            Map::Lazy(_) => Vec::new(),
        }
    }
}

/// Whether two values are equal. Numbers compare by what they are worth, values of different types are not equal.
pub fn equal(one: &Value<'_>, other: &Value<'_>) -> bool {
    match (one, other) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::String(a), Value::String(b)) => **a == **b,
        (Value::Bytes(a), Value::Bytes(b)) => a == b,
        (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
        (Value::Duration(a), Value::Duration(b)) => a == b,
        (Value::Type(a), Value::Type(b)) => a == b,
        (Value::List(a), Value::List(b)) => lists_equal(a, b),
        (Value::Map(a), Value::Map(b)) => maps_equal(a, b),
        (Value::Optional(a), Value::Optional(b)) => match (a, b) {
            (Some(a), Some(b)) => equal(a, b),
            (a, b) => a.is_none() && b.is_none(),
        },
        (Value::Opaque(a), Value::Opaque(b)) => a.same(b),
        (one, other) => numbers(one, other) == Some(Some(Ordering::Equal)),
    }
}

fn lists_equal(one: &List<'_>, other: &List<'_>) -> bool {
    if one.len() != other.len() {
        return false;
    }
    match one.kind() {
        Some(ListKind::Set) => one.iter().all(|a| other.iter().any(|b| equal(&a, &b))),
        Some(ListKind::Map(keys)) => {
            let mut rest = other.iter().collect::<Vec<_>>();
            one.iter().all(|a| {
                match rest.iter().position(|b| keys.iter().all(|key| same_field(&a, b, key))) {
                    Some(i) => equal(&a, &rest.swap_remove(i)),
                    None => false,
                }
            })
        }
        _ => one.iter().zip(other.iter()).all(|(a, b)| equal(&a, &b)),
    }
}

pub(crate) fn same_field(one: &Value<'_>, other: &Value<'_>, key: &str) -> bool {
    let (Value::Map(one), Value::Map(other)) = (one, other) else { return false };
    let budget = &mut Budget::new(u64::MAX);
    match (one.field(key, budget), other.field(key, budget)) {
        (Ok(Some(a)), Ok(Some(b))) => equal(&a, &b),
        (Ok(None), Ok(None)) => true,
        _ => false,
    }
}

fn maps_equal(one: &Map<'_>, other: &Map<'_>) -> bool {
    if let (Map::Object(a, _), Map::Object(b, _)) = (one, other)
        && a != b
    {
        return false;
    }
    let (one, other) = (one.entries(), other.entries());
    let other: BTreeMap<Key, Value<'_>> = other.into_iter().collect();
    one.len() == other.len() && one.iter().all(|(key, a)| other.get(key).is_some_and(|b| equal(a, b)))
}

/// How two numbers compare: `None` if they are not both numbers, `Some(None)` with one that is not a number.
pub(crate) fn numbers(one: &Value<'_>, other: &Value<'_>) -> Option<Option<Ordering>> {
    Some(match (one, other) {
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Double(a), b) => whole(b)?.partial_cmp_f64(*a).map(Ordering::reverse),
        (a, Value::Double(b)) => whole(a)?.partial_cmp_f64(*b),
        (a, b) => Some(whole(a)?.0.cmp(&whole(b)?.0)),
    })
}

struct Whole(i128);

fn whole(value: &Value<'_>) -> Option<Whole> {
    match value {
        Value::Int(i) => Some(Whole(i128::from(*i))),
        Value::Uint(u) => Some(Whole(i128::from(*u))),
        _ => None,
    }
}

impl Whole {
    fn partial_cmp_f64(&self, other: f64) -> Option<Ordering> {
        if other.is_nan() {
            return None;
        }
        if other >= 2f64.powi(64) {
            return Some(Ordering::Less);
        }
        if other < -(2f64.powi(63)) {
            return Some(Ordering::Greater);
        }
        let floor = other.floor();
        Some(self.0.cmp(&(floor as i128)).then(if other > floor { Ordering::Less } else { Ordering::Equal }))
    }
}
