//! DaemonSet: one pod on every node that fits.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
    Toleration,
};

use crate::claim::claim;
use crate::replicaset::{create_pod, delete};
use crate::revision::HASH;
use crate::select::{is_empty, matches};
use crate::{Action, Failure, Note, Plan, Target, fit, names, percent, pod, revision};

/// The most pods that are created or deleted in one pass.
const BURST: usize = 250;
const GENERATION: &str = "deprecated.daemonset.template.generation";
const GENERATION_LABEL: &str = "pod-template-generation";

mod failures;

pub use failures::Failures;

/// What the planner is told.
pub struct View<'a> {
    /// The set.
    pub set: &'a DaemonSet,
    /// Pods it controls, and pods of its namespace that nobody does.
    pub pods: Vec<&'a Pod>,
    /// All nodes.
    pub nodes: Vec<&'a Node>,
    /// Revisions it controls.
    pub revisions: Vec<&'a ControllerRevision>,
    /// What went wrong last time.
    pub failure: Option<&'a Failure>,
}

struct Work<'a> {
    set: &'a DaemonSet,
    spec: &'a DaemonSetSpec,
    owner: Target,
    hash: String,
    /// Every node with whether pods should start and may stay on it.
    nodes: BTreeMap<&'a str, (bool, bool)>,
    pods: BTreeMap<String, Vec<&'a Pod>>,
    now: Timestamp,
    create: Vec<String>,
    delete: Vec<&'a Pod>,
    plan: Plan,
}

/// Puts a pod on every node that should have one, and rolls the template out. `failures` is kept from pass to pass.
#[must_use]
pub fn plan(view: &View<'_>, failures: &mut Failures, now: Timestamp) -> Plan {
    let set = view.set;
    let Some(spec) = &set.spec else { return Plan::idle("the set has no spec") };
    if is_empty(Some(&spec.selector)) {
        let note = "This daemon set is selecting all pods. A non-empty selector is required.";
        return Plan {
            actions: vec![Action::event(set, Note::warning("SelectingAll", note))],
            ..Plan::idle(note)
        };
    }
    let owner = Target::of(set);
    let selects = |labels: Option<&_>| matches(Some(&spec.selector), labels);
    let (owned, actions) = claim(&owner, pod::is_deleting(set), selects, view.pods.iter().copied());
    let labels = spec.template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    let collisions = set.status.as_ref().and_then(|s| s.collision_count);
    let resolved = revision::resolve(&owner, &spec.template, &labels, &view.revisions, collisions);
    let template = daemon_spec(spec);
    let nodes = view.nodes.iter().map(|n| (pod::name(*n), should_run(&template, n))).collect();
    let mut pods: BTreeMap<String, Vec<&Pod>> = BTreeMap::new();
    for p in owned {
        pods.entry(target_node(p)).or_default().push(p);
    }
    for list in pods.values_mut() {
        list.sort_by_key(|p| (p.metadata.creation_timestamp.as_ref().map(|t| t.0), pod::name(*p).to_owned()));
    }
    let hash = resolved.update.hash.clone();
    let plan = Plan { actions, ..Plan::default() };
    let (create, gone) = (Vec::new(), Vec::new());
    let mut work = Work { set, spec, owner, hash, nodes, pods, now, create, delete: gone, plan };
    work.plan.actions.extend(resolved.action);
    let change = work.status(resolved.collisions);
    if view.failure.is_some() {
        work.plan.actions.extend(change.clone());
    }
    if !pod::is_deleting(set) {
        work.manage(failures);
        if work.create.is_empty() && work.delete.is_empty() && work.rolls() {
            work.roll();
        }
        work.finish();
        let live = |name: &str| {
            let hash = name.rsplit('-').next();
            name == resolved.update.name || view.pods.iter().any(|p| hash_of(p) == hash)
        };
        let surplus = revision::truncate(&view.revisions, live, spec.revision_history_limit.unwrap_or(10));
        work.plan.actions.extend(surplus);
    }
    if view.failure.is_none() {
        work.plan.actions.extend(change);
    }
    work.plan
}

fn hash_of(p: &Pod) -> Option<&str> {
    p.metadata.labels.as_ref()?.get(HASH).map(String::as_str)
}

/// The node the pod is on, or is meant for.
fn target_node(p: &Pod) -> String {
    if let Some(node) = pod::node(p) {
        return node.to_owned();
    }
    let required = p.spec.as_ref().and_then(|s| s.affinity.as_ref()).and_then(|a| a.node_affinity.as_ref());
    let required = required.and_then(|n| n.required_during_scheduling_ignored_during_execution.as_ref());
    let fields = required
        .into_iter()
        .flat_map(|r| &r.node_selector_terms)
        .flat_map(|t| t.match_fields.iter().flatten());
    let mut names = fields.filter(|f| f.key == "metadata.name").flat_map(|f| f.values.iter().flatten());
    names.next().cloned().unwrap_or_default()
}

/// The template's spec with what every daemon's pod tolerates.
fn daemon_spec(spec: &DaemonSetSpec) -> PodSpec {
    let mut template = spec.template.spec.clone().unwrap_or_default();
    let network = (template.host_network == Some(true))
        .then_some(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    let all = [
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ];
    let tolerations = template.tolerations.get_or_insert_default();
    for (key, effect) in all.into_iter().chain(network) {
        let new = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&new) {
            tolerations.push(new);
        }
    }
    template
}

/// Whether a pod of this spec should start on the node, and whether one that is there may stay.
fn should_run(spec: &PodSpec, node: &Node) -> (bool, bool) {
    let named = spec.node_name.as_deref().is_none_or(|n| n.is_empty() || n == pod::name(node));
    if !named || !fit::affinity(spec, node) {
        return (false, false);
    }
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let starts = fit::untolerated(taints, tolerations, &["NoSchedule", "NoExecute"]).is_none();
    (starts, fit::untolerated(taints, tolerations, &["NoExecute"]).is_none())
}

impl<'a> Work<'a> {
    fn rolls(&self) -> bool {
        self.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("OnDelete")
    }

    /// Surge and unavailability.
    fn fenceposts(&self) -> (i32, i32) {
        let desired = i32::try_from(self.nodes.values().filter(|n| n.0).count()).unwrap_or(i32::MAX);
        let rolling = self.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let number = |v: Option<&_>| v.and_then(|v| percent::scaled(v, desired, true)).unwrap_or(0);
        let surge = number(rolling.and_then(|r| r.max_surge.as_ref()));
        let unavailable = match rolling.and_then(|r| r.max_unavailable.as_ref()) {
            Some(value) => number(Some(value)),
            None => 1,
        };
        if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
    }

    fn is_available(&mut self, p: &Pod) -> bool {
        match pod::availability(p, self.spec.min_ready_seconds.unwrap_or(0), self.now) {
            Ok(()) => true,
            Err(at) => {
                self.plan.wake = self.plan.wake.or_at(at);
                false
            }
        }
    }

    fn is_updated(&self, p: &Pod) -> bool {
        hash_of(p) == Some(&self.hash)
    }

    /// One pod on every node that should have one, none elsewhere.
    fn manage(&mut self, failures: &mut Failures) {
        let surging = self.fenceposts().0 > 0;
        for (node, (starts, stays)) in self.nodes.clone() {
            let pods = self.pods.get(node).cloned().unwrap_or_default();
            if pods.is_empty() {
                if starts {
                    self.create.push(node.to_owned());
                }
                continue;
            }
            let alive: Vec<&Pod> = pods.iter().copied().filter(|p| !pod::is_deleting(*p)).collect();
            if !stays {
                self.delete.extend(alive);
                continue;
            }
            let (finished, running): (Vec<&Pod>, Vec<&Pod>) =
                alive.into_iter().partition(|p| pod::is_finished(p));
            finished.into_iter().for_each(|p| self.replace_finished(p, failures));
            if !surging {
                self.delete.extend(running.into_iter().skip(1));
            } else if running.is_empty() && starts {
                self.create.push(node.to_owned());
            } else {
                self.prune_surge(&running);
            }
        }
        let homeless = self.pods.iter().filter(|(n, _)| !self.nodes.contains_key(n.as_str()));
        let homeless: Vec<&Pod> = homeless.flat_map(|(_, p)| p.iter().copied()).collect();
        // Pods that are bound to a node that is gone are the pod garbage collector's.
        self.delete.extend(homeless.into_iter().filter(|p| pod::node(p).is_none() && !pod::is_deleting(*p)));
    }

    fn replace_finished(&mut self, p: &'a Pod, failures: &mut Failures) {
        if pod::phase(p) == "Failed"
            && let Err(due) = failures.next(&self.owner.uid, &target_node(p), self.now)
        {
            self.plan.because("a failed pod is replaced later");
            self.plan.wake = self.plan.wake.or_at(Some(due));
            return;
        }
        let place =
            format!("{}/{} on node {}", self.owner.namespace, pod::name(p), pod::node(p).unwrap_or(""));
        let note = if pod::phase(p) == "Failed" {
            Note::warning("FailedDaemonPod", format!("Found failed daemon pod {place}, will try to kill it"))
        } else {
            Note::normal(
                "SucceededDaemonPod",
                format!("Found succeeded daemon pod {place}, will try to delete it"),
            )
        };
        self.plan.actions.push(Action::Event { about: self.owner.clone(), note });
        self.delete.push(p);
    }

    /// While surging, a node has at most one old and one new pod, and the old one goes when it may.
    fn prune_surge(&mut self, running: &[&'a Pod]) {
        let mut new = running.iter().filter(|p| self.is_updated(p));
        let mut old = running.iter().filter(|p| !self.is_updated(p));
        let (first_new, first_old) = (new.next().copied(), old.next().copied());
        let rest: Vec<&Pod> = new.chain(old).copied().collect();
        self.delete.extend(rest);
        if let (Some(new), Some(old)) = (first_new, first_old)
            && (!pod::is_ready(old) || self.is_available(new))
        {
            self.delete.push(old);
        }
    }

    /// Replaces pods of old revisions, as unavailability or surge allow.
    fn roll(&mut self) {
        let (surge, unavailable) = self.fenceposts();
        let mut count = 0;
        let (mut broken, mut candidates) = (Vec::new(), Vec::new());
        for (node, list) in self.pods.clone() {
            let alive: Vec<&Pod> = list.iter().copied().filter(|p| !pod::is_deleting(*p)).collect();
            let new = alive.iter().copied().find(|p| self.is_updated(p));
            let old = alive.iter().copied().find(|p| !self.is_updated(p));
            match (new, old) {
                (None, None) => count += i32::from(surge == 0),
                (Some(new), _) => count += i32::from(!self.is_available(new)),
                (None, Some(old)) if !self.is_available(old) => {
                    count += i32::from(surge == 0);
                    broken.push((node, old));
                }
                (None, Some(old)) => candidates.push((node, old)),
            }
        }
        let limit = if surge > 0 { surge } else { unavailable };
        let room = usize::try_from(limit - count).unwrap_or(0);
        let chosen = broken.into_iter().chain(candidates.into_iter().take(room));
        for (node, old) in chosen {
            match self.nodes.get(node.as_str()) {
                Some((true, _)) if surge > 0 => self.create.push(node),
                _ => self.delete.push(old),
            }
        }
    }

    fn finish(&mut self) {
        self.create.truncate(BURST);
        self.delete.truncate(BURST);
        let epoch = self.set.metadata.resource_version.clone().unwrap_or_default();
        let (create, gone) = (std::mem::take(&mut self.create), std::mem::take(&mut self.delete));
        for node in create {
            let suffix = names::suffix(&[self.owner.uid.as_bytes(), epoch.as_bytes(), node.as_bytes()]);
            let new = self.pod_for(&node, format!("{}-{suffix}", self.owner.name));
            self.plan.because(format!("node {node} lacks a pod"));
            self.plan.actions.push(create_pod(&new, &self.owner));
        }
        self.plan.actions.extend(gone.into_iter().map(|p| delete(&self.owner, p)));
    }

    fn pod_for(&self, node: &str, name: String) -> Pod {
        let mut new = pod::from_template(&self.spec.template, &self.owner, name);
        let labels = new.metadata.labels.get_or_insert_default();
        labels.insert(HASH.to_owned(), self.hash.clone());
        let generation = self.set.metadata.annotations.as_ref().and_then(|a| a.get(GENERATION));
        if let Some(generation) = generation {
            labels.insert(GENERATION_LABEL.to_owned(), generation.clone());
        }
        let mut spec = daemon_spec(self.spec);
        pin(&mut spec, node);
        new.spec = Some(spec);
        new
    }

    fn status(&mut self, collisions: Option<i32>) -> Option<Action> {
        let mut status = DaemonSetStatus {
            observed_generation: self.set.metadata.generation,
            collision_count: collisions,
            conditions: self.set.status.as_ref().and_then(|s| s.conditions.clone()),
            ..DaemonSetStatus::default()
        };
        let (mut updated, mut available) = (0, 0);
        for (node, (starts, _)) in self.nodes.clone() {
            let first = self.pods.get(node).and_then(|p| p.first()).copied();
            status.desired_number_scheduled += i32::from(starts);
            let Some(p) = first else { continue };
            if !starts {
                status.number_misscheduled += 1;
                continue;
            }
            status.current_number_scheduled += 1;
            status.number_ready += i32::from(pod::is_ready(p));
            available += i32::from(self.is_available(p));
            updated += i32::from(self.is_updated(p));
        }
        let shown = |n: i32| Some(n).filter(|n| *n != 0);
        status.updated_number_scheduled = shown(updated);
        status.number_available = shown(available);
        status.number_unavailable = shown(status.desired_number_scheduled - available);
        let new = DaemonSet { status: Some(status), ..self.set.clone() };
        Action::patch_status(self.set, &new)
    }
}

/// Makes the scheduler put the pod on this node and no other.
fn pin(spec: &mut PodSpec, node: &str) {
    let field = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![field]), match_expressions: None };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
}
