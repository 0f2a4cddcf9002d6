//! What single kinds settle before they are judged: duplicates, pairs of fields that say the same, old counters.

use serde_json::{Map, Value};

use crate::object::metadata_mut;

/// The generation of a daemon set's template, kept for clients of older versions.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// Settles a changed object.
pub fn update(def: &api::KindDef, old: &Value, new: &mut Value, subresource: &str) {
    distinct_owners(new);
    match (def.group.as_ref(), def.kind.as_ref(), subresource) {
        ("", "PersistentVolumeClaim", "") => data_sources(new),
        ("apps", "DaemonSet", "") => template_generation(Some(old), new),
        _ => {}
    }
}

/// 1 at first, one more with every change of the template.
pub fn template_generation(old: Option<&Value>, new: &mut Value) {
    let template = |object: &Value| object.pointer("/spec/template").cloned();
    let count = match old {
        None => 1,
        Some(old) => {
            let text = old.pointer("/metadata/annotations").and_then(|map| map.get(TEMPLATE_GENERATION));
            let before = text.and_then(Value::as_str).and_then(|text| text.parse::<i64>().ok()).unwrap_or(1);
            before + i64::from(template(old) != template(new))
        }
    };
    let annotations = metadata_mut(new).entry("annotations").or_insert_with(|| Value::Object(Map::new()));
    if !annotations.is_object() {
        *annotations = Value::Object(Map::new());
    }
    annotations[TEMPLATE_GENERATION] = count.to_string().into();
}

/// The same owner named twice counts once.
pub fn distinct_owners(object: &mut Value) {
    let owners = object.get_mut("metadata").and_then(|m| m.get_mut("ownerReferences"));
    let Some(owners) = owners.and_then(Value::as_array_mut).filter(|owners| owners.len() > 1) else { return };
    let mut seen: Vec<Value> = Vec::with_capacity(owners.len());
    owners.retain(|owner| {
        let new = !seen.contains(owner);
        if new {
            seen.push(owner.clone());
        }
        new
    });
}

/// A claim's two ways to say where its data comes from say the same.
pub fn data_sources(claim: &mut Value) {
    let Some(spec) = claim.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let get = |spec: &Map<String, Value>, field: &str| spec.get(field).filter(|v| !v.is_null()).cloned();
    match (get(spec, "dataSource"), get(spec, "dataSourceRef")) {
        (Some(source), None) => {
            spec.insert("dataSourceRef".into(), source);
        }
        (None, Some(reference)) if reference.get("namespace").is_none_or(|v| v.is_null() || v == "") => {
            spec.insert("dataSource".into(), reference);
        }
        _ => {}
    }
}
