//! The downward API: facts of the pod as text, for variables and volume files.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, ResourceFieldSelector};

use crate::quantity::{milli, of};
use crate::spec;

/// Facts that are not in the Pod object yet when a container starts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    /// Addresses of the pod.
    pub pod_ips: &'a [String],
    /// Addresses of the node.
    pub host_ips: &'a [String],
    /// The node's allocatable CPU in thousandths.
    pub cpu: i128,
    /// The node's allocatable memory in thousandths of bytes.
    pub memory: i128,
    /// The node's allocatable ephemeral storage in thousandths of bytes.
    pub storage: i128,
}

/// `key="value"` lines, sorted, values escaped.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let each = map.into_iter().flatten().map(|(k, v)| format!("{k}={}", quoted(v)));
    each.collect::<Vec<_>>().join("\n")
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The value of a `fieldRef`.
pub fn field(pod: &Pod, path: &str, facts: &Facts<'_>) -> Result<String, String> {
    let m = &pod.metadata;
    let s = pod.spec.as_ref();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let from = match map {
            "metadata.labels" => m.labels.as_ref(),
            "metadata.annotations" => m.annotations.as_ref(),
            _ => return Err(format!("unsupported fieldPath: {path}")),
        };
        return Ok(from.and_then(|f| f.get(key)).cloned().unwrap_or_default());
    }
    let text = |v: &Option<String>| v.clone().unwrap_or_default();
    Ok(match path {
        "metadata.name" => text(&m.name),
        "metadata.namespace" => text(&m.namespace),
        "metadata.uid" => text(&m.uid),
        "metadata.labels" => lines(m.labels.as_ref()),
        "metadata.annotations" => lines(m.annotations.as_ref()),
        "spec.nodeName" => s.map(|s| text(&s.node_name)).unwrap_or_default(),
        "spec.serviceAccountName" => s.map(|s| text(&s.service_account_name)).unwrap_or_default(),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// The value of a `resourceFieldRef` of the named container (`own` when the selector names none).
pub fn resource(
    pod: &Pod,
    own: Option<&str>,
    selector: &ResourceFieldSelector,
    facts: &Facts<'_>,
) -> Result<String, String> {
    let name = selector.container_name.as_deref().filter(|n| !n.is_empty()).or(own).unwrap_or("");
    let (_, c) = pod
        .spec
        .as_ref()
        .and_then(|s| spec::find(s, name))
        .ok_or_else(|| format!("container {name} not found"))?;
    let (sort, kind) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource : {}", selector.resource))?;
    let r = c.resources.as_ref();
    // What the container may use at most is told by it, by its pod, or by the node.
    let whole = pod.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.limits.as_ref());
    let of_pod = || of(whole, kind).filter(|amount| *amount > 0 && matches!(kind, "cpu" | "memory"));
    let limit = r.and_then(|r| of(r.limits.as_ref(), kind)).or_else(of_pod);
    let capacity = match kind {
        "cpu" => facts.cpu,
        "memory" => facts.memory,
        "ephemeral-storage" => facts.storage,
        _ => 0,
    };
    let amount = match sort {
        "limits" => limit.unwrap_or(capacity),
        "requests" => r.and_then(|r| of(r.requests.as_ref(), kind)).unwrap_or(0),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let divisor = selector.divisor.as_ref().and_then(|d| milli(&d.0)).filter(|d| *d > 0).unwrap_or(1000);
    Ok(((amount + divisor - 1) / divisor).to_string())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_limit_is_the_containers_the_pods_or_the_nodes() {
        let facts = Facts { cpu: 4000, memory: 8_000_000, storage: 9_000_000, host_ips: &[], pod_ips: &[] };
        let pod: Pod = serde_json::from_value(json!({"spec": {
        "resources": {"limits": {"cpu": "1250m", "memory": "2k"}},
        "containers": [
            {"name": "own", "resources": {"limits": {"cpu": "1"}}},
            {"name": "none"},
        ]}}))
        .unwrap();
        for (container, what, want) in [
            ("own", "limits.cpu", "1"),
            ("none", "limits.cpu", "2"),
            ("none", "limits.memory", "2000"),
            ("none", "limits.ephemeral-storage", "9000"),
            ("none", "requests.cpu", "0"),
        ] {
            let selector = ResourceFieldSelector {
                resource: what.into(),
                divisor: Some(Quantity("0".into())),
                ..ResourceFieldSelector::default()
            };
            assert_eq!(
                resource(&pod, Some(container), &selector, &facts).unwrap(),
                want,
                "{container} {what}"
            );
        }
        let empty = Pod {
            spec: Some(serde_json::from_value(json!({"containers": [{"name": "c"}]})).unwrap()),
            ..pod
        };
        let cpu = ResourceFieldSelector { resource: "limits.cpu".into(), ..ResourceFieldSelector::default() };
        assert_eq!(resource(&empty, Some("c"), &cpu, &facts).unwrap(), "4");
    }
}
