//! Views of objects: PartialObjectMetadata, and Table with the columns of the kind.

use serde_json::{Value, json};

use crate::object;
use crate::resource::Resource;

/// Only the metadata of an object.
pub fn partial(value: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": value.get("metadata").cloned().unwrap_or_default(),
    })
}

/// A Table of objects; `columns` says whether the column definitions are part of it, `include` what each row
/// carries of its object (`None`, `Metadata` or `Object`).
pub fn table(resource: &Resource, objects: &[Value], metadata: Value, columns: bool, include: &str) -> Value {
    let own = resource.def.columns.as_slice();
    let now = jiff::Timestamp::now().as_second();
    let mut definitions: Vec<Value> = own
        .iter()
        .map(|column| {
            json!({"name": column.name, "type": column.ty, "format": column.format,
                "description": column.description, "priority": column.priority})
        })
        .collect();
    if own.is_empty() {
        definitions.push(json!({"name": "Name", "type": "string", "format": "name",
            "description": "Name must be unique within a namespace.", "priority": 0}));
        definitions.push(json!({"name": "Created At", "type": "date", "format": "",
            "description": "When the object was created.", "priority": 0}));
    }
    let rows: Vec<Value> = objects
        .iter()
        .map(|value| {
            let cells: Vec<Value> = match own.is_empty() {
                true => {
                    vec![json!(object::name(value)), json!(object::meta_text(value, "creationTimestamp"))]
                }
                false if resource.def.custom => own.iter().map(|column| cell(value, column)).collect(),
                false => {
                    let kind = resource.def.kind.as_ref();
                    let show = |c: &api::Column| api::cells::cell(kind, &c.name, &c.ty, value, now);
                    own.iter().map(show).collect()
                }
            };
            match include {
                "None" => json!({"cells": cells}),
                "Object" => json!({"cells": cells, "object": value}),
                _ => json!({"cells": cells, "object": partial(value)}),
            }
        })
        .collect();
    let definitions = if columns { Value::Array(definitions) } else { Value::Null };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": definitions, "rows": rows})
}

/// The value of a custom column: a simple path, as most are.
fn cell(value: &Value, column: &api::Column) -> Value {
    let Some(path) = column.json_path.as_deref() else { return json!(object::name(value)) };
    let found = find(value, path.trim_start_matches('.'));
    match (column.ty.as_ref(), found) {
        ("date", Some(Value::String(time))) => match object::seconds(time) {
            Some(at) => json!(api::cells::age(jiff::Timestamp::now().as_second() - at)),
            None => json!("<invalid>"),
        },
        ("string", Some(text @ Value::String(_))) => text.clone(),
        ("string", Some(other)) if !other.is_null() => json!(other.to_string()),
        (_, Some(other)) => other.clone(),
        (_, None) => Value::Null,
    }
}

/// Follows names, `[index]` and `[?(@.name=="value")]`.
fn find<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    if path.is_empty() {
        return Some(value);
    }
    if let Some(rest) = path.strip_prefix('[') {
        let (inner, rest) = rest.split_once(']')?;
        let list = value.as_array();
        let below = match inner.strip_prefix("?(@.").and_then(|filter| filter.strip_suffix(')')) {
            Some(filter) => {
                let (name, wanted) = filter.split_once("==")?;
                let wanted = wanted.trim().trim_matches(['\'', '"']);
                list?.iter().find(|item| item.get(name.trim()).and_then(Value::as_str) == Some(wanted))?
            }
            None => match inner.parse::<usize>() {
                Ok(index) => list?.get(index)?,
                Err(_) => value.get(inner.trim_matches(['\'', '"']))?,
            },
        };
        return find(below, rest.trim_start_matches('.'));
    }
    let end = next_break(path);
    let name = path[..end].replace("\\.", ".");
    find(value.get(name)?, path[end..].trim_start_matches('.'))
}

/// Where the first name of a path ends; an escaped dot belongs to the name.
fn next_break(path: &str) -> usize {
    let bytes = path.as_bytes();
    (0..bytes.len())
        .find(|at| bytes[*at] == b'[' || (bytes[*at] == b'.' && (*at == 0 || bytes[*at - 1] != b'\\')))
        .unwrap_or(bytes.len())
}
