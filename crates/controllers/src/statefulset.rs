//! StatefulSet: pods with names, order and volumes of their own.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use crate::claim::claim;
use crate::revision::{HASH, Revision};
use crate::select::matches;
use crate::{Action, Failure, Note, Plan, Report, Target, percent, pod, revision};

mod storage;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// What the planner is told.
pub struct View<'a> {
    /// The set.
    pub set: &'a StatefulSet,
    /// Pods it controls, and pods of its namespace that nobody does.
    pub pods: Vec<&'a Pod>,
    /// Claims of its namespace by name.
    pub claims: &'a dyn Fn(&str) -> Option<std::sync::Arc<PersistentVolumeClaim>>,
    /// Revisions it controls.
    pub revisions: Vec<&'a ControllerRevision>,
    /// What went wrong last time.
    pub failure: Option<&'a Failure>,
}

/// Why a pass goes no further.
struct Stop;

struct Work<'a> {
    set: &'a StatefulSet,
    spec: &'a StatefulSetSpec,
    owner: Target,
    claims: &'a dyn Fn(&str) -> Option<std::sync::Arc<PersistentVolumeClaim>>,
    current: Revision,
    update: Revision,
    start: i32,
    replicas: Vec<Option<&'a Pod>>,
    /// Pods beyond the size asked for, the highest first.
    condemned: Vec<&'a Pod>,
    now: Timestamp,
    plan: Plan,
}

/// Takes the set one step further.
#[must_use]
pub fn plan(view: &View<'_>, now: Timestamp) -> Plan {
    let set = view.set;
    let Some(spec) = &set.spec else { return Plan::idle("the set has no spec") };
    let owner = Target::of(set);
    let named = view.pods.iter().copied().filter(|p| ordinal(&owner.name, p).is_some());
    let selects = |labels: Option<&_>| matches(Some(&spec.selector), labels);
    let (pods, actions) = claim(&owner, pod::is_deleting(set), selects, named);
    let collisions = set.status.as_ref().and_then(|s| s.collision_count);
    let labels = spec.selector.match_labels.clone().unwrap_or_default();
    let resolved = revision::resolve(&owner, &spec.template, &labels, &view.revisions, collisions);
    let wanted = set.status.as_ref().and_then(|s| s.current_revision.as_deref());
    let current =
        view.revisions.iter().find(|r| Some(pod::name(**r)) == wanted).and_then(|r| revision::known(r));
    let current = current.unwrap_or_else(|| resolved.update.clone());

    let start = spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0);
    let size = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    let mut replicas = vec![None; size];
    let mut condemned = Vec::new();
    for p in &pods {
        let ordinal = ordinal(&owner.name, p).unwrap_or(0);
        match usize::try_from(ordinal - start).ok().and_then(|i| replicas.get_mut(i)) {
            Some(slot) => *slot = Some(*p),
            None => condemned.push(*p),
        }
    }
    condemned.sort_by_key(|p| std::cmp::Reverse(ordinal(&owner.name, p)));
    let (update, claims) = (resolved.update, view.claims);
    let plan = Plan { actions, ..Plan::default() };
    let mut work = Work { set, spec, owner, claims, current, update, start, replicas, condemned, now, plan };
    work.plan.actions.extend(resolved.action);
    let status = work.status(&pods, resolved.collisions);
    let change = change_of_status(set, status);
    if view.failure.is_some() {
        work.plan.actions.extend(change.clone());
    }
    if !pod::is_deleting(set) && work.step().is_err() {
        work.plan.because("waiting");
    }
    let live = |name: &str| {
        name == work.current.name
            || name == work.update.name
            || pods.iter().any(|p| revision_of(p) == Some(name))
    };
    let limit = spec.revision_history_limit.unwrap_or(10);
    let surplus = revision::truncate(&view.revisions, live, limit);
    work.plan.actions.extend(surplus);
    if view.failure.is_none() {
        work.plan.actions.extend(change);
    }
    work.plan
}

/// The number at the end of the pod's name, if the rest is the set's.
fn ordinal(set: &str, p: &Pod) -> Option<i32> {
    let number = pod::name(p).strip_prefix(set)?.strip_prefix('-')?;
    let plain = number.bytes().all(|b| b.is_ascii_digit()) && (number == "0" || !number.starts_with('0'));
    plain.then(|| number.parse().ok()).flatten()
}

fn revision_of(p: &Pod) -> Option<&str> {
    p.metadata.labels.as_ref()?.get(HASH).map(String::as_str)
}

fn is_running_and_ready(p: &Pod) -> bool {
    pod::phase(p) == "Running" && pod::is_ready(p)
}

impl<'a> Work<'a> {
    fn min_ready(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }

    fn is_available(&mut self, p: &Pod) -> bool {
        if pod::phase(p) != "Running" {
            return false;
        }
        match pod::availability(p, self.min_ready(), self.now) {
            Ok(()) => true,
            Err(at) => {
                self.plan.wake = self.plan.wake.or_at(at);
                false
            }
        }
    }

    fn step(&mut self) -> Result<(), Stop> {
        let ordered = self.spec.pod_management_policy.as_deref() != Some("Parallel");
        let mut stopped = Ok(());
        for index in 0..self.replicas.len() {
            let one = self.replica(index, ordered);
            if ordered {
                one?;
            } else if one.is_err() {
                stopped = Err(Stop);
            }
        }
        stopped?;
        self.condemn(ordered)?;
        if self.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("OnDelete") {
            self.roll();
        }
        Ok(())
    }

    /// Makes one replica what it should be; in order, it has to be available before the next.
    fn replica(&mut self, index: usize, ordered: bool) -> Result<(), Stop> {
        let Some(p) = self.replicas[index] else {
            self.create(index)?;
            return if ordered { Err(Stop) } else { Ok(()) };
        };
        if pod::is_finished(p) {
            if !pod::is_deleting(p) {
                self.delete(p);
            }
            return Err(Stop);
        }
        if pod::phase(p) == "Pending" {
            self.ensure_claims(p, self.start + index as i32)?;
        }
        if ordered && (pod::is_deleting(p) || !is_running_and_ready(p) || !self.is_available(p)) {
            return Err(Stop);
        }
        self.restore_identity(p);
        self.keep_retention(p, true);
        Ok(())
    }

    /// Deletes pods beyond the size, the highest first.
    fn condemn(&mut self, ordered: bool) -> Result<(), Stop> {
        let condemned = self.condemned.clone();
        for p in &condemned {
            self.keep_retention(p, false);
        }
        let healthy =
            |w: &mut Self, p: &Pod| !pod::is_deleting(p) && is_running_and_ready(p) && w.is_available(p);
        let replicas: Vec<&Pod> = self.replicas.iter().flatten().copied().collect();
        let all = replicas.into_iter().chain(condemned.iter().rev().copied());
        let first_unhealthy = all.into_iter().find(|p| !healthy(self, p)).map(pod::name);
        for p in condemned {
            if pod::is_deleting(p) {
                if ordered {
                    return Err(Stop);
                }
                continue;
            }
            if ordered && !healthy(self, p) && first_unhealthy != Some(pod::name(p)) {
                return Err(Stop);
            }
            self.delete(p);
            if ordered {
                return Err(Stop);
            }
        }
        Ok(())
    }

    /// Rolling update: replaces pods of other revisions, the highest first, as availability allows.
    fn roll(&mut self) {
        let rolling = self.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let partition = usize::try_from(rolling.and_then(|r| r.partition).unwrap_or(0)).unwrap_or(0);
        let size = i32::try_from(self.replicas.len()).unwrap_or(i32::MAX);
        let budget = rolling.and_then(|r| r.max_unavailable.as_ref());
        let mut budget = budget.and_then(|m| percent::scaled(m, size, false)).unwrap_or(1).max(1);
        for index in (partition..self.replicas.len()).rev() {
            let Some(p) = self.replicas[index] else { continue };
            let stale = revision_of(p) != Some(&self.update.name);
            if stale && !pod::is_deleting(p) {
                self.plan.because("replacing a pod of an old revision");
                self.delete(p);
            } else if !pod::is_deleting(p) && self.is_available(p) {
                continue;
            }
            budget -= 1;
            if budget <= 0 {
                return;
            }
        }
    }

    fn create(&mut self, index: usize) -> Result<(), Stop> {
        let ordinal = self.start + index as i32;
        let revision = self.revision_for(index);
        let mut new =
            pod::from_template(&revision.template, &self.owner, format!("{}-{ordinal}", self.owner.name));
        new.metadata.generate_name = None;
        let name = pod::name(&new).to_owned();
        let labels = new.metadata.labels.get_or_insert_default();
        labels.insert(POD_NAME.to_owned(), name.clone());
        labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
        labels.insert(HASH.to_owned(), revision.name);
        let spec = new.spec.get_or_insert_default();
        spec.hostname = Some(name);
        spec.subdomain = self.spec.service_name.clone().filter(|s| !s.is_empty());
        self.mount_claims(spec, ordinal);
        self.ensure_claims(&new, ordinal)?;
        self.plan.because(format!("pod {} is missing", pod::name(&new)));
        let report = self.report("Create", pod::name(&new));
        self.plan.actions.push(Action::create_reported(&new, Some(report)));
        Ok(())
    }

    /// Replicas below the partition, or not yet reached by the update, keep the current revision.
    fn revision_for(&self, index: usize) -> Revision {
        let strategy = self.spec.update_strategy.as_ref();
        let rolling = strategy.and_then(|s| s.type_.as_deref()) != Some("OnDelete");
        let below = match strategy.and_then(|s| s.rolling_update.as_ref()) {
            Some(r) => r.partition.unwrap_or(0),
            None => self.set.status.as_ref().and_then(|s| s.current_replicas).unwrap_or(0),
        };
        let keeps = rolling && index < usize::try_from(below).unwrap_or(0);
        if keeps { self.current.clone() } else { self.update.clone() }
    }

    fn delete(&mut self, p: &Pod) {
        let report = self.report("Delete", pod::name(p));
        self.plan.actions.push(Action::delete(p).reported(report));
    }

    fn restore_identity(&mut self, p: &Pod) {
        let mut new = p.clone();
        let labels = new.metadata.labels.get_or_insert_default();
        labels.insert(POD_NAME.to_owned(), pod::name(p).to_owned());
        if let Some(ordinal) = ordinal(&self.owner.name, p) {
            labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
        }
        self.plan.actions.extend(Action::patch(p, &new));
    }

    fn report(&self, verb: &'static str, name: &str) -> Report {
        let (done, failed) = match verb {
            "Create" => ("SuccessfulCreate", "FailedCreate"),
            _ => ("SuccessfulDelete", "FailedDelete"),
        };
        let set = &self.owner.name;
        Report {
            about: self.owner.clone(),
            done: Some(Note::normal(done, format!("{verb} Pod {name} in StatefulSet {set} successful"))),
            failed: Some(Note::warning(
                failed,
                format!("{verb} Pod {name} in StatefulSet {set} failed error: "),
            )),
        }
    }

    fn status(&mut self, pods: &[&Pod], collisions: Option<i32>) -> StatefulSetStatus {
        let old = self.set.status.clone().unwrap_or_default();
        let staying: Vec<&Pod> = pods.iter().copied().filter(|p| !pod::is_deleting(*p)).collect();
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let of = |r: &str| count(staying.iter().filter(|p| revision_of(p) == Some(r)).count());
        let available = pods.iter().filter(|p| self.is_available(p)).count();
        let mut status = StatefulSetStatus {
            replicas: count(pods.len()),
            ready_replicas: Some(count(pods.iter().filter(|p| is_running_and_ready(p)).count())),
            available_replicas: Some(count(available)),
            current_replicas: Some(of(&self.current.name)),
            updated_replicas: Some(of(&self.update.name)),
            current_revision: Some(self.current.name.clone()),
            update_revision: Some(self.update.name.clone()),
            collision_count: Some(collisions.unwrap_or(0)),
            observed_generation: self.set.metadata.generation,
            conditions: old.conditions,
        };
        let size = self.spec.replicas.unwrap_or(1);
        let rolling = self.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("OnDelete");
        let all = [status.updated_replicas, status.ready_replicas, Some(status.replicas)];
        if rolling && all.iter().all(|n| *n == Some(size)) {
            status.current_replicas = status.updated_replicas;
            status.current_revision = status.update_revision.clone();
        }
        status
    }
}

fn change_of_status(set: &StatefulSet, mut status: StatefulSetStatus) -> Option<Action> {
    let old = set.status.clone().unwrap_or_default();
    // The server leaves zeroes out; telling it of them again is no change.
    for (new, old) in [
        (&mut status.ready_replicas, old.ready_replicas),
        (&mut status.current_replicas, old.current_replicas),
        (&mut status.updated_replicas, old.updated_replicas),
    ] {
        if old.is_none() && *new == Some(0) {
            *new = None;
        }
    }
    let new = StatefulSet { status: Some(status), ..set.clone() };
    Action::patch_status(set, &new)
}

/// The names of the claims a set's pod of this ordinal has, by the names of their templates.
#[must_use]
pub fn claim_names(set: &StatefulSet, ordinal: i32) -> BTreeMap<String, String> {
    let templates = set.spec.iter().flat_map(|s| s.volume_claim_templates.iter().flatten());
    templates
        .map(|t| (pod::name(t).to_owned(), format!("{}-{}-{ordinal}", pod::name(t), pod::name(set))))
        .collect()
}
