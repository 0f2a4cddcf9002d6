//! Job: pods that run to their end, counted exactly once.
//!
//! A finalizer keeps every pod until it is counted. The uid of a finished pod first goes into the status,
//! then the finalizer is removed, then the uid becomes a number: whatever happens in between, no pod is
//! counted twice or not at all.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use crate::claim::claim;
use crate::select::matches;
use crate::{Action, Failure, Note, Plan, Target, pod};

mod indexes;
mod pods;
mod policy;
mod status;

pub use indexes::Indexes;

/// The finalizer that keeps pods until they are counted.
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const BUILT_IN: &str = "kubernetes.io/job-controller";
/// The most pods that are created, deleted or counted in one pass.
const BURST: usize = 500;

/// What the planner is told.
pub struct View<'a> {
    /// The Job.
    pub job: &'a Job,
    /// Pods it controls, and pods of its namespace that nobody does.
    pub pods: Vec<&'a Pod>,
    /// What went wrong last time.
    pub failure: Option<&'a Failure>,
}

/// How a Job ends.
struct End {
    failed: bool,
    reason: String,
    message: String,
}

struct Work<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    owner: Target,
    pods: Vec<&'a Pod>,
    active: Vec<&'a Pod>,
    /// Pods that have just finished, and are not in the status yet.
    new_succeeded: Vec<&'a Pod>,
    new_failed: Vec<&'a Pod>,
    succeeded: i32,
    failed: i32,
    done: Indexes,
    lost: Indexes,
    status: JobStatus,
    now: Timestamp,
    plan: Plan,
}

/// The condition of a Job that has ended: `Complete` or `Failed`.
#[must_use]
pub fn end_of(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.as_ref()?.conditions.iter().flatten();
    { conditions }.find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")
}

/// Creates, deletes and counts pods until the Job has ended.
#[must_use]
pub fn plan(view: &View<'_>, now: Timestamp) -> Plan {
    let job = view.job;
    let Some(spec) = &job.spec else { return Plan::idle("the job has no spec") };
    if spec.managed_by.as_deref().is_some_and(|m| m != BUILT_IN) {
        return Plan::idle("someone else manages the job");
    }
    if spec.selector.is_none() {
        // Without it, pods could not be told to be the job's, and more would be made without end.
        return Plan::idle("the job has no selector");
    }
    let owner = Target::of(job);
    if end_of(job).is_some() {
        let left = view.pods.iter().filter(|p| pod::is_controlled_by(&p.metadata, &owner.uid));
        let actions = left.filter_map(|p| untrack(p)).collect();
        return Plan { actions, ..Plan::idle("the job has ended") };
    }
    let selects = |labels: Option<&_>| matches(spec.selector.as_ref(), labels);
    let (owned, actions) = claim(&owner, pod::is_deleting(job), selects, view.pods.iter().copied());
    let mut work = Work::new(job, spec, owned, now);
    work.plan.actions = actions;
    work.run(view.failure);
    work.plan
}

/// Removes the finalizer from a pod, if it has it.
fn untrack(p: &Pod) -> Option<Action> {
    let finalizers = p.metadata.finalizers.as_ref().filter(|f| f.iter().any(|f| f == TRACKING))?;
    let keep: Vec<&String> = finalizers.iter().filter(|f| *f != TRACKING).collect();
    let patch = json!({"metadata": {"finalizers": keep, "resourceVersion": p.metadata.resource_version}});
    Some(Action::merge(Target::of(p), "", patch))
}

/// Removes the finalizer from a pod whose Job is gone or does not track it any more.
#[must_use]
pub fn release_orphan(p: &Pod) -> Plan {
    Plan { actions: untrack(p).into_iter().collect(), ..Plan::idle("the pod's job is gone") }
}

fn is_tracked(p: &Pod) -> bool {
    p.metadata.finalizers.iter().flatten().any(|f| f == TRACKING)
}

fn index_of(p: &Pod) -> Option<i32> {
    p.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()
}

/// When the last container of the pod ended.
fn finished_at(p: &Pod) -> Option<Timestamp> {
    let statuses = p.status.as_ref()?.container_statuses.iter().flatten();
    let ends =
        statuses.filter_map(|s| s.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()).map(|t| t.0);
    let ready = pod::condition(p, "Ready").and_then(|c| c.last_transition_time.as_ref()).map(|t| t.0);
    { ends }.max().or(ready).or(p.metadata.creation_timestamp.as_ref().map(|t| t.0))
}

impl<'a> Work<'a> {
    fn new(job: &'a Job, spec: &'a JobSpec, pods: Vec<&'a Pod>, now: Timestamp) -> Self {
        let status = job.status.clone().unwrap_or_default();
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let known: BTreeSet<&str> =
            uncounted.succeeded.iter().chain(&uncounted.failed).flatten().map(String::as_str).collect();
        let active: Vec<&Pod> = pods.iter().copied().filter(|p| pod::is_active(p)).collect();
        let fresh = |p: &&&Pod| is_tracked(p) && !known.contains(pod::uid(**p));
        let new_succeeded: Vec<&Pod> =
            pods.iter().filter(fresh).copied().filter(|p| pod::phase(p) == "Succeeded").collect();
        let new_failed: Vec<&Pod> =
            pods.iter().filter(fresh).copied().filter(|p| is_failed(spec, p)).collect();
        let (done, lost) = (Indexes::default(), Indexes::default());
        let (owner, plan) = (Target::of(job), Plan::default());
        let mut work = Self {
            job,
            spec,
            owner,
            pods,
            active,
            new_succeeded,
            new_failed,
            succeeded: 0,
            failed: 0,
            done,
            lost,
            status,
            now,
            plan,
        };
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let waiting = |list: &Option<Vec<String>>| count(list.as_ref().map_or(0, Vec::len));
        let ignored = work.new_failed.iter().filter(|p| policy::is_ignored(spec, p)).count();
        work.failed = work.status.failed.unwrap_or(0)
            + waiting(&uncounted.failed)
            + count(work.new_failed.len() - ignored);
        work.succeeded = work.status.succeeded.unwrap_or(0)
            + waiting(&uncounted.succeeded)
            + count(work.new_succeeded.len());
        if work.is_indexed() {
            work.done = indexes::succeeded(job, &work.pods, work.completions());
            work.succeeded = count(work.done.len());
            if work.spec.backoff_limit_per_index.is_some() {
                work.lost = indexes::failed(job, &work.pods, work.completions());
            }
        }
        work
    }

    fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    fn completions(&self) -> i32 {
        self.spec.completions.unwrap_or(0)
    }

    fn terminating(&self) -> usize {
        self.pods.iter().filter(|p| pod::is_deleting(**p) && !pod::is_finished(p)).count()
    }

    fn run(&mut self, failure: Option<&Failure>) {
        if self.status.start_time.is_none() && !self.is_suspended() {
            self.status.start_time = Some(Time(self.now));
        }
        let end = self.end();
        let mut changes = Vec::new();
        match &end {
            Some(end) => {
                self.plan.because(format!("the job is ending: {}", end.reason));
                let gone: Vec<&Pod> = self.active.clone();
                changes.extend(gone.iter().map(|p| pods::delete(&self.owner, p)));
            }
            None if pod::is_deleting(self.job) => self.plan.because("the job is being deleted"),
            None => {
                changes = pods::manage(self);
                self.suspension();
            }
        }
        let status = status::track(self, end.as_ref(), &changes);
        // Pods that are to be counted must be in the status before anything else happens.
        if failure.is_some()
            || !self.new_succeeded.is_empty()
            || !self.new_failed.is_empty()
            || changes.is_empty()
        {
            self.plan.actions.extend(status);
            self.plan.actions.append(&mut changes);
        } else {
            self.plan.actions.append(&mut changes);
            self.plan.actions.extend(status);
        }
    }

    /// Whether and how the Job is to end, the reasons to fail before those to succeed.
    fn end(&mut self) -> Option<End> {
        let interim = |kind: &str| {
            let conditions = self.job.status.as_ref().and_then(|s| s.conditions.as_ref());
            let mut all = conditions.into_iter().flatten();
            all.find(|c| c.type_ == kind && c.status == "True").map(|c| End {
                failed: kind == "FailureTarget",
                reason: c.reason.clone().unwrap_or_default(),
                message: c.message.clone().unwrap_or_default(),
            })
        };
        if let Some(end) = interim("SuccessCriteriaMet").or_else(|| interim("FailureTarget")) {
            return Some(end);
        }
        let failed = |reason: &str, message: &str| {
            Some(End { failed: true, reason: reason.to_owned(), message: message.to_owned() })
        };
        if let Some(message) = policy::failing(self.spec, &self.pods) {
            return failed("PodFailurePolicy", &message);
        }
        if self.failed > self.spec.backoff_limit.unwrap_or(6) || self.restarts_exceed() {
            return failed("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if self.is_past_deadline() {
            return failed("DeadlineExceeded", "Job was active longer than specified deadline");
        }
        if self.is_indexed() && self.spec.backoff_limit_per_index.is_some() {
            let lost = i32::try_from(self.lost.len()).unwrap_or(i32::MAX);
            if self.spec.max_failed_indexes.is_some_and(|max| lost > max) {
                let message = "Job has exceeded the specified maximal number of failed indexes";
                return failed("MaxFailedIndexesExceeded", message);
            }
            if lost > 0 && lost + self.succeeded >= self.completions() {
                return failed("FailedIndexes", "Job has failed indexes");
            }
        }
        if let Some(message) = policy::succeeding(self.spec, &self.done, self.completions()) {
            return Some(End { failed: false, reason: "SuccessPolicy".to_owned(), message });
        }
        let enough = match self.spec.completions {
            None => self.succeeded > 0,
            Some(completions) => self.succeeded >= completions,
        };
        let message = "Reached expected number of succeeded pods".to_owned();
        (enough && self.active.is_empty() && !pod::is_deleting(self.job)).then(|| End {
            failed: false,
            reason: "CompletionsReached".to_owned(),
            message,
        })
    }

    /// Pods that restart in place count their restarts.
    fn restarts_exceed(&self) -> bool {
        let restart = self.spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
        if restart != Some("OnFailure") {
            return false;
        }
        let limit = self.spec.backoff_limit.unwrap_or(6);
        let running = self.pods.iter().filter(|p| matches!(pod::phase(p), "Running" | "Pending"));
        let statuses = running.filter_map(|p| p.status.as_ref()).flat_map(|s| {
            s.container_statuses.iter().flatten().chain(s.init_container_statuses.iter().flatten())
        });
        let restarts: i32 = statuses.map(|s| s.restart_count).sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    fn is_past_deadline(&mut self) -> bool {
        let Some(limit) = self.spec.active_deadline_seconds.filter(|_| !self.is_suspended()) else {
            return false;
        };
        let Some(start) = &self.status.start_time else { return false };
        let end = start.0 + SignedDuration::from_secs(limit);
        if end > self.now {
            self.plan.wake = self.plan.wake.or_at(Some(end));
        }
        end <= self.now
    }

    fn suspension(&mut self) {
        let suspended = self.is_suspended();
        let (status, reason, message, event) = match suspended {
            true => ("True", "JobSuspended", "Job suspended", "Suspended"),
            false => ("False", "JobResumed", "Job resumed", "Resumed"),
        };
        let known = self.status.conditions.iter().flatten().find(|c| c.type_ == "Suspended");
        // A Job that was never suspended does not say that it was resumed.
        if known.map_or(!suspended, |c| c.status == status) {
            return;
        }
        status::set(&mut self.status, "Suspended", status, reason, message, self.now);
        self.status.start_time = (!suspended).then_some(Time(self.now));
        let note = Note::normal(event, message);
        self.plan.actions.push(Action::Event { about: self.owner.clone(), note });
    }

    /// Active pods by index.
    fn active_indexes(&self) -> BTreeMap<i32, usize> {
        let mut count = BTreeMap::new();
        for index in self.active.iter().filter_map(|p| index_of(p)) {
            *count.entry(index).or_default() += 1;
        }
        count
    }
}

/// Whether pods are replaced only once they have failed, not when they begin to go.
fn only_replaces_failed(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

fn is_failed(spec: &JobSpec, p: &Pod) -> bool {
    match pod::phase(p) {
        "Failed" => true,
        "Succeeded" => false,
        _ => pod::is_deleting(p) && !only_replaces_failed(spec),
    }
}
