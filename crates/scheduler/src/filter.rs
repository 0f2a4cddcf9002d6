//! Filters: whether a node can take a pod, and if not, why in upstream's words.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;

use crate::affinity::{node_suits, tolerates, untolerated};
use crate::info::{HostPort, PodInfo};
use crate::snapshot::NodeInfo;

/// Every reason why the node cannot take the pod on its own account; empty when it can. As upstream, the first
/// filter that refuses speaks alone.
pub fn reasons(pod: &PodInfo, node: &NodeInfo) -> Vec<String> {
    let spec = pod.spec();
    if is_unschedulable(pod, node) {
        return one("node(s) were unschedulable");
    }
    if spec.node_name.as_ref().is_some_and(|n| !n.is_empty() && n != node.name()) {
        return one("node(s) didn't match the requested node name");
    }
    if untolerated(spec, node, &["NoSchedule", "NoExecute"]).next().is_some() {
        return one("node(s) had untolerated taint(s)");
    }
    if !node_suits(spec, node) {
        return one("node(s) didn't match Pod's node affinity/selector");
    }
    if ports_conflict(&pod.ports, node) {
        return one("node(s) didn't have free ports for the requested pod ports");
    }
    let short = insufficient(pod, node);
    if !short.is_empty() {
        return short;
    }
    pod.volumes.as_ref().and_then(|v| v.reason(node)).map(one).unwrap_or_default()
}

/// Whether the node has no reason of its own against the pod, volumes aside.
pub fn fits_node(pod: &PodInfo, node: &NodeInfo) -> bool {
    let spec = pod.spec();
    let named = spec.node_name.as_deref().filter(|n| !n.is_empty());
    has_room(pod, node)
        && named.is_none_or(|n| n == node.name())
        && !is_unschedulable(pod, node)
        && untolerated(spec, node, &["NoSchedule", "NoExecute"]).next().is_none()
        && node_suits(spec, node)
        && !ports_conflict(&pod.ports, node)
}

fn has_room(pod: &PodInfo, node: &NodeInfo) -> bool {
    let (want, have, used) = (&pod.requested, &node.allocatable, &node.requested);
    let fits = |want: i64, have: i64, used: i64| want <= 0 || want <= have - used;
    let of = |list: &BTreeMap<String, i64>, name: &str| list.get(name).copied().unwrap_or(0);
    used.pods < have.pods
        && fits(want.cpu_milli, have.cpu_milli, used.cpu_milli)
        && fits(want.memory, have.memory, used.memory)
        && fits(want.storage, have.storage, used.storage)
        && want.others.iter().all(|(n, want)| fits(*want, of(&have.others, n), of(&used.others, n)))
}

fn one(reason: &str) -> Vec<String> {
    vec![reason.to_owned()]
}

fn is_unschedulable(pod: &PodInfo, node: &NodeInfo) -> bool {
    let cordoned =
        node.node.as_ref().and_then(|n| n.spec.as_ref()).and_then(|s| s.unschedulable) == Some(true);
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    };
    cordoned && !pod.spec().tolerations.iter().flatten().any(|t| tolerates(t, &taint))
}

fn ports_conflict(wanted: &[HostPort], node: &NodeInfo) -> bool {
    const ANY: &str = "0.0.0.0";
    let clash =
        |a: &HostPort, b: &HostPort| a.0 == b.0 && a.2 == b.2 && (a.1 == b.1 || a.1 == ANY || b.1 == ANY);
    !wanted.is_empty()
        && node.pods.values().flat_map(|p| &p.ports).any(|taken| wanted.iter().any(|w| clash(w, taken)))
}

/// Every resource of which the node has too little left.
fn insufficient(pod: &PodInfo, node: &NodeInfo) -> Vec<String> {
    let (want, have, used) = (&pod.requested, &node.allocatable, &node.requested);
    let mut short = Vec::new();
    if used.pods + 1 > have.pods {
        short.push("Too many pods".to_owned());
    }
    let basic = [
        ("cpu", want.cpu_milli, have.cpu_milli - used.cpu_milli),
        ("memory", want.memory, have.memory - used.memory),
        ("ephemeral-storage", want.storage, have.storage - used.storage),
    ];
    short.extend(
        basic
            .iter()
            .filter(|(_, want, left)| *want > 0 && want > left)
            .map(|(n, ..)| format!("Insufficient {n}")),
    );
    for (name, amount) in want.others.iter().filter(|(_, a)| **a > 0) {
        let left = have.others.get(name).unwrap_or(&0) - used.others.get(name).unwrap_or(&0);
        if *amount > left {
            short.push(format!("Insufficient {name}"));
        }
    }
    short
}
