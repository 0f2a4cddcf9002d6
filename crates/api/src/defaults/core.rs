//! Conditional defaults of core types.

use base::quantity::Quantity;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{Fields, child, is_empty, put, text};

/// What a pod has besides its spec's plain defaults; templates of other kinds do not get these.
pub(super) fn pod(map: &mut Fields) {
    let Some(spec) = child(map, "spec") else { return };
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["containers", "initContainers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            requests_from_limits(container);
            if host_network {
                host_ports(container);
            }
        }
    }
    pod_resources(spec);
    put(spec, "enableServiceLinks", true);
    // Templates keep what they say; only of pods themselves a negative grace is read as one second.
    if spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|seconds| seconds < 0) {
        spec.insert("terminationGracePeriodSeconds".to_owned(), 1.into());
    }
}

/// The account of a pod has two names, of which the older follows the newer.
pub(super) fn pod_spec(map: &mut Fields) {
    let account = match text(map, "serviceAccountName") {
        "" => text(map, "serviceAccount").to_owned(),
        name => name.to_owned(),
    };
    if !account.is_empty() {
        map.insert("serviceAccount".to_owned(), account.as_str().into());
        map.insert("serviceAccountName".to_owned(), account.into());
    }
}

/// `stringData` is write-only: it goes into `data`.
pub(super) fn secret(map: &mut Fields) {
    let Some(Value::Object(plain)) = map.remove("stringData") else { return };
    if plain.is_empty() {
        return;
    }
    let Some(data) = child(map, "data") else { return };
    for (key, value) in plain {
        data.insert(key, STANDARD.encode(value.as_str().unwrap_or("")).into());
    }
}

fn requests_from_limits(container: &mut Fields) {
    let Some(resources) = child(container, "resources") else { return };
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else { return };
    if let Some(requests) = child(resources, "requests") {
        for (name, amount) in limits {
            put(requests, &name, amount);
        }
    }
}

fn host_ports(container: &mut Fields) {
    let ports = container.get_mut("ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten().filter_map(Value::as_object_mut) {
        if let Some(number) = port.get("containerPort").cloned() {
            put(port, "hostPort", number);
        }
    }
}

/// Resources of the pod as a whole: huge page limits and requests follow from the containers and the limits.
fn pod_resources(spec: &mut Fields) {
    let Some(Value::Object(resources)) = spec.get("resources").cloned() else { return };
    let amounts = |name: &str| resources.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
    let (mut limits, mut requests) = (amounts("limits"), amounts("requests"));
    if limits.is_empty() && requests.is_empty() {
        return;
    }
    for (name, amount) in sum_of_containers(spec, "limits") {
        if name.starts_with("hugepages-") && !requests.contains_key(&name) {
            put(&mut limits, &name, amount);
        }
    }
    if !amounts("limits").is_empty() {
        for (name, amount) in sum_of_containers(spec, "requests") {
            if name == "cpu" || name == "memory" {
                put(&mut requests, &name, amount);
            }
        }
        for (name, amount) in &limits {
            if name == "cpu" || name == "memory" || name.starts_with("hugepages-") {
                put(&mut requests, name, amount.clone());
            }
        }
    }
    if let Some(resources) = child(spec, "resources") {
        for (name, amounts) in [("limits", limits), ("requests", requests)] {
            if !amounts.is_empty() {
                resources.insert(name.to_string(), Value::Object(amounts));
            }
        }
    }
}

/// What the containers want together: the running ones and sidecars at once, or the largest moment of starting.
fn sum_of_containers(spec: &Fields, kind: &str) -> Map<String, Value> {
    let list = |name: &str| spec.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let amounts = |c: &Value| -> Vec<(String, Quantity)> {
        let map = c["resources"][kind].as_object().cloned().unwrap_or_default();
        map.into_iter().filter_map(|(n, v)| Some((n, v.as_str()?.parse().ok()?))).collect()
    };
    let mut total: std::collections::BTreeMap<String, Quantity> = Default::default();
    for (name, amount) in list("containers").iter().flat_map(&amounts) {
        let sum = total.entry(name).or_default();
        *sum = sum.plus(amount);
    }
    let mut sidecars: std::collections::BTreeMap<String, Quantity> = Default::default();
    let mut peak: std::collections::BTreeMap<String, Quantity> = Default::default();
    for container in list("initContainers") {
        let sidecar = container["restartPolicy"] == "Always";
        for (name, amount) in amounts(&container) {
            let running = sidecars.get(&name).copied().unwrap_or_default();
            let moment = running.plus(amount);
            if sidecar {
                sidecars.insert(name.clone(), moment);
                let sum = total.entry(name.clone()).or_default();
                *sum = sum.plus(amount);
            }
            let highest = peak.entry(name).or_default();
            *highest = (*highest).max(moment);
        }
    }
    for (name, amount) in peak {
        let sum = total.entry(name).or_default();
        *sum = (*sum).max(amount);
    }
    total.into_iter().map(|(name, amount)| (name, Value::String(amount.to_string()))).collect()
}

/// `Always` for images tagged `latest` or not at all.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, false), |(n, _)| (n, true));
    let last = name.rsplit('/').next().unwrap_or(name);
    let tag = last.split_once(':').map(|(_, tag)| tag);
    let legal = !last.is_empty() && !last.chars().any(|c| c.is_whitespace());
    let lower = last.split(':').next().is_some_and(|n| !n.chars().any(char::is_uppercase));
    match tag {
        Some("latest") if legal && lower => "Always",
        None if !digest && legal && lower => "Always",
        _ => "IfNotPresent",
    }
}

pub(super) fn container(map: &mut Fields) {
    let policy = pull_policy(text(map, "image"));
    put(map, "imagePullPolicy", policy);
}

pub(super) fn volume(map: &mut Fields) {
    if map.keys().all(|k| k == "name") {
        put(map, "emptyDir", json!({}));
    }
    if let Some(image) = map.get_mut("image").and_then(Value::as_object_mut) {
        let policy = pull_policy(text(image, "reference"));
        put(image, "pullPolicy", policy);
    }
}

pub(super) fn service(map: &mut Fields) {
    let Some(spec) = child(map, "spec") else { return };
    if text(spec, "sessionAffinity") == "ClientIP" {
        let timeout = spec.get("sessionAffinityConfig").and_then(|c| c.pointer("/clientIP/timeoutSeconds"));
        if timeout.is_none() {
            spec.insert("sessionAffinityConfig".to_string(), json!({"clientIP": {"timeoutSeconds": 10800}}));
        }
    } else if text(spec, "sessionAffinity") == "None" {
        spec.remove("sessionAffinityConfig");
    }
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten().filter_map(Value::as_object_mut) {
        if matches!(port.get("targetPort"), None | Some(Value::Null))
            || port["targetPort"] == 0
            || port["targetPort"] == ""
        {
            let number = port.get("port").cloned().unwrap_or_else(|| 0.into());
            port.insert("targetPort".to_string(), number);
        }
    }
    let kind = text(spec, "type").to_string();
    let external = kind == "NodePort"
        || kind == "LoadBalancer"
        || (kind == "ClusterIP" && !is_empty(spec.get("externalIPs")));
    if external {
        put(spec, "externalTrafficPolicy", "Cluster");
    }
    if ["NodePort", "LoadBalancer", "ClusterIP"].contains(&kind.as_str()) {
        put(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        put(spec, "allocateLoadBalancerNodePorts", true);
        let ingress = map.get_mut("status").and_then(|s| s.pointer_mut("/loadBalancer/ingress"));
        for point in
            ingress.and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
        {
            if !text(point, "ip").is_empty() {
                put(point, "ipMode", "VIP");
            }
        }
    }
}

pub(super) fn replication_controller(map: &mut Fields) {
    let labels = map.get("spec").and_then(|s| s.pointer("/template/metadata/labels")).cloned();
    let Some(labels) = labels.filter(|l| !is_empty(Some(l))) else { return };
    if let Some(spec) = child(map, "spec")
        && is_empty(spec.get("selector"))
    {
        spec.insert("selector".to_string(), labels.clone());
    }
    own_labels(map, labels);
}

/// An object without labels takes those of its template.
pub(super) fn own_labels(map: &mut Fields, labels: Value) {
    if let Some(metadata) = child(map, "metadata")
        && is_empty(metadata.get("labels"))
    {
        metadata.insert("labels".to_string(), labels);
    }
}

pub(super) fn node_status(map: &mut Fields) {
    if let Some(capacity) = map.get("capacity").cloned() {
        put(map, "allocatable", capacity);
    }
}

pub(super) fn namespace(map: &mut Fields) {
    let Some(metadata) = child(map, "metadata") else { return };
    let name = text(metadata, "name").to_string();
    if !name.is_empty()
        && let Some(labels) = child(metadata, "labels")
    {
        labels.insert("kubernetes.io/metadata.name".to_string(), Value::String(name));
    }
}

pub(super) fn limit_range_item(map: &mut Fields) {
    if text(map, "type") != "Container" {
        return;
    }
    let of = |map: &Fields, name: &str| map.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
    let (mut default, mut request) = (of(map, "default"), of(map, "defaultRequest"));
    for (name, amount) in of(map, "max") {
        put(&mut default, &name, amount);
    }
    for (name, amount) in default.clone().into_iter().chain(of(map, "min")) {
        put(&mut request, &name, amount);
    }
    for (name, amounts) in [("default", default), ("defaultRequest", request)] {
        if !amounts.is_empty() {
            map.insert(name.to_string(), Value::Object(amounts));
        }
    }
}
