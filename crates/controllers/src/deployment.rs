//! Deployment: one ReplicaSet for every version of the template, and the way from one to the next.
//!
//! Long because the decisions of a rollout depend on each other and are read together.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use crate::claim::claim;
use crate::select::{is_empty, matches};
use crate::{Action, Failure, Note, Plan, Report, Target, names, percent, pod};

mod proportion;
mod status;

/// The label that tells pods of different templates apart.
pub const HASH_LABEL: &str = "pod-template-hash";
/// Which version of the Deployment a set is.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
const SKIPPED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
];
const HISTORY_LENGTH_MAX: usize = 2000;

/// What the planner is told.
pub struct View<'a> {
    /// The Deployment.
    pub deployment: &'a Deployment,
    /// ReplicaSets it controls, and those of its namespace that nobody does.
    pub sets: Vec<&'a ReplicaSet>,
    /// The set that has the name the next one is to have ([`next_name`]), whoever owns it.
    pub namesake: Option<&'a ReplicaSet>,
    /// Pods of the sets it controls; only `Recreate` looks at them.
    pub pods: Vec<&'a Pod>,
    /// What went wrong last time.
    pub failure: Option<&'a Failure>,
}

/// The name of the set that the present template would get.
#[must_use]
pub fn next_name(deployment: &Deployment) -> String {
    format!("{}-{}", pod::name(deployment), template_hash(deployment))
}

fn template_hash(deployment: &Deployment) -> String {
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count);
    names::hash_of(&spec_of(deployment).template, collisions)
}

/// The state of a pass: what is, and what it is becoming.
struct Rollout<'a> {
    old: &'a Deployment,
    spec: DeploymentSpec,
    owner: Target,
    sets: Vec<Set<'a>>,
    /// Which of the sets has the present template.
    current: Option<usize>,
    pods: &'a [&'a Pod],
    failure: Option<&'a Failure>,
    plan: Plan,
    now: Timestamp,
}

struct Set<'a> {
    old: &'a ReplicaSet,
    /// What its spec is to ask for.
    replicas: i32,
    annotations: BTreeMap<String, String>,
    min_ready: Option<i32>,
}

/// Moves the sets one step towards the Deployment's template and size.
#[must_use]
pub fn plan(view: &View<'_>, now: Timestamp) -> Plan {
    let d = view.deployment;
    let spec = spec_of(d);
    if is_empty(Some(&spec.selector)) {
        return selecting_all(d);
    }
    let owner = Target::of(d);
    let selects = |labels: Option<&_>| matches(Some(&spec.selector), labels);
    let (owned, claims) = claim(&owner, pod::is_deleting(d), selects, view.sets.iter().copied());
    let mut sets: Vec<Set<'_>> = owned.into_iter().map(Set::new).collect();
    sets.sort_by(|a, b| age(a.old).cmp(&age(b.old)));
    let template = bare(&spec.template);
    let current = sets.iter().position(|s| s.template().is_some_and(|t| bare(t) == template));
    let plan = Plan { actions: claims, ..Plan::default() };
    let mut rollout =
        Rollout { old: d, spec, owner, sets, current, pods: &view.pods, failure: view.failure, plan, now };
    rollout.run(view.namesake);
    rollout.plan
}

fn spec_of(d: &Deployment) -> DeploymentSpec {
    d.spec.clone().unwrap_or_default()
}

fn age(set: &ReplicaSet) -> (Option<Timestamp>, &str) {
    (set.metadata.creation_timestamp.as_ref().map(|t| t.0), pod::name(set))
}

/// The template without the label that the set adds.
fn bare(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut bare = template.clone();
    let meta = bare.metadata.get_or_insert_default();
    if let Some(labels) = &mut meta.labels {
        labels.remove(HASH_LABEL);
    }
    meta.labels = meta.labels.take().filter(|l| !l.is_empty());
    meta.creation_timestamp = None;
    bare
}

fn selecting_all(d: &Deployment) -> Plan {
    let message = "This deployment is selecting all pods. A non-empty selector is required.";
    let mut new = d.clone();
    new.status.get_or_insert_default().observed_generation = d.metadata.generation;
    let change = Action::patch_status(d, &new);
    let event = change.as_ref().map(|_| Action::event(d, Note::warning("SelectingAll", message)));
    Plan { actions: event.into_iter().chain(change).collect(), ..Plan::idle(message) }
}

impl<'a> Set<'a> {
    fn new(old: &'a ReplicaSet) -> Self {
        let replicas = old.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
        let annotations = old.metadata.annotations.clone().unwrap_or_default();
        Self { old, replicas, annotations, min_ready: old.spec.as_ref().and_then(|s| s.min_ready_seconds) }
    }

    fn asked(&self) -> i32 {
        self.old.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.old.spec.as_ref()?.template.as_ref()
    }

    fn available(&self) -> i32 {
        self.old.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
    }

    fn actual(&self) -> i32 {
        self.old.status.as_ref().map_or(0, |s| s.replicas)
    }

    fn number(&self, annotation: &str) -> Option<i32> {
        self.annotations.get(annotation)?.parse().ok()
    }

    fn revision(&self) -> i64 {
        self.annotations.get(REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
    }
}

impl<'a> Rollout<'a> {
    fn run(&mut self, namesake: Option<&ReplicaSet>) {
        if pod::is_deleting(self.old) {
            self.plan.because("the deployment is being deleted");
            return self.finish(None);
        }
        let revision = self.sync_revision();
        if self.spec.paused == Some(true) || self.is_scaling() {
            self.plan.because("scaling the sets in proportion");
            self.scale_in_proportion();
            if self.spec.paused == Some(true) {
                self.clean_up();
            }
            return self.finish(revision);
        }
        if self.is_recreate() && self.stop_old() {
            return self.finish(revision);
        }
        let Some(current) = self.current else { return self.create(namesake) };
        if self.is_recreate() {
            self.sets[current].replicas = self.desired();
        } else if !self.grow(current) {
            self.shrink(current);
        }
        if status::is_complete(self) {
            self.clean_up();
        }
        self.finish(revision);
    }

    fn desired(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }

    fn is_recreate(&self) -> bool {
        self.spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate")
    }

    /// Surge and unavailability.
    fn fenceposts(&self) -> (i32, i32) {
        if self.is_recreate() {
            return (0, 0);
        }
        let rolling = self.spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let (surge, unavailable) =
            (rolling.and_then(|r| r.max_surge.as_ref()), rolling.and_then(|r| r.max_unavailable.as_ref()));
        let (surge, unavailable) = percent::fenceposts(surge, unavailable, self.desired());
        (surge, unavailable.min(self.desired()))
    }

    /// Brings the current set's annotations up to date; gives the revision the Deployment is at.
    fn sync_revision(&mut self) -> Option<String> {
        let current = self.current?;
        let next = self.next_revision();
        let copied = copied_annotations(self.old);
        let set = &mut self.sets[current];
        set.annotations.extend(copied);
        set_revision(&mut set.annotations, next);
        set.min_ready = self.spec.min_ready_seconds;
        if set.min_ready.unwrap_or(0) == 0
            && set.old.spec.as_ref().and_then(|s| s.min_ready_seconds).is_none()
        {
            set.min_ready = None;
        }
        set.annotations.get(REVISION).cloned()
    }

    fn next_revision(&self) -> i64 {
        let old = self.sets.iter().enumerate().filter(|(i, _)| Some(*i) != self.current);
        old.map(|(_, s)| s.revision()).max().unwrap_or(0) + 1
    }

    /// Someone changed the size since the sets were last scaled.
    fn is_scaling(&self) -> bool {
        let desired = self.desired();
        self.sets.iter().filter(|s| s.replicas > 0).any(|s| s.number(DESIRED).is_some_and(|n| n != desired))
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(|s| s.replicas).sum()
    }

    /// Creates the set of the present template.
    fn create(&mut self, namesake: Option<&ReplicaSet>) {
        if let Some(other) = namesake {
            let ours = pod::is_controlled_by(&other.metadata, &self.owner.uid);
            let same = other
                .spec
                .as_ref()
                .and_then(|s| s.template.as_ref())
                .is_some_and(|t| bare(t) == bare(&self.spec.template));
            if !(ours && same) {
                self.plan.because(format!("the name {} is taken", pod::name(other)));
                let mut new = self.old.clone();
                *new.status.get_or_insert_default().collision_count.get_or_insert(0) += 1;
                return self.plan.actions.extend(Action::patch_status(self.old, &new));
            }
        }
        let (surge, _) = self.fenceposts();
        let room = (self.desired() + surge - self.total()).max(0);
        let replicas = if self.is_recreate() { self.desired() } else { room.min(self.desired()) };
        let set = self.new_set(replicas);
        let name = pod::name(&set).to_owned();
        let scaled = format!("Scaled up replica set {name} from 0 to {replicas}");
        let report = Report {
            about: self.owner.clone(),
            done: (replicas > 0).then(|| Note::normal("ScalingReplicaSet", scaled)),
            failed: Some(Note::warning(
                "ReplicaSetCreateError",
                format!("Failed to create new replica set \"{name}\": "),
            )),
        };
        self.plan.because(format!("no set has the present template: creating {name}"));
        let create = Action::create_reported(&set, Some(report));
        let revision = set.metadata.annotations.and_then(|a| a.get(REVISION).cloned());
        if let Some(failure) = self.failure.filter(|f| f.verb == "create") {
            let message = format!("Failed to create new replica set \"{name}\": {}", failure.message);
            self.plan.actions.extend(status::with_progress(self, "False", "ReplicaSetCreateError", message));
            return self.plan.actions.push(create);
        }
        self.plan.actions.push(create);
        let message = format!("Created new replica set \"{name}\"");
        self.plan.actions.extend(status::with_progress(self, "True", "NewReplicaSetCreated", message));
        self.annotate(revision);
    }

    fn new_set(&self, replicas: i32) -> ReplicaSet {
        let hash = template_hash(self.old);
        let mut template = self.spec.template.clone();
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(HASH_LABEL.to_owned(), hash.clone());
        let labels = labels.clone();
        let mut selector = self.spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash);
        let mut annotations: BTreeMap<String, String> = copied_annotations(self.old).collect();
        set_revision(&mut annotations, self.next_revision());
        self.size_annotations(&mut annotations);
        ReplicaSet {
            metadata: ObjectMeta {
                name: Some(next_name(self.old)),
                namespace: self.old.metadata.namespace.clone(),
                labels: Some(labels),
                annotations: Some(annotations),
                owner_references: Some(vec![self.owner.controller_reference()]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(replicas),
                min_ready_seconds: self.spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        }
    }

    fn size_annotations(&self, annotations: &mut BTreeMap<String, String>) {
        let (surge, _) = self.fenceposts();
        annotations.insert(DESIRED.to_owned(), self.desired().to_string());
        annotations.insert(MAX.to_owned(), (self.desired() + surge).to_string());
    }

    /// Recreate: old pods first go. Whether they are still going.
    fn stop_old(&mut self) -> bool {
        let current = self.current;
        let mut waiting = false;
        for (i, set) in self.sets.iter_mut().enumerate().filter(|(i, _)| Some(*i) != current) {
            let uid = pod::uid(set.old);
            let running = |p: &&&Pod| pod::is_controlled_by(&p.metadata, uid) && !pod::is_finished(p);
            waiting |= set.replicas > 0 || set.actual() > 0 || self.pods.iter().any(|p| running(&p));
            set.replicas = 0;
            debug_assert!(Some(i) != current);
        }
        if waiting {
            self.plan.because("waiting for pods of the old template to end");
        }
        waiting
    }

    /// Rolling update: scales the current set up as far as the surge allows, or down to the size asked for.
    fn grow(&mut self, current: usize) -> bool {
        let (desired, (surge, _), total) = (self.desired(), self.fenceposts(), self.total());
        let set = &mut self.sets[current];
        let before = set.replicas;
        if set.replicas > desired {
            set.replicas = desired;
        } else {
            set.replicas += (desired + surge - total).clamp(0, desired - set.replicas);
        }
        set.replicas != before
    }

    /// Rolling update: scales old sets down as far as availability allows, broken pods first.
    fn shrink(&mut self, current: usize) {
        let (_, unavailable) = self.fenceposts();
        let available_min = self.desired() - unavailable;
        let lacking = self.sets[current].replicas - self.sets[current].available();
        let room = self.total() - available_min - lacking;
        if room <= 0 {
            return;
        }
        let old = |sets: &Vec<Set<'_>>| (0..sets.len()).filter(|i| *i != current).collect::<Vec<_>>();
        let mut cleaned = 0;
        for i in old(&self.sets) {
            let set = &mut self.sets[i];
            let broken = (set.replicas - set.available()).clamp(0, room - cleaned);
            set.replicas -= broken;
            cleaned += broken;
        }
        // A status that lags behind may speak of more pods than there are to be.
        let available: i32 = self.sets.iter().map(|s| s.available().min(s.asked())).sum();
        let mut spare = available - available_min;
        for i in old(&self.sets) {
            let set = &mut self.sets[i];
            let less = set.replicas.min(spare.max(0));
            set.replicas -= less;
            spare -= less;
        }
    }

    /// Deletes old sets beyond the history limit.
    fn clean_up(&mut self) {
        let Some(limit) = self.spec.revision_history_limit.and_then(|l| usize::try_from(l).ok()) else {
            return;
        };
        let current = self.current;
        let old =
            self.sets.iter().enumerate().filter(|(i, s)| Some(*i) != current && !pod::is_deleting(s.old));
        let mut old: Vec<&Set<'_>> = old.map(|(_, s)| s).collect();
        old.sort_by_key(|s| s.revision());
        let surplus = old.len().saturating_sub(limit);
        let idle = |s: &&&Set<'_>| {
            let seen = s.old.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
            s.actual() == 0
                && s.asked() == 0
                && s.replicas == 0
                && s.old.metadata.generation.unwrap_or(0) <= seen
        };
        let deletions: Vec<Action> =
            old[..surplus].iter().filter(idle).map(|s| Action::delete(s.old)).collect();
        self.plan.actions.extend(deletions);
    }

    /// Turns what was decided into actions: sets first, then the status, then the revision.
    fn finish(&mut self, revision: Option<String>) {
        for i in 0..self.sets.len() {
            if self.sets[i].replicas != self.sets[i].asked() {
                let mut annotations = std::mem::take(&mut self.sets[i].annotations);
                self.size_annotations(&mut annotations);
                self.sets[i].annotations = annotations;
            }
            let change = self.change(&self.sets[i]);
            self.plan.actions.extend(change);
        }
        let (status, wake) = status::sync(self);
        self.plan.wake = self.plan.wake.or_at(wake);
        self.plan.actions.extend(status);
        self.annotate(revision);
    }

    fn change(&self, set: &Set<'_>) -> Option<Action> {
        let mut new = set.old.clone();
        let spec = new.spec.get_or_insert_default();
        spec.replicas = Some(set.replicas);
        spec.min_ready_seconds = set.min_ready;
        new.metadata.annotations = (!set.annotations.is_empty()).then(|| set.annotations.clone());
        let action = Action::patch(set.old, &new)?;
        let (from, to) = (set.asked(), set.replicas);
        if from == to {
            return Some(action);
        }
        let direction = if from < to { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {} from {from} to {to}", pod::name(set.old));
        let done = Some(Note::normal("ScalingReplicaSet", message));
        Some(action.reported(Report { about: self.owner.clone(), done, failed: None }))
    }

    fn annotate(&mut self, revision: Option<String>) {
        let known = self.old.metadata.annotations.as_ref().and_then(|a| a.get(REVISION));
        if let Some(revision) = revision.filter(|r| Some(r) != known) {
            let patch = json!({"metadata": {"annotations": {REVISION: revision}}});
            // Through the status: a change of annotations through the object itself would count as a new generation.
            self.plan.actions.push(Action::merge(self.owner.clone(), "status", patch));
        }
    }
}

fn copied_annotations(d: &Deployment) -> impl Iterator<Item = (String, String)> {
    let all = d.metadata.annotations.clone().unwrap_or_default();
    all.into_iter().filter(|(k, _)| !SKIPPED.contains(&k.as_str()))
}

/// Raises the revision, and keeps the one before in the history: a rollback makes an old set current again.
fn set_revision(annotations: &mut BTreeMap<String, String>, next: i64) {
    let before = annotations.get(REVISION).cloned();
    let number = before.as_deref().map_or(Some(0), |b| b.parse::<i64>().ok());
    if number.is_none_or(|n| n >= next) {
        return;
    }
    annotations.insert(REVISION.to_owned(), next.to_string());
    if let Some(before) = before {
        let history = annotations.get(REVISION_HISTORY).cloned().unwrap_or_default();
        let mut all: Vec<&str> = history.split(',').filter(|r| !r.is_empty()).collect();
        all.push(&before);
        while all.len() > 1 && all.iter().map(|r| r.len() + 1).sum::<usize>() > HISTORY_LENGTH_MAX {
            all.remove(0);
        }
        annotations.insert(REVISION_HISTORY.to_owned(), all.join(","));
    }
}
