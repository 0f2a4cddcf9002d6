//! The cluster as the scheduler knows it, kept up to date change by change.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};

use crate::class::{Class, Classes};
use crate::index::{HeldTerms, Topologies};
use crate::info::PodInfo;
use crate::resources::Resources;
use crate::score::Images;
use crate::terms::Namespaces;
use crate::topology::Demands;

/// One node and what its pods take of it.
#[derive(Debug, Clone, Default)]
pub struct NodeInfo {
    /// The node; absent while only its pods are known.
    pub node: Option<Arc<Node>>,
    /// What pods may take.
    pub allocatable: Resources,
    /// What its pods ask for.
    pub requested: Resources,
    /// What its pods count for in scores.
    pub likely: Resources,
    /// Its pods by uid.
    pub pods: HashMap<String, PodInfo>,
    /// Changes with every change of the node or its pods.
    pub(crate) version: u64,
}

impl NodeInfo {
    /// The node's name.
    pub fn name(&self) -> &str {
        self.node.as_ref().and_then(|n| n.metadata.name.as_deref()).unwrap_or_default()
    }

    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        let labels = self.node.as_ref()?.metadata.labels.as_ref()?;
        labels.get(key).map(String::as_str)
    }
}

/// Nodes with their pods. Pods just placed are in it before the API server says so.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub(crate) slots: Vec<NodeInfo>,
    free: Vec<usize>,
    by_name: BTreeMap<String, usize>,
    places: HashMap<String, (usize, String)>,
    namespaces: Namespaces,
    pub(crate) topologies: Topologies,
    pub(crate) held: HeldTerms,
    pub(crate) images: Images,
    classes: Classes,
    version: u64,
}

impl Snapshot {
    /// An empty cluster.
    pub fn new() -> Snapshot {
        Snapshot::default()
    }

    /// Every node that is known itself, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.by_name.values().map(|slot| &self.slots[*slot]).filter(|n| n.node.is_some())
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.by_name.get(name).map(|slot| &self.slots[*slot]).filter(|n| n.node.is_some())
    }

    pub(crate) fn slot(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    fn slot_for(&mut self, name: &str) -> usize {
        if let Some(known) = self.by_name.get(name) {
            return *known;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(NodeInfo::default());
            self.slots.len() - 1
        });
        self.by_name.insert(name.to_owned(), slot);
        slot
    }

    fn touch(&mut self, slot: usize) {
        self.version += 1;
        self.slots[slot].version = self.version;
    }

    /// Takes in a new or changed node.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let slot = self.slot_for(&name);
        let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
        self.slots[slot].allocatable = allocatable.map(Resources::of).unwrap_or_default();
        self.change_node(slot, Some(node));
    }

    /// Forgets a node; its pods stay known until they go too.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(slot) = self.slot(name) {
            self.change_node(slot, None);
            self.vacate(slot, name);
        }
    }

    /// Puts another node object into a slot; where its labels or taints matter, its pods are counted anew.
    fn change_node(&mut self, slot: usize, node: Option<Arc<Node>>) {
        let taints = |n: &Node| n.spec.as_ref().and_then(|s| s.taints.clone());
        let moves = match (&self.slots[slot].node, &node) {
            (Some(old), Some(new)) => {
                old.metadata.labels != new.metadata.labels || taints(old) != taints(new)
            }
            _ => true,
        };
        self.images.set(slot, node.as_deref());
        if !moves {
            self.slots[slot].node = node;
            return self.touch(slot);
        }
        self.count_slot(slot, -1);
        self.classes.iter_mut().for_each(|c| c.demands.leave(slot, &self.topologies));
        self.slots[slot].node = node;
        let info = &self.slots[slot];
        self.topologies.set_slot(slot, |key| info.label(key));
        for class in self.classes.iter_mut() {
            class.demands.enter(&class.pod, info, slot, &self.topologies);
        }
        self.count_slot(slot, 1);
        self.touch(slot);
        if self.topologies.is_overgrown(self.slots.len()) {
            self.reindex();
        }
    }

    /// Counts all pods of a slot, or no more. Pods whose node is not known count nowhere.
    fn count_slot(&mut self, slot: usize, times: i64) {
        let Snapshot { slots, topologies, held, classes, namespaces, .. } = self;
        if slots[slot].node.is_some() {
            for pod in slots[slot].pods.values() {
                held.count(topologies, &pod.held, slot, times);
                classes.count(pod, slot, topologies, namespaces, times);
            }
        }
    }

    fn count_pod(&mut self, pod: &PodInfo, slot: usize, times: i64) {
        if self.slots[slot].node.is_some() {
            self.held.count(&self.topologies, &pod.held, slot, times);
            self.classes.count(pod, slot, &self.topologies, &self.namespaces, times);
        }
    }

    /// Makes everything that is indexed anew.
    fn reindex(&mut self) {
        self.classes.clear();
        self.topologies = Topologies::default();
        self.held.clear();
        let Snapshot { slots, topologies, held, .. } = self;
        for slot in 0..slots.len() {
            let mut pods = std::mem::take(&mut slots[slot].pods);
            for pod in pods.values_mut() {
                pod.held = held.take(pod, |key| topology(topologies, slots, key));
                if slots[slot].node.is_some() {
                    held.count(topologies, &pod.held, slot, 1);
                }
            }
            slots[slot].pods = pods;
        }
    }

    /// Takes in a namespace's labels, which selectors of affinity terms look at.
    pub fn set_namespace(&mut self, namespace: &Namespace) {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let labels = namespace.metadata.labels.clone().unwrap_or_default();
        if self.namespaces.get(&name) != Some(&labels) {
            self.namespaces.insert(name, labels);
            self.classes.clear();
        }
    }

    /// Forgets a namespace.
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
        self.classes.clear();
    }

    /// Takes in a new or changed pod. One that is not placed, or is over, holds nothing.
    pub fn set_pod(&mut self, pod: Arc<Pod>) {
        let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).filter(|n| !n.is_empty());
        match node {
            Some(_) if crate::info::is_over(&pod) => {
                self.remove_pod(pod.metadata.uid.as_deref().unwrap_or_default());
            }
            Some(node) if !self.is_known(&pod, &node) => self.place(PodInfo::of(pod), &node),
            // An assumed pod stays where it was assumed until the API server or a failure says otherwise.
            Some(_) | None => {}
        }
    }

    /// Whether the pod is on the node already and nothing that is counted of it differs: then it is just kept.
    fn is_known(&mut self, pod: &Arc<Pod>, node: &str) -> bool {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let Some((slot, on)) = self.places.get(uid) else { return false };
        let Some(known) = self.slots[*slot].pods.get_mut(uid).filter(|_| on == node) else { return false };
        let (old, new) = (&known.pod.metadata, &pod.metadata);
        let (before, after) = (known.pod.spec.as_ref(), pod.spec.as_ref());
        let same = old.labels == new.labels
            && old.deletion_timestamp == new.deletion_timestamp
            && before.map(|s| (&s.containers, &s.init_containers, &s.resources))
                == after.map(|s| (&s.containers, &s.init_containers, &s.resources));
        if same {
            known.pod = pod.clone();
        }
        same
    }

    /// Puts a pod on a node, before the API server knows or after.
    pub fn place(&mut self, mut info: PodInfo, node: &str) {
        self.remove_pod(info.uid());
        let uid = info.uid().to_owned();
        let slot = self.slot_for(node);
        let Snapshot { slots, topologies, held, .. } = self;
        info.held = held.take(&info, |key| topology(topologies, slots, key));
        self.count_pod(&info, slot, 1);
        let on = &mut self.slots[slot];
        on.requested.add(&info.requested, 1);
        on.likely.add(&info.likely, 1);
        on.pods.insert(uid.clone(), info);
        self.places.insert(uid, (slot, node.to_owned()));
        self.touch(slot);
    }

    /// Forgets a pod.
    pub fn remove_pod(&mut self, uid: &str) {
        let Some((slot, node)) = self.places.remove(uid) else { return };
        if let Some(info) = self.slots[slot].pods.remove(uid) {
            self.slots[slot].requested.add(&info.requested, -1);
            self.slots[slot].likely.add(&info.likely, -1);
            self.count_pod(&info, slot, -1);
            self.held.give_back(&info.held);
        }
        self.touch(slot);
        self.vacate(slot, &node);
    }

    /// Frees a slot that has neither node nor pods.
    fn vacate(&mut self, slot: usize, name: &str) {
        if self.slots[slot].node.is_none() && self.slots[slot].pods.is_empty() {
            self.by_name.remove(name);
            self.slots[slot] = NodeInfo::default();
            self.free.push(slot);
            self.touch(slot);
        }
    }

    /// The pod's class, with every node judged.
    pub(crate) fn class_of(&mut self, pod: &PodInfo) -> usize {
        let id = match self.classes.find(pod) {
            Ok(known) => known,
            Err(key) => self.new_class(pod, key),
        };
        let Snapshot { slots, held, images, classes, namespaces, .. } = self;
        classes.get_mut(id).refresh(pod, slots, images, held, namespaces);
        id
    }

    pub(crate) fn class(&self, id: usize) -> &Class {
        self.classes.get(id)
    }

    /// A class that is met for the first time counts all pods once.
    fn new_class(&mut self, pod: &PodInfo, key: Vec<u8>) -> usize {
        let Snapshot { slots, topologies, classes, namespaces, .. } = self;
        let mut demands = Demands::of(pod, |key| topology(topologies, slots, key));
        demands.set_own(pod, namespaces);
        for (slot, node) in slots.iter().enumerate() {
            demands.enter(pod, node, slot, topologies);
            if demands.counts() && node.node.is_some() {
                node.pods.values().for_each(|p| demands.count(p, slot, topologies, namespaces, 1));
            }
        }
        // What volumes demand is each pod's own.
        classes.insert(PodInfo { volumes: None, ..pod.clone() }, demands, key)
    }
}

fn topology(topologies: &mut Topologies, slots: &[NodeInfo], key: &str) -> usize {
    topologies.get(key, slots.len(), |slot, key| slots[slot].label(key).map(str::to_owned))
}
