//! One decision: where a pod goes, or why it goes nowhere.

use std::collections::BTreeMap;
use std::fmt;

use crate::filter;
use crate::info::PodInfo;
use crate::score::scores;
use crate::snapshot::{NodeInfo, Snapshot};
use crate::topology::Demands;

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
pub fn solve(snapshot: &Snapshot, pod: &PodInfo) -> Result<Placement, Unschedulable> {
    let demands = Demands::of(snapshot, pod);
    let mut feasible: Vec<&NodeInfo> = Vec::new();
    let mut refused = Unschedulable::default();
    for node in snapshot.nodes() {
        refused.nodes += 1;
        let mut reasons = filter::reasons(pod, node);
        if reasons.is_empty() {
            reasons.extend(demands.reason(node).map(str::to_owned));
        }
        if reasons.is_empty() {
            feasible.push(node);
        }
        for reason in reasons {
            *refused.reasons.entry(reason).or_default() += 1;
        }
    }
    let marks = scores(pod, &feasible, &demands);
    let rank = |(node, score): &(&&NodeInfo, i64)| (*score, std::cmp::Reverse(node.pods.len()));
    let best = feasible.iter().zip(marks).rev().max_by_key(rank);
    match best {
        Some((node, score)) => {
            Ok(Placement { node: node.name().to_owned(), score, feasible: feasible.len() })
        }
        None => Err(refused),
    }
}
