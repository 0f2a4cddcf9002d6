//! Whether a node takes a pod that was bound to it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, Toleration};

use crate::resources;

/// Why a pod is refused: `status.reason` and `status.message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// Decides on `pod`, given the pods that are on the node already (not ended) and allocatable amounts in thousandths.
pub fn admit(
    pod: &Pod,
    others: &[&Pod],
    node: Option<&Node>,
    allocatable: &BTreeMap<String, i128>,
) -> Result<(), Refusal> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    if let Some(node) = node
        && !selected(pod, node)
    {
        return Err(Refusal {
            reason: "NodeAffinity".into(),
            message: "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
                .into(),
        });
    }
    fits(pod, others, allocatable)?;
    let mine = resources::host_ports(spec);
    let clash = others.iter().filter_map(|o| o.spec.as_ref()).flat_map(resources::host_ports).any(
        |(ip, proto, port)| {
            let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
            mine.iter().any(|m| m.1 == proto && m.2 == port && (m.0 == ip || any(&m.0) || any(&ip)))
        },
    );
    if clash {
        return Err(Refusal {
            reason: "NodePorts".into(),
            message: "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
                .into(),
        });
    }
    Ok(())
}

/// Kernel parameters that touch nobody else, by the namespace they belong to.
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// The namespace of a kernel parameter, if it has one.
fn sysctl_namespace(name: &str) -> Option<&'static str> {
    let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|p| name.starts_with(p));
    match () {
        () if ipc || name == "kernel.sem" => Some("IPC"),
        () if name.starts_with("net.") => Some("Net"),
        () => None,
    }
}

/// Refuses kernel parameters that are neither safe nor in `allowed`, a list of names and of beginnings with `*`.
pub fn sysctls(pod: &Pod, allowed: &[String]) -> Result<(), Refusal> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let security = spec.security_context.as_ref();
    for s in security.and_then(|s| s.sysctls.as_deref()).unwrap_or_default() {
        let name = s.name.replace('/', ".");
        let known = SAFE_SYSCTLS.contains(&name.as_str())
            || allowed.iter().any(|a| match a.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => *a == name,
            });
        let shared = match sysctl_namespace(&name) {
            Some("IPC") if spec.host_ipc == Some(true) => Some("IPC"),
            Some("Net") if spec.host_network == Some(true) => Some("Net"),
            _ => None,
        };
        let wrong = match (known, shared) {
            (false, _) => format!("\"{name}\" not allowlisted"),
            (true, Some(namespace)) => format!("\"{name}\" not allowed with host {namespace} enabled"),
            (true, None) => continue,
        };
        let message = format!("Pod was rejected: forbidden sysctl: {wrong}");
        return Err(Refusal { reason: "SysctlForbidden".into(), message });
    }
    Ok(())
}

/// Refuses every pod: the node shuts down.
pub fn shutting_down() -> Refusal {
    let message = "Pod was rejected as the node is shutting down.".into();
    Refusal { reason: "NodeShutdown".into(), message }
}

/// Refuses pods while the node is short of something: under memory pressure those that ask for nothing, otherwise
/// all but the critical ones.
pub fn pressed(pod: &Pod, conditions: &[&str]) -> Result<(), Refusal> {
    if conditions.is_empty() || crate::evict::critical(pod) {
        return Ok(());
    }
    if let (["MemoryPressure"], Some(spec)) = (conditions, &pod.spec) {
        let tolerates = |t: &Toleration| {
            let key =
                t.key.as_deref().is_none_or(|k| k.is_empty() || k == "node.kubernetes.io/memory-pressure");
            let effect = t.effect.as_deref().is_none_or(|e| e.is_empty() || e == "NoSchedule");
            let value =
                t.operator.as_deref() == Some("Exists") || t.value.as_deref().unwrap_or("").is_empty();
            key && effect && value
        };
        if resources::qos(spec) != "BestEffort" || spec.tolerations.iter().flatten().any(tolerates) {
            return Ok(());
        }
    }
    let message = format!("Pod was rejected: The node had condition: [{}]. ", conditions.join(" "));
    Err(Refusal { reason: "Evicted".into(), message })
}

/// Whether the node has room for what `pod` asks by now; why not, as a resize says it.
pub fn resized(pod: &Pod, others: &[&Pod], allocatable: &BTreeMap<String, i128>) -> Result<(), String> {
    let refused = fits(pod, others, allocatable);
    refused.map_err(|r| r.message.trim_start_matches("Pod was rejected: ").to_owned())
}

fn fits(pod: &Pod, others: &[&Pod], allocatable: &BTreeMap<String, i128>) -> Result<(), Refusal> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let refuse = |what: &str, requested: i128, used: i128, capacity: i128| Refusal {
        reason: format!("OutOf{what}"),
        message: format!(
            "Pod was rejected: Node didn't have enough resource: {what}, requested: {requested}, used: {used}, capacity: {capacity}"
        ),
    };
    let pods = allocatable.get("pods").copied().unwrap_or(110_000) / 1000;
    let count = i128::try_from(others.len()).unwrap_or(i128::MAX);
    if count + 1 > pods {
        return Err(refuse("pods", 1, count, pods));
    }
    let mut used: BTreeMap<String, i128> = BTreeMap::new();
    for o in others.iter().filter_map(|o| o.spec.as_ref()) {
        for (k, v) in resources::requests(o) {
            *used.entry(k).or_default() += v;
        }
    }
    // What somebody else counts for this node is that one's to count.
    let foreign = |name: &str| name.contains('/') && !allocatable.contains_key(name);
    for (name, wanted) in resources::requests(spec).into_iter().filter(|(n, v)| *v > 0 && !foreign(n)) {
        let have = allocatable.get(&name).copied().unwrap_or(0);
        let taken = used.get(&name).copied().unwrap_or(0);
        if taken + wanted > have {
            let unit = if name == "cpu" { 1 } else { 1000 };
            return Err(refuse(&name, wanted / unit, taken / unit, have / unit));
        }
    }
    Ok(())
}

/// Whether nodeSelector and required node affinity hold.
pub fn selected(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let plain = spec.node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    plain && required.is_none_or(|r| r.node_selector_terms.iter().any(|t| term(t, node, labels)))
}

fn term(term: &NodeSelectorTerm, node: &Node, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let field = |r: &NodeSelectorRequirement| {
        let value = if r.key == "metadata.name" { node.metadata.name.as_deref() } else { None };
        requirement(r, value)
    };
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|r| requirement(r, labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(field)
}

fn requirement(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = r.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|x| x == v));
    let compare = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match r.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare().is_some_and(|(a, b)| a > b),
        "Lt" => compare().is_some_and(|(a, b)| a < b),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_of_the_kernel() {
        let pod = |name: &str, host: bool| -> Pod {
            serde_json::from_value(json!({"spec": {"containers": [], "hostNetwork": host, "hostIPC": host,
                "securityContext": {"sysctls": [{"name": name, "value": "1"}]}}}))
            .expect("a pod")
        };
        let allowed = ["kernel.msg*".to_string(), "net.core.somaxconn".to_string()];
        let check = |name: &str, host| sysctls(&pod(name, host), &allowed).map_err(|r| r.message);
        let refused = |text: &str| Err(format!("Pod was rejected: forbidden sysctl: {text}"));
        assert_eq!(check("kernel.shm_rmid_forced", false), Ok(()));
        assert_eq!(check("net/ipv4/tcp_syncookies", false), Ok(()));
        assert_eq!(check("kernel.msgmax", false), Ok(()));
        assert_eq!(check("kernel.sem", false), refused("\"kernel.sem\" not allowlisted"));
        assert_eq!(
            check("net.core.somaxconn", true),
            refused("\"net.core.somaxconn\" not allowed with host Net enabled")
        );
    }

    #[test]
    fn pressure_refuses() {
        let pod = |text: serde_json::Value| -> Pod {
            serde_json::from_value(json!({ "spec": text })).expect("a pod")
        };
        let plain = pod(json!({"containers": [{"name": "c"}]}));
        let asking = pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}));
        let critical = pod(json!({"containers": [], "priority": 2_000_000_000}));
        let memory = &["MemoryPressure"];
        assert_eq!(pressed(&plain, &[]), Ok(()));
        assert_eq!(
            pressed(&plain, memory).map_err(|r| r.message),
            Err("Pod was rejected: The node had condition: [MemoryPressure]. ".into())
        );
        assert_eq!(pressed(&asking, memory), Ok(()));
        assert!(pressed(&asking, &["DiskPressure"]).is_err());
        assert_eq!(pressed(&critical, &["DiskPressure"]), Ok(()));
    }

    #[test]
    fn what_others_count_does_not_refuse_a_pod() {
        let pod = |amounts: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"spec": {"containers": [
                {"name": "c", "resources": {"requests": amounts}}]}}))
            .expect("a pod")
        };
        let allocatable = BTreeMap::from([("cpu".to_string(), 1000), ("own.example/gpu".to_string(), 1000)]);
        let admit = |amounts| admit(&pod(amounts), &[], None, &allocatable).map_err(|refusal| refusal.reason);
        assert_eq!(admit(json!({"cpu": "1", "else.example/foo": "5"})), Ok(()));
        assert_eq!(admit(json!({"own.example/gpu": "2"})), Err("OutOfown.example/gpu".to_string()));
        assert_eq!(admit(json!({"cpu": "2"})), Err("OutOfcpu".to_string()));
    }
}
