//! RBAC: rules compiled from the stored roles and bindings, anew only when one of them has changed.

use std::sync::Arc;

use parking_lot::RwLock;
use policy::rbac::{Ask, Objects, Rules};
use serde_json::Value;
use store::{Range, Store};

use super::{Attributes, Authorizer, Opinion};
use crate::authenticate::Identity;

const TABLES: [&str; 4] = ["roles", "clusterroles", "rolebindings", "clusterrolebindings"];
/// The pause before a broken watch is begun anew.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(200);
/// How many changes are taken together.
const EVENTS_MAX: usize = 1000;

/// Decides by the compiled rules.
#[derive(Default)]
pub struct Rbac {
    rules: RwLock<Arc<Rules>>,
}

fn table(plural: &str) -> String {
    format!("rbac.authorization.k8s.io/{plural}")
}

impl Rbac {
    /// Compiles what is stored now.
    pub fn refresh(&self, store: &dyn Store) {
        let read = |plural: &str| -> Vec<Value> {
            let snapshot = store.snapshot(&table(plural));
            let objects = snapshot.iter(&Range::default());
            objects.filter_map(|object| serde_json::from_slice(&object.json).ok()).collect()
        };
        let [roles, cluster_roles, bindings, cluster_bindings] = TABLES.map(read);
        let rules = Rules::compile(&Objects { roles, cluster_roles, bindings, cluster_bindings });
        *self.rules.write() = Arc::new(rules);
    }

    /// The rules of a user within a namespace (or everywhere, with an empty one).
    pub fn rules_of(&self, identity: &Identity, namespace: &str) -> Vec<policy::rbac::Rule> {
        self.rules.read().rules_of(&identity.name, &identity.groups, namespace)
    }

    /// Keeps the rules as the store has them.
    pub async fn follow(self: Arc<Self>, store: Arc<dyn Store>) {
        let tables = TABLES.map(|plural| self.clone().follow_table(store.clone(), table(plural)));
        futures_util::future::join_all(tables).await;
    }

    async fn follow_table(self: Arc<Self>, store: Arc<dyn Store>, table: String) {
        loop {
            let revision = store.revision();
            self.refresh(&*store);
            if let Ok(mut watch) = store.watch(&table, revision) {
                while watch.next(EVENTS_MAX).await.is_ok() {
                    self.refresh(&*store);
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl<'a> From<&'a Attributes> for Ask<'a> {
    fn from(asked: &'a Attributes) -> Self {
        Self {
            verb: &asked.verb,
            is_resource: asked.is_resource,
            group: &asked.group,
            resource: &asked.resource,
            subresource: &asked.subresource,
            namespace: &asked.namespace,
            name: &asked.name,
            path: &asked.path,
        }
    }
}

impl Authorizer for Rbac {
    fn authorize(&self, identity: &Identity, asked: &Attributes) -> (Opinion, String) {
        let ask = Ask::from(asked);
        let rules = self.rules.read().clone();
        match rules.allows(&identity.name, &identity.groups, &ask) {
            Some(reason) => (Opinion::Allow, reason.to_string()),
            None => (Opinion::None, String::new()),
        }
    }
}
