//! Evicts pods from nodes whose taints they do not tolerate, or not for longer.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{Action, Note, Plan, fit, pod};

/// Deletes the pod when its node's `NoExecute` taints ask for it.
#[must_use]
pub fn plan(p: &Pod, node: &Node, now: Timestamp) -> Plan {
    if pod::is_deleting(p) || pod::is_finished(p) {
        return Plan::idle("the pod is ending anyway");
    }
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let taints: Vec<&Taint> = taints.iter().filter(|t| t.effect == "NoExecute").collect();
    if taints.is_empty() {
        return Plan::idle("the node evicts no one");
    }
    let tolerations = p.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let mut due: Option<Timestamp> = None;
    for taint in taints {
        let mut matching = tolerations.iter().filter(|t| fit::tolerates(t, taint)).peekable();
        if matching.peek().is_none() {
            return evict(p, now, "the pod does not tolerate a taint");
        }
        // Of several tolerations the shortest counts.
        if let Some(seconds) = matching.filter_map(|t| t.toleration_seconds).min() {
            let since = taint.time_added.as_ref().map_or(now, |t| t.0);
            let end = since + SignedDuration::from_secs(seconds.max(0));
            due = Some(due.map_or(end, |d| d.min(end)));
        }
    }
    match due {
        Some(due) if due <= now => evict(p, now, "the pod has tolerated a taint for as long as it would"),
        due => Plan { wake: crate::Wake::OnChange.or_at(due), ..Plan::idle("the pod tolerates the taints") },
    }
}

fn evict(p: &Pod, now: Timestamp, why: &'static str) -> Plan {
    let place = format!("{}/{}", p.metadata.namespace.as_deref().unwrap_or(""), pod::name(p));
    let note = Note::normal("TaintManagerEviction", format!("Marking for deletion Pod {place}"));
    let message = "Taint manager: deleting due to NoExecute taint";
    let mut actions = vec![Action::event(p, note)];
    actions.extend(disrupted(p, None, "DeletionByTaintManager", message, now));
    actions.push(Action::delete(p));
    Plan { actions, ..Plan::idle(why) }
}

/// Says in the pod's status why it goes, and optionally that it has failed.
pub(crate) fn disrupted(
    p: &Pod,
    phase: Option<&str>,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Option<Action> {
    let mut new = p.clone();
    let status = new.status.get_or_insert_default();
    if let Some(phase) = phase {
        status.phase = Some(phase.to_owned());
    }
    let conditions = status.conditions.get_or_insert_default();
    if !conditions.iter().any(|c| c.type_ == "DisruptionTarget" && c.status == "True") {
        conditions.retain(|c| c.type_ != "DisruptionTarget");
        conditions.push(PodCondition {
            type_: "DisruptionTarget".to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: Some(Time(now)),
            ..PodCondition::default()
        });
    }
    Action::patch_status(p, &new)
}
