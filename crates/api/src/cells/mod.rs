//! What the columns of built-in kinds show in a Table, as upstream's printers compute it. Pure: the time is given.
//!
//! Columns that need no computing are a path in [`PATHS`]; what has no value shows `<none>`.

use base::time::unix_seconds;
use serde_json::{Value, json};

mod conditions;
mod pod;

const NONE: &str = "<none>";

/// Columns whose cell is the value at a path; missing numbers show 0.
const PATHS: &[(&str, &str, &str)] = &[
    ("*", "Name", "metadata.name"),
    ("Namespace", "Status", "status.phase"),
    ("Node", "Version", "status.nodeInfo.kubeletVersion"),
    ("Node", "OS-Image", "status.nodeInfo.osImage"),
    ("Node", "Kernel-Version", "status.nodeInfo.kernelVersion"),
    ("Node", "Container-Runtime", "status.nodeInfo.containerRuntimeVersion"),
    ("PersistentVolumeClaim", "Volume", "spec.volumeName"),
    ("PersistentVolumeClaim", "StorageClass", "spec.storageClassName"),
    ("PersistentVolumeClaim", "VolumeMode", "spec.volumeMode"),
    ("PersistentVolumeClaim", "Capacity", "status.capacity.storage"),
    ("PersistentVolume", "Capacity", "spec.capacity.storage"),
    ("PersistentVolume", "Reclaim Policy", "spec.persistentVolumeReclaimPolicy"),
    ("PersistentVolume", "StorageClass", "spec.storageClassName"),
    ("PersistentVolume", "Reason", "status.reason"),
    ("PersistentVolume", "VolumeMode", "spec.volumeMode"),
    ("Pod", "IP", "status.podIP"),
    ("Pod", "Node", "spec.nodeName"),
    ("Pod", "Nominated Node", "status.nominatedNodeName"),
    ("ReplicationController", "Desired", "spec.replicas"),
    ("ReplicationController", "Current", "status.replicas"),
    ("ReplicationController", "Ready", "status.readyReplicas"),
    ("Secret", "Type", "type"),
    ("Service", "Type", "spec.type"),
    ("Service", "Cluster-IP", "spec.clusterIP"),
    ("ControllerRevision", "Revision", "revision"),
    ("DaemonSet", "Desired", "status.desiredNumberScheduled"),
    ("DaemonSet", "Current", "status.currentNumberScheduled"),
    ("DaemonSet", "Ready", "status.numberReady"),
    ("DaemonSet", "Up-to-date", "status.updatedNumberScheduled"),
    ("DaemonSet", "Available", "status.numberAvailable"),
    ("Deployment", "Up-to-date", "status.updatedReplicas"),
    ("Deployment", "Available", "status.availableReplicas"),
    ("ReplicaSet", "Desired", "spec.replicas"),
    ("ReplicaSet", "Current", "status.replicas"),
    ("ReplicaSet", "Ready", "status.readyReplicas"),
    ("Event", "Type", "type"),
    ("Event", "Reason", "reason"),
    ("Event", "Message", "message"),
    ("Event", "Count", "count"),
    ("Event", "Subobject", "involvedObject.fieldPath"),
    ("HorizontalPodAutoscaler", "MinPods", "spec.minReplicas"),
    ("HorizontalPodAutoscaler", "MaxPods", "spec.maxReplicas"),
    ("HorizontalPodAutoscaler", "Replicas", "status.currentReplicas"),
    ("CronJob", "Schedule", "spec.schedule"),
    ("CronJob", "Timezone", "spec.timeZone"),
    ("CronJob", "Suspend", "spec.suspend"),
    ("CertificateSigningRequest", "SignerName", "spec.signerName"),
    ("CertificateSigningRequest", "Requestor", "spec.username"),
    ("IngressClass", "Controller", "spec.controller"),
    ("Ingress", "Class", "spec.ingressClassName"),
    ("PodDisruptionBudget", "Allowed Disruptions", "status.disruptionsAllowed"),
    ("CSIDriver", "AttachRequired", "spec.attachRequired"),
    ("CSIDriver", "PodInfoOnMount", "spec.podInfoOnMount"),
    ("CSIDriver", "StorageCapacity", "spec.storageCapacity"),
    ("StorageClass", "Provisioner", "provisioner"),
    ("StorageClass", "ReclaimPolicy", "reclaimPolicy"),
    ("StorageClass", "VolumeBindingMode", "volumeBindingMode"),
    ("StorageClass", "AllowVolumeExpansion", "allowVolumeExpansion"),
    ("PriorityClass", "Value", "value"),
    ("PriorityClass", "Global-Default", "globalDefault"),
    ("PriorityClass", "PreemptionPolicy", "preemptionPolicy"),
    ("CustomResourceDefinition", "Created At", "metadata.creationTimestamp"),
    ("Lease", "Holder", "spec.holderIdentity"),
    ("RuntimeClass", "Handler", "handler"),
    ("EndpointSlice", "AddressType", "addressType"),
    ("ResourceSlice", "Node", "spec.nodeName"),
    ("ResourceSlice", "Driver", "spec.driver"),
    ("FlowSchema", "PriorityLevel", "spec.priorityLevelConfiguration.name"),
    ("FlowSchema", "MatchingPrecedence", "spec.matchingPrecedence"),
    ("PriorityLevelConfiguration", "Type", "spec.type"),
];

/// The cell of a column of a built-in kind. `now` is in seconds since 1970; `ty` is the column's type.
pub fn cell(kind: &str, column: &str, ty: &str, object: &Value, now: i64) -> Value {
    if column == "Age" {
        return json!(since(text(object, "metadata.creationTimestamp"), now));
    }
    let path = PATHS.iter().find(|(k, c, _)| (*k == kind || *k == "*") && *c == column);
    if let Some((_, _, path)) = path {
        return plain(at(object, path), ty, kind);
    }
    computed(kind, column, object, now).unwrap_or_else(|| json!(NONE))
}

fn plain(found: Option<&Value>, ty: &str, kind: &str) -> Value {
    match (found, ty) {
        (Some(Value::String(text)), _) if !text.is_empty() => json!(text),
        (Some(value @ (Value::Number(_) | Value::Bool(_))), "integer" | "boolean") => value.clone(),
        (Some(value @ (Value::Number(_) | Value::Bool(_))), _) => json!(value.to_string()),
        (_, "integer") => json!(0),
        (_, "boolean") => json!(false),
        _ if matches!(kind, "Deployment") => json!("0"),
        _ if matches!(kind, "PersistentVolumeClaim" | "PersistentVolume" | "Event" | "StorageClass") => {
            json!("")
        }
        _ => json!(NONE),
    }
}

fn computed(kind: &str, column: &str, object: &Value, now: i64) -> Option<Value> {
    let value = match (kind, column) {
        ("Pod", _) => return pod::cell(column, object, now),
        ("ConfigMap", "Data") => json!((size(object, "data") + size(object, "binaryData")).to_string()),
        ("Secret", "Data") => json!(size(object, "data").to_string()),
        ("Deployment", "Ready") | ("StatefulSet", "Ready") => {
            let ready = number(object, "status.readyReplicas");
            json!(format!("{ready}/{}", at(object, "spec.replicas").and_then(Value::as_i64).unwrap_or(0)))
        }
        (_, "Containers") => json!(join(&containers(object), "name")),
        (_, "Images") => json!(join(&containers(object), "image")),
        ("Service", "Selector") => json!(labels(at(object, "spec.selector"))),
        (_, "Selector") => json!(selector(at(object, "spec.selector"))),
        ("DaemonSet", "Node Selector") => json!(labels(at(object, "spec.template.spec.nodeSelector"))),
        ("NetworkPolicy", "Pod-Selector") => json!(selector(at(object, "spec.podSelector"))),
        ("Node", "Status") => json!(node_status(object)),
        ("Node", "Roles") => json!(node_roles(object)),
        ("Node", "Internal-IP") => json!(node_address(object, "InternalIP")),
        ("Node", "External-IP") => json!(node_address(object, "ExternalIP")),
        ("Service", "External-IP") => json!(external_ip(object)),
        ("Service", "Port(s)") => json!(service_ports(object)),
        ("Endpoints", "Endpoints") => json!(endpoints(object)),
        ("EndpointSlice", "Ports") => json!(slice_ports(object)),
        ("EndpointSlice", "Endpoints") => json!(slice_endpoints(object)),
        ("Event", "Last Seen") => json!(since(last_seen(object), now)),
        ("Event", "First Seen") => {
            json!(since(text(object, "firstTimestamp").or(text(object, "eventTime")), now))
        }
        ("Event", "Object") => {
            let kind = text(object, "involvedObject.kind").unwrap_or_default().to_lowercase();
            json!(format!("{kind}/{}", text(object, "involvedObject.name").unwrap_or_default()))
        }
        ("Event", "Source") => {
            let component =
                text(object, "source.component").or(text(object, "reportingComponent")).unwrap_or_default();
            let host = text(object, "source.host").filter(|h| !h.is_empty());
            json!(host.map_or_else(|| component.to_owned(), |h| format!("{component}, {h}")))
        }
        ("Job", "Status") => json!(job_status(object)),
        ("Job", "Completions") => {
            let wanted =
                at(object, "spec.completions").or(at(object, "spec.parallelism")).and_then(Value::as_i64);
            json!(format!("{}/{}", number(object, "status.succeeded"), wanted.unwrap_or(1)))
        }
        ("Job", "Duration") => {
            let start = text(object, "status.startTime").and_then(unix_seconds)?;
            let end = text(object, "status.completionTime").and_then(unix_seconds).unwrap_or(now);
            json!(age(end - start))
        }
        ("CronJob", "Active") => json!(items(object, "status.active").len()),
        ("CronJob", "Last Schedule") => match text(object, "status.lastScheduleTime") {
            Some(time) => json!(since(Some(time), now)),
            None => return None,
        },
        ("PersistentVolumeClaim" | "PersistentVolume", "Status") => {
            let deleted = text(object, "metadata.deletionTimestamp").is_some();
            json!(if deleted { "Terminating" } else { text(object, "status.phase").unwrap_or_default() })
        }
        ("PersistentVolumeClaim", "Access Modes") => json!(access_modes(object, "status.accessModes")),
        ("PersistentVolume", "Access Modes") => json!(access_modes(object, "spec.accessModes")),
        ("PersistentVolume", "Claim") => {
            let name = text(object, "spec.claimRef.name")?;
            json!(format!("{}/{name}", text(object, "spec.claimRef.namespace").unwrap_or_default()))
        }
        (_, "VolumeAttributesClass") => json!("<unset>"),
        ("Ingress", "Hosts") => {
            let hosts: Vec<&str> =
                items(object, "spec.rules").iter().filter_map(|r| text(r, "host")).collect();
            json!(if hosts.is_empty() { "*".to_owned() } else { hosts.join(",") })
        }
        ("Ingress", "Address") => json!(ingress_addresses(object)),
        ("Ingress", "Ports") => json!(if items(object, "spec.tls").is_empty() { "80" } else { "80, 443" }),
        ("RoleBinding" | "ClusterRoleBinding", "Role") => {
            let kind = text(object, "roleRef.kind").unwrap_or_default();
            json!(format!("{kind}/{}", text(object, "roleRef.name").unwrap_or_default()))
        }
        ("RoleBinding" | "ClusterRoleBinding", "Users") => json!(subjects(object, "User")),
        ("RoleBinding" | "ClusterRoleBinding", "Groups") => json!(subjects(object, "Group")),
        ("RoleBinding" | "ClusterRoleBinding", "ServiceAccounts") => {
            json!(subjects(object, "ServiceAccount"))
        }
        ("HorizontalPodAutoscaler", "Reference") => {
            let kind = text(object, "spec.scaleTargetRef.kind").unwrap_or_default();
            json!(format!("{kind}/{}", text(object, "spec.scaleTargetRef.name").unwrap_or_default()))
        }
        ("HorizontalPodAutoscaler", "Targets") => json!(hpa_targets(object)),
        ("PodDisruptionBudget", "Min Available") => json!(or_na(at(object, "spec.minAvailable"))),
        ("PodDisruptionBudget", "Max Unavailable") => json!(or_na(at(object, "spec.maxUnavailable"))),
        ("ComponentStatus", column) => json!(conditions::component(object, column)?),
        ("CertificateSigningRequest", "Condition") => json!(conditions::request(object)),
        ("CertificateSigningRequest", "RequestedDuration") => {
            json!(age(at(object, "spec.expirationSeconds").and_then(Value::as_i64)?))
        }
        (_, "Webhooks") => json!(items(object, "webhooks").len()),
        (_, "Validations") => json!(items(object, "spec.validations").len()),
        (_, "Mutations") => json!(items(object, "spec.mutations").len()),
        ("ServiceCIDR", "CIDRs") => json!(strings(object, "spec.cidrs").join(",")),
        ("IPAddress", "ParentRef") => {
            let part =
                |name: &str| text(object, &format!("spec.parentRef.{name}")).unwrap_or_default().to_owned();
            json!(format!("{}/{}/{}", part("resource"), part("namespace"), part("name")))
        }
        ("APIService", "Service") => match text(object, "spec.service.name") {
            Some(name) => {
                json!(format!("{}/{name}", text(object, "spec.service.namespace").unwrap_or_default()))
            }
            None => json!("Local"),
        },
        ("APIService", "Available") => json!(condition(object, "Available").unwrap_or("Unknown")),
        ("ControllerRevision", "Controller") => {
            let owner = items(object, "metadata.ownerReferences").first()?;
            let mut kind = text(owner, "kind").unwrap_or_default().to_lowercase();
            if let Some((group, _)) = text(owner, "apiVersion").unwrap_or_default().split_once('/') {
                kind = format!("{kind}.{group}");
            }
            json!(format!("{kind}/{}", text(owner, "name").unwrap_or_default()))
        }
        _ => return None,
    };
    Some(value)
}

/// A span of time as people read it: two units while the larger is small.
pub fn age(seconds: i64) -> String {
    let (minute, hour, day, year) = (60, 3600, 86_400, 31_536_000);
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small}{small_unit}"),
    };
    match seconds {
        i64::MIN..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(seconds / minute, "m", seconds % minute, "s"),
        600..10_800 => format!("{}m", seconds / minute),
        10_800..28_800 => two(seconds / hour, "h", seconds % hour / minute, "m"),
        28_800..172_800 => format!("{}h", seconds / hour),
        172_800..691_200 => two(seconds / day, "d", seconds % day / hour, "h"),
        691_200..63_072_000 => format!("{}d", seconds / day),
        63_072_000..252_288_000 => two(seconds / year, "y", seconds % year / day, "d"),
        _ => format!("{}y", seconds / year),
    }
}

fn since(time: Option<&str>, now: i64) -> String {
    time.and_then(unix_seconds).map_or_else(|| "<unknown>".to_owned(), |then| age(now - then))
}

fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(object, |here, name| here.get(name)).filter(|v| !v.is_null())
}

fn text<'a>(object: &'a Value, path: &str) -> Option<&'a str> {
    at(object, path)?.as_str()
}

fn number(object: &Value, path: &str) -> i64 {
    at(object, path).and_then(Value::as_i64).unwrap_or(0)
}

fn items<'a>(object: &'a Value, path: &str) -> &'a [Value] {
    at(object, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn strings<'a>(object: &'a Value, path: &str) -> Vec<&'a str> {
    items(object, path).iter().filter_map(Value::as_str).collect()
}

fn size(object: &Value, path: &str) -> usize {
    at(object, path).and_then(Value::as_object).map_or(0, serde_json::Map::len)
}

fn containers(object: &Value) -> Vec<&Value> {
    let paths = [
        "spec.template.spec.containers",
        "spec.jobTemplate.spec.template.spec.containers",
        "template.spec.containers",
    ];
    paths.iter().flat_map(|path| items(object, path)).collect()
}

fn join(list: &[&Value], name: &str) -> String {
    let parts: Vec<&str> = list.iter().filter_map(|item| text(item, name)).collect();
    parts.join(",")
}

fn labels(map: Option<&Value>) -> String {
    let pair = |(key, value): (&String, &Value)| format!("{key}={}", value.as_str().unwrap_or_default());
    let pairs: Vec<String> = map.and_then(Value::as_object).into_iter().flatten().map(pair).collect();
    if pairs.is_empty() { NONE.to_owned() } else { pairs.join(",") }
}

fn selector(selector: Option<&Value>) -> String {
    let Some(selector) = selector else { return NONE.to_owned() };
    if selector.get("matchLabels").is_none() && selector.get("matchExpressions").is_none() {
        return labels(Some(selector));
    }
    let mut parts = Vec::new();
    let by_label = labels(selector.get("matchLabels"));
    if by_label != NONE {
        parts.push(by_label);
    }
    for expression in items(selector, "matchExpressions") {
        let key = text(expression, "key").unwrap_or_default();
        let values = strings(expression, "values").join(",");
        parts.push(match text(expression, "operator").unwrap_or_default() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    if parts.is_empty() { NONE.to_owned() } else { parts.join(",") }
}

fn condition<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    let found = items(object, "status.conditions").iter().find(|c| text(c, "type") == Some(name))?;
    text(found, "status")
}

fn node_status(node: &Value) -> String {
    let mut status = match condition(node, "Ready") {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if at(node, "spec.unschedulable").and_then(Value::as_bool) == Some(true) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_roles(node: &Value) -> String {
    let map = at(node, "metadata.labels").and_then(Value::as_object);
    let role = |(key, value): (&String, &Value)| match key.strip_prefix("node-role.kubernetes.io/") {
        Some(role) if !role.is_empty() => Some(role.to_owned()),
        _ if key == "kubernetes.io/role" => value.as_str().map(str::to_owned),
        _ => None,
    };
    let roles: Vec<String> = map.into_iter().flatten().filter_map(role).collect();
    if roles.is_empty() { NONE.to_owned() } else { roles.join(",") }
}

fn node_address<'a>(node: &'a Value, kind: &str) -> &'a str {
    let found = items(node, "status.addresses").iter().find(|a| text(a, "type") == Some(kind));
    found.and_then(|a| text(a, "address")).unwrap_or(NONE)
}

fn ingress_addresses(object: &Value) -> String {
    let address = |point: &Value| text(point, "ip").or(text(point, "hostname")).map(str::to_owned);
    let found: Vec<String> =
        items(object, "status.loadBalancer.ingress").iter().filter_map(address).collect();
    found.join(",")
}

fn external_ip(service: &Value) -> String {
    let external = strings(service, "spec.externalIPs").join(",");
    match text(service, "spec.type").unwrap_or("ClusterIP") {
        "LoadBalancer" => {
            let balanced = ingress_addresses(service);
            let all: Vec<String> = [balanced, external].into_iter().filter(|p| !p.is_empty()).collect();
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => text(service, "spec.externalName").unwrap_or_default().to_owned(),
        _ if external.is_empty() => NONE.to_owned(),
        _ => external,
    }
}

fn service_ports(service: &Value) -> String {
    let port = |p: &Value| {
        let node_port = number(p, "nodePort");
        let middle = if node_port > 0 { format!(":{node_port}") } else { String::new() };
        format!("{}{middle}/{}", number(p, "port"), text(p, "protocol").unwrap_or("TCP"))
    };
    let ports: Vec<String> = items(service, "spec.ports").iter().map(port).collect();
    if ports.is_empty() { NONE.to_owned() } else { ports.join(",") }
}

/// The first three, and how many more there are.
fn first_three(all: &[String]) -> String {
    match all.len() {
        0 => NONE.to_owned(),
        1..=3 => all.join(","),
        more => format!("{} + {} more...", all[..3].join(","), more - 3),
    }
}

fn endpoints(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in items(object, "subsets") {
        for port in items(subset, "ports") {
            for address in items(subset, "addresses") {
                all.push(format!("{}:{}", text(address, "ip").unwrap_or_default(), number(port, "port")));
            }
        }
    }
    first_three(&all)
}

fn slice_ports(object: &Value) -> String {
    let ports: Vec<String> = items(object, "ports").iter().map(|p| number(p, "port").to_string()).collect();
    if ports.is_empty() { "<unset>".to_owned() } else { first_three(&ports) }
}

fn slice_endpoints(object: &Value) -> String {
    let addresses = items(object, "endpoints").iter().flat_map(|e| strings(e, "addresses"));
    let all: Vec<String> = addresses.map(str::to_owned).collect();
    if all.is_empty() { "<unset>".to_owned() } else { first_three(&all) }
}

fn last_seen(event: &Value) -> Option<&str> {
    ["series.lastObservedTime", "lastTimestamp", "eventTime", "firstTimestamp"]
        .iter()
        .find_map(|p| text(event, p))
}

fn job_status(job: &Value) -> &'static str {
    let holds = |name| condition(job, name) == Some("True");
    match () {
        () if holds("Complete") => "Complete",
        () if holds("Failed") => "Failed",
        () if text(job, "metadata.deletionTimestamp").is_some() => "Terminating",
        () if holds("Suspended") => "Suspended",
        () if holds("FailureTarget") => "FailureTarget",
        () if holds("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn access_modes(object: &Value, path: &str) -> String {
    let short = |mode: &str| match mode {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        _ => "",
    };
    strings(object, path).into_iter().map(short).collect::<Vec<_>>().join(",")
}

fn subjects(object: &Value, kind: &str) -> String {
    let of_kind = items(object, "subjects").iter().filter(|s| text(s, "kind") == Some(kind));
    let name = |subject: &Value| match text(subject, "namespace") {
        Some(namespace) if kind == "ServiceAccount" => {
            format!("{namespace}/{}", text(subject, "name").unwrap_or_default())
        }
        _ => text(subject, "name").unwrap_or_default().to_owned(),
    };
    of_kind.map(name).collect::<Vec<_>>().join(", ")
}

fn hpa_targets(hpa: &Value) -> String {
    let current = items(hpa, "status.currentMetrics");
    let show = |(index, metric): (usize, &Value)| {
        let name = text(metric, "resource.name").unwrap_or_default();
        let target = number(metric, "resource.target.averageUtilization");
        let now = current.get(index).and_then(|c| at(c, "resource.current.averageUtilization"));
        let now = now.map_or_else(|| "<unknown>".to_owned(), |v| format!("{v}%"));
        format!("{name}: {now}/{target}%")
    };
    let all: Vec<String> = items(hpa, "spec.metrics").iter().enumerate().map(show).collect();
    if all.is_empty() { NONE.to_owned() } else { all.join(", ") }
}

fn or_na(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "N/A".to_owned(),
    }
}
