//! The order in which a pod's containers are stopped: everything but sidecars at once, then the sidecars one after
//! the other in reverse order, all within one grace period.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::model::{Life, Memory, Observed};
use crate::spec;

/// The least a container gets between SIGTERM and SIGKILL when its share of the grace period is used up.
pub const LEAST: SignedDuration = SignedDuration::from_secs(2);

/// One container to stop.
#[derive(Debug, Clone, PartialEq)]
pub struct Victim {
    /// The runtime's id.
    pub id: String,
    /// Its spec, for the hook and the signal.
    pub container: Option<Container>,
    /// Its name.
    pub name: String,
}

/// How to stop a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Stop {
    /// Groups in order; the members of a group are stopped in parallel.
    pub groups: Vec<Vec<Victim>>,
    /// The grace period of the whole.
    pub grace: SignedDuration,
}

/// Plans the stop of all that runs.
pub fn plan(pod: &Pod, seen: &Observed, memory: &Memory) -> Stop {
    let list = pod.spec.as_ref().map(spec::all).unwrap_or_default();
    let mut first = Vec::new();
    let mut sidecars = Vec::new();
    for s in seen.containers.iter().filter(|s| matches!(s.life, Life::Running | Life::Unknown)) {
        let at = list.iter().position(|(_, c)| c.name == s.name);
        let sort = at.map(|i| list[i].0);
        let victim =
            Victim { id: s.id.clone(), container: at.map(|i| list[i].1.clone()), name: s.name.clone() };
        match (sort, at) {
            (Some(spec::Sort::Sidecar), Some(i)) => sidecars.push((i, victim)),
            _ => first.push(victim),
        }
    }
    sidecars.sort_by_key(|s| std::cmp::Reverse(s.0));
    let mut groups = Vec::new();
    if !first.is_empty() {
        groups.push(first);
    }
    groups.extend(sidecars.into_iter().map(|(_, v)| vec![v]));
    Stop { groups, grace: grace(pod, memory) }
}

/// The grace period that holds for the pod now: the node's, the deletion's, else the spec's.
pub fn grace(pod: &Pod, memory: &Memory) -> SignedDuration {
    let own = pod.spec.as_ref().map_or(30, spec::grace_seconds);
    let deletion = pod.metadata.deletion_timestamp.as_ref().and(pod.metadata.deletion_grace_period_seconds);
    let seconds = deletion.unwrap_or(own).max(0);
    let end = memory.end.as_ref().and_then(|e| e.grace);
    let wanted = SignedDuration::from_secs(seconds);
    end.map_or(wanted, |e| if deletion.is_some() { e.min(wanted) } else { e })
}

/// What is left of `grace` after `elapsed`, but never less than [`LEAST`] unless the pod asked for none.
pub fn left(grace: SignedDuration, elapsed: SignedDuration) -> SignedDuration {
    if grace.is_zero() { grace } else { (grace - elapsed).max(LEAST.min(grace)) }
}
