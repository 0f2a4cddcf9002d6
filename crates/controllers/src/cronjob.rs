//! CronJob: Jobs made on a schedule.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::{Action, Note, Plan, Propagation, Report, Target, job, pod};
use base::cron;

const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// What the planner is told.
pub struct View<'a> {
    /// The CronJob.
    pub cron: &'a CronJob,
    /// The Jobs it controls.
    pub jobs: Vec<&'a Job>,
    /// The time zone its spec names, if it names one; `None` when there is no such zone.
    pub zone: Option<TimeZone>,
}

struct Work<'a> {
    old: &'a CronJob,
    new: CronJob,
    spec: &'a CronJobSpec,
    owner: Target,
    jobs: &'a [&'a Job],
    now: Timestamp,
    plan: Plan,
}

/// Keeps the list of running Jobs and the history, and creates the Job that is due.
#[must_use]
pub fn plan(view: &View<'_>, now: Timestamp) -> Plan {
    let spec = &view.cron.spec;
    if pod::is_deleting(view.cron) {
        return Plan::idle("the cron job is being deleted");
    }
    let (owner, plan) = (Target::of(view.cron), Plan::default());
    let mut work = Work { old: view.cron, new: view.cron.clone(), spec, owner, jobs: &view.jobs, now, plan };
    work.watch_jobs();
    work.trim_history();
    match &view.zone {
        None => {
            let zone = spec.time_zone.as_deref().unwrap_or("");
            work.event(Note::warning(
                "UnknownTimeZone",
                format!("invalid timeZone: \"{zone}\": unknown time zone {zone}"),
            ));
        }
        Some(_) if spec.suspend == Some(true) => work.plan.because("the cron job is suspended"),
        Some(zone) => work.schedule(zone),
    }
    work.plan.actions.extend(Action::patch_status(work.old, &work.new));
    work.plan
}

/// Whether a schedule made this Job; people make others in a CronJob's name (`kubectl create job --from`).
fn is_scheduled(job: &Job) -> bool {
    job.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(SCHEDULED))
}

impl Work<'_> {
    fn event(&mut self, note: Note) {
        self.plan.actions.push(Action::Event { about: self.owner.clone(), note });
    }

    /// Brings the list of running Jobs up to date.
    fn watch_jobs(&mut self) {
        let mut status = self.new.status.clone().unwrap_or_default();
        let before = status.active.take().unwrap_or_default();
        let listed = |uid: &str| before.iter().any(|r| r.uid.as_deref() == Some(uid));
        let mut notes = Vec::new();
        let mut active: Vec<ObjectReference> = Vec::new();
        for job in self.jobs {
            let (uid, name) = (pod::uid(*job), pod::name(*job));
            match job::end_of(job) {
                None if listed(uid) || is_scheduled(job) => active.push(reference(job)),
                None => {
                    let text = format!("Saw a job that the controller did not create or forgot: {name}");
                    notes.push(Note::warning("UnexpectedJob", text));
                }
                Some(end) if listed(uid) => {
                    let text = format!("Saw completed job: {name}, condition: {}", end.type_);
                    notes.push(Note::normal("SawCompletedJob", text));
                }
                Some(_) => {}
            }
            let finished = job.status.as_ref().and_then(|s| s.completion_time.as_ref());
            if finished.is_some_and(|t| status.last_successful_time.as_ref().is_none_or(|l| l.0 < t.0)) {
                status.last_successful_time = finished.cloned();
            }
        }
        for gone in
            before.iter().filter(|r| !self.jobs.iter().any(|j| Some(pod::uid(*j)) == r.uid.as_deref()))
        {
            let name = gone.name.as_deref().unwrap_or("");
            notes.push(Note::normal("MissingJob", format!("Active job went missing: {name}")));
        }
        active.sort_by(|a, b| a.name.cmp(&b.name));
        status.active = (!active.is_empty()).then_some(active);
        self.new.status = Some(status);
        notes.into_iter().for_each(|n| self.event(n));
    }

    /// Deletes finished Jobs beyond the limits, oldest first.
    fn trim_history(&mut self) {
        let limits = [
            ("Complete", self.spec.successful_jobs_history_limit.unwrap_or(3)),
            ("Failed", self.spec.failed_jobs_history_limit.unwrap_or(1)),
        ];
        for (kind, limit) in limits {
            let ended = self
                .jobs
                .iter()
                .filter(|j| job::end_of(j).is_some_and(|e| e.type_ == kind) && !pod::is_deleting(**j));
            let mut ended: Vec<&Job> = ended.copied().collect();
            let start = |j: &Job| j.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
            ended.sort_by_key(|j| (start(j), pod::name(*j).to_owned()));
            let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
            for old in &ended[..surplus] {
                self.delete(old);
            }
        }
    }

    fn delete(&mut self, old: &Job) {
        let report = Report {
            about: self.owner.clone(),
            done: Some(Note::normal("SuccessfulDelete", format!("Deleted job {}", pod::name(old)))),
            failed: Some(Note::warning("FailedDelete", "Deleted job: ")),
        };
        self.plan.actions.push(Action::Delete {
            target: Target::of(old),
            grace_s: None,
            propagation: Some(Propagation::Background),
            report: Some(report),
        });
    }

    /// Creates the Job that is due, unless the policies are against it.
    fn schedule(&mut self, zone: &TimeZone) {
        let schedule = match cron::parse(&self.spec.schedule) {
            Ok(schedule) => schedule,
            Err(why) => {
                let text = format!("unparseable schedule: \"{}\" : {why}", self.spec.schedule);
                return self.event(Note::warning("UnparseableSchedule", text));
            }
        };
        if schedule.next(self.now, zone).is_none() {
            let why = "time difference between two schedules is less than 1 second";
            let text = format!("invalid schedule: {} : {why}", self.spec.schedule);
            return self.event(Note::warning("InvalidSchedule", text));
        }
        let status = self.new.status.clone().unwrap_or_default();
        let created = self.old.metadata.creation_timestamp.as_ref().map_or(self.now, |t| t.0);
        let mut since = status.last_schedule_time.as_ref().map_or(created, |t| t.0);
        let deadline = self.spec.starting_deadline_seconds.map(SignedDuration::from_secs);
        if let Some(deadline) = deadline {
            since = since.max(self.now - deadline);
        }
        // Everything that follows waits for the next time; a pass before it changes nothing.
        self.plan.wake = self.plan.wake.or_at(schedule.next(self.now, zone));
        let (due, many) = schedule.latest(since, self.now, zone);
        let Some(due) = due else { return self.plan.because("no run is due") };
        if many {
            let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.event(Note::warning("TooManyMissedTimes", text));
        }
        let name = format!("{}-{}", self.owner.name, due.as_second() / 60);
        if self.jobs.iter().any(|j| pod::name(*j) == name)
            || status.last_schedule_time.as_ref().is_some_and(|l| l.0 == due)
        {
            self.scheduled(due);
            return self.plan.because("the run that is due exists");
        }
        let listed = status.active.as_deref().unwrap_or_default();
        let active = |job: &&Job| listed.iter().any(|r| r.uid.as_deref() == Some(pod::uid(*job)));
        let active: Vec<&Job> = self.jobs.iter().copied().filter(active).collect();
        match self.spec.concurrency_policy.as_deref() {
            Some("Forbid") if !active.is_empty() => {
                let text =
                    "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.plan.because(text);
                return self.event(Note::normal("JobAlreadyActive", text));
            }
            Some("Replace") => active.into_iter().for_each(|j| self.delete(j)),
            _ => {}
        }
        self.create(name, due, zone);
        self.scheduled(due);
    }

    fn scheduled(&mut self, due: Timestamp) {
        self.new.status.get_or_insert_default().last_schedule_time = Some(Time(due));
    }

    fn create(&mut self, name: String, due: Timestamp, zone: &TimeZone) {
        let template = &self.spec.job_template;
        let meta = template.metadata.clone().unwrap_or_default();
        let mut annotations = meta.annotations.unwrap_or_default();
        let local = due.to_zoned(zone.clone());
        let offset = due.display_with_offset(local.offset()).to_string();
        let stamp = if local.offset().is_zero() { due.to_string() } else { offset };
        annotations.insert(SCHEDULED.to_owned(), stamp);
        let new = Job {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(self.owner.namespace.clone()),
                labels: meta.labels,
                annotations: Some(annotations),
                creation_timestamp: None,
                owner_references: Some(vec![self.owner.controller_reference()]),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        };
        let report = Report {
            about: self.owner.clone(),
            done: Some(Note::normal("SuccessfulCreate", format!("Created job {name}"))),
            failed: Some(Note::warning("FailedCreate", "Error creating job: ")),
        };
        self.plan.because(format!("the run of {due} is due"));
        self.plan.actions.push(Action::create_reported(&new, Some(report)));
    }
}

fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        namespace: job.metadata.namespace.clone(),
        name: job.metadata.name.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        field_path: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: &str = "2026-06-15T12:34:56Z";

    /// What a plan does, in short.
    fn log(spec: Value, status: Value, jobs: &[Value]) -> String {
        let mut whole = json!({"schedule": "* * * * *", "jobTemplate": {}});
        for (key, value) in spec.as_object().expect("spec") {
            whole[key] = value.clone();
        }
        let cron: CronJob =
            serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n", "uid": "u",
            "creationTimestamp": "2026-06-15T12:33:30Z"}, "spec": whole, "status": status}))
            .expect("cron job");
        let jobs: Vec<Job> =
            jobs.iter().map(|job| serde_json::from_value(job.clone()).expect("job")).collect();
        let zone = match cron.spec.time_zone.as_deref() {
            None => Some(TimeZone::UTC),
            Some(name) => cron::zone(name),
        };
        let plan = plan(&View { cron: &cron, jobs: jobs.iter().collect(), zone }, NOW.parse().expect("time"));
        let words = plan.actions.iter().map(|action| match action {
            Action::Create { object, .. } => {
                let stamp = &object["metadata"]["annotations"][SCHEDULED];
                format!(
                    "+{} {}",
                    object["metadata"]["name"].as_str().unwrap_or(""),
                    stamp.as_str().unwrap_or("")
                )
            }
            Action::Delete { target, .. } => format!("-{}", target.name),
            Action::Event { note, .. } => format!("!{}", note.reason),
            Action::Patch { .. } => "status".to_owned(),
            other => format!("{other:?}"),
        });
        words.collect::<Vec<_>>().join(", ")
    }

    fn running(name: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "n", "uid": name}, "status": {"startTime": NOW}})
    }

    fn scheduled(name: &str) -> Value {
        let mut job = running(name);
        job["metadata"]["annotations"] = json!({SCHEDULED: NOW});
        job
    }

    fn ended(name: &str, how: &str, minute: u8) -> Value {
        let start = format!("2026-06-15T12:{minute:02}:00Z");
        json!({"metadata": {"name": name, "namespace": "n", "uid": name}, "status": {"startTime": start,
            "conditions": [{"type": how, "status": "True"}]}})
    }

    #[test]
    fn schedules_by_table() {
        let none = json!({});
        let active = json!({"active": [{"name": "a", "uid": "a"}]});
        let last = json!({"lastScheduleTime": "2026-06-15T12:34:00Z"});
        let ran = json!({"lastScheduleTime": "2026-06-15T10:00:00Z"});
        let table = [
            (json!({}), &none, vec![], "+c-29692114 2026-06-15T12:34:00Z, status"),
            (json!({}), &last, vec![], ""),
            (json!({"suspend": true}), &none, vec![], ""),
            (
                json!({"timeZone": "Europe/Rome"}),
                &none,
                vec![],
                "+c-29692114 2026-06-15T14:34:00+02:00, status",
            ),
            (json!({"timeZone": "Mars/Base"}), &none, vec![], "!UnknownTimeZone"),
            (json!({"schedule": "x"}), &none, vec![], "!UnparseableSchedule"),
            (json!({"schedule": "0 0 31 2 *"}), &none, vec![], "!InvalidSchedule"),
            (json!({"startingDeadlineSeconds": 30}), &none, vec![], ""),
            (json!({}), &ran, vec![], "!TooManyMissedTimes, +c-29692114 2026-06-15T12:34:00Z, status"),
            (
                json!({"startingDeadlineSeconds": 90}),
                &ran,
                vec![],
                "+c-29692114 2026-06-15T12:34:00Z, status",
            ),
            (json!({"concurrencyPolicy": "Forbid"}), &active, vec![running("a")], "!JobAlreadyActive"),
            (
                json!({"concurrencyPolicy": "Replace"}),
                &active,
                vec![running("a")],
                "-a, +c-29692114 2026-06-15T12:34:00Z, status",
            ),
            // A Job by hand is none of the schedule's; one of the schedule's that the status forgot is.
            (
                json!({"concurrencyPolicy": "Forbid"}),
                &none,
                vec![running("hand")],
                "!UnexpectedJob, +c-29692114 2026-06-15T12:34:00Z, status",
            ),
            (json!({"concurrencyPolicy": "Forbid"}), &none, vec![scheduled("c")], "!JobAlreadyActive"),
            (json!({"suspend": true}), &none, vec![ended("hand", "Complete", 1)], ""),
            (json!({"suspend": true}), &active, vec![], "!MissingJob, status"),
            (json!({"suspend": true}), &active, vec![ended("a", "Complete", 1)], "!SawCompletedJob, status"),
        ];
        for (spec, status, jobs, want) in table {
            let got = log(spec.clone(), status.clone(), &jobs);
            // A list of running jobs that only gains its references is written too.
            assert_eq!(
                got.replace("!JobAlreadyActive, status", "!JobAlreadyActive"),
                want,
                "{spec} {status}"
            );
        }
    }

    #[test]
    fn histories_are_limited() {
        let jobs: Vec<Value> = (0..5).map(|i| ended(&format!("s{i}"), "Complete", i)).collect();
        let failed: Vec<Value> = (0..3).map(|i| ended(&format!("f{i}"), "Failed", i)).collect();
        let all: Vec<Value> = jobs.into_iter().chain(failed).collect();
        let suspended = |more: Value| {
            let mut spec = json!({"suspend": true});
            spec.as_object_mut().expect("map").extend(more.as_object().expect("map").clone());
            log(spec, json!({}), &all)
        };
        assert_eq!(suspended(json!({})), "-s0, -s1, -f0, -f1");
        let none = json!({"successfulJobsHistoryLimit": 0, "failedJobsHistoryLimit": 0});
        assert_eq!(suspended(none), "-s0, -s1, -s2, -s3, -s4, -f0, -f1, -f2");
    }
}
