//! The index of topologies: which domain each node is in, how many pods of a kind each domain has, and which terms
//! placed pods hold. It is kept change by change, so that a decision looks up instead of counting.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::info::PodInfo;
use crate::terms::{Namespaces, Rule, Term, preferred, required_far, required_near};

/// The domain of a node that lacks the label.
const NOWHERE: u32 = u32::MAX;
/// What a required affinity term of a placed pod weighs for pods that it speaks of; upstream's.
const REQUIRED_WEIGHT: i64 = 1;

/// One label key and the domains its values make.
#[derive(Debug, Clone)]
struct Topology {
    key: String,
    domains: HashMap<String, u32>,
    of_slot: Vec<u32>,
}

/// All label keys that some term or constraint names.
#[derive(Debug, Clone, Default)]
pub struct Topologies {
    list: Vec<Topology>,
    by_key: HashMap<String, usize>,
}

impl Topologies {
    /// The topology of a key; `label` gives the nodes' values when it is new.
    pub fn get(&mut self, key: &str, slots: usize, label: impl Fn(usize, &str) -> Option<String>) -> usize {
        if let Some(known) = self.by_key.get(key) {
            return *known;
        }
        let mut topology = Topology { key: key.to_owned(), domains: HashMap::new(), of_slot: Vec::new() };
        (0..slots).for_each(|slot| topology.set(slot, label(slot, key).as_deref()));
        self.list.push(topology);
        self.by_key.insert(key.to_owned(), self.list.len() - 1);
        self.list.len() - 1
    }

    /// A node's labels changed, or it came or went.
    pub fn set_slot<'a>(&mut self, slot: usize, label: impl Fn(&str) -> Option<&'a str>) {
        for topology in &mut self.list {
            let value = label(&topology.key);
            topology.set(slot, value);
        }
    }

    /// The node's domain.
    pub fn domain(&self, topology: usize, slot: usize) -> Option<usize> {
        let domain = *self.list[topology].of_slot.get(slot)?;
        (domain != NOWHERE).then_some(domain as usize)
    }

    /// Whether far more domains are known than nodes could be in.
    pub fn is_overgrown(&self, slots: usize) -> bool {
        self.list.iter().any(|t| t.domains.len() > 2 * slots + 1024)
    }
}

impl Topology {
    fn set(&mut self, slot: usize, value: Option<&str>) {
        if self.of_slot.len() <= slot {
            self.of_slot.resize(slot + 1, NOWHERE);
        }
        self.of_slot[slot] = match value {
            None => NOWHERE,
            Some(value) => {
                let next = u32::try_from(self.domains.len()).unwrap_or(NOWHERE);
                match self.domains.get(value) {
                    Some(known) => *known,
                    None => *self.domains.entry(value.to_owned()).or_insert(next),
                }
            }
        };
    }
}

/// Pods that a rule counts, by domain.
#[derive(Debug, Clone)]
pub struct Counter {
    /// Which pods.
    pub rule: Rule,
    /// By which topology; `None` counts each node by itself.
    pub topology: Option<usize>,
    /// Which nodes take part; all, if empty.
    pub takes_part: Vec<bool>,
    /// Pods by domain.
    counts: Vec<i64>,
    /// Nodes that take part by domain.
    nodes: Vec<u32>,
    /// Pods in any domain.
    total: i64,
}

impl Counter {
    /// A counter that has counted nothing.
    pub fn new(rule: Rule, topology: Option<usize>) -> Counter {
        Counter { rule, topology, takes_part: Vec::new(), counts: Vec::new(), nodes: Vec::new(), total: 0 }
    }

    fn domain(&self, topologies: &Topologies, slot: usize) -> Option<usize> {
        match self.topology {
            Some(topology) => topologies.domain(topology, slot),
            None => Some(slot),
        }
    }

    /// Adds pods of a node that the rule accepts (negative: takes them off).
    pub fn add(&mut self, topologies: &Topologies, slot: usize, pods: i64) {
        if !self.takes_part.get(slot).copied().unwrap_or(self.takes_part.is_empty()) {
            return;
        }
        let Some(domain) = self.domain(topologies, slot) else { return };
        if self.counts.len() <= domain {
            self.counts.resize(domain + 1, 0);
        }
        self.counts[domain] += pods;
        self.total += pods;
    }

    /// Notes whether a node takes part. Its pods must have been taken off before and are added after.
    pub fn set_part(&mut self, topologies: &Topologies, slot: usize, takes_part: bool) {
        if self.takes_part.len() <= slot {
            self.takes_part.resize(slot + 1, false);
        }
        self.takes_part[slot] = takes_part;
        if let Some(domain) = self.domain(topologies, slot).filter(|_| takes_part) {
            if self.nodes.len() <= domain {
                self.nodes.resize(domain + 1, 0);
            }
            self.nodes[domain] += 1;
        }
    }

    /// A node is about to change: it takes part in its domain no more.
    pub fn leave(&mut self, topologies: &Topologies, slot: usize) {
        if self.takes_part.get(slot).copied().unwrap_or(false) {
            self.takes_part[slot] = false;
            if let Some(domain) = self.domain(topologies, slot) {
                self.nodes[domain] = self.nodes[domain].saturating_sub(1);
            }
        }
    }

    /// Pods in the node's domain; `None` if it is in none.
    pub fn at(&self, topologies: &Topologies, slot: usize) -> Option<i64> {
        let domain = self.domain(topologies, slot)?;
        Some(self.counts.get(domain).copied().unwrap_or(0))
    }

    /// Whether nothing was counted anywhere.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The least of any domain that nodes take part in; 0 if there are fewer such domains than asked for.
    pub fn least(&self, domains_min: usize) -> i64 {
        let counted = self.nodes.iter().enumerate().filter(|(_, nodes)| **nodes > 0);
        let mut domains = 0;
        let mut least = i64::MAX;
        for (domain, _) in counted {
            domains += 1;
            least = least.min(self.counts.get(domain).copied().unwrap_or(0));
        }
        if domains < domains_min.max(1) { 0 } else { least }
    }
}

/// A term that placed pods hold, with how many hold it in each domain.
#[derive(Debug, Clone)]
pub struct Held {
    key: Vec<u8>,
    term: Term,
    /// What it gives nodes for pods it speaks of; `None` keeps such pods off.
    pub weight: Option<i64>,
    counter: Counter,
    pods: usize,
}

impl Held {
    /// How many pods hold it in the node's domain.
    pub fn at(&self, topologies: &Topologies, slot: usize) -> i64 {
        self.counter.at(topologies, slot).unwrap_or(0)
    }
}

/// All terms that placed pods hold.
#[derive(Debug, Clone, Default)]
pub struct HeldTerms {
    slots: Vec<Option<Held>>,
    by_key: HashMap<Vec<u8>, usize>,
    /// Changes whenever a term comes or goes.
    pub version: u64,
}

impl HeldTerms {
    /// Finds or makes the terms that the pod holds; each is held once more.
    pub fn take(&mut self, pod: &PodInfo, mut topology: impl FnMut(&str) -> usize) -> Vec<usize> {
        if pod.spec().affinity.is_none() {
            return Vec::new();
        }
        let far = required_far(pod).iter().map(|t| (t, None));
        let near = required_near(pod).iter().map(|t| (t, Some(REQUIRED_WEIGHT)));
        let soft = preferred(pod).map(|(t, sign)| (&t.pod_affinity_term, Some(sign * i64::from(t.weight))));
        let mut held = Vec::new();
        for (term, weight) in far.chain(near).chain(soft) {
            let term = Term::of(pod, term);
            let key = format!("{weight:?} {term:?}").into_bytes();
            let id = match self.by_key.entry(key) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) => {
                    let counter =
                        Counter::new(Rule::All(vec![term.clone()]), Some(topology(&term.topology_key)));
                    let entry = Held { key: new.key().clone(), term, weight, counter, pods: 0 };
                    let free = self.slots.iter().position(Option::is_none);
                    let id = free.unwrap_or(self.slots.len());
                    match free {
                        Some(id) => self.slots[id] = Some(entry),
                        None => self.slots.push(Some(entry)),
                    }
                    self.version += 1;
                    *new.insert(id)
                }
            };
            if let Some(entry) = &mut self.slots[id] {
                entry.pods += 1;
            }
            held.push(id);
        }
        held
    }

    /// The pod that held these is gone; terms that nobody holds are forgotten.
    pub fn give_back(&mut self, held: &[usize]) {
        for id in held {
            let Some(entry) = &mut self.slots[*id] else { continue };
            entry.pods -= 1;
            if entry.pods == 0 {
                self.by_key.remove(&entry.key);
                self.slots[*id] = None;
                self.version += 1;
            }
        }
    }

    /// Counts a pod that holds these for the node's domains (−1: no more).
    pub fn count(&mut self, topologies: &Topologies, held: &[usize], slot: usize, times: i64) {
        for id in held {
            if let Some(entry) = &mut self.slots[*id] {
                entry.counter.add(topologies, slot, times);
            }
        }
    }

    /// The terms that speak of the pod.
    pub fn about(&self, pod: &PodInfo, namespaces: &Namespaces) -> Vec<usize> {
        let held = self.slots.iter().enumerate();
        held.filter(|(_, h)| h.as_ref().is_some_and(|h| h.term.accepts(pod, namespaces)))
            .map(|(id, _)| id)
            .collect()
    }

    /// A term by its number.
    pub fn get(&self, id: usize) -> Option<&Held> {
        self.slots.get(id)?.as_ref()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = HeldTerms { version: self.version + 1, ..HeldTerms::default() };
    }
}
