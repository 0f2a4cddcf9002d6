//! Drops the fields of custom resources that their schema does not know.

use serde_json::Value;

use crate::error::Path;
use crate::types::{Schema, Type};

/// Drops unknown fields below `value` and returns their paths.
pub fn prune(schema: &Schema, value: &mut Value) -> Vec<String> {
    let mut dropped = Vec::new();
    walk(schema, value, &Path::Root, &mut dropped);
    dropped
}

fn walk(schema: &Schema, value: &mut Value, path: &Path<'_>, dropped: &mut Vec<String>) {
    match (&schema.ty, value) {
        (Type::Object(o), Value::Object(map)) => {
            let object = o.get();
            if !schema.preserve_unknown {
                map.retain(|name, _| {
                    let known = object.index(name).is_some();
                    if !known {
                        dropped.push(path.child(name).to_string());
                    }
                    known
                });
            }
            for (name, v) in map.iter_mut() {
                if let Some(field) = object.field(name) {
                    walk(&field.schema, v, &path.child(name), dropped);
                }
            }
        }
        (Type::Map(item), Value::Object(map)) => {
            for (name, v) in map.iter_mut() {
                walk(item, v, &path.child(name), dropped);
            }
        }
        (Type::List(item), Value::Array(items)) => {
            for (i, v) in items.iter_mut().enumerate() {
                walk(item, v, &path.index(i), dropped);
            }
        }
        // Without properties a schema that may hold anything keeps everything.
        (Type::Any, Value::Object(map)) if !schema.preserve_unknown => {
            dropped.extend(map.keys().map(|name| path.child(name).to_string()));
            map.clear();
        }
        _ => {}
    }
}
