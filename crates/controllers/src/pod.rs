//! What controllers want to know about pods, and how they make them.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::Target;

/// The owner that manages the object, if one does.
#[must_use]
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|o| o.controller == Some(true))
}

/// Whether the object is managed by the one with this uid.
#[must_use]
pub fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|o| o.uid == uid)
}

/// The object's uid, or nothing.
#[must_use]
pub fn uid<K: Metadata<Ty = ObjectMeta>>(object: &K) -> &str {
    object.metadata().uid.as_deref().unwrap_or("")
}

/// The object's name, or nothing.
#[must_use]
pub fn name<K: Metadata<Ty = ObjectMeta>>(object: &K) -> &str {
    object.metadata().name.as_deref().unwrap_or("")
}

/// Whether deletion has begun.
#[must_use]
pub fn is_deleting<K: Metadata<Ty = ObjectMeta>>(object: &K) -> bool {
    object.metadata().deletion_timestamp.is_some()
}

/// The pod's phase, or an empty string.
#[must_use]
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}

/// Whether all containers have ended for good.
#[must_use]
pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether the pod still counts: neither finished nor being deleted.
#[must_use]
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_deleting(pod)
}

/// The pod's condition of this type.
#[must_use]
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == kind)
}

/// Whether the pod serves.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// The node the pod is on, if it has one.
#[must_use]
pub fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

/// Since when a ready pod counts as available: `Ok` when it does, `Err` with the time it will, or with
/// `None` when it is not ready.
pub fn availability(pod: &Pod, min_ready_s: i32, now: Timestamp) -> Result<(), Option<Timestamp>> {
    let ready = condition(pod, "Ready").filter(|c| c.status == "True").ok_or(None)?;
    if min_ready_s <= 0 {
        return Ok(());
    }
    let since = ready.last_transition_time.as_ref().ok_or(None)?.0;
    let at = since + SignedDuration::from_secs(i64::from(min_ready_s));
    if at <= now { Ok(()) } else { Err(Some(at)) }
}

/// How often containers of the pod were restarted, at most.
#[must_use]
pub fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|s| s.restart_count).max().unwrap_or(0)
}

/// A pod of this template, controlled by its owner.
#[must_use]
pub fn from_template(template: &PodTemplateSpec, owner: &Target, name: String) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            name: Some(name),
            generate_name: Some(format!("{}-", owner.name)),
            namespace: Some(owner.namespace.clone()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner.controller_reference()]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The order in which a set gives up pods: the first ones go first.
///
/// Unassigned before assigned, pending before unknown before running, not ready before ready, cheaper to
/// delete first, more on the same node first, shorter ready first, more restarts first, younger first.
pub fn rank_for_deletion(pods: &mut [&Pod], on_same_node: impl Fn(&Pod) -> usize, now: Timestamp) {
    let order = |p: &Pod| match phase(p) {
        "Pending" | "" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let magnitude = |time: Option<Timestamp>| {
        // Ages are compared by their order of magnitude, so that fresh pods are spread over nodes at random.
        let age = time.map_or(0, |t| now.duration_since(t).as_secs().max(0));
        age.checked_ilog2().map_or(-1, i64::from)
    };
    pods.sort_by_cached_key(|pod| {
        let ready = is_ready(pod);
        let since = condition(pod, "Ready").filter(|_| ready).and_then(|c| c.last_transition_time.as_ref());
        (
            node(pod).is_some(),
            order(pod),
            ready,
            deletion_cost(pod),
            std::cmp::Reverse(on_same_node(pod)),
            magnitude(since.map(|t| t.0)),
            std::cmp::Reverse(restarts(pod)),
            magnitude(pod.metadata.creation_timestamp.as_ref().map(|t| t.0)),
            name(*pod).to_owned(),
        )
    });
}

fn deletion_cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    let cost = annotations.and_then(|a| a.get("controller.kubernetes.io/pod-deletion-cost"));
    cost.and_then(|c| c.parse().ok()).unwrap_or(0)
}
