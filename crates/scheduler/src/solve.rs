//! One decision: where a pod goes, or why it goes nowhere.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use crate::class::Class;
use crate::filter;
use crate::info::PodInfo;
use crate::queue::Causes;
use crate::score::scores;
use crate::snapshot::{NodeInfo, Snapshot};
use crate::topology::Moment;

/// A decision for a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The node's name.
    pub node: String,
    /// Its score.
    pub score: i64,
    /// How many nodes could have taken the pod.
    pub feasible: usize,
}

/// Why no node can take the pod: reasons with the number of nodes that gave them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unschedulable {
    /// All nodes there are.
    pub nodes: usize,
    /// Reasons in upstream's words.
    pub reasons: BTreeMap<String, usize>,
    /// A reason that holds whatever the node; it is told alone.
    pub everywhere: Option<String>,
}

impl Unschedulable {
    /// The pod can go nowhere as things are.
    pub fn everywhere(snapshot: &Snapshot, reason: String) -> Unschedulable {
        Unschedulable {
            nodes: snapshot.nodes().count(),
            everywhere: Some(reason),
            ..Unschedulable::default()
        }
    }
}

impl Unschedulable {
    /// What could let the pod be placed after all.
    pub fn until(&self) -> Causes {
        if self.everywhere.is_some() {
            return Causes::VOLUME;
        }
        if self.nodes == 0 {
            return Causes::NODE;
        }
        self.reasons.keys().fold(Causes::NONE, |until, reason| until.and(cause_of(reason)))
    }
}

/// What could make a reason go away.
fn cause_of(reason: &str) -> Causes {
    const TABLE: [(&str, Causes); 10] = [
        ("Insufficient ", Causes::ROOM),
        ("Too many pods", Causes::ROOM),
        ("node(s) didn't have free ports", Causes::ROOM),
        ("node(s) were unschedulable", Causes::NODE),
        ("node(s) had untolerated taint", Causes::NODE),
        ("node(s) didn't match Pod's node affinity", Causes::NODE),
        ("node(s) didn't match pod topology spread", Causes::SPREAD.and(Causes::NODE)),
        ("node(s) didn't match pod affinity rules", Causes::NEAR.and(Causes::NODE)),
        ("node(s) didn't match pod anti-affinity rules", Causes::FAR.and(Causes::NODE)),
        ("node(s) didn't satisfy existing pods anti-affinity", Causes::FAR.and(Causes::NODE)),
    ];
    let volumes = Causes::VOLUME.and(Causes::ROOM).and(Causes::NODE);
    TABLE.iter().find(|(start, _)| reason.starts_with(start)).map_or(volumes, |(_, cause)| *cause)
}

impl fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return write!(f, "no nodes available to schedule pods");
        }
        if let Some(reason) = &self.everywhere {
            return write!(f, "0/{} nodes are available: {reason}.", self.nodes);
        }
        let mut reasons: Vec<String> =
            self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        write!(f, "0/{} nodes are available: {}.", self.nodes, reasons.join(", "))
    }
}

/// Chooses the best node for the pod. Equal scores are settled by fewer pods, then by name.
pub fn solve(snapshot: &mut Snapshot, pod: &PodInfo) -> Result<Placement, Unschedulable> {
    let (feasible, marks) = judge(snapshot, pod)?;
    let rank = |(slot, score): &(&usize, i64)| {
        let node = &snapshot.slots[**slot];
        (*score, Reverse(node.pods.len()), Reverse(node.name()))
    };
    let best = feasible.iter().zip(marks).reduce(|best, next| {
        // Most nodes lose by their score alone.
        if next.1 < best.1 || rank(&next) < rank(&best) { best } else { next }
    });
    match best {
        Some((slot, score)) => {
            let node = snapshot.slots[*slot].name().to_owned();
            Ok(Placement { node, score, feasible: feasible.len() })
        }
        None => Err(Unschedulable::default()),
    }
}

/// The nodes that can take the pod, with their scores.
pub fn ratings(snapshot: &mut Snapshot, pod: &PodInfo) -> Result<BTreeMap<String, i64>, Unschedulable> {
    let (feasible, marks) = judge(snapshot, pod)?;
    let names = feasible.iter().map(|slot| snapshot.slots[*slot].name().to_owned());
    Ok(names.zip(marks).collect())
}

/// The slots whose nodes can take the pod, at least one, and their scores.
fn judge(snapshot: &mut Snapshot, pod: &PodInfo) -> Result<(Vec<usize>, Vec<i64>), Unschedulable> {
    let id = snapshot.class_of(pod);
    let snapshot = &*snapshot;
    let class = snapshot.class(id);
    let demands = &class.demands;
    let moment = demands.moment();
    let fits = |slot: usize| {
        class.evals[slot].fits
            && pod.volumes.as_ref().is_none_or(|v| v.reason(&snapshot.slots[slot]).is_none())
            && (demands.is_empty()
                || demands.reason(slot, &snapshot.topologies, &snapshot.held, &moment).is_none())
    };
    let feasible: Vec<usize> = (0..snapshot.slots.len()).filter(|slot| fits(*slot)).collect();
    if feasible.is_empty() {
        return Err(refusal(snapshot, pod, class, &moment));
    }
    let marks = scores(class, &feasible, snapshot);
    Ok((feasible, marks))
}

/// What every node says against the pod.
fn refusal(snapshot: &Snapshot, pod: &PodInfo, class: &Class, moment: &Moment) -> Unschedulable {
    let mut refused = Unschedulable::default();
    for (slot, node) in snapshot.slots.iter().enumerate().filter(|(_, n)| n.node.is_some()) {
        refused.nodes += 1;
        for reason in reasons(snapshot, pod, class, moment, slot, node) {
            *refused.reasons.entry(reason).or_default() += 1;
        }
    }
    refused
}

/// What one node says against the pod; as upstream, the first filter that refuses speaks alone.
pub(crate) fn reasons(
    snapshot: &Snapshot,
    pod: &PodInfo,
    class: &Class,
    moment: &Moment,
    slot: usize,
    node: &NodeInfo,
) -> Vec<String> {
    let mut reasons = filter::reasons(pod, node);
    if reasons.is_empty() {
        let other = class.demands.reason(slot, &snapshot.topologies, &snapshot.held, moment);
        reasons.extend(other.map(str::to_owned));
    }
    reasons
}
