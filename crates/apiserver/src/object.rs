//! Values as objects: reading metadata, and turning a value into the bytes that are stored.

use std::sync::Arc;

use api::kinds::FieldForm;
use bytes::Bytes;
use serde_json::{Map, Value};
use store::{Draft, Index};

use crate::resource::{Field, Resource};

/// `metadata`, or nothing when it is absent or no object.
pub fn metadata(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata").and_then(Value::as_object)
}

/// A text of `metadata`, empty when absent.
pub fn meta_text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or("")
}

/// `metadata`, made if absent.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let metadata = &mut object["metadata"];
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    match metadata {
        Value::Object(map) => map,
        _ => unreachable!("just made an object"),
    }
}

/// `metadata.name`.
pub fn name(object: &Value) -> &str {
    meta_text(object, "name")
}

/// The entries of `metadata.finalizers`.
pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    let list = object.get("metadata").and_then(|m| m.get("finalizers")).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}

/// Whether `metadata.deletionTimestamp` is set.
pub fn is_deleting(object: &Value) -> bool {
    !meta_text(object, "deletionTimestamp").is_empty()
}

/// The value at a dot-separated path.
pub fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.trim_start_matches('.').split('.').try_fold(object, |value, key| value.get(key))
}

/// Sets the value at a dot-separated path, making objects on the way.
pub fn set_at(object: &mut Value, path: &str, new: Value) {
    let mut here = object;
    for key in path.trim_start_matches('.').split('.') {
        if !here.is_object() {
            *here = Value::Object(Map::new());
        }
        here = &mut here[key];
    }
    *here = new;
}

/// Now, as `metadata.creationTimestamp` is written.
pub fn timestamp(now: jiff::Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The seconds of a timestamp, if it is one.
pub fn seconds(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(|time| time.as_second())
}

/// Serializes an object of `resource` for the store: kind and apiVersion of the stored version first, then
/// metadata with the hole for the revision, then the rest.
pub fn draft(resource: &Resource, object: &Value) -> Draft {
    headed(&resource.stored_head, resource, object)
}

/// Like [`draft`], in the version the object says it has.
pub fn draft_of_own(resource: &Resource, object: &Value) -> Draft {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or("");
    let head = format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\",", text("kind"), text("apiVersion"));
    headed(&head, resource, object)
}

fn headed(head: &str, resource: &Resource, object: &Value) -> Draft {
    let mut bytes = Vec::with_capacity(1024);
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend_from_slice(b"\"metadata\":{\"resourceVersion\":\"");
    let hole = bytes.len() as u32;
    bytes.push(b'"');
    for (key, value) in metadata(object).into_iter().flatten().filter(|(key, _)| *key != "resourceVersion") {
        entry(&mut bytes, key, value);
    }
    bytes.push(b'}');
    let rest = object.as_object().into_iter().flatten();
    for (key, value) in rest.filter(|(key, _)| !matches!(key.as_str(), "kind" | "apiVersion" | "metadata")) {
        entry(&mut bytes, key, value);
    }
    bytes.push(b'}');
    Draft { bytes: Bytes::from(bytes), hole, index: index(resource, object) }
}

/// An object's bytes as clients see it, behind the head of its version.
pub fn shown(head: &str, object: &Value) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1024);
    bytes.extend_from_slice(head.trim_end_matches(',').as_bytes());
    let rest = object.as_object().into_iter().flatten();
    for (key, value) in rest.filter(|(key, _)| !matches!(key.as_str(), "kind" | "apiVersion")) {
        entry(&mut bytes, key, value);
    }
    bytes.push(b'}');
    bytes
}

fn entry(bytes: &mut Vec<u8>, key: &str, value: &Value) {
    bytes.push(b',');
    write(bytes, &key);
    bytes.push(b':');
    write(bytes, value);
}

fn write(bytes: &mut Vec<u8>, value: &impl serde::Serialize) {
    // Writing a value tree into memory cannot fail: all keys are text.
    if let Err(cause) = serde_json::to_writer(bytes, value) {
        debug_assert!(false, "{cause}");
    }
}

/// What selectors and the garbage collector need of the object.
pub fn index(resource: &Resource, object: &Value) -> Index {
    index_by(&resource.fields, object)
}

/// Like [`index`], with these fields.
pub fn index_by(fields: &[Field], object: &Value) -> Index {
    let empty = Map::new();
    let metadata = metadata(object).unwrap_or(&empty);
    let labels = metadata.get("labels").and_then(Value::as_object).into_iter().flatten();
    let mut labels: Vec<(Arc<str>, Arc<str>)> = labels
        .map(|(key, value)| (Arc::from(key.as_str()), Arc::from(value.as_str().unwrap_or(""))))
        .collect();
    labels.sort();
    let owners = metadata.get("ownerReferences").and_then(Value::as_array).into_iter().flatten();
    let owners = owners.filter_map(|owner| owner.get("uid").and_then(Value::as_str)).map(Arc::from);
    let fields = fields.iter().map(|field| {
        let mut paths = field.path.split('|').map(|path| at(object, path));
        let empty = |value: &Option<&Value>| value.is_none_or(|value| value.as_str() == Some(""));
        let text = match (paths.find(|value| !empty(value)).flatten(), field.form) {
            (Some(Value::String(text)), _) => text.clone(),
            (Some(Value::Null) | None, FieldForm::Text) => String::new(),
            (Some(Value::Null) | None, FieldForm::Bool) => "false".to_string(),
            (Some(Value::Null) | None, FieldForm::Int) => "0".to_string(),
            (Some(other), _) => other.to_string(),
        };
        (field.key.clone(), Arc::from(text))
    });
    Index {
        uid: Arc::from(metadata.get("uid").and_then(Value::as_str).unwrap_or("")),
        labels: labels.into(),
        fields: fields.collect(),
        owners: owners.collect(),
    }
}
