//! What a Deployment says of itself: counts, availability, progress.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Rollout;
use crate::{Action, pod};

/// A deadline this long means none.
const NO_DEADLINE: i32 = i32::MAX;

/// Whether all pods are of the present template and available, as the Deployment itself says.
pub(super) fn is_complete(rollout: &Rollout<'_>) -> bool {
    rollout.old.status.as_ref().is_some_and(|s| complete(rollout, s))
}

fn complete(rollout: &Rollout<'_>, status: &DeploymentStatus) -> bool {
    let desired = rollout.desired();
    let counts = [status.updated_replicas, status.replicas, status.available_replicas];
    counts.iter().all(|n| n.unwrap_or(0) == desired)
        && status.observed_generation.unwrap_or(0) >= rollout.old.metadata.generation.unwrap_or(0)
}

fn deadline(rollout: &Rollout<'_>) -> Option<i32> {
    rollout.spec.progress_deadline_seconds.filter(|d| *d != NO_DEADLINE)
}

fn get<'s>(status: &'s DeploymentStatus, kind: &str) -> Option<&'s DeploymentCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind)
}

/// Sets a condition, unless one of the same status and reason is there.
fn set(status: &mut DeploymentStatus, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) {
    let old = get(status, kind).cloned();
    if old.as_ref().is_some_and(|c| c.status == value && c.reason.as_deref() == Some(reason)) {
        return;
    }
    let unchanged = old.filter(|c| c.status == value).and_then(|c| c.last_transition_time);
    remove(status, kind);
    status.conditions.get_or_insert_default().push(DeploymentCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(now)),
        last_transition_time: unchanged.or(Some(Time(now))),
    });
}

fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|c| c.type_ != kind);
    }
}

/// The status with this progress, for passes that create the new set.
pub(super) fn with_progress(
    rollout: &Rollout<'_>,
    value: &str,
    reason: &str,
    message: String,
) -> Option<Action> {
    deadline(rollout)?;
    let mut new = rollout.old.clone();
    let status = new.status.get_or_insert_default();
    set(status, "Progressing", value, reason, &message, rollout.now);
    Action::patch_status(rollout.old, &new)
}

/// The status as the sets have it, and when to look at the progress again.
pub(super) fn sync(rollout: &Rollout<'_>) -> (Option<Action>, Option<Timestamp>) {
    let old = rollout.old.status.clone().unwrap_or_default();
    let mut status = counts(rollout, &old);
    let now = rollout.now;
    let (_, unavailable) = rollout.fenceposts();
    if status.available_replicas.unwrap_or(0) >= rollout.desired() - unavailable {
        let message = "Deployment has minimum availability.";
        set(&mut status, "Available", "True", "MinimumReplicasAvailable", message, now);
    } else {
        let message = "Deployment does not have minimum availability.";
        set(&mut status, "Available", "False", "MinimumReplicasUnavailable", message, now);
    }
    let wake = if pod::is_deleting(rollout.old) { None } else { progress(rollout, &old, &mut status) };
    replica_failure(rollout, &mut status);
    let change = change(rollout.old, &old, status);
    // While the status moves, the change itself wakes us.
    let wake = if change.is_some() { None } else { wake };
    (change, wake)
}

fn counts(rollout: &Rollout<'_>, old: &DeploymentStatus) -> DeploymentStatus {
    let sets = &rollout.sets;
    let sum = |f: &dyn Fn(&super::Set<'_>) -> i32| sets.iter().map(f).sum::<i32>();
    let of = |f: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> Option<i32>| {
        sum(&|s| s.old.status.as_ref().and_then(f).unwrap_or(0))
    };
    let available = of(|s| s.available_replicas);
    let known = sets.iter().map(|s| s.old.status.as_ref().and_then(|s| s.terminating_replicas));
    DeploymentStatus {
        observed_generation: rollout.old.metadata.generation,
        replicas: Some(sum(&|s| s.actual())),
        updated_replicas: Some(rollout.current.map_or(0, |c| sets[c].actual())),
        ready_replicas: Some(of(|s| s.ready_replicas)),
        available_replicas: Some(available),
        unavailable_replicas: Some((sum(&|s| s.replicas) - available).max(0)),
        terminating_replicas: known.sum(),
        collision_count: old.collision_count,
        conditions: old.conditions.clone(),
    }
}

/// Judges the progress; gives the time at which its lack would be too long.
fn progress(
    rollout: &Rollout<'_>,
    old: &DeploymentStatus,
    status: &mut DeploymentStatus,
) -> Option<Timestamp> {
    let Some(deadline) = deadline(rollout) else {
        remove(status, "Progressing");
        return None;
    };
    let now = rollout.now;
    let condition = get(old, "Progressing").cloned();
    let reason = condition.as_ref().and_then(|c| c.reason.as_deref()).unwrap_or("");
    if rollout.spec.paused == Some(true) {
        if !matches!(reason, "DeploymentPaused" | "ProgressDeadlineExceeded") {
            set(status, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", now);
        }
        return None;
    }
    if reason == "DeploymentPaused" {
        set(status, "Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed", now);
        return None;
    }
    let subject = match rollout.current {
        Some(current) => format!("ReplicaSet \"{}\"", pod::name(rollout.sets[current].old)),
        None => format!("Deployment \"{}\"", pod::name(rollout.old)),
    };
    if condition.is_none() && rollout.current.is_some() {
        let found = format!(
            "Found new replica set \"{}\"",
            rollout.current.map_or("", |c| pod::name(rollout.sets[c].old))
        );
        set(status, "Progressing", "True", "FoundNewReplicaSet", &found, now);
    }
    let settled = status.replicas == status.updated_replicas && reason == "NewReplicaSetAvailable";
    if settled {
        return None;
    }
    if complete(rollout, status) {
        let message = format!("{subject} has successfully progressed.");
        set(status, "Progressing", "True", "NewReplicaSetAvailable", &message, now);
        return None;
    }
    if advanced(old, status) {
        let message = format!("{subject} is progressing.");
        let since = condition.filter(|c| c.status == "True").and_then(|c| c.last_transition_time);
        // Progress renews the time of the update even when nothing else changes.
        remove(status, "Progressing");
        set(status, "Progressing", "True", "ReplicaSetUpdated", &message, now);
        let renewed = status.conditions.iter_mut().flatten().find(|c| c.type_ == "Progressing");
        if let (Some(renewed), Some(since)) = (renewed, since) {
            renewed.last_transition_time = Some(since);
        }
        return None;
    }
    let condition = get(status, "Progressing")?;
    if matches!(condition.reason.as_deref(), Some("NewReplicaSetAvailable" | "ProgressDeadlineExceeded")) {
        return None;
    }
    let limit = condition.last_update_time.as_ref()?.0 + SignedDuration::from_secs(i64::from(deadline));
    if limit < now {
        let message = format!("{subject} has timed out progressing.");
        set(status, "Progressing", "False", "ProgressDeadlineExceeded", &message, now);
        return None;
    }
    Some(limit + SignedDuration::from_secs(1))
}

/// Whether more pods are new, fewer old, or more ready than the Deployment said before.
fn advanced(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |v: Option<i32>| v.unwrap_or(0);
    let stale = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || stale(new) < stale(old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

/// A set's failure to make pods is the Deployment's, that of the current set before others.
fn replica_failure(rollout: &Rollout<'_>, status: &mut DeploymentStatus) {
    let failing = |s: &super::Set<'_>| {
        let conditions = s.old.status.as_ref().and_then(|s| s.conditions.as_ref());
        conditions.into_iter().flatten().find(|c| c.type_ == "ReplicaFailure").cloned()
    };
    let current = rollout.current.and_then(|c| failing(&rollout.sets[c]));
    match current.or_else(|| rollout.sets.iter().find_map(failing)) {
        None => remove(status, "ReplicaFailure"),
        Some(c) => {
            let (reason, message) = (c.reason.unwrap_or_default(), c.message.unwrap_or_default());
            let time = c.last_transition_time.map_or(rollout.now, |t| t.0);
            set(status, "ReplicaFailure", &c.status, &reason, &message, time);
        }
    }
}

fn change(old: &Deployment, was: &DeploymentStatus, mut status: DeploymentStatus) -> Option<Action> {
    // The server leaves zeroes out; telling it of them again is no change.
    for (new, old) in [
        (&mut status.replicas, was.replicas),
        (&mut status.updated_replicas, was.updated_replicas),
        (&mut status.ready_replicas, was.ready_replicas),
        (&mut status.available_replicas, was.available_replicas),
        (&mut status.unavailable_replicas, was.unavailable_replicas),
    ] {
        if old.is_none() && *new == Some(0) {
            *new = None;
        }
    }
    let new = Deployment { status: Some(status), ..old.clone() };
    Action::patch_status(old, &new)
}
