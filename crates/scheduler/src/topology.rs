//! What other pods demand of a pod's place: inter-pod affinity and topology spread, read from counters that are kept
//! change by change.

use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::affinity::{node_suits, untolerated};
use crate::index::{Counter, HeldTerms, Topologies};
use crate::info::PodInfo;
use crate::snapshot::NodeInfo;
use crate::terms::{Namespaces, Rule, Term, preferred, required_far, required_near, spread_selector};

/// Label of a node's name: soft constraints count each such node by itself.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// Label of a node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";
/// What upstream spreads pods of Services and controllers by, unless they say themselves: key and skew.
const DEFAULTS: [(&str, i32); 2] = [(HOSTNAME, 3), (ZONE, 5)];

/// What a counter is for.
#[derive(Debug, Clone)]
enum Role {
    /// A required affinity term.
    Near,
    /// A required anti-affinity term.
    Far,
    /// A constraint that must hold; whether the pod counts itself.
    Hard { skew: i64, domains_min: usize, own: bool },
    /// A constraint that should hold.
    Soft { skew: i64 },
    /// A preferred term.
    Likes { weight: i64 },
}

/// What concerns the pods of a class.
#[derive(Debug, Clone, Default)]
pub struct Demands {
    counters: Vec<(Role, Counter)>,
    constraints: Vec<TopologySpreadConstraint>,
    has_near: bool,
    /// Whether the pods match their own required affinity terms: the first of its kind may go anywhere.
    near_own: bool,
    /// Whether nodes without one of the soft constraints' labels are left out.
    soft_needs_all: bool,
    soft: usize,
    /// Terms of placed pods that speak of the class, and as of which version.
    held: Vec<usize>,
    held_version: Option<u64>,
}

/// What holds for all nodes during one decision.
#[derive(Debug, Default)]
pub struct Moment {
    least: Vec<i64>,
    first_of_its_kind: bool,
}

impl Demands {
    /// The rules for a pod, with nothing counted.
    pub fn of(pod: &PodInfo, mut topology: impl FnMut(&str) -> usize) -> Demands {
        let mut demands = Demands::default();
        let near: Vec<Term> = required_near(pod).iter().map(|t| Term::of(pod, t)).collect();
        for term in &near {
            let counter = Counter::new(Rule::All(near.clone()), Some(topology(&term.topology_key)));
            demands.counters.push((Role::Near, counter));
        }
        demands.has_near = !near.is_empty();
        for term in required_far(pod).iter().map(|t| Term::of(pod, t)) {
            let topology = topology(&term.topology_key);
            demands.counters.push((Role::Far, Counter::new(Rule::All(vec![term]), Some(topology))));
        }
        for (weighted, sign) in preferred(pod) {
            let term = Term::of(pod, &weighted.pod_affinity_term);
            let topology = topology(&term.topology_key);
            let role = Role::Likes { weight: sign * i64::from(weighted.weight) };
            demands.counters.push((role, Counter::new(Rule::All(vec![term]), Some(topology))));
        }
        demands.constraints = pod.spec().topology_spread_constraints.clone().unwrap_or_default();
        demands.soft_needs_all = !demands.constraints.is_empty();
        if let (true, Some(selector)) = (demands.constraints.is_empty(), &pod.spread_by) {
            demands.constraints =
                DEFAULTS.iter().map(|(key, skew)| by_default(key, *skew, selector)).collect();
        }
        for constraint in &demands.constraints {
            let selector = spread_selector(pod, constraint);
            let own = crate::affinity::selector_matches(selector.as_ref(), pod.pod.metadata.labels.as_ref());
            let rule = Rule::Spread { namespace: pod.namespace().to_owned(), selector };
            let skew = i64::from(constraint.max_skew);
            let (role, by) = match constraint.when_unsatisfiable == "DoNotSchedule" {
                true => {
                    let domains_min =
                        constraint.min_domains.and_then(|m| usize::try_from(m).ok()).unwrap_or(1);
                    (Role::Hard { skew, domains_min, own }, Some(topology(&constraint.topology_key)))
                }
                false if constraint.topology_key == HOSTNAME => (Role::Soft { skew }, None),
                false => (Role::Soft { skew }, Some(topology(&constraint.topology_key))),
            };
            demands.soft += usize::from(matches!(role, Role::Soft { .. }));
            demands.counters.push((role, Counter::new(rule, by)));
        }
        demands
    }

    /// Whether placed pods are to be counted for the class.
    pub fn counts(&self) -> bool {
        !self.counters.is_empty()
    }

    /// The one namespace whose pods are counted, if it is one.
    pub fn only_namespace(&self) -> Option<&str> {
        let mut namespaces = self.counters.iter().map(|(_, c)| c.rule.only_namespace());
        let first = namespaces.next()??;
        namespaces.all(|n| n == Some(first)).then_some(first)
    }

    /// Settles whether the slot's node takes part in spreading. Its pods are not counted at this time.
    pub fn enter(&mut self, pod: &PodInfo, node: &NodeInfo, slot: usize, topologies: &Topologies) {
        let has = |c: &TopologySpreadConstraint| node.label(&c.topology_key).is_some();
        let is_hard = |c: &&TopologySpreadConstraint| c.when_unsatisfiable == "DoNotSchedule";
        let all_hard = self.constraints.iter().filter(is_hard).all(has);
        let all_soft = !self.soft_needs_all || self.constraints.iter().filter(|c| !is_hard(c)).all(has);
        let spreads =
            self.counters.iter_mut().filter(|(r, _)| matches!(r, Role::Hard { .. } | Role::Soft { .. }));
        for ((role, counter), constraint) in spreads.zip(&self.constraints) {
            // Soft constraints by node look at the node's own pods whatever its policies say.
            let by_node = counter.topology.is_none();
            let labelled = if matches!(role, Role::Hard { .. }) { all_hard } else { all_soft };
            let known = node.node.is_some();
            let part = known && (by_node || labelled && takes_part(constraint, pod, node));
            counter.set_part(topologies, slot, part);
        }
    }

    /// The slot's node is about to change. Its pods are not counted any more.
    pub fn leave(&mut self, slot: usize, topologies: &Topologies) {
        self.counters.iter_mut().for_each(|(_, c)| c.leave(topologies, slot));
    }

    /// Counts a placed pod (−1: no more).
    pub fn count(
        &mut self,
        pod: &PodInfo,
        slot: usize,
        topologies: &Topologies,
        namespaces: &Namespaces,
        times: i64,
    ) {
        for (_, counter) in &mut self.counters {
            if counter.rule.accepts(pod, namespaces) {
                counter.add(topologies, slot, times);
            }
        }
    }

    /// Whether the pods match all of their own required affinity terms.
    pub fn set_own(&mut self, pod: &PodInfo, namespaces: &Namespaces) {
        let near = self.counters.iter().find(|(r, _)| matches!(r, Role::Near));
        self.near_own = near.is_some_and(|(_, c)| c.rule.accepts(pod, namespaces));
    }

    /// Finds the terms of placed pods that speak of the pod, unless they are known.
    pub fn look_up(&mut self, pod: &PodInfo, held: &HeldTerms, namespaces: &Namespaces, same_labels: bool) {
        if self.held_version != Some(held.version) || !same_labels {
            self.held = held.about(pod, namespaces);
            self.held_version = Some(held.version);
        }
    }

    /// Whether nothing but the node itself matters.
    pub fn is_empty(&self) -> bool {
        self.counters.is_empty() && self.held.is_empty()
    }

    /// What holds for all nodes at this time.
    pub fn moment(&self) -> Moment {
        let of = |role: &Role, counter: &Counter| match role {
            Role::Hard { domains_min, .. } => counter.least(*domains_min),
            _ => 0,
        };
        let mut near = self.counters.iter().filter(|(r, _)| matches!(r, Role::Near));
        Moment {
            least: self.counters.iter().map(|(role, counter)| of(role, counter)).collect(),
            first_of_its_kind: self.near_own && near.all(|(_, c)| c.is_empty()),
        }
    }

    /// Why other pods keep the class off the node, in upstream's words and order.
    pub fn reason(
        &self,
        slot: usize,
        topologies: &Topologies,
        held: &HeldTerms,
        moment: &Moment,
    ) -> Option<&'static str> {
        for ((role, counter), least) in self.counters.iter().zip(&moment.least) {
            let Role::Hard { skew, own, .. } = role else { continue };
            let Some(count) = counter.at(topologies, slot) else {
                return Some("node(s) didn't match pod topology spread constraints (missing required label)");
            };
            if count + i64::from(*own) - least > *skew {
                return Some("node(s) didn't match pod topology spread constraints");
            }
        }
        if self.has_near && !self.is_near(slot, topologies, moment) {
            return Some("node(s) didn't match pod affinity rules");
        }
        let mut far = self.counters.iter().filter(|(r, _)| matches!(r, Role::Far));
        if far.any(|(_, c)| c.at(topologies, slot).is_some_and(|pods| pods > 0)) {
            return Some("node(s) didn't match pod anti-affinity rules");
        }
        let mut forbidding = self.held.iter().filter_map(|id| held.get(*id)).filter(|h| h.weight.is_none());
        if forbidding.any(|h| h.at(topologies, slot) > 0) {
            return Some("node(s) didn't satisfy existing pods anti-affinity rules");
        }
        None
    }

    fn is_near(&self, slot: usize, topologies: &Topologies, moment: &Moment) -> bool {
        let mut all = true;
        for (_, counter) in self.counters.iter().filter(|(r, _)| matches!(r, Role::Near)) {
            match counter.at(topologies, slot) {
                None => return false,
                Some(pods) => all &= pods > 0,
            }
        }
        all || moment.first_of_its_kind
    }

    /// The weight that preferred affinity gives the node.
    pub fn preference(&self, slot: usize, topologies: &Topologies, held: &HeldTerms) -> i64 {
        let own = self.counters.iter().filter_map(|(role, counter)| match role {
            Role::Likes { weight } => Some(weight * counter.at(topologies, slot).unwrap_or(0)),
            _ => None,
        });
        let others = self.held.iter().filter_map(|id| held.get(*id));
        let others = others.filter_map(|h| h.weight.map(|weight| weight * h.at(topologies, slot)));
        own.chain(others).sum()
    }

    /// Whether there are soft constraints.
    pub fn has_soft(&self) -> bool {
        self.soft > 0
    }

    /// How crowded the domains of these nodes are by soft constraints, the less the better; `None` for nodes that are
    /// not to be judged. Larger topologies weigh more, as upstream does it.
    pub fn crowding(&self, nodes: &[usize], slots: &[NodeInfo], topologies: &Topologies) -> Vec<Option<i64>> {
        let soft: Vec<(i64, &Counter)> = self
            .counters
            .iter()
            .filter_map(|(role, counter)| match role {
                Role::Soft { skew } => Some((*skew, counter)),
                _ => None,
            })
            .collect();
        let keys = || self.constraints.iter().filter(|c| c.when_unsatisfiable != "DoNotSchedule");
        let is_judged = |slot: usize| {
            !self.soft_needs_all || keys().all(|c| slots[slot].label(&c.topology_key).is_some())
        };
        let judged: Vec<bool> = nodes.iter().map(|slot| is_judged(*slot)).collect();
        let among = || nodes.iter().zip(&judged).filter(|(_, judged)| **judged).map(|(slot, _)| *slot);
        let weigh = |counter: &Counter| {
            let size = match counter.topology {
                None => among().count(),
                Some(topology) => {
                    let mut seen: Vec<Option<usize>> =
                        among().map(|slot| topologies.domain(topology, slot)).collect();
                    seen.sort_unstable();
                    seen.dedup();
                    seen.len()
                }
            };
            ((size + 2) as f64).ln()
        };
        let weights: Vec<f64> = soft.iter().map(|(_, counter)| weigh(counter)).collect();
        let crowd = |slot: usize| {
            let parts =
                soft.iter().zip(&weights).zip(keys()).filter_map(|(((skew, counter), weight), key)| {
                    slots[slot].label(&key.topology_key)?;
                    Some(counter.at(topologies, slot)? as f64 * weight + (skew - 1) as f64)
                });
            parts.sum::<f64>().round() as i64
        };
        nodes.iter().zip(&judged).map(|(slot, judged)| judged.then(|| crowd(*slot))).collect()
    }
}

fn takes_part(constraint: &TopologySpreadConstraint, pod: &PodInfo, node: &NodeInfo) -> bool {
    let honours_affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
    let honours_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
    (!honours_affinity || node_suits(pod.spec(), node))
        && (!honours_taints || untolerated(pod.spec(), node, &["NoSchedule", "NoExecute"]).next().is_none())
}

fn by_default(key: &str, skew: i32, selector: &LabelSelector) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        label_selector: Some(selector.clone()),
        max_skew: skew,
        topology_key: key.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        ..TopologySpreadConstraint::default()
    }
}
