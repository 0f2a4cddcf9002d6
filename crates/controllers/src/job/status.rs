//! Counting finished pods, and saying how the Job is.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{BURST, End, Work, index_of, is_tracked, policy, untrack};
use crate::{Action, Note, pod};

/// Sets a condition, unless it is there with that status.
pub(super) fn set(
    status: &mut JobStatus,
    kind: &str,
    value: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    if conditions.iter().any(|c| c.type_ == kind && c.status == value) {
        return;
    }
    conditions.retain(|c| c.type_ != kind);
    conditions.push(JobCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
}

/// The status, then the finalizers of the pods that are in it.
pub(super) fn track(work: &mut Work<'_>, end: Option<&End>, changes: &[Action]) -> Vec<Action> {
    settle(work);
    let mut release: Vec<&Pod> = Vec::new();
    note_finished(work, end.is_some(), &mut release);
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let shown = |n: usize| Some(count(n)).filter(|n| *n != 0);
    let ready = work.active.iter().filter(|p| pod::is_ready(p)).count();
    let old = work.job.status.clone().unwrap_or_default();
    work.status.active = shown(work.active.len());
    // The server shows these even when they are zero.
    work.status.ready = Some(count(ready));
    work.status.terminating = Some(count(work.terminating()));
    if work.is_indexed() {
        work.status.succeeded = shown(work.done.len());
        work.status.completed_indexes = Some(work.done.to_string()).filter(|t| !t.is_empty());
        if work.spec.backoff_limit_per_index.is_some() {
            let text = work.lost.to_string();
            work.status.failed_indexes = Some(text).filter(|t| !t.is_empty() || old.failed_indexes.is_some());
        }
    }
    let mut events = Vec::new();
    if let Some(end) = end {
        conclude(work, end, !changes.is_empty() || !release.is_empty(), &mut events);
    }
    let new = Job { status: Some(std::mem::take(&mut work.status)), ..work.job.clone() };
    let mut actions: Vec<Action> = Action::patch_status(work.job, &new).into_iter().collect();
    actions.extend(release.into_iter().filter_map(untrack));
    actions.extend(events);
    actions
}

/// Pods that have lost their finalizer become numbers.
fn settle(work: &mut Work<'_>) {
    let tracked: HashSet<&str> = work.pods.iter().filter(|p| is_tracked(p)).map(|p| pod::uid(*p)).collect();
    let Some(uncounted) = &mut work.status.uncounted_terminated_pods else { return };
    let indexed = work.spec.completion_mode.as_deref() == Some("Indexed");
    let take = |list: &mut Option<Vec<String>>, total: &mut Option<i32>| {
        let Some(uids) = list else { return };
        let before = uids.len();
        uids.retain(|uid| tracked.contains(uid.as_str()));
        let settled = i32::try_from(before - uids.len()).unwrap_or(0);
        if settled > 0 {
            *total = Some(total.unwrap_or(0) + settled);
        }
        if uids.is_empty() {
            *list = None;
        }
    };
    let mut by_index = None;
    let succeeded = if indexed { &mut by_index } else { &mut work.status.succeeded };
    take(&mut uncounted.succeeded, succeeded);
    take(&mut uncounted.failed, &mut work.status.failed);
}

/// Puts pods that have finished into the status; they are released in the same pass, after it is written.
fn note_finished<'a>(work: &mut Work<'a>, ending: bool, release: &mut Vec<&'a Pod>) {
    let uncounted = work.status.uncounted_terminated_pods.get_or_insert_default();
    let known: HashSet<String> = listed(uncounted).cloned().collect();
    let finished: Vec<&Pod> = work.new_succeeded.iter().chain(&work.new_failed).copied().collect();
    let last = if ending { HashSet::new() } else { last_failures(work) };
    let waiting = work.pods.iter().copied().filter(|p| is_tracked(p) && known.contains(pod::uid(*p)));
    release.extend(waiting);
    let uncounted = work.status.uncounted_terminated_pods.get_or_insert_default();
    for p in finished.into_iter().take(BURST) {
        let uid = pod::uid(p).to_owned();
        if last.contains(&uid) {
            continue;
        }
        release.push(p);
        let succeeded = pod::phase(p) == "Succeeded";
        let indexed = work.spec.completion_mode.as_deref() == Some("Indexed");
        if succeeded && !indexed {
            uncounted.succeeded.get_or_insert_default().push(uid);
        } else if !succeeded && !policy::is_ignored(work.spec, p) {
            uncounted.failed.get_or_insert_default().push(uid);
        }
    }
    if work.job.status.as_ref().is_none_or(|s| s.uncounted_terminated_pods.is_none())
        && listed(uncounted).next().is_none()
    {
        work.status.uncounted_terminated_pods = None;
    }
}

fn listed(uncounted: &UncountedTerminatedPods) -> impl Iterator<Item = &String> {
    uncounted.succeeded.iter().chain(&uncounted.failed).flatten()
}

/// With a limit per index, the last failed pod of an index stays until it is replaced: it has the count.
fn last_failures(work: &Work<'_>) -> HashSet<String> {
    if work.spec.backoff_limit_per_index.is_none() {
        return HashSet::new();
    }
    let running = work.active_indexes();
    let open = |i: &i32| !running.contains_key(i) && !work.done.contains(*i) && !work.lost.contains(*i);
    let of = |p: &&&Pod| index_of(p).is_some_and(|i| open(&i));
    work.new_failed.iter().filter(of).map(|p| pod::uid(*p).to_owned()).collect()
}

/// Says that the Job is ending, and once every pod is counted, that it has ended.
fn conclude(work: &mut Work<'_>, end: &End, unfinished: bool, events: &mut Vec<Action>) {
    let now = work.now;
    let (interim, terminal) =
        if end.failed { ("FailureTarget", "Failed") } else { ("SuccessCriteriaMet", "Complete") };
    set(&mut work.status, interim, "True", &end.reason, &end.message, now);
    let uncounted =
        work.status.uncounted_terminated_pods.as_ref().is_some_and(|u| listed(u).next().is_some());
    let alive = !work.active.is_empty() || work.terminating() > 0;
    if unfinished || uncounted || alive {
        return;
    }
    set(&mut work.status, terminal, "True", &end.reason, &end.message, now);
    let note = if end.failed {
        Note { warning: true, reason: end.reason.clone().into(), message: end.message.clone() }
    } else {
        work.status.completion_time = Some(Time(now));
        Note::normal("Completed", "Job completed")
    };
    events.push(Action::Event { about: work.owner.clone(), note });
}
