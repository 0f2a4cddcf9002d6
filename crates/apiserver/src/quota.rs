//! Keeps the status of ResourceQuotas: counted anew, from memory, for a namespace in which something counted came,
//! went or changed its size.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use policy::quota::{Counted, amounts, classes, total};
use serde_json::Value;
use store::{Range, StoreError};
use tokio::sync::Notify;

use crate::admission::quota::{quotas, write};
use crate::object;
use crate::resource::Resource;
use crate::server::ApiServer;

/// Changes that come close together are counted together.
const GATHER: Duration = Duration::from_millis(100);
/// A namespace whose quota was changed by others meanwhile is counted again after this.
const RETRY: Duration = Duration::from_millis(50);

/// Which namespaces have quotas, and which of them are to be counted.
#[derive(Default)]
pub struct Quotas {
    limited: Mutex<HashSet<String>>,
    due: Mutex<HashSet<String>>,
    wake: Notify,
}

impl Quotas {
    /// Has a namespace counted soon.
    pub fn recount(&self, namespace: &str) {
        self.due.lock().insert(namespace.to_owned());
        self.wake.notify_one();
    }

    /// Whether what a write changes is compared, to tell whether the namespace is to be counted.
    pub fn compares(&self, resource: &Resource, namespace: &str) -> bool {
        let def = &resource.def;
        let quota = def.group.is_empty() && def.plural == "resourcequotas";
        def.namespaced() && (quota || self.limited.lock().contains(namespace))
    }

    /// Takes note of a write that was not compared because the namespace had no quota before it.
    pub fn missed(&self, resource: &Resource, namespace: &str) {
        if resource.def.namespaced() && self.limited.lock().contains(namespace) {
            self.recount(namespace);
        }
    }

    /// Takes note of a write.
    pub fn wrote(&self, resource: &Resource, old: Option<&Value>, new: Option<&Value>) {
        let def = &resource.def;
        if !def.namespaced() {
            return;
        }
        let Some(object) = new.or(old) else { return };
        let namespace = object::meta_text(object, "namespace");
        if def.group.is_empty() && def.plural == "resourcequotas" {
            self.limited.lock().insert(namespace.to_owned());
            return self.recount(namespace);
        }
        if !self.limited.lock().contains(namespace) {
            return;
        }
        let kind = Counted { group: &def.group, plural: &def.plural };
        let now = jiff::Timestamp::now().as_second();
        let usage = |object: Option<&Value>| object.map(|object| kind.usage(object, now));
        let moved = || match (old, new) {
            (Some(old), Some(new)) => def.plural == "persistentvolumeclaims" && classes(old) != classes(new),
            _ => false,
        };
        if usage(old) != usage(new) || moved() {
            self.recount(namespace);
        }
    }
}

/// Counts until the server ends.
pub async fn run(server: Arc<ApiServer>) {
    for quota in server.store.snapshot("core/resourcequotas").iter(&Range::default()) {
        let namespace = quota.key.namespace.to_string();
        server.quotas.limited.lock().insert(namespace.clone());
        server.quotas.recount(&namespace);
    }
    loop {
        server.quotas.wake.notified().await;
        tokio::time::sleep(GATHER).await;
        let due = std::mem::take(&mut *server.quotas.due.lock());
        for namespace in due {
            match count(&server, &namespace).await {
                Ok(()) => {}
                Err(StoreError::Conflict { .. }) => {
                    tokio::time::sleep(RETRY).await;
                    server.quotas.recount(&namespace);
                }
                Err(error) => tracing::warn!(%error, namespace, "the usage of a quota was not written"),
            }
        }
    }
}

async fn count(server: &ApiServer, namespace: &str) -> Result<(), StoreError> {
    let all = quotas(server, namespace);
    if all.is_empty() {
        server.quotas.limited.lock().remove(namespace);
        return Ok(());
    }
    let now = jiff::Timestamp::now().as_second();
    for (revision, mut quota) in all {
        let hard = amounts(&quota, "/spec/hard");
        let objects = counted(server, namespace, hard.keys().map(String::as_str));
        let pairs = objects.iter().flat_map(|((group, plural), objects)| {
            objects.iter().map(move |object| (Counted { group, plural }, object))
        });
        let used = total(&quota, pairs, now);
        let wanted = quota.pointer("/spec/hard").cloned().unwrap_or_default();
        let same = quota.pointer("/status/hard") == Some(&wanted) && amounts(&quota, "/status/used") == used;
        if !same {
            object::set_at(&mut quota, "status.hard", wanted);
            write(server, quota, revision, &used).await?;
        }
    }
    Ok(())
}

type Objects = Vec<((String, String), Vec<Value>)>;

/// The objects of a namespace that these resources count.
fn counted<'a>(server: &ApiServer, namespace: &str, names: impl Iterator<Item = &'a str>) -> Objects {
    let mut kinds: Vec<(String, String)> = Vec::new();
    let inside = ["pods", "services", "persistentvolumeclaims"];
    for name in names {
        let by_count = Counted::by_count(name).map(|kind| (kind.group.to_owned(), kind.plural.to_owned()));
        let by_size = || {
            let fits = |plural: &&&str| Counted { group: "", plural }.uses(name);
            inside.iter().find(fits).map(|plural| (String::new(), (*plural).to_owned()))
        };
        if let Some(kind) = by_count.or_else(by_size).filter(|kind| !kinds.contains(kind)) {
            kinds.push(kind);
        }
    }
    let catalog = server.catalog();
    let read = |(group, plural): (String, String)| {
        let resource = catalog.stored(&group, &plural)?;
        let range = Range { namespace: Some(namespace.into()), after: None };
        let snapshot = server.store.snapshot(&resource.table);
        let objects = snapshot.iter(&range).filter_map(|o| serde_json::from_slice(&o.json).ok()).collect();
        Some(((group, plural), objects))
    };
    kinds.into_iter().filter_map(read).collect()
}
