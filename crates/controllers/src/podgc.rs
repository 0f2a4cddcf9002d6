//! Pods that no kubelet will ever end: their node is gone, or they never had one.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::tainteviction::disrupted;
use crate::{Action, Plan, Target, pod};

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

fn delete(p: &Pod) -> Action {
    Action::Delete { target: Target::of(p), grace_s: Some(0), propagation: None, report: None }
}
