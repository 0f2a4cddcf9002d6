//! Job and CronJob.

use client::ObjectKey;
use controllers::select::matches;
use controllers::{Plan, cronjob, job, pod, ttlafterfinished};
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::Pod;

use super::workloads::{candidates, refs, wake_selecting};
use crate::caches::CONTROLLER;
use crate::shell::{Pass, Planner, Wiring};

/// The index of pods that carry the tracking finalizer, by the Job they name.
const TRACKED: &str = "tracked-by-job";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

/// The Job that a tracked pod is, or was, of.
fn job_of(p: &Pod) -> Option<ObjectKey> {
    if !p.metadata.finalizers.iter().flatten().any(|f| f == job::TRACKING) {
        return None;
    }
    let owner = pod::controller_of(&p.metadata).filter(|o| o.kind == "Job").map(|o| o.name.as_str());
    let label = || p.metadata.labels.as_ref()?.get(JOB_NAME).map(String::as_str);
    Some(ObjectKey::new(p.metadata.namespace.as_deref()?, owner.or_else(label)?))
}

pub(super) fn job(wiring: &mut Wiring) -> Planner {
    let jobs = wiring.own::<Job>();
    let owners = jobs.clone();
    let pods = wiring.owned::<Pod>("Job", move |orphan, wake| {
        let selects = |j: &Job, p: &Pod| {
            matches(j.spec.as_ref().and_then(|s| s.selector.as_ref()), p.metadata.labels.as_ref())
        };
        wake_selecting(&owners, orphan, selects, wake);
        job_of(orphan).into_iter().for_each(wake);
    });
    pods.add_index(TRACKED, |p| job_of(p).map(|k| k.to_string()).into_iter().collect());
    Planner::local(move |pass: &Pass<'_>| {
        let known = jobs.get_key(pass.key);
        let uid = known.as_ref().map_or("", |j| pod::uid(&**j)).to_owned();
        // A pod that is no Job's any more must not wait to be counted.
        let tracked = pods.by_index(TRACKED, &pass.key.to_string());
        let stray = tracked.iter().filter(|p| match pod::controller_of(&p.metadata) {
            Some(owner) => owner.uid != uid,
            None => known.is_none(),
        });
        let released: Vec<_> = stray.flat_map(|p| job::release_orphan(p).actions).collect();
        let mut plan = match &known {
            None => Plan::idle("the job is gone"),
            Some(job) => {
                let found = candidates(&pods, &uid, &pass.key.namespace);
                job::plan(&job::View { job, pods: refs(&found), failure: pass.failure }, pass.now)
            }
        };
        plan.actions.splice(0..0, released);
        plan
    })
}

pub(super) fn cronjob(wiring: &mut Wiring) -> Planner {
    let crons = wiring.own::<CronJob>();
    let jobs = wiring.owned::<Job>("CronJob", |_, _| {});
    Planner::local(move |pass: &Pass<'_>| {
        let Some(cron) = crons.get_key(pass.key) else { return Plan::idle("the cron job is gone") };
        let owned = jobs.by_index(CONTROLLER, pod::uid(&*cron));
        let zone = match cron.spec.time_zone.as_deref() {
            None => Some(TimeZone::UTC),
            Some(name) => base::cron::zone(name),
        };
        cronjob::plan(&cronjob::View { cron: &cron, jobs: refs(&owned), zone }, pass.now)
    })
}

pub(super) fn ttl(wiring: &mut Wiring) -> Planner {
    let jobs = wiring.own::<Job>();
    Planner::local(move |pass: &Pass<'_>| match jobs.get_key(pass.key) {
        Some(job) => ttlafterfinished::plan(&job, pass.now),
        None => Plan::idle("the job is gone"),
    })
}
