//! Nodes that are not heard of, and the taints that say how a node is.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{Action, Note, Plan, pod};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that taint a node while they are true.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
/// Conditions that the kubelet keeps, and that become unknown with it.
const KEPT: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// From this share of unhealthy nodes on, the trouble is taken to be elsewhere.
const UNHEALTHY_SHARE: f64 = 0.55;
/// Smaller zones then evict nothing at all.
const LARGE_ZONE: usize = 50;
/// Nodes of a zone are given up this far apart; in large zones with much unhealthy more slowly.
const APART: SignedDuration = SignedDuration::from_secs(10);
const APART_UNHEALTHY: SignedDuration = SignedDuration::from_secs(100);

/// How many nodes of the node's zone, and of all zones, there are and are not ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Nodes in the zone.
    pub zone: usize,
    /// Of these, not ready.
    pub zone_unready: usize,
    /// Nodes in all zones.
    pub all: usize,
    /// Of these, not ready.
    pub all_unready: usize,
    /// When another node of the zone was last given up.
    pub last: Option<Timestamp>,
}

/// What the planner is told.
pub struct View<'a> {
    /// The node.
    pub node: &'a Node,
    /// The pods on it.
    pub pods: Vec<&'a Pod>,
    /// When its lease or status was last seen to be renewed, by our own clock.
    pub heard: Timestamp,
    /// How long a node may be silent.
    pub grace: SignedDuration,
    /// Whether this controller sees it for the first time.
    pub new: bool,
    /// How its neighbours are.
    pub health: Health,
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == kind)
}

/// The status of the node's `Ready`: `True`, `False` or `Unknown`.
#[must_use]
pub fn readiness(node: &Node) -> &str {
    condition(node, "Ready").map_or("Unknown", |c| c.status.as_str())
}

/// Marks a silent node, keeps its taints, and marks its pods not ready while it is not.
#[must_use]
pub fn plan(view: &View<'_>, now: Timestamp) -> Plan {
    let node = view.node;
    let mut plan = Plan::default();
    if view.new {
        let name = pod::name(node);
        let text = format!("Node {name} event: Registered Node {name} in Controller");
        plan.actions.push(Action::event(node, Note::normal("RegisteredNode", text)));
    }
    let deadline = view.heard + view.grace;
    if deadline <= now && (readiness(node) != "Unknown" || condition(node, "Ready").is_none()) {
        plan.because("the node has not been heard of");
        let text = format!("Node {} status is now: NodeNotReady", pod::name(node));
        plan.actions.extend(silence(node, now));
        plan.actions.push(Action::event(node, Note::normal("NodeNotReady", text)));
        return plan;
    }
    if deadline > now {
        plan.wake = plan.wake.or_at(Some(deadline));
    }
    let evicts = match next_eviction(view, now) {
        Some(at) if at > now => {
            plan.wake = plan.wake.or_at(Some(at));
            false
        }
        next => next.is_some(),
    };
    plan.actions.extend(taint(view, evicts, now));
    if readiness(node) != "True" && !pod::is_deleting(node) {
        plan.actions.extend(view.pods.iter().flat_map(|p| mark_not_ready(p, now)));
    }
    plan.because(format!("the node's readiness is {}", readiness(node)));
    plan
}

/// Makes unknown what the kubelet no longer tells.
fn silence(node: &Node, now: Timestamp) -> Option<Action> {
    let mut new = node.clone();
    let conditions = new.status.get_or_insert_default().conditions.get_or_insert_default();
    for kind in KEPT {
        match conditions.iter_mut().find(|c| c.type_ == kind) {
            Some(known) if known.status == "Unknown" => {}
            Some(known) => {
                "Unknown".clone_into(&mut known.status);
                known.reason = Some("NodeStatusUnknown".to_owned());
                known.message = Some("Kubelet stopped posting node status.".to_owned());
                known.last_transition_time = Some(Time(now));
            }
            None => conditions.push(NodeCondition {
                type_: kind.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(Time(now)),
            }),
        }
    }
    Action::patch_status(node, &new)
}

/// Keeps the taints that stand for conditions; others are left alone.
fn taint(view: &View<'_>, evicts: bool, now: Timestamp) -> Option<Action> {
    let node = view.node;
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    let ready = readiness(node);
    let by_readiness = match ready {
        "True" => None,
        "False" => Some(NOT_READY),
        _ => Some(UNREACHABLE),
    };
    wanted.extend(by_readiness.map(|key| (key, "NoSchedule")));
    let has = |key: &str, effect: &str| {
        let taints = node.spec.as_ref().and_then(|s| s.taints.as_ref());
        taints.into_iter().flatten().any(|t| t.key == key && t.effect == effect)
    };
    let given_up =
        given_up_at(node).is_some() || has(NOT_READY, "NoExecute") || has(UNREACHABLE, "NoExecute");
    if let Some(key) = by_readiness
        && (given_up || evicts)
    {
        wanted.push((key, "NoExecute"));
    }
    wanted.extend(
        PRESSURES
            .iter()
            .filter(|(c, _)| condition(node, c).is_some_and(|c| c.status == "True"))
            .map(|(_, t)| (*t, "NoSchedule")),
    );
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let ours = |t: &Taint| {
        let execute = t.effect == "NoExecute" && [NOT_READY, UNREACHABLE].contains(&t.key.as_str());
        let keys = [NOT_READY, UNREACHABLE, UNSCHEDULABLE];
        let schedule = keys.contains(&t.key.as_str()) || PRESSURES.iter().any(|(_, k)| *k == t.key);
        execute || (t.effect == "NoSchedule" && schedule)
    };
    let mut new = node.clone();
    let taints = new.spec.get_or_insert_default().taints.get_or_insert_default();
    taints.retain(|t| !ours(t) || wanted.contains(&(t.key.as_str(), t.effect.as_str())));
    for (key, effect) in wanted {
        if !taints.iter().any(|t| t.key == key && t.effect == effect) {
            let (key, effect) = (key.to_owned(), effect.to_owned());
            taints.push(Taint { key, effect, value: None, time_added: Some(Time(now)) });
        }
    }
    if taints.is_empty() && node.spec.as_ref().is_none_or(|s| s.taints.is_none()) {
        return None;
    }
    Action::patch(node, &new)
}

/// How far apart nodes of a zone are given up. None are where so much is unhealthy that the control plane may be what
/// is cut off; a zone that is down as a whole is not the control plane's fault if others are up.
fn apart(health: Health) -> Option<SignedDuration> {
    if health.all_unready >= health.all {
        return None;
    }
    let share = health.zone_unready as f64 / health.zone.max(1) as f64;
    let whole = health.zone_unready >= health.zone;
    match !whole && health.zone_unready > 2 && share >= UNHEALTHY_SHARE {
        false => Some(APART),
        true if health.zone > LARGE_ZONE => Some(APART_UNHEALTHY),
        true => None,
    }
}

/// When the node may be given up, if at all.
fn next_eviction(view: &View<'_>, now: Timestamp) -> Option<Timestamp> {
    if readiness(view.node) == "True" || given_up_at(view.node).is_some() {
        return None;
    }
    let apart = apart(view.health)?;
    Some(view.health.last.map_or(now, |last| last + apart))
}

/// When the node was given up: since then its pods are being evicted.
#[must_use]
pub fn given_up_at(node: &Node) -> Option<Timestamp> {
    let taints = node.spec.as_ref()?.taints.as_ref()?.iter();
    let ours =
        taints.filter(|t| t.effect == "NoExecute" && [NOT_READY, UNREACHABLE].contains(&t.key.as_str()));
    ours.filter_map(|t| t.time_added.as_ref()).map(|t| t.0).max()
}

fn mark_not_ready(p: &Pod, now: Timestamp) -> Vec<Action> {
    if !pod::is_ready(p) {
        return Vec::new();
    }
    let mut new = p.clone();
    for c in
        new.status.iter_mut().flat_map(|s| s.conditions.iter_mut().flatten()).filter(|c| c.type_ == "Ready")
    {
        "False".clone_into(&mut c.status);
        c.last_transition_time = Some(Time(now));
    }
    let event = Action::event(p, Note::warning("NodeNotReady", "Node is not ready"));
    [Some(event), Action::patch_status(p, &new)].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_by_table() {
        // zone, of these unready, all, of these unready; seconds apart
        let table = [
            ((3, 1, 3, 1), Some(10)),
            ((3, 3, 3, 3), None),
            ((3, 3, 6, 3), Some(10)),
            ((5, 3, 10, 3), None),
            ((60, 40, 120, 40), Some(100)),
            ((4, 2, 4, 2), Some(10)),
        ];
        for ((zone, zone_unready, all, all_unready), want) in table {
            let health = Health { zone, zone_unready, all, all_unready, last: None };
            assert_eq!(apart(health).map(|d| d.as_secs()), want, "{health:?}");
        }
    }

    #[test]
    fn one_node_after_the_other() {
        let node: Node = serde_json::from_value(serde_json::json!({"metadata": {"name": "a"},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}))
        .expect("node");
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().expect("time");
        let evicts = |since: i64| {
            let last = Some(now - SignedDuration::from_secs(since));
            let health = Health { zone: 3, zone_unready: 1, all: 3, all_unready: 1, last };
            let grace = SignedDuration::from_secs(50);
            let view = View { node: &node, pods: Vec::new(), heard: now, grace, new: false, health };
            let plan = plan(&view, now);
            plan.actions.iter().any(|action| format!("{action:?}").contains("NoExecute"))
        };
        assert!(!evicts(9) && evicts(10) && evicts(60));
    }
}
