//! Pods that no kubelet will ever end: their node is gone, or they never had one. And pods that have ended, when there
//! are too many of them.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::tainteviction::disrupted;
use crate::{Action, Plan, Target, pod};

/// The most pods that are deleted in one pass.
const BURST: usize = 500;

/// Deletes the pod for good where no one else will. `node_gone`: the API said that its node does not exist.
#[must_use]
pub fn plan(p: &Pod, node_gone: bool, now: Timestamp) -> Plan {
    if pod::node(p).is_none() {
        if !pod::is_deleting(p) {
            return Plan::idle("the pod waits for a node");
        }
        return Plan { actions: vec![delete(p)], ..Plan::idle("the pod is to go and never had a node") };
    }
    if !node_gone {
        return Plan::idle("the pod's node exists");
    }
    let mut actions = Vec::new();
    if !pod::is_finished(p) {
        let message = "PodGC: node no longer exists";
        actions.extend(disrupted(p, Some("Failed"), "DeletionByPodGC", message, now));
    }
    actions.push(delete(p));
    Plan { actions, ..Plan::idle("the pod's node is gone") }
}

/// Deletes the oldest of the pods that have ended when they are more than the threshold, evicted ones first. `ended`:
/// all of them, of all namespaces.
#[must_use]
pub fn thin_out(ended: &[&Pod], threshold: usize) -> Plan {
    let surplus = ended.len().saturating_sub(threshold);
    if surplus == 0 {
        return Plan::idle("few pods have ended");
    }
    let mut oldest: Vec<&Pod> = ended.iter().copied().filter(|p| !pod::is_deleting(*p)).collect();
    let evicted = |p: &Pod| p.status.as_ref().and_then(|s| s.reason.as_deref()) == Some("Evicted");
    oldest.sort_by_key(|p| (!evicted(p), p.metadata.creation_timestamp.clone(), pod::name(*p).to_owned()));
    let actions = oldest.into_iter().take(surplus.min(BURST)).map(delete).collect();
    Plan { actions, ..Plan::idle("too many pods have ended") }
}

fn delete(p: &Pod) -> Action {
    Action::Delete { target: Target::of(p), grace_s: Some(0), propagation: None, report: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_oldest_go_first() {
        let make = |name: &str, minute: u8, reason: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n", "uid": name,
                    "creationTimestamp": format!("2026-01-01T00:0{minute}:00Z")},
                "status": {"phase": "Failed", "reason": reason}}))
            .expect("pod")
        };
        let pods = [make("b", 2, ""), make("a", 1, ""), make("e", 3, "Evicted"), make("c", 4, "")];
        let gone = |threshold: usize| -> Vec<String> {
            let plan = thin_out(&pods.iter().collect::<Vec<_>>(), threshold);
            let target = |action: Action| match action {
                Action::Delete { target, .. } => target.name,
                other => format!("{other:?}"),
            };
            plan.actions.into_iter().map(target).collect()
        };
        assert_eq!(gone(4), Vec::<String>::new());
        assert_eq!(gone(3), ["e"]);
        assert_eq!(gone(1), ["e", "a", "b"]);
    }
}
