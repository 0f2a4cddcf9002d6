//! Deletes Jobs some time after they have ended, if they say so.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;

use crate::{Action, Plan, Propagation, Target, job, pod};

/// Deletes the Job when its time has come.
#[must_use]
pub fn plan(job: &Job, now: Timestamp) -> Plan {
    let Some(ttl) = job.spec.as_ref().and_then(|s| s.ttl_seconds_after_finished) else {
        return Plan::idle("the job has no time to live");
    };
    let Some(ended) = job::end_of(job).and_then(|c| c.last_transition_time.as_ref()) else {
        return Plan::idle("the job has not ended");
    };
    if pod::is_deleting(job) {
        return Plan::idle("the job is being deleted");
    }
    let due = ended.0 + SignedDuration::from_secs(i64::from(ttl));
    let mut plan = Plan::idle("the job's time to live counts");
    if due > now {
        plan.wake = plan.wake.or_at(Some(due));
        return plan;
    }
    let propagation = Some(Propagation::Foreground);
    plan.actions.push(Action::Delete { target: Target::of(job), grace_s: None, propagation, report: None });
    plan
}
