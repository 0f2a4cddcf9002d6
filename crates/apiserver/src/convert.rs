//! Versions of a kind other than the stored one: pure edge transforms.
//!
//! Custom resources differ in nothing but `apiVersion`, so only the head of the bytes is exchanged.

use api::KindDef;
use bytes::Bytes;
use serde_json::{Value, json};
use store::Object;

use crate::resource::Resource;

/// The stored object's JSON as the version of `resource`.
pub fn present(resource: &Resource, stored: &KindDef, object: &Object) -> Bytes {
    if renames(&resource.def).is_none()
        && let Some(rest) = object.json.strip_prefix(resource.stored_head.as_bytes())
    {
        let mut bytes = Vec::with_capacity(resource.head.len() + rest.len());
        bytes.extend_from_slice(resource.head.as_bytes());
        bytes.extend_from_slice(rest);
        return Bytes::from(bytes);
    }
    let Ok(mut value) = serde_json::from_slice::<Value>(&object.json) else { return object.json.clone() };
    from_stored(&resource.def, stored, &mut value);
    serde_json::to_vec(&value).map(Bytes::from).unwrap_or_else(|_| object.json.clone())
}

/// Turns a value of the stored version into one of `def`'s.
pub fn from_stored(def: &KindDef, _stored: &KindDef, value: &mut Value) {
    if let Some(pairs) = renames(def) {
        for (here, there) in pairs {
            rename(value, there, here);
        }
    }
    if def.group == "autoscaling" && def.version == "v1" {
        autoscaler_to_v1(value);
    }
    value["apiVersion"] = def.api_version().into();
    value["kind"] = def.kind.as_ref().into();
}

/// Turns a value of `def`'s version into the stored one.
pub fn to_stored(def: &KindDef, stored: &KindDef, value: &mut Value) {
    if let Some(pairs) = renames(def) {
        for (here, there) in pairs {
            rename(value, here, there);
        }
    }
    if def.group == "autoscaling" && def.version == "v1" {
        autoscaler_from_v1(value);
    }
    value["apiVersion"] = stored.api_version().into();
    value["kind"] = stored.kind.as_ref().into();
}

/// Where a field of `def`'s version is in the stored one.
pub fn stored_path(def: &KindDef, path: &str) -> String {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let pair = renames(def).into_iter().flatten().find(|(here, _)| *here == first);
    let first = pair.map_or(first, |(_, there)| there);
    rest.map_or(first.to_string(), |rest| format!("{first}.{rest}"))
}

/// Field names of a version and the stored version's names for them.
fn renames(def: &KindDef) -> Option<&'static [(&'static str, &'static str)]> {
    const EVENTS: &[(&str, &str)] = &[
        ("regarding", "involvedObject"),
        ("note", "message"),
        ("deprecatedSource", "source"),
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
        ("reportingController", "reportingComponent"),
    ];
    match (def.group.as_ref(), def.kind.as_ref(), def.version.as_ref()) {
        ("events.k8s.io", "Event", _) => Some(EVENTS),
        ("autoscaling", "HorizontalPodAutoscaler", "v1") => Some(&[]),
        _ => None,
    }
}

fn rename(value: &mut Value, from: &str, to: &str) {
    if let Some(object) = value.as_object_mut()
        && let Some(moved) = object.remove(from)
    {
        object.insert(to.to_string(), moved);
    }
}

fn autoscaler_from_v1(value: &mut Value) {
    let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if let Some(target) = spec.remove("targetCPUUtilizationPercentage").filter(|v| !v.is_null()) {
        let metric = json!({"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": target}}});
        spec.insert("metrics".into(), Value::Array(vec![metric]));
    }
    let Some(status) = value.get_mut("status").and_then(Value::as_object_mut) else { return };
    if let Some(current) = status.remove("currentCPUUtilizationPercentage").filter(|v| !v.is_null()) {
        let metric = json!({"type": "Resource", "resource": {
            "name": "cpu", "current": {"averageUtilization": current, "averageValue": "0"}}});
        status.insert("currentMetrics".into(), Value::Array(vec![metric]));
    }
}

fn autoscaler_to_v1(value: &mut Value) {
    let cpu = |list: Option<Value>, part: &str| {
        let list = list?;
        let metric = list
            .as_array()?
            .iter()
            .find(|metric| metric.pointer("/resource/name").and_then(Value::as_str) == Some("cpu"))?;
        metric.pointer(&format!("/resource/{part}/averageUtilization")).cloned()
    };
    if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
        if let Some(target) = cpu(spec.remove("metrics"), "target") {
            spec.insert("targetCPUUtilizationPercentage".into(), target);
        }
        spec.remove("behavior");
    }
    if let Some(status) = value.get_mut("status").and_then(Value::as_object_mut) {
        if let Some(current) = cpu(status.remove("currentMetrics"), "current") {
            status.insert("currentCPUUtilizationPercentage".into(), current);
        }
        status.remove("conditions");
    }
}
