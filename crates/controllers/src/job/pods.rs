//! How many pods a Job should have, and which.

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use super::{
    BURST, INDEX, INDEX_FAILURES, TRACKING, Work, finished_at, index_of, indexes, only_replaces_failed,
    untrack,
};
use crate::replicaset::create_pod;
use crate::{Action, Target, names, pod};

/// The delay after the first failure, in seconds; it doubles with each.
const BACKOFF_S: i64 = 10;
const BACKOFF_MAX_S: i64 = 600;
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// Deletes a pod and tells the Job.
pub(super) fn delete(owner: &Target, p: &Pod) -> Action {
    crate::replicaset::delete(owner, p)
}

/// Creates what is missing, or deletes what is too much, but not both.
pub(super) fn manage(work: &mut Work<'_>) -> Vec<Action> {
    let active = work.active.len();
    let wanted = wanted(work);
    let surplus = surplus(work, wanted);
    if !surplus.is_empty() {
        work.plan.because(format!("{active} pods run, {wanted} are wanted"));
        // Pods that are not wanted any more do not count as failed.
        return surplus.iter().flat_map(|p| untrack(p).into_iter().chain([delete(&work.owner, p)])).collect();
    }
    let leaving = if only_replaces_failed(work.spec) { work.terminating() } else { 0 };
    let missing = wanted.saturating_sub(active + leaving).min(BURST);
    if missing == 0 {
        return Vec::new();
    }
    if work.spec.backoff_limit_per_index.is_none()
        && let Some(until) = backoff(&work.pods, work.now)
    {
        work.plan.because("waiting after a failure");
        work.plan.wake = work.plan.wake.or_at(Some(until));
        return Vec::new();
    }
    work.plan.because(format!("{active} pods run, {wanted} are wanted"));
    create(work, missing)
}

fn wanted(work: &Work<'_>) -> usize {
    let parallelism = work.spec.parallelism.unwrap_or(1);
    let wanted = match work.spec.completions {
        _ if work.is_suspended() => 0,
        None if work.succeeded > 0 => return work.active.len(),
        None => parallelism,
        Some(completions) => {
            let lost = i32::try_from(work.lost.len()).unwrap_or(i32::MAX);
            (completions - work.succeeded - lost).min(parallelism)
        }
    };
    usize::try_from(wanted).unwrap_or(0)
}

/// Pods that are too many: those whose index is done or taken first, then by rank.
fn surplus<'a>(work: &Work<'a>, wanted: usize) -> Vec<&'a Pod> {
    let mut ranked: Vec<&Pod> = work.active.clone();
    pod::rank_for_deletion(&mut ranked, |_| 0, work.now);
    let mut chosen: Vec<&Pod> = Vec::new();
    if work.is_indexed() {
        let mut seen = HashSet::new();
        let useless = |p: &&&Pod| match index_of(p) {
            None => true,
            Some(i) => {
                i >= work.completions() || work.done.contains(i) || work.lost.contains(i) || !seen.insert(i)
            }
        };
        // The last in rank are the best: of several pods of an index the best stays.
        chosen.extend(ranked.iter().rev().filter(useless));
    }
    let more = work.active.len().saturating_sub(wanted).saturating_sub(chosen.len());
    let others: Vec<&Pod> =
        ranked.into_iter().filter(|p| !chosen.iter().any(|c| std::ptr::eq(*c, *p))).collect();
    chosen.extend(others.into_iter().take(more));
    chosen.truncate(BURST);
    chosen
}

/// Until when no pod is created after failures in a row.
fn backoff(pods: &[&Pod], now: Timestamp) -> Option<Timestamp> {
    let ended = |phase: &'static str| {
        pods.iter().filter(move |p| pod::phase(p) == phase).filter_map(|p| finished_at(p))
    };
    let success = ended("Succeeded").max();
    let failures: Vec<Timestamp> = ended("Failed").filter(|t| success.is_none_or(|s| *t > s)).collect();
    let last = failures.iter().max()?;
    let until = *last + delay(failures.len());
    (until > now).then_some(until)
}

fn delay(failures: usize) -> SignedDuration {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(u32::MAX).min(10);
    SignedDuration::from_secs((BACKOFF_S << doublings).min(BACKOFF_MAX_S))
}

fn create(work: &mut Work<'_>, missing: usize) -> Vec<Action> {
    let epoch = work.job.metadata.resource_version.clone().unwrap_or_default();
    let (name, uid) = (work.owner.name.clone(), work.owner.uid.clone());
    if !work.is_indexed() {
        let taken: HashSet<&str> = work.pods.iter().map(|p| pod::name(*p)).collect();
        let names = names::children(&name, &uid, &epoch, missing, |n| taken.contains(n));
        return names.into_iter().map(|n| create_pod(&new_pod(work, n, None), &work.owner)).collect();
    }
    let running = work.active_indexes();
    let free = |i: &i32| !running.contains_key(i) && !work.done.contains(*i) && !work.lost.contains(*i);
    let leaving = only_replaces_failed(work.spec);
    let going = |i: &i32| {
        leaving
            && work
                .pods
                .iter()
                .any(|p| index_of(p) == Some(*i) && pod::is_deleting(*p) && !pod::is_finished(p))
    };
    let open: Vec<i32> = (0..work.completions()).filter(free).filter(|i| !going(i)).collect();
    let mut actions = Vec::new();
    for index in open {
        if actions.len() == missing {
            break;
        }
        if work.spec.backoff_limit_per_index.is_some() {
            let own: Vec<&Pod> = work.pods.iter().copied().filter(|p| index_of(p) == Some(index)).collect();
            if let Some(until) = backoff(&own, work.now) {
                work.plan.wake = work.plan.wake.or_at(Some(until));
                continue;
            }
        }
        let suffix = names::suffix(&[uid.as_bytes(), epoch.as_bytes(), &index.to_le_bytes()]);
        let base = &name[..name.len().min(50)];
        let new = new_pod(work, format!("{base}-{index}-{suffix}"), Some(index));
        actions.push(create_pod(&new, &work.owner));
    }
    actions
}

fn new_pod(work: &Work<'_>, name: String, index: Option<i32>) -> Pod {
    let mut new = pod::from_template(&work.spec.template, &work.owner, name);
    let finalizers = new.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|f| f == TRACKING) {
        finalizers.push(TRACKING.to_owned());
    }
    let Some(index) = index else { return new };
    new.metadata.generate_name = Some(format!("{}-{index}-", work.owner.name));
    new.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    let annotations = new.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if work.spec.backoff_limit_per_index.is_some() {
        annotations.insert(INDEX_FAILURES.to_owned(), indexes::failures(&work.pods, index).to_string());
    }
    let spec = new.spec.get_or_insert_default();
    spec.hostname = Some(format!("{}-{index}", work.owner.name));
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        let env = container.env.get_or_insert_default();
        if !env.iter().any(|e| e.name == INDEX_VARIABLE) {
            env.push(index_variable());
        }
    }
    new
}

fn index_variable() -> EnvVar {
    let field_path = format!("metadata.labels['{INDEX}']");
    let field_ref = Some(ObjectFieldSelector { api_version: None, field_path });
    let value_from = Some(EnvVarSource { field_ref, ..EnvVarSource::default() });
    EnvVar { name: INDEX_VARIABLE.to_owned(), value: None, value_from }
}
