//! The cluster as the scheduler knows it, kept up to date change by change.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::info::PodInfo;
use crate::resources::Resources;

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
    nodes: BTreeMap<String, NodeInfo>,
    places: HashMap<String, String>,
}

impl Snapshot {
    /// An empty cluster.
    pub fn new() -> Snapshot {
        Snapshot::default()
    }

    /// Every node that is known itself, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values().filter(|n| n.node.is_some())
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(name).filter(|n| n.node.is_some())
    }

    /// Takes in a new or changed node.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let info = self.nodes.entry(name).or_default();
        let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
        info.allocatable = allocatable.map(Resources::of).unwrap_or_default();
        info.node = Some(node);
    }

    /// Forgets a node; its pods stay known until they go too.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(info) = self.nodes.get_mut(name) {
            info.node = None;
            if info.pods.is_empty() {
                self.nodes.remove(name);
            }
        }
    }

    /// Takes in a new or changed pod. One that is not placed, or is over, holds nothing.
    pub fn set_pod(&mut self, pod: Arc<Pod>) {
        let info = PodInfo::of(pod);
        let node = info.spec().node_name.clone().filter(|n| !n.is_empty());
        match node {
            Some(node) if !info.is_over() => self.place(info, &node),
            Some(_) => self.remove_pod(info.uid()),
            // An assumed pod stays where it was assumed until the API server or a failure says otherwise.
            None => {}
        }
    }

    /// Puts a pod on a node, before the API server knows or after.
    pub fn place(&mut self, info: PodInfo, node: &str) {
        self.remove_pod(info.uid());
        let uid = info.uid().to_owned();
        let on = self.nodes.entry(node.to_owned()).or_default();
        on.requested.add(&info.requested, 1);
        on.likely.add(&info.likely, 1);
        on.pods.insert(uid.clone(), info);
        self.places.insert(uid, node.to_owned());
    }

    /// Forgets a pod.
    pub fn remove_pod(&mut self, uid: &str) {
        let Some(node) = self.places.remove(uid) else { return };
        let Some(on) = self.nodes.get_mut(&node) else { return };
        if let Some(info) = on.pods.remove(uid) {
            on.requested.add(&info.requested, -1);
            on.likely.add(&info.likely, -1);
        }
        if on.pods.is_empty() && on.node.is_none() {
            self.nodes.remove(&node);
        }
    }
}
