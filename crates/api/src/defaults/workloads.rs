//! Conditional defaults of types outside the core group.

use serde_json::{Value, json};

use super::core::own_labels;
use super::{Fields, child, is_empty, put, text};

pub(super) fn deployment_strategy(map: &mut Fields) {
    if text(map, "type") == "RollingUpdate"
        && let Some(rolling) = child(map, "rollingUpdate")
    {
        put(rolling, "maxUnavailable", "25%");
        put(rolling, "maxSurge", "25%");
    }
}

pub(super) fn daemon_set_strategy(map: &mut Fields) {
    if text(map, "type") == "RollingUpdate"
        && let Some(rolling) = child(map, "rollingUpdate")
    {
        put(rolling, "maxUnavailable", 1);
        put(rolling, "maxSurge", 0);
    }
}

pub(super) fn stateful_set_strategy(map: &mut Fields) {
    if text(map, "type").is_empty() {
        map.insert("type".to_string(), "RollingUpdate".into());
        put(map, "rollingUpdate", json!({}));
    }
    if text(map, "type") == "RollingUpdate"
        && let Some(rolling) = map.get_mut("rollingUpdate").and_then(Value::as_object_mut)
    {
        put(rolling, "partition", 0);
    }
}

/// Claims in a StatefulSet always say what they are.
pub(super) fn stateful_set_spec(map: &mut Fields) {
    let claims = map.get_mut("volumeClaimTemplates").and_then(Value::as_array_mut);
    for claim in claims.into_iter().flatten().filter_map(Value::as_object_mut) {
        put(claim, "apiVersion", "v1");
        put(claim, "kind", "PersistentVolumeClaim");
    }
}

pub(super) fn job(map: &mut Fields) {
    let Some(spec) = child(map, "spec") else { return };
    if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
        put(spec, "completions", 1);
    }
    put(spec, "parallelism", 1);
    let per_index = spec.contains_key("backoffLimitPerIndex");
    put(spec, "backoffLimit", if per_index { i32::MAX } else { 6 });
    put(spec, "completionMode", "NonIndexed");
    put(spec, "suspend", false);
    put(spec, "manualSelector", false);
    let failures = spec.contains_key("podFailurePolicy");
    put(spec, "podReplacementPolicy", if failures { "Failed" } else { "TerminatingOrFailed" });
    let labels = spec.get("template").and_then(|t| t.pointer("/metadata/labels")).cloned();
    if let Some(labels) = labels.filter(|l| !is_empty(Some(l))) {
        own_labels(map, labels);
    }
}

pub(super) fn autoscaler(map: &mut Fields) {
    if is_empty(map.get("metrics")) {
        let cpu = json!([{"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 80}}}]);
        map.insert("metrics".to_string(), cpu);
    }
    if let Some(behavior) = map.get_mut("behavior").and_then(Value::as_object_mut) {
        let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
        let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
        if let Some(up) = child(behavior, "scaleUp") {
            put(up, "stabilizationWindowSeconds", 0);
            put(up, "selectPolicy", "Max");
            put(up, "policies", json!([pods, percent]));
        }
        if let Some(down) = child(behavior, "scaleDown") {
            put(down, "selectPolicy", "Max");
            put(down, "policies", json!([percent]));
        }
    }
}

pub(super) fn network_policy(map: &mut Fields) {
    if is_empty(map.get("policyTypes")) {
        let egress = !is_empty(map.get("egress"));
        let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        map.insert("policyTypes".to_string(), types);
    }
}

pub(super) fn subject(map: &mut Fields) {
    if text(map, "apiGroup").is_empty() && ["User", "Group"].contains(&text(map, "kind")) {
        map.insert("apiGroup".to_string(), "rbac.authorization.k8s.io".into());
    }
}

pub(super) fn device_request(map: &mut Fields) {
    if text(map, "allocationMode") == "ExactCount" && map.get("count").is_none_or(|c| c == 0) {
        map.insert("count".to_string(), 1.into());
    }
}

pub(super) fn custom_resource_definition(map: &mut Fields) {
    let Some(spec) = child(map, "spec") else { return };
    let versions = spec.get("versions").and_then(Value::as_array);
    let stored = versions.into_iter().flatten().find(|v| v["storage"] == true).map(|v| v["name"].clone());
    if let Some(names) = child(spec, "names") {
        let kind = text(names, "kind").to_string();
        if text(names, "singular").is_empty() {
            names.insert("singular".to_string(), kind.to_lowercase().into());
        }
        if text(names, "listKind").is_empty() && !kind.is_empty() {
            names.insert("listKind".to_string(), format!("{kind}List").into());
        }
    }
    if let (Some(name), Some(status)) = (stored, child(map, "status"))
        && is_empty(status.get("storedVersions"))
    {
        status.insert("storedVersions".to_string(), json!([name]));
    }
}
