//! ReplicaSet, and ReplicationController in the guise of one: as many pods as asked for.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};

use crate::claim::claim;
use crate::select::matches;
use crate::{Action, Failure, Note, Object, Plan, Report, Resource, Target, names, pod};

/// The most pods that are created or deleted in one pass.
const BURST: usize = 500;

/// What the planner is told.
pub struct View<'a> {
    /// The set. A ReplicationController comes as [`from_controller`] makes it.
    pub set: &'a ReplicaSet,
    /// What kind it really is.
    pub resource: Resource,
    /// Pods it controls, and pods of its namespace that nobody does.
    pub pods: Vec<&'a Pod>,
    /// How many pods of related sets each node has: sets of the same Deployment.
    pub related_on_node: BTreeMap<String, usize>,
    /// What went wrong last time.
    pub failure: Option<&'a Failure>,
}

/// Keeps the number of pods at what the set asks for.
#[must_use]
pub fn plan(view: &View<'_>, now: Timestamp) -> Plan {
    let spec = view.set.spec.clone().unwrap_or_default();
    let owner = Target::at(view.resource.clone(), &view.set.metadata);
    let deleting = pod::is_deleting(view.set);
    let unfinished = view.pods.iter().copied().filter(|p| !pod::is_finished(p));
    let selects = |labels: Option<&_>| matches(Some(&spec.selector), labels);
    let (owned, mut actions) = claim(&owner, deleting, selects, unfinished);
    let (active, terminating): (Vec<&Pod>, Vec<&Pod>) =
        owned.into_iter().partition(|p| !pod::is_deleting(*p));

    let mut plan = Plan::default();
    let (status, wake) = status(view, &spec, &active, terminating.len(), now);
    plan.wake = plan.wake.or_at(wake);
    let change = change_of_status(view, &owner, status);
    let scaling = if deleting { Vec::new() } else { scale(view, &spec, &owner, &active, now) };
    plan.because(match scaling.len() {
        0 => format!("{} of {} pods exist", active.len(), spec.replicas.unwrap_or(1)),
        n => format!("{} of {} pods exist: {n} changes", active.len(), spec.replicas.unwrap_or(1)),
    });
    // After a failure the status goes first, because the rest may well fail again.
    if view.failure.is_some() {
        plan.actions.extend(change);
        plan.actions.append(&mut actions);
        plan.actions.extend(scaling);
    } else {
        plan.actions.append(&mut actions);
        plan.actions.extend(scaling);
        plan.actions.extend(change);
    }
    plan
}

fn scale(
    view: &View<'_>,
    spec: &ReplicaSetSpec,
    owner: &Target,
    active: &[&Pod],
    now: Timestamp,
) -> Vec<Action> {
    let desired = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if active.len() < desired {
        let missing = (desired - active.len()).min(BURST);
        return create(view, spec, owner, missing);
    }
    let surplus = (active.len() - desired).min(BURST);
    if surplus == 0 {
        return Vec::new();
    }
    let mut ranked = active.to_vec();
    let on_node = |p: &Pod| pod::node(p).and_then(|n| view.related_on_node.get(n)).copied().unwrap_or(0);
    pod::rank_for_deletion(&mut ranked, on_node, now);
    ranked[..surplus].iter().map(|p| delete(owner, p)).collect()
}

fn create(view: &View<'_>, spec: &ReplicaSetSpec, owner: &Target, missing: usize) -> Vec<Action> {
    let taken: HashSet<&str> = view.pods.iter().map(|p| pod::name(*p)).collect();
    let epoch = view.set.metadata.resource_version.as_deref().unwrap_or("");
    let names = names::children(&owner.name, &owner.uid, epoch, missing, |n| taken.contains(n));
    let template = spec.template.clone().unwrap_or_default();
    names.into_iter().map(|name| create_pod(&pod::from_template(&template, owner, name), owner)).collect()
}

/// Creates a pod and tells its owner.
pub(crate) fn create_pod(new: &Pod, owner: &Target) -> Action {
    let report = Report {
        about: owner.clone(),
        done: Some(Note::normal("SuccessfulCreate", format!("Created pod: {}", pod::name(new)))),
        failed: Some(Note::warning("FailedCreate", "Error creating: ")),
    };
    Action::create_reported(new, Some(report))
}

/// Deletes a pod and tells its owner.
pub(crate) fn delete(owner: &Target, old: &Pod) -> Action {
    Action::delete(old).reported(Report {
        about: owner.clone(),
        done: Some(Note::normal("SuccessfulDelete", format!("Deleted pod: {}", pod::name(old)))),
        failed: Some(Note::warning("FailedDelete", "Error deleting: ")),
    })
}

fn status(
    view: &View<'_>,
    spec: &ReplicaSetSpec,
    active: &[&Pod],
    terminating: usize,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Timestamp>) {
    let old = view.set.status.clone().unwrap_or_default();
    let labels = spec.template.as_ref().and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.clone());
    let template = LabelSelector { match_labels: labels, match_expressions: None };
    let count =
        |f: &dyn Fn(&Pod) -> bool| i32::try_from(active.iter().filter(|p| f(p)).count()).unwrap_or(i32::MAX);
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let wake = active.iter().filter_map(|p| pod::availability(p, min_ready, now).err().flatten()).min();
    let replication = view.resource.kind == "ReplicationController";
    let status = ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: Some(count(&|p| matches(Some(&template), p.metadata.labels.as_ref()))),
        ready_replicas: Some(count(&pod::is_ready)),
        available_replicas: Some(count(&|p| pod::availability(p, min_ready, now).is_ok())),
        terminating_replicas: (!replication).then(|| i32::try_from(terminating).unwrap_or(i32::MAX)),
        observed_generation: view.set.metadata.generation,
        conditions: conditions(view, spec, &old, active.len(), now),
    };
    (status, wake)
}

/// A failure to create or delete shows as a condition until a pass succeeds.
fn conditions(
    view: &View<'_>,
    spec: &ReplicaSetSpec,
    old: &ReplicaSetStatus,
    active: usize,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let failed = conditions.iter().position(|c| c.type_ == "ReplicaFailure");
    let failure = view.failure.filter(|f| matches!(f.verb, "create" | "delete"));
    match (failure, failed) {
        (Some(failure), None) => {
            let desired = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
            let reason = if active < desired { "FailedCreate" } else { "FailedDelete" };
            conditions.push(ReplicaSetCondition {
                type_: "ReplicaFailure".to_owned(),
                status: "True".to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(failure.message.clone()),
                last_transition_time: Some(Time(now)),
            });
        }
        (None, Some(at)) => {
            conditions.remove(at);
        }
        _ => {}
    }
    (!conditions.is_empty()).then_some(conditions)
}

fn change_of_status(view: &View<'_>, owner: &Target, mut status: ReplicaSetStatus) -> Option<Action> {
    let old = view.set.status.clone().unwrap_or_default();
    // The server leaves zeroes out; telling it of them again is no change.
    for (new, old) in [
        (&mut status.fully_labeled_replicas, old.fully_labeled_replicas),
        (&mut status.ready_replicas, old.ready_replicas),
        (&mut status.available_replicas, old.available_replicas),
    ] {
        if old.is_none() && *new == Some(0) {
            *new = None;
        }
    }
    let new = ReplicaSet { status: Some(status), ..view.set.clone() };
    Action::patch_at(owner.clone(), "status", view.set, &new)
}

/// The ReplicationController as a ReplicaSet with the same metadata.
#[must_use]
pub fn from_controller(rc: &ReplicationController) -> ReplicaSet {
    let spec = rc.spec.clone().unwrap_or_default();
    let status = rc.status.clone().unwrap_or_default();
    let conditions = status.conditions.map(|all| {
        all.into_iter()
            .map(|c| ReplicaSetCondition {
                type_: c.type_,
                status: c.status,
                reason: c.reason,
                message: c.message,
                last_transition_time: c.last_transition_time,
            })
            .collect()
    });
    ReplicaSet {
        metadata: rc.metadata.clone(),
        spec: Some(ReplicaSetSpec {
            replicas: spec.replicas,
            min_ready_seconds: spec.min_ready_seconds,
            selector: LabelSelector { match_labels: spec.selector, match_expressions: None },
            template: spec.template,
        }),
        status: Some(ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            terminating_replicas: None,
            observed_generation: status.observed_generation,
            conditions,
        }),
    }
}

/// The kind of a set that is one.
#[must_use]
pub fn resource() -> Resource {
    ReplicaSet::resource()
}

/// The kind of a set that is really a ReplicationController.
#[must_use]
pub fn controller_resource() -> Resource {
    ReplicationController::resource()
}
