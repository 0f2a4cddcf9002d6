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
    let custom: Vec<_> = resource.def.columns.iter().filter(|c| c.json_path.is_some()).collect();
    let mut definitions = vec![json!({"name": "Name", "type": "string", "format": "name",
        "description": "Name must be unique within a namespace.", "priority": 0})];
    for column in &custom {
        definitions.push(json!({"name": column.name, "type": column.ty, "format": column.format,
            "description": column.description, "priority": column.priority}));
    }
    if custom.is_empty() {
        definitions.push(json!({"name": "Created At", "type": "date", "format": "",
            "description": "CreationTimestamp is a timestamp of the server's time when the object was created.",
            "priority": 0}));
    }
    let rows: Vec<Value> = objects
        .iter()
        .map(|value| {
            let mut cells = vec![json!(object::name(value))];
            for column in &custom {
                let path = column.json_path.as_deref().unwrap_or("");
                cells.push(object::at(value, path).cloned().unwrap_or_default());
            }
            if custom.is_empty() {
                cells.push(json!(object::meta_text(value, "creationTimestamp")));
            }
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
