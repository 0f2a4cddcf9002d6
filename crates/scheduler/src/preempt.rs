//! Preemption: which pods of lower priority must go so that a pod finds a place. Follows upstream's
//! `DefaultPreemption`.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::jiff::Timestamp;

use crate::affinity::selector_matches;
use crate::filter;
use crate::info::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};
use crate::solve::reasons;
use crate::terms::is_empty;

/// Places that are compared for one pod: a tenth of all nodes, but at least this many.
const CANDIDATES_MIN: usize = 100;
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";

/// Where a pod will have a place once these are gone.
#[derive(Debug, Clone)]
pub struct Preemption {
    /// The node.
    pub node: String,
    /// The pods that must go.
    pub victims: Vec<Arc<Pod>>,
}

/// The pod's priority.
pub fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0)
}

/// A node that was tried out.
struct Candidate {
    node: String,
    victims: Vec<PodInfo>,
    violations: usize,
}

/// Finds the place whose making hurts least, or says in upstream's words why there is none. In large clusters not all
/// nodes are looked at, from the one at `offset` on.
pub fn preempt(
    snapshot: &mut Snapshot,
    pod: &PodInfo,
    budgets: &[Arc<PodDisruptionBudget>],
    offset: usize,
) -> Result<Preemption, String> {
    let own = priority(&pod.pod);
    if pod.spec().preemption_policy.as_deref() == Some("Never") {
        return Err("not eligible due to preemptionPolicy=Never.".to_owned());
    }
    let mut best: Option<Candidate> = None;
    let (mut found, mut why) = (0, BTreeMap::<&str, usize>::new());
    let mut hopeful = hopeful_nodes(snapshot, pod, &mut why);
    let nodes = hopeful.len() + why.get(NOT_HELPFUL).copied().unwrap_or(0);
    let enough = (nodes / 10).max(CANDIDATES_MIN);
    let first = offset % hopeful.len().max(1);
    hopeful.rotate_left(first);
    for node in hopeful {
        let there = snapshot.node(&node).map(|n| n.pods.values()).into_iter().flatten();
        let lower: Vec<PodInfo> = there.filter(|p| priority(&p.pod) < own).cloned().collect();
        let candidate = match lower.is_empty() {
            true => None,
            false => try_out(snapshot, pod, &node, lower, budgets),
        };
        let Some(candidate) = candidate else {
            *why.entry(NO_VICTIMS).or_default() += 1;
            continue;
        };
        found += 1;
        if best.as_ref().is_none_or(|best| cost(&candidate) < cost(best)) {
            best = Some(candidate);
        }
        // The best so far breaks no budget if any does not.
        if found >= enough && best.as_ref().is_some_and(|b| b.violations == 0) {
            break;
        }
    }
    match best {
        Some(best) => {
            let victims = best.victims.into_iter().map(|v| v.pod).collect();
            Ok(Preemption { node: best.node, victims })
        }
        None => {
            let reasons: Vec<String> = why.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
            Err(format!("0/{nodes} nodes are available: {}.", reasons.join(", ")))
        }
    }
}

/// Names of the nodes on which fewer pods could help; the others are counted.
fn hopeful_nodes(
    snapshot: &mut Snapshot,
    pod: &PodInfo,
    why: &mut BTreeMap<&'static str, usize>,
) -> Vec<String> {
    let id = snapshot.class_of(pod);
    let snapshot = &*snapshot;
    let class = snapshot.class(id);
    let moment = class.demands.moment();
    let mut hopeful = Vec::new();
    for node in snapshot.nodes() {
        let Some(slot) = snapshot.slot(node.name()) else { continue };
        let mut reasons = filter::reasons(pod, node);
        let other = class.demands.reason(slot, &snapshot.topologies, &snapshot.held, &moment);
        reasons.extend(other.map(str::to_owned));
        match reasons.iter().all(|reason| is_resolvable(reason)) && could_hold(pod, node) {
            true => hopeful.push(node.name().to_owned()),
            false => *why.entry(NOT_HELPFUL).or_default() += 1,
        }
    }
    hopeful
}

/// Whether the node has what the pod asks for when it is empty.
fn could_hold(pod: &PodInfo, node: &NodeInfo) -> bool {
    let (want, have) = (&pod.requested, &node.allocatable);
    want.cpu_milli <= have.cpu_milli
        && want.memory <= have.memory
        && want.storage <= have.storage
        && want.others.iter().all(|(name, amount)| amount <= have.others.get(name).unwrap_or(&0))
}

/// Whether fewer pods on the node could change a refusal.
fn is_resolvable(reason: &str) -> bool {
    const FIXED: [&str; 9] = [
        "node(s) were unschedulable",
        "node(s) didn't match the requested node name",
        "node(s) had untolerated taint",
        "node(s) didn't match Pod's node affinity",
        "node(s) didn't match PersistentVolume's node affinity",
        "node(s) didn't find available persistent volumes",
        "node(s) unavailable due to one or more pvc(s) bound",
        "node(s) had no available volume zone",
        "node(s) didn't match pod affinity rules",
    ];
    !FIXED.iter().any(|fixed| reason.starts_with(fixed)) && !reason.contains("missing required label")
}

/// Whether the pod can go to this node as things are.
pub fn fits(trial: &mut Snapshot, pod: &PodInfo, node: &str) -> bool {
    let id = trial.class_of(pod);
    let class = trial.class(id);
    let Some((slot, node)) = trial.slot(node).zip(trial.node(node)) else { return false };
    reasons(trial, pod, class, &class.demands.moment(), slot, node).is_empty()
}

/// Takes all lower pods away and gives back as many as the pod leaves room for, the most important ones first.
fn try_out(
    trial: &mut Snapshot,
    pod: &PodInfo,
    node: &str,
    mut lower: Vec<PodInfo>,
    budgets: &[Arc<PodDisruptionBudget>],
) -> Option<Candidate> {
    lower.iter().for_each(|p| trial.remove_pod(p.uid()));
    let mut victims = Vec::new();
    let mut violations = 0;
    let possible = fits(trial, pod, node);
    if possible {
        lower.sort_by_key(|p| (Reverse(priority(&p.pod)), start(&p.pod), p.uid().to_owned()));
        let (guarded, free) = by_budgets(lower.clone(), budgets);
        for (p, is_guarded) in
            guarded.into_iter().map(|p| (p, true)).chain(free.into_iter().map(|p| (p, false)))
        {
            trial.place(p.clone(), node);
            if !fits(trial, pod, node) {
                trial.remove_pod(p.uid());
                violations += usize::from(is_guarded);
                victims.push(p);
            }
        }
    }
    lower.into_iter().for_each(|p| trial.place(p, node));
    (possible && !victims.is_empty()).then(|| Candidate { node: node.to_owned(), victims, violations })
}

/// The pods whose eviction would break a budget, and the others.
fn by_budgets(pods: Vec<PodInfo>, budgets: &[Arc<PodDisruptionBudget>]) -> (Vec<PodInfo>, Vec<PodInfo>) {
    let mut left: Vec<i32> =
        budgets.iter().map(|b| b.status.as_ref().and_then(|s| s.disruptions_allowed).unwrap_or(0)).collect();
    pods.into_iter().partition(|p| {
        let mut broken = false;
        for (budget, left) in budgets.iter().zip(&mut left) {
            let same = budget.metadata.namespace.as_deref() == Some(p.namespace());
            let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
            let counted = budget.status.as_ref().and_then(|s| s.disrupted_pods.as_ref());
            let name = p.pod.metadata.name.as_ref();
            // A pod that the API server has let go already costs nothing more.
            let is_counted = counted.zip(name).is_some_and(|(pods, name)| pods.contains_key(name));
            let selects = selector.is_some_and(|s| !is_empty(s));
            if same && selects && !is_counted && selector_matches(selector, p.pod.metadata.labels.as_ref()) {
                *left -= 1;
                broken |= *left < 0;
            }
        }
        broken
    })
}

fn start(pod: &Pod) -> Timestamp {
    let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
    let created = || pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
    started.or_else(created).unwrap_or(Timestamp::MIN)
}

/// What is hurt, the worse the more: broken budgets, the highest priority, all priorities, how many, and how long the
/// most important of them have run.
fn cost(candidate: &Candidate) -> (usize, i32, i64, usize, Reverse<Timestamp>) {
    let priorities = candidate.victims.iter().map(|v| priority(&v.pod));
    let highest = priorities.clone().max().unwrap_or(i32::MIN);
    let sum = priorities.map(|p| i64::from(p) + i64::from(i32::MAX) + 1).sum();
    let important = candidate.victims.iter().filter(|v| priority(&v.pod) == highest);
    let earliest = important.map(|v| start(&v.pod)).min().unwrap_or(Timestamp::MIN);
    (candidate.violations, highest, sum, candidate.victims.len(), Reverse(earliest))
}
