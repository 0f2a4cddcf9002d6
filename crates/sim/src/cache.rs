//! What a process knows of the cluster: objects as its watches told them, parsed once for all processes.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::Value;

/// The kinds of the simulation.
pub const PLURALS: [&str; 4] = ["deployments", "replicasets", "pods", "nodes"];

/// One object.
#[derive(Clone, Debug)]
pub enum Object {
    /// A Deployment.
    Deployment(Arc<Deployment>),
    /// A ReplicaSet.
    Set(Arc<ReplicaSet>),
    /// A Pod.
    Pod(Arc<Pod>),
    /// A Node.
    Node(Arc<Node>),
}

impl Object {
    /// Parses an object of this kind.
    pub fn of(plural: &str, value: Value) -> Option<Self> {
        Some(match plural {
            "deployments" => Self::Deployment(Arc::new(serde_json::from_value(value).ok()?)),
            "replicasets" => Self::Set(Arc::new(serde_json::from_value(value).ok()?)),
            "pods" => Self::Pod(Arc::new(serde_json::from_value(value).ok()?)),
            "nodes" => Self::Node(Arc::new(serde_json::from_value(value).ok()?)),
            _ => return None,
        })
    }

    /// Its name.
    pub fn name(&self) -> String {
        let meta = match self {
            Self::Deployment(d) => &d.metadata,
            Self::Set(s) => &s.metadata,
            Self::Pod(p) => &p.metadata,
            Self::Node(n) => &n.metadata,
        };
        meta.name.clone().unwrap_or_default()
    }
}

/// One change of a table, as a watch tells it.
#[derive(Clone, Debug)]
pub struct Change {
    /// The kind.
    pub plural: &'static str,
    /// The object's name.
    pub name: String,
    /// The object; absent when it is gone.
    pub object: Option<Object>,
    /// As of this revision.
    pub revision: u64,
}

/// Objects by name, and how far each table is known.
#[derive(Default)]
pub struct Cache {
    /// Deployments.
    pub deployments: BTreeMap<String, Arc<Deployment>>,
    /// ReplicaSets.
    pub sets: BTreeMap<String, Arc<ReplicaSet>>,
    /// Pods.
    pub pods: BTreeMap<String, Arc<Pod>>,
    /// Nodes.
    pub nodes: BTreeMap<String, Arc<Node>>,
    known: BTreeMap<&'static str, u64>,
}

fn put<K>(map: &mut BTreeMap<String, Arc<K>>, name: &str, object: Option<Arc<K>>) {
    match object {
        Some(object) => drop(map.insert(name.to_owned(), object)),
        None => drop(map.remove(name)),
    }
}

impl Cache {
    /// Takes a change in.
    pub fn learn(&mut self, change: &Change) {
        let name = &change.name;
        match (change.plural, change.object.clone()) {
            (_, Some(Object::Deployment(d))) => put(&mut self.deployments, name, Some(d)),
            (_, Some(Object::Set(s))) => put(&mut self.sets, name, Some(s)),
            (_, Some(Object::Pod(p))) => put(&mut self.pods, name, Some(p)),
            (_, Some(Object::Node(n))) => put(&mut self.nodes, name, Some(n)),
            ("deployments", None) => put(&mut self.deployments, name, None),
            ("replicasets", None) => put(&mut self.sets, name, None),
            ("pods", None) => put(&mut self.pods, name, None),
            (_, None) => put(&mut self.nodes, name, None),
        }
        self.reached(change.plural, change.revision);
    }

    /// A table is known up to here.
    pub fn reached(&mut self, plural: &'static str, revision: u64) {
        let known = self.known.entry(plural).or_default();
        *known = revision.max(*known);
    }

    /// How far a table is known; absent before its first list.
    pub fn known(&self, plural: &str) -> Option<u64> {
        self.known.get(plural).copied()
    }

    /// Names of a table.
    pub fn names(&self, plural: &str) -> Vec<String> {
        match plural {
            "deployments" => self.deployments.keys().cloned().collect(),
            "replicasets" => self.sets.keys().cloned().collect(),
            "pods" => self.pods.keys().cloned().collect(),
            _ => self.nodes.keys().cloned().collect(),
        }
    }
}
