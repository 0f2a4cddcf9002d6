//! The entries of `metadata.managedFields`, read no further than they are needed.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::fieldset::FieldSet;

/// Names a manager among the entries of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    /// Apply sorts before Update.
    pub operation: Operation,
    pub manager: String,
    /// Empty for appliers: an applier stays the same in every version.
    pub api_version: String,
    pub subresource: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

#[derive(Debug, Clone)]
pub(super) struct Ownership<'a> {
    pub fields: Fields<'a>,
    pub api_version: String,
    pub time: String,
}

/// What a manager owns. Most entries stay as they are with a change, and are never taken apart.
#[derive(Debug, Clone)]
pub(super) enum Fields<'a> {
    /// In the canonical `FieldsV1` form.
    Written(Cow<'a, Value>),
    Known(FieldSet),
}

pub(super) type Managers<'a> = BTreeMap<Identity, Ownership<'a>>;

impl Fields<'_> {
    /// The set itself.
    pub fn known(&self) -> Cow<'_, FieldSet> {
        match self {
            Fields::Known(set) => Cow::Borrowed(set),
            Fields::Written(value) => Cow::Owned(FieldSet::from_json(value).unwrap_or_default()),
        }
    }

    pub fn is_empty(&self) -> bool {
        match self {
            Fields::Known(set) => set.is_empty(),
            Fields::Written(value) => value.as_object().is_none_or(|map| map.keys().all(|key| key == ".")),
        }
    }

    /// Whether a path is in both.
    pub fn overlaps(&self, set: &FieldSet) -> bool {
        match self {
            Fields::Known(own) => !own.intersection(set).is_empty(),
            Fields::Written(value) => set.overlaps(value),
        }
    }

    pub fn subtract(&mut self, set: &FieldSet) {
        if self.overlaps(set) {
            let mut own = self.known().into_owned();
            own.subtract(set);
            *self = Fields::Known(own);
        }
    }

    fn into_json(self) -> Value {
        match self {
            Fields::Known(set) => set.into_json(),
            Fields::Written(value) => value.into_owned(),
        }
    }
}

fn entries_of(object: &Value) -> Option<&Value> {
    object.get("metadata")?.get("managedFields")
}

/// The managers recorded in an object as it was stored, which is in canonical form; what cannot be read counts as
/// nobody.
pub(super) fn managers_of(object: &Value) -> Managers<'_> {
    let entries = entries_of(object).and_then(Value::as_array);
    let read = |entry| {
        let fields = match entry_fields(entry) {
            Some(fields) => Fields::Written(Cow::Borrowed(fields)),
            None => Fields::Known(FieldSet::new()),
        };
        ownership(entry, fields)
    };
    entries.and_then(|entries| entries.iter().map(read).collect()).unwrap_or_default()
}

fn entry_fields(entry: &Value) -> Option<&Value> {
    entry.get("fieldsV1")
}

/// The managers that a writer gives. Entries that are those of `live` are not checked again.
pub(super) fn decode<'a>(entries: Value, live: Option<&Value>) -> Option<Managers<'a>> {
    let Value::Array(entries) = entries else { return None };
    let known = live.and_then(entries_of).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let read = |(at, mut entry): (usize, Value)| {
        let stored = known.get(at).and_then(entry_fields);
        let fields = match entry.get_mut("fieldsV1").map(Value::take) {
            Some(fields) if stored == Some(&fields) => Fields::Written(Cow::Owned(fields)),
            Some(fields) => Fields::Known(FieldSet::from_json(&fields)?),
            None => Fields::Known(FieldSet::new()),
        };
        ownership(&entry, fields)
    };
    entries.into_iter().enumerate().map(read).collect()
}

fn ownership<'a>(entry: &Value, fields: Fields<'a>) -> Option<(Identity, Ownership<'a>)> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let operation = match entry.get("operation").and_then(Value::as_str)? {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return None,
    };
    let api_version = text("apiVersion");
    let identity = Identity {
        operation,
        manager: text("manager"),
        api_version: if operation == Operation::Apply { String::new() } else { api_version.clone() },
        subresource: text("subresource"),
    };
    Some((identity, Ownership { fields, api_version, time: text("time") }))
}

/// A list of one empty entry asks for a fresh start.
pub(super) fn is_reset(entries: &Value) -> bool {
    entries.as_array().is_some_and(|a| a.len() == 1 && a[0].as_object().is_some_and(Map::is_empty))
}

/// Takes the entries out of an object.
pub(super) fn take_entries(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata").and_then(Value::as_object_mut)?.remove("managedFields")
}

/// Writes the entries: appliers first, then by time, manager, version and subresource.
pub(super) fn put_entries(object: &mut Value, managers: Managers<'_>) {
    take_entries(object);
    if managers.is_empty() {
        return;
    }
    let mut sorted: Vec<(Identity, Ownership<'_>)> = managers.into_iter().collect();
    sorted.sort_by(|(a, x), (b, y)| {
        (a.operation, &x.time, &a.manager, &x.api_version, &a.subresource).cmp(&(
            b.operation,
            &y.time,
            &b.manager,
            &y.api_version,
            &b.subresource,
        ))
    });
    let entries: Vec<Value> = sorted.into_iter().map(|(i, o)| encode(i, o)).collect();
    if let Some(metadata) = object.as_object_mut() {
        metadata.entry("metadata").or_insert_with(|| json!({}))["managedFields"] = Value::Array(entries);
    }
}

fn encode(identity: Identity, ownership: Ownership<'_>) -> Value {
    let mut entry = Map::new();
    let operation = if identity.operation == Operation::Apply { "Apply" } else { "Update" };
    entry.insert("manager".into(), identity.manager.into());
    entry.insert("operation".into(), operation.into());
    entry.insert("apiVersion".into(), ownership.api_version.into());
    if !ownership.time.is_empty() {
        entry.insert("time".into(), ownership.time.into());
    }
    entry.insert("fieldsType".into(), "FieldsV1".into());
    entry.insert("fieldsV1".into(), ownership.fields.into_json());
    if !identity.subresource.is_empty() {
        entry.insert("subresource".into(), identity.subresource.into());
    }
    Value::Object(entry)
}
