//! Filters and scores that look at other pods: inter-pod affinity and topology spread.
//!
//! What concerns a pod is gathered once per pod over all nodes; each node is then judged by look-ups.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{PodAffinityTerm, TopologySpreadConstraint, WeightedPodAffinityTerm};

use crate::affinity::{node_suits, selector_matches, untolerated};
use crate::info::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};

type Counts = HashMap<String, i64>;

/// Label of a node's name, the topology of one node.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// What other pods demand of a pod's place.
#[derive(Debug, Default)]
pub struct Demands {
    /// Required affinity terms with the domains that have a matching pod.
    affinity: Vec<(String, Counts)>,
    /// Whether the pod matches its own required affinity terms while nothing else does: then any domain will do.
    first_of_its_kind: bool,
    /// Required anti-affinity terms with the domains that have a matching pod.
    anti_affinity: Vec<(String, Counts)>,
    /// (topology key, domain) that existing pods' anti-affinity forbids.
    forbidden: HashMap<(String, String), i64>,
    /// Hard spread constraints with matching pods per domain and the least of any domain.
    spread: Vec<(TopologySpreadConstraint, Counts, i64)>,
    /// Soft spread constraints with matching pods per domain.
    soft_spread: Vec<(TopologySpreadConstraint, Counts)>,
    /// Weights of preferred affinity by (topology key, domain).
    preferred: HashMap<(String, String), i64>,
    /// Whether the pod matches each hard spread constraint itself.
    spread_self: Vec<bool>,
}

impl Demands {
    /// Gathers what concerns this pod.
    pub fn of(snapshot: &Snapshot, pod: &PodInfo) -> Demands {
        let mut demands = Demands::default();
        let affinity = pod.spec().affinity.as_ref();
        let required = affinity
            .and_then(|a| a.pod_affinity.as_ref())
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref())
            .unwrap_or_default();
        let anti = required_anti(pod);
        demands.affinity = required.iter().map(|t| count_term(snapshot, pod, t)).collect();
        demands.anti_affinity = anti.iter().map(|t| count_term(snapshot, pod, t)).collect();
        demands.first_of_its_kind = demands.affinity.iter().all(|(_, c)| c.is_empty())
            && required.iter().all(|t| term_accepts(t, pod, pod));
        demands.count_existing(snapshot, pod);
        demands.count_spread(snapshot, pod);
        demands
    }

    /// What the terms of pods already placed say about this one.
    fn count_existing(&mut self, snapshot: &Snapshot, pod: &PodInfo) {
        for node in snapshot.nodes() {
            for existing in node.pods.values().filter(|p| p.spec().affinity.is_some()) {
                for term in required_anti(existing).iter().filter(|t| term_accepts(t, existing, pod)) {
                    if let Some(domain) = node.label(&term.topology_key) {
                        *self.forbidden.entry((term.topology_key.clone(), domain.to_owned())).or_default() +=
                            1;
                    }
                }
                for (weighted, sign) in preferred(existing) {
                    self.prefer(node, existing, pod, weighted, sign);
                }
            }
            for (weighted, sign) in preferred(pod) {
                for existing in node.pods.values() {
                    self.prefer(node, pod, existing, weighted, sign);
                }
            }
        }
    }

    fn prefer(
        &mut self,
        node: &NodeInfo,
        owner: &PodInfo,
        other: &PodInfo,
        term: &WeightedPodAffinityTerm,
        sign: i64,
    ) {
        let key = &term.pod_affinity_term.topology_key;
        if let Some(domain) = node.label(key).filter(|_| term_accepts(&term.pod_affinity_term, owner, other))
        {
            let weight = self.preferred.entry((key.clone(), domain.to_owned())).or_default();
            *weight += i64::from(term.weight) * sign;
        }
    }

    fn count_spread(&mut self, snapshot: &Snapshot, pod: &PodInfo) {
        for constraint in pod.spec().topology_spread_constraints.iter().flatten() {
            let mut counts = Counts::new();
            for node in snapshot.nodes().filter(|n| counts_for_spread(constraint, pod, n)) {
                let Some(domain) = node.label(&constraint.topology_key) else { continue };
                let matching = node.pods.values().filter(|p| spread_matches(constraint, pod, p)).count();
                *counts.entry(domain.to_owned()).or_default() += i64::try_from(matching).unwrap_or(i64::MAX);
            }
            if constraint.when_unsatisfiable == "DoNotSchedule" {
                let few = constraint.min_domains.is_some_and(|m| (counts.len() as i64) < i64::from(m));
                let least = if few { 0 } else { counts.values().copied().min().unwrap_or(0) };
                self.spread_self.push(spread_matches(constraint, pod, pod));
                self.spread.push((constraint.clone(), counts, least));
            } else {
                self.soft_spread.push((constraint.clone(), counts));
            }
        }
    }

    /// Why other pods keep this one off the node, in upstream's words and order.
    pub fn reason(&self, node: &NodeInfo) -> Option<&'static str> {
        for ((constraint, counts, least), own) in self.spread.iter().zip(&self.spread_self) {
            let Some(domain) = node.label(&constraint.topology_key) else {
                return Some("node(s) didn't match pod topology spread constraints (missing required label)");
            };
            let count = counts.get(domain).copied().unwrap_or(0);
            if count + i64::from(*own) - least > i64::from(constraint.max_skew) {
                return Some("node(s) didn't match pod topology spread constraints");
            }
        }
        let has = |(key, counts): &(String, Counts)| node.label(key).is_some_and(|d| counts.contains_key(d));
        let labelled = self.affinity.iter().all(|(key, _)| node.label(key).is_some());
        if !(self.affinity.iter().all(has) || self.first_of_its_kind && labelled) {
            return Some("node(s) didn't match pod affinity rules");
        }
        if self.anti_affinity.iter().any(has) {
            return Some("node(s) didn't match pod anti-affinity rules");
        }
        let forbidden = |(key, domain): &(String, String)| node.label(key) == Some(domain);
        if self.forbidden.keys().any(forbidden) {
            return Some("node(s) didn't satisfy existing pods anti-affinity rules");
        }
        None
    }

    /// The weight that preferred affinity gives the node.
    pub fn preference(&self, node: &NodeInfo) -> i64 {
        let weigh = |((key, domain), weight): (&(String, String), &i64)| {
            if node.label(key) == Some(domain) { *weight } else { 0 }
        };
        self.preferred.iter().map(weigh).sum()
    }

    /// How crowded the node's domains are by soft spread constraints: less is better.
    pub fn crowding(&self, node: &NodeInfo) -> i64 {
        let crowd = |(constraint, counts): &(TopologySpreadConstraint, Counts)| {
            let domain = node.label(&constraint.topology_key);
            domain.and_then(|d| counts.get(d)).copied().unwrap_or(0)
        };
        self.soft_spread.iter().map(crowd).sum()
    }

    /// Whether soft constraints were given; without any, pods of one owner are spread over nodes by score.
    pub fn has_soft_spread(&self) -> bool {
        !self.soft_spread.is_empty()
    }
}

fn required_anti(pod: &PodInfo) -> &[PodAffinityTerm] {
    let affinity = pod.spec().affinity.as_ref().and_then(|a| a.pod_anti_affinity.as_ref());
    affinity
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default()
}

fn preferred(pod: &PodInfo) -> impl Iterator<Item = (&WeightedPodAffinityTerm, i64)> {
    let affinity = pod.spec().affinity.as_ref();
    let near = affinity
        .and_then(|a| a.pod_affinity.as_ref())
        .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default();
    let far = affinity
        .and_then(|a| a.pod_anti_affinity.as_ref())
        .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default();
    near.iter().map(|t| (t, 1)).chain(far.iter().map(|t| (t, -1)))
}

/// Whether the term of `owner` speaks of `other`. A namespace selector is taken to select all namespaces when it is
/// empty, none otherwise, as namespaces' labels are not in the snapshot.
fn term_accepts(term: &PodAffinityTerm, owner: &PodInfo, other: &PodInfo) -> bool {
    let named = term.namespaces.as_deref().unwrap_or_default();
    let all = term.namespace_selector.as_ref().is_some_and(|s| {
        s.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
            && s.match_expressions.as_ref().is_none_or(Vec::is_empty)
    });
    let own = named.is_empty() && term.namespace_selector.is_none() && owner.namespace() == other.namespace();
    (all || own || named.iter().any(|n| n == other.namespace()))
        && selector_matches(term.label_selector.as_ref(), other.pod.metadata.labels.as_ref())
}

fn count_term(snapshot: &Snapshot, pod: &PodInfo, term: &PodAffinityTerm) -> (String, Counts) {
    let mut counts = Counts::new();
    for node in snapshot.nodes() {
        let Some(domain) = node.label(&term.topology_key) else { continue };
        let matching = node.pods.values().filter(|p| term_accepts(term, pod, p)).count();
        if matching > 0 {
            *counts.entry(domain.to_owned()).or_default() += i64::try_from(matching).unwrap_or(i64::MAX);
        }
    }
    (term.topology_key.clone(), counts)
}

fn counts_for_spread(constraint: &TopologySpreadConstraint, pod: &PodInfo, node: &NodeInfo) -> bool {
    let honours_affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
    let honours_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
    (!honours_affinity || node_suits(pod.spec(), node))
        && (!honours_taints || untolerated(pod.spec(), node, &["NoSchedule", "NoExecute"]).is_empty())
}

fn spread_matches(constraint: &TopologySpreadConstraint, pod: &PodInfo, other: &PodInfo) -> bool {
    let labels = |p: &PodInfo| p.pod.metadata.labels.clone().unwrap_or_default();
    let same_value = |key: &String| labels(pod).get(key) == labels(other).get(key);
    other.namespace() == pod.namespace()
        && other.pod.metadata.deletion_timestamp.is_none()
        && selector_matches(constraint.label_selector.as_ref(), other.pod.metadata.labels.as_ref())
        && constraint.match_label_keys.iter().flatten().all(same_value)
}

/// How many pods of the same controller the node already has: the default spreading.
pub fn siblings(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let owner = |p: &PodInfo| {
        let owners = p.pod.metadata.owner_references.iter().flatten();
        owners.filter(|o| o.controller == Some(true)).map(|o| o.uid.clone()).next()
    };
    let Some(own) = owner(pod) else { return 0 };
    if node.label(HOSTNAME).is_none() {
        return 0;
    }
    node.pods.values().filter(|p| owner(p).as_ref() == Some(&own)).count() as i64
}
