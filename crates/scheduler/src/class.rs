//! Classes of pods that are alike to the scheduler, with what is known of every node for each class.
//!
//! Pods of one controller differ in name alone. What a node is to one of them it is to all, until the node or its pods
//! change; so each decision judges anew only the nodes that changed since the decision before.

use std::collections::HashMap;

use crate::filter;
use crate::index::{HeldTerms, Topologies};
use crate::info::PodInfo;
use crate::score;
use crate::snapshot::NodeInfo;
use crate::terms::Namespaces;
use crate::topology::Demands;

/// Classes that are remembered. More classes than this in turn are judged anew each time.
const CLASSES_MAX: usize = 512;

/// What a node is to a class, on its own account.
#[derive(Debug, Clone, Copy, Default)]
pub struct Eval {
    /// As of which change of the node.
    version: u64,
    /// Whether its filters let the pod pass, volumes and other pods aside.
    pub fits: bool,
    /// Marks for what would be left, ready to be added.
    pub room: i64,
    /// Weight of preferred node affinity.
    pub preferred: i64,
    /// Soft taints that are not tolerated.
    pub taints: i64,
}

/// Pods that are alike.
#[derive(Debug, Clone)]
pub struct Class {
    /// One of them, for what they share.
    pub pod: PodInfo,
    /// By slot.
    pub evals: Vec<Eval>,
    /// What other pods demand of them.
    pub demands: Demands,
    /// Image marks by slot; empty if no node has any.
    pub images: Vec<i64>,
    images_version: Option<u64>,
    key: Vec<u8>,
    used: u64,
}

/// All classes that are remembered.
#[derive(Debug, Clone, Default)]
pub struct Classes {
    list: Vec<Class>,
    by_key: HashMap<Vec<u8>, usize>,
    /// Numbers of the classes for which pods of a namespace are counted.
    by_namespace: HashMap<String, Vec<usize>>,
    /// Numbers of the classes for which pods of any namespace may be counted.
    wide: Vec<usize>,
    clock: u64,
}

/// What makes pods alike.
fn key(pod: &PodInfo) -> Vec<u8> {
    let spec = pod.spec();
    let mut key = Vec::with_capacity(256);
    let pod_affinity =
        spec.affinity.as_ref().filter(|a| a.pod_affinity.is_some() || a.pod_anti_affinity.is_some());
    let looks_at_labels = pod_affinity.is_some() || spec.topology_spread_constraints.is_some();
    let labels = pod.pod.metadata.labels.as_ref().filter(|_| looks_at_labels);
    let images: Vec<&str> = score::images(spec).collect();
    let (want, likely) = (&pod.requested, &pod.likely);
    let parts = (
        (pod.namespace(), labels, &spec.node_name, &images),
        (&spec.node_selector, &spec.affinity, &spec.tolerations, &spec.topology_spread_constraints),
        (want.cpu_milli, want.memory, want.storage, &want.others, likely.cpu_milli, likely.memory),
        (&pod.ports, &pod.spread_by),
    );
    // Writing to memory does not fail, and maps with text keys can be written.
    let written = serde_json::to_writer(&mut key, &parts);
    debug_assert!(written.is_ok(), "keys of classes can be written");
    key
}

impl Classes {
    /// The class of a pod, if it is remembered.
    pub fn find(&mut self, pod: &PodInfo) -> Result<usize, Vec<u8>> {
        let key = key(pod);
        self.clock += 1;
        match self.by_key.get(&key) {
            Some(id) => {
                self.list[*id].used = self.clock;
                Ok(*id)
            }
            None => Err(key),
        }
    }

    /// Remembers a class; the one that was not used for longest makes room.
    pub fn insert(&mut self, pod: PodInfo, demands: Demands, key: Vec<u8>) -> usize {
        let only = demands.only_namespace().map(str::to_owned);
        let counts = demands.counts();
        let class = Class {
            pod,
            evals: Vec::new(),
            demands,
            images: Vec::new(),
            images_version: None,
            key: key.clone(),
            used: self.clock,
        };
        let id = if self.list.len() < CLASSES_MAX {
            self.list.push(class);
            self.list.len() - 1
        } else {
            let oldest = self.list.iter().enumerate().min_by_key(|(_, c)| c.used).map_or(0, |(id, _)| id);
            self.forget(oldest);
            self.list[oldest] = class;
            oldest
        };
        self.by_key.insert(key, id);
        match only {
            _ if !counts => {}
            Some(namespace) => self.by_namespace.entry(namespace).or_default().push(id),
            None => self.wide.push(id),
        }
        id
    }

    fn forget(&mut self, id: usize) {
        self.by_key.remove(&self.list[id].key);
        self.wide.retain(|c| *c != id);
        self.by_namespace.retain(|_, classes| {
            classes.retain(|c| *c != id);
            !classes.is_empty()
        });
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Classes { clock: self.clock, ..Classes::default() };
    }

    /// A class by its number.
    pub fn get(&self, id: usize) -> &Class {
        &self.list[id]
    }

    /// A class by its number.
    pub fn get_mut(&mut self, id: usize) -> &mut Class {
        &mut self.list[id]
    }

    /// Every class.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Class> {
        self.list.iter_mut()
    }

    /// Counts a placed pod for the classes that it concerns (−1: no more).
    pub fn count(
        &mut self,
        pod: &PodInfo,
        slot: usize,
        at: &Topologies,
        namespaces: &Namespaces,
        times: i64,
    ) {
        let own = self.by_namespace.get(pod.namespace()).into_iter().flatten();
        for id in own.chain(&self.wide) {
            self.list[*id].demands.count(pod, slot, at, namespaces, times);
        }
    }
}

impl Class {
    /// Judges the nodes that changed, and looks up which terms of other pods speak of this one.
    pub fn refresh(
        &mut self,
        pod: &PodInfo,
        slots: &[NodeInfo],
        images: &score::Images,
        held: &HeldTerms,
        namespaces: &Namespaces,
    ) {
        self.evals.resize(slots.len(), Eval::default());
        for (eval, node) in self.evals.iter_mut().zip(slots) {
            if eval.version != node.version {
                *eval = judge(&self.pod, node);
            }
        }
        if self.images_version != Some(images.version) {
            self.images = images.marks(self.pod.spec(), slots);
            self.images_version = Some(images.version);
        }
        let same_labels = self.pod.pod.metadata.labels == pod.pod.metadata.labels;
        self.demands.look_up(pod, held, namespaces, same_labels);
        if !same_labels {
            self.pod = PodInfo { volumes: None, ..pod.clone() };
        }
    }
}

fn judge(pod: &PodInfo, node: &NodeInfo) -> Eval {
    Eval {
        version: node.version,
        fits: node.node.is_some() && filter::fits_node(pod, node),
        room: score::room(pod, node),
        preferred: score::node_preference(pod, node),
        taints: score::soft_taints(pod, node),
    }
}
