//! The caches all controllers of a process share, started when the first of them asks.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use client::{ApiResource, Cache, Client, Kind, ListOptions, Object, ObjectKey};
use parking_lot::Mutex;

/// The index every shared cache has: the uid of the controlling owner, or [`orphans_of`] the namespace.
pub const CONTROLLER: &str = "controller";

/// Under what [`CONTROLLER`] has the objects of a namespace that no one controls.
#[must_use]
pub fn orphans_of(namespace: &str) -> String {
    format!("orphan:{namespace}")
}

type Wait<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// What the freshness gate needs of a cache of any kind.
pub trait AnyCache: Send + Sync {
    /// Waits until the cache has reached the revision.
    fn reaches(&self, revision: u64) -> Wait<'_>;
    /// Waits until the object is gone, is another, or is being deleted.
    fn loses<'a>(&'a self, key: &'a ObjectKey, uid: &'a str) -> Wait<'a>;
    /// Waits until the first list is complete.
    fn fills(&self) -> Wait<'_>;
}

impl<T: Object> AnyCache for Cache<T> {
    fn reaches(&self, revision: u64) -> Wait<'_> {
        Box::pin(self.wait_for(revision))
    }

    fn loses<'a>(&'a self, key: &'a ObjectKey, uid: &'a str) -> Wait<'a> {
        Box::pin(self.wait_until(move |cache| {
            cache.get_key(key).is_none_or(|object| {
                let meta = object.meta();
                meta.deletion_timestamp.is_some() || (!uid.is_empty() && meta.uid.as_deref() != Some(uid))
            })
        }))
    }

    fn fills(&self) -> Wait<'_> {
        Box::pin(self.synced())
    }
}

struct Slot {
    typed: Box<dyn Any + Send + Sync>,
    any: Arc<dyn AnyCache>,
}

#[derive(Default)]
struct Table {
    slots: HashMap<(TypeId, &'static str), Slot>,
    by_path: HashMap<(String, String), Arc<dyn AnyCache>>,
}

/// Shared caches, one for each kind.
pub struct Caches {
    client: Client,
    table: Mutex<Table>,
}

impl Caches {
    /// No caches yet.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, table: Mutex::default() }
    }

    /// The client the caches read with.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The cache of this kind in all namespaces, started if it is not running.
    pub fn get<K: Kind>(&self) -> Cache<K> {
        self.get_where("")
    }

    /// The cache of the objects of this kind that a field selector matches. Unless it matches all, the freshness
    /// gate does not look at it: it is not told of what it does not match.
    pub fn get_where<K: Kind>(&self, fields: &'static str) -> Cache<K> {
        let mut table = self.table.lock();
        let id = (TypeId::of::<K>(), fields);
        if let Some(known) = table.slots.get(&id).and_then(|s| s.typed.downcast_ref::<Cache<K>>()) {
            return known.clone();
        }
        let options = ListOptions { fields: fields.to_owned(), ..ListOptions::default() };
        let builder = Cache::<K>::builder(self.client.clone()).options(options);
        let cache = builder.index(CONTROLLER, controller_index).start();
        let any: Arc<dyn AnyCache> = Arc::new(cache.clone());
        if fields.is_empty() {
            table.by_path.insert(path_of(&K::resource()), any.clone());
        }
        table.slots.insert(id, Slot { typed: Box::new(cache.clone()), any });
        cache
    }

    /// Puts a cache made elsewhere under the freshness gate, unless there is one of that resource.
    pub fn adopt(&self, resource: &ApiResource, cache: Arc<dyn AnyCache>) {
        self.table.lock().by_path.entry(path_of(resource)).or_insert(cache);
    }

    /// The cache of this resource, if there is one.
    #[must_use]
    pub fn find(&self, group: &str, plural: &str) -> Option<Arc<dyn AnyCache>> {
        self.table.lock().by_path.get(&(group.to_owned(), plural.to_owned())).cloned()
    }

    /// Waits until all caches are filled.
    pub async fn filled(&self) {
        let all: Vec<Arc<dyn AnyCache>> = self.table.lock().slots.values().map(|s| s.any.clone()).collect();
        for cache in all {
            cache.fills().await;
        }
    }

    /// Waits until the caches show these writes, but not longer than `limit`. Whether they do.
    pub async fn show(&self, writes: &[Written], limit: Duration) -> bool {
        let wait = async {
            for write in writes {
                let Some(cache) = self.find(&write.group, &write.plural) else { continue };
                match &write.what {
                    Wrote::Revision(revision) => cache.reaches(*revision).await,
                    Wrote::Deletion { uid } => cache.loses(&write.key, uid).await,
                }
            }
        };
        tokio::time::timeout(limit, wait).await.is_ok()
    }
}

fn path_of(resource: &ApiResource) -> (String, String) {
    (resource.group.to_string(), resource.plural.to_string())
}

fn controller_index<K: Object>(object: &K) -> Vec<String> {
    let meta = object.meta();
    match controllers::pod::controller_of(meta) {
        Some(owner) => vec![owner.uid.clone()],
        None => vec![orphans_of(meta.namespace.as_deref().unwrap_or(""))],
    }
}

/// What a write did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrote {
    /// The object is at this revision.
    Revision(u64),
    /// The object with this uid is going.
    Deletion {
        /// Its uid, or empty.
        uid: String,
    },
}

/// A write that caches will show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The resource's group.
    pub group: String,
    /// The resource's plural.
    pub plural: String,
    /// The object.
    pub key: ObjectKey,
    /// What was done to it.
    pub what: Wrote,
}
