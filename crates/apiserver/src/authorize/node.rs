//! The Node authorizer over the store as it is now.

use std::sync::Arc;

use policy::node::{Graph, NodeRules, name_of};
use policy::rbac::Ask;
use serde_json::Value;
use store::{Range, Store};

use super::{Attributes, Authorizer, Opinion};
use crate::authenticate::Identity;

/// Lets kubelets read what their pods refer to.
pub struct Node {
    rules: NodeRules,
    store: Arc<dyn Store>,
}

impl Node {
    /// Answers from this store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { rules: NodeRules::default(), store }
    }

    fn all(&self, table: &str, namespace: &str, fits: impl Fn(&[u8]) -> bool) -> Vec<Value> {
        let namespace = (!namespace.is_empty()).then(|| namespace.into());
        let snapshot = self.store.snapshot(table);
        let objects = snapshot.iter(&Range { namespace, after: None });
        objects
            .filter(|object| fits(&object.json))
            .filter_map(|object| serde_json::from_slice(&object.json).ok())
            .collect()
    }
}

/// Whether the text occurs, so that what cannot matter is not parsed.
fn contains(json: &[u8], text: &[u8]) -> bool {
    memchr::memmem::find(json, text).is_some()
}

impl Graph for Node {
    fn pods(&self, namespace: &str, node: &str) -> Vec<Value> {
        let mark = format!("\"nodeName\":\"{node}\"");
        let mut pods = self.all("core/pods", namespace, |json| contains(json, mark.as_bytes()));
        pods.retain(|pod| pod.pointer("/spec/nodeName").and_then(Value::as_str) == Some(node));
        pods
    }

    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let group = if group.is_empty() { "core" } else { group };
        let key = store::Key {
            resource: format!("{group}/{plural}").into(),
            namespace: namespace.into(),
            name: name.into(),
        };
        serde_json::from_slice(&self.store.get(&key)?.json).ok()
    }

    fn has_certificate(&self, namespace: &str, secret: &str) -> bool {
        let mark = format!("\"secretName\":\"{secret}\"");
        let ingresses =
            self.all("networking.k8s.io/ingresses", namespace, |json| contains(json, mark.as_bytes()));
        ingresses.iter().any(|ingress| {
            let list = ingress.pointer("/spec/tls").and_then(Value::as_array);
            list.into_iter()
                .flatten()
                .any(|tls| tls.get("secretName").and_then(Value::as_str) == Some(secret))
        })
    }
}

impl Authorizer for Node {
    fn authorize(&self, identity: &Identity, asked: &Attributes) -> (Opinion, String) {
        let Some(node) = name_of(&identity.name, &identity.groups) else {
            return (Opinion::None, String::new());
        };
        let ask = Ask::from(asked);
        match self.rules.judge(node, &ask, &asked.field_selector, self) {
            Ok(()) => (Opinion::Allow, String::new()),
            Err(reason) => (Opinion::None, reason),
        }
    }
}
