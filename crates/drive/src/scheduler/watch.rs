//! What changes in the cluster mean for the snapshot and for pods that wait.

use std::sync::Arc;

use client::Cache;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use scheduler::queue::Causes;
use scheduler::{PodInfo, Resources, is_over};

use super::{NAME, Work, priority};

/// What another pod's coming may be good for.
const CAME: Causes = Causes::NEAR.and(Causes::SPREAD);
/// What another pod's going may be good for.
const WENT: Causes = Causes::ROOM.and(Causes::FAR).and(Causes::SPREAD).and(Causes::VOLUME);
/// What other labels of a pod may be good for.
const RELABELLED: Causes = Causes::NEAR.and(Causes::FAR).and(Causes::SPREAD);

/// Labels of namespaces go into the snapshot.
pub(super) fn hook_namespaces(work: &Arc<Work>, namespaces: &Cache<Namespace>) {
    let work = Arc::downgrade(work);
    namespaces.hook(move |change| {
        let Some(work) = work.upgrade() else { return };
        let labels = |n: Option<&Arc<Namespace>>| n.and_then(|n| n.metadata.labels.clone());
        let mut state = work.state.lock();
        match change.new {
            Some(new) => {
                state.snapshot.set_namespace(new);
                if labels(change.old) != labels(change.new) {
                    state.queue.wake(Causes::NEAR.and(Causes::FAR));
                }
            }
            None => state.snapshot.remove_namespace(&change.key.name),
        }
        drop(state);
        work.ready.notify_one();
    });
}

/// Nodes go into the snapshot; a new or changed one may take pods that were refused.
pub(super) fn hook_nodes(work: &Arc<Work>, nodes: &Cache<Node>) {
    let work = Arc::downgrade(work);
    nodes.hook(move |change| {
        let Some(work) = work.upgrade() else { return };
        let mut state = work.state.lock();
        let helps = match change.new {
            Some(node) => {
                state.snapshot.set_node(node.clone());
                change.old.map_or(Causes::ANY, |old| of_change(old, node))
            }
            None => {
                state.snapshot.remove_node(&change.key.name);
                Causes::SPREAD
            }
        };
        state.queue.wake(helps);
        drop(state);
        work.ready.notify_one();
    });
}

/// What the change of a node may be good for. A mere heartbeat is good for nothing.
fn of_change(old: &Node, new: &Node) -> Causes {
    let allocatable = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
    if old.metadata.labels != new.metadata.labels {
        Causes::ANY
    } else if old.spec != new.spec {
        Causes::NODE.and(Causes::SPREAD).and(Causes::ROOM)
    } else if allocatable(old) != allocatable(new) {
        Causes::ROOM
    } else {
        Causes::NONE
    }
}

/// Placed pods go into the snapshot, others into the queue; an ended one makes room.
pub(super) fn hook_pods(work: &Arc<Work>, pods: &Cache<Pod>) {
    let work = Arc::downgrade(work);
    pods.hook(move |change| {
        let Some(work) = work.upgrade() else { return };
        let key = (change.key.namespace.clone(), change.key.name.clone());
        if change.new.is_none_or(|pod| !is_pending(pod))
            && let Some(pod) = change.old.or(change.new)
        {
            work.shelf.forget(pod);
        }
        let mut state = work.state.lock();
        match (change.old, change.new) {
            (old, Some(pod)) if is_pending(pod) => {
                if old.is_none_or(|old| !is_pending(old)) {
                    state.remember_nomination(pod);
                }
                if old.is_none_or(|old| is_other(old, pod)) {
                    state.queue.add(key, priority(pod));
                }
            }
            (old, Some(pod)) => {
                state.queue.remove(&key);
                state.nominated.remove(pod.metadata.uid.as_deref().unwrap_or_default());
                state.snapshot.set_pod(pod.clone());
                state.queue.wake(of_pod_change(old, pod));
            }
            (Some(old), None) => {
                let uid = old.metadata.uid.as_deref().unwrap_or_default();
                state.queue.remove(&key);
                state.nominated.remove(uid);
                state.snapshot.remove_pod(uid);
                // One that was just decided for a node, and then deleted, makes room too.
                state.queue.wake(WENT);
            }
            (None, None) => {}
        }
        drop(state);
        work.ready.notify_one();
    });
}

/// Whether a pod that waits became one that may be placed otherwise.
fn is_other(old: &Pod, new: &Pod) -> bool {
    !is_pending(old) || old.spec != new.spec || old.metadata.labels != new.metadata.labels
}

/// What the change of a pod that does not wait, or no longer waits, may be good for.
fn of_pod_change(old: Option<&Arc<Pod>>, new: &Pod) -> Causes {
    let mut causes = Causes::NONE;
    if is_placed(new) && !old.is_some_and(|old| is_placed(old)) {
        causes = causes.and(CAME);
    }
    let Some(old) = old.filter(|_| is_placed(new)) else { return causes };
    if is_over(old) != is_over(new) {
        causes = causes.and(WENT);
    }
    if old.metadata.labels != new.metadata.labels {
        causes = causes.and(RELABELLED);
    }
    // Who is going is not counted for spreading any more.
    if old.metadata.deletion_timestamp != new.metadata.deletion_timestamp {
        causes = causes.and(Causes::SPREAD);
    }
    if is_less(old, new) {
        causes = causes.and(Causes::ROOM);
    }
    causes
}

fn is_placed(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).is_some_and(|n| !n.is_empty())
}

/// Whether a pod asks for less of something than before.
fn is_less(old: &Pod, new: &Pod) -> bool {
    let containers = |p: &Pod| p.spec.as_ref().map(|s| (s.containers.clone(), s.resources.clone()));
    if containers(old) == containers(new) {
        return false;
    }
    let asked = |p: &Pod| p.spec.as_ref().map(Resources::requested_by).unwrap_or_default();
    let (old, new) = (asked(old), asked(new));
    new.cpu_milli < old.cpu_milli || new.memory < old.memory || new.storage < old.storage
}

/// Whether the pod waits for this scheduler.
pub(super) fn is_pending(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let gated = spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty());
    let ours = spec.scheduler_name.as_deref().unwrap_or(NAME) == NAME;
    ours && !is_placed(pod) && !gated && pod.metadata.deletion_timestamp.is_none()
}

impl super::State {
    /// A place that was being made for the pod before this scheduler started is kept for it.
    fn remember_nomination(&mut self, pod: &Arc<Pod>) {
        let status = pod.status.as_ref();
        let Some(node) = status.and_then(|s| s.nominated_node_name.clone()).filter(|n| !n.is_empty()) else {
            return;
        };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        self.nominated.entry(uid).or_insert_with(|| (PodInfo::of(pod.clone()), node));
    }
}
