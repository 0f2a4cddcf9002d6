//! Declarations from the structural schemas of CustomResourceDefinitions, in the JSON they are written in.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::escape::escape;
use crate::types::{Decl, DeclKind, FieldType, ListKind, ObjectType, REQUEST_BYTES_MAX, Type};

/// The declaration of a schema, `None` if expressions do not see such data (lists without items, values of unknown
/// type). With `resource`, `apiVersion`, `kind` and the names in `metadata` are there whether the schema has them or not.
pub fn decl_of_schema(schema: &Json, resource: bool) -> Option<Arc<Decl>> {
    decl("selfType", schema, resource)
}

fn flag(schema: &Json, name: &str) -> bool {
    schema.get(name).and_then(Json::as_bool).unwrap_or(false)
}

fn limit(schema: &Json, name: &str) -> Option<u64> {
    schema.get(name)?.as_i64().map(|limit| u64::try_from(limit).unwrap_or(0))
}

fn plain(of: Type, size_max: u64, bytes_min: u64) -> Option<Arc<Decl>> {
    Some(Arc::new(Decl { kind: DeclKind::Plain(of), size_max, bytes_min }))
}

fn decl(name: &str, schema: &Json, resource: bool) -> Option<Arc<Decl>> {
    if flag(schema, "x-kubernetes-int-or-string") {
        let most = limit(schema, "maxLength").map_or(REQUEST_BYTES_MAX - 2, |n| n.saturating_mul(4));
        return plain(Type::Dyn, most, 1);
    }
    match schema.get("type").and_then(Json::as_str)? {
        "array" => list(name, schema),
        "object" => match schema.get("additionalProperties").filter(|a| a.is_object()) {
            Some(values) => map(name, schema, values),
            None => Some(object(name, schema, resource)),
        },
        "string" => string(schema),
        "boolean" => plain(Type::Bool, 0, 4),
        "number" => plain(Type::Double, 0, 1),
        "integer" => plain(Type::Int, 0, 1),
        _ => None,
    }
}

fn list(name: &str, schema: &Json) -> Option<Arc<Decl>> {
    let items = schema.get("items")?;
    let of = decl(&format!("{name}.@idx"), items, flag(items, "x-kubernetes-embedded-resource"))?;
    let size_max = limit(schema, "maxItems").unwrap_or_else(|| (REQUEST_BYTES_MAX - 2) / (of.bytes_min + 1));
    let kind = match schema.get("x-kubernetes-list-type").and_then(Json::as_str) {
        Some("set") => ListKind::Set,
        Some("map") => {
            let keys = schema.get("x-kubernetes-list-map-keys").and_then(Json::as_array);
            ListKind::Map(keys.into_iter().flatten().filter_map(|k| escape(k.as_str()?)).collect())
        }
        _ => ListKind::Atomic,
    };
    Some(Arc::new(Decl { kind: DeclKind::List(of, kind), size_max, bytes_min: 2 }))
}

fn map(name: &str, schema: &Json, values: &Json) -> Option<Arc<Decl>> {
    let of = decl(&format!("{name}.@elem"), values, flag(values, "x-kubernetes-embedded-resource"))?;
    let size_max =
        limit(schema, "maxProperties").unwrap_or_else(|| (REQUEST_BYTES_MAX - 2) / (of.bytes_min + 6));
    Some(Arc::new(Decl { kind: DeclKind::Map(of), size_max, bytes_min: 2 }))
}

fn object(name: &str, schema: &Json, resource: bool) -> Arc<Decl> {
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Json::as_array)
        .into_iter()
        .flatten()
        .filter_map(Json::as_str)
        .collect();
    let always = resource.then(|| {
        let text = json!({"type": "string"});
        let metadata = json!({"type": "object", "properties": {"name": text, "generateName": text}});
        [("kind", text.clone()), ("apiVersion", text), ("metadata", metadata)]
    });
    let mut properties: BTreeMap<&str, &Json> = schema
        .get("properties")
        .and_then(Json::as_object)
        .into_iter()
        .flatten()
        .map(|(name, schema)| (name.as_str(), schema))
        .collect();
    let complete = ["kind", "apiVersion", "metadata"].iter().all(|name| properties.contains_key(name))
        && ["name", "generateName"].iter().all(|name| {
            properties.get("metadata").is_some_and(|m| m.pointer(&format!("/properties/{name}")).is_some())
        });
    if !complete {
        for (name, schema) in always.iter().flatten() {
            properties.insert(name, schema);
        }
    }
    let mut bytes_min = 2;
    let mut fields = BTreeMap::new();
    for (property, schema) in properties {
        let escaped = escape(property);
        let path = format!("{name}.{}", escaped.as_deref().unwrap_or(property));
        let Some(decl) = decl(&path, schema, flag(schema, "x-kubernetes-embedded-resource")) else {
            continue;
        };
        if required.contains(&property) && schema.get("default").is_none() {
            bytes_min += property.len() as u64 + decl.bytes_min + 4;
        }
        if let Some(escaped) = escaped {
            fields.insert(Arc::from(escaped), FieldType { decl, json: property.into() });
        }
    }
    let object = ObjectType { name: name.into(), fields };
    Arc::new(Decl { kind: DeclKind::Object(Arc::new(object)), size_max: 0, bytes_min })
}

fn string(schema: &Json) -> Option<Arc<Decl>> {
    let most = limit(schema, "maxLength");
    match schema.get("format").and_then(Json::as_str) {
        Some("byte") => return plain(Type::Bytes, most.unwrap_or(REQUEST_BYTES_MAX - 2), 2),
        Some("duration") => return plain(Type::Duration, 32, 3),
        Some("date") => return plain(Type::Timestamp, 12, 12),
        Some("date-time") => return plain(Type::Timestamp, 32, 21),
        _ => {}
    }
    let choices = schema.get("enum").and_then(Json::as_array).filter(|e| !e.is_empty());
    let longest =
        choices.map(|all| all.iter().filter_map(Json::as_str).map(str::len).max().unwrap_or(0) as u64);
    let size_max = most.map(|n| n.saturating_mul(4)).or(longest).unwrap_or(REQUEST_BYTES_MAX - 2);
    plain(Type::String, size_max, 2)
}
