//! A local copy of a collection, kept current by one watch and shared by all who read it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use crate::reflector::{self, Filling, Source};
use crate::{ApiResource, Client, Kind, ListOptions, Object};

/// An object's place in its collection. The namespace is empty for cluster-scoped kinds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// The namespace, or empty.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// The key of namespace and name.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: Arc::from(namespace), name: Arc::from(name) }
    }

    /// The object's key.
    #[must_use]
    pub fn of<T: Object>(object: &T) -> Self {
        let meta = object.meta();
        Self::new(meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""))
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.namespace.is_empty() {
            true => f.write_str(&self.name),
            false => write!(f, "{}/{}", self.namespace, self.name),
        }
    }
}

/// What happened to one object, for hooks. Both sides are shared with the cache.
pub struct Change<'a, T> {
    /// The object's key.
    pub key: &'a ObjectKey,
    /// What the cache had.
    pub old: Option<&'a Arc<T>>,
    /// What it has now.
    pub new: Option<&'a Arc<T>>,
}

type IndexFn<T> = fn(&T) -> Vec<String>;
type Hook<T> = Box<dyn Fn(&Change<'_, T>) + Send + Sync>;

struct Index<T> {
    name: &'static str,
    values: IndexFn<T>,
    keys: HashMap<String, BTreeSet<ObjectKey>>,
}

struct Store<T> {
    objects: BTreeMap<ObjectKey, Arc<T>>,
    indexes: Vec<Index<T>>,
}

impl<T> Store<T> {
    /// Puts or removes one object and keeps the indexes; gives what was there.
    fn set(&mut self, key: &ObjectKey, new: Option<Arc<T>>) -> Option<Arc<T>> {
        let old = match &new {
            Some(object) => self.objects.insert(key.clone(), object.clone()),
            None => self.objects.remove(key),
        };
        for index in &mut self.indexes {
            for value in old.iter().flat_map(|o| (index.values)(o)) {
                if let Some(keys) = index.keys.get_mut(&value) {
                    keys.remove(key);
                    if keys.is_empty() {
                        index.keys.remove(&value);
                    }
                }
            }
            for value in new.iter().flat_map(|o| (index.values)(o)) {
                index.keys.entry(value).or_default().insert(key.clone());
            }
        }
        old
    }
}

#[derive(Clone, Copy, Default)]
struct Progress {
    revision: u64,
    synced: bool,
}

pub(crate) struct Shared<T> {
    store: RwLock<Store<T>>,
    hooks: RwLock<Vec<Hook<T>>>,
    subscriptions: Mutex<Vec<std::sync::Weak<Pending>>>,
    progress: watch::Sender<Progress>,
    pub(crate) trim: fn(&mut T),
}

impl<T: Object> Shared<T> {
    /// One object changed. Hooks run before the revision is published, so that whoever waits for the
    /// revision finds their effects.
    pub(crate) fn apply(&self, key: ObjectKey, new: Option<T>, revision: u64) {
        let new = new.map(|mut object| {
            (self.trim)(&mut object);
            Arc::new(object)
        });
        let old = self.store.write().set(&key, new.clone());
        self.tell(&key, old.as_ref(), new.as_ref());
        self.advance(revision);
    }

    /// The whole collection was read anew.
    pub(crate) fn replace(&self, objects: BTreeMap<ObjectKey, T>, revision: u64) {
        let mut changes = Vec::new();
        {
            let mut store = self.store.write();
            let gone: Vec<ObjectKey> =
                store.objects.keys().filter(|k| !objects.contains_key(*k)).cloned().collect();
            for key in gone {
                let old = store.set(&key, None);
                changes.push((key, old, None));
            }
            for (key, mut object) in objects {
                let known = store.objects.get(&key);
                if known.is_some_and(|o| o.meta().resource_version == object.meta().resource_version) {
                    continue;
                }
                (self.trim)(&mut object);
                let new = Arc::new(object);
                let old = store.set(&key, Some(new.clone()));
                changes.push((key, old, Some(new)));
            }
        }
        for (key, old, new) in &changes {
            self.tell(key, old.as_ref(), new.as_ref());
        }
        self.progress.send_modify(|p| *p = Progress { revision: revision.max(p.revision), synced: true });
    }

    fn tell(&self, key: &ObjectKey, old: Option<&Arc<T>>, new: Option<&Arc<T>>) {
        for hook in self.hooks.read().iter() {
            hook(&Change { key, old, new });
        }
        self.subscriptions.lock().retain(|weak| match weak.upgrade() {
            Some(pending) => {
                pending.keys.lock().insert(key.clone());
                pending.notify.notify_one();
                true
            }
            None => false,
        });
    }

    pub(crate) fn advance(&self, revision: u64) {
        self.progress.send_if_modified(|p| {
            let newer = revision > p.revision;
            p.revision = p.revision.max(revision);
            newer
        });
    }

    pub(crate) fn revision(&self) -> u64 {
        self.progress.borrow().revision
    }
}

/// The keys a subscriber has not seen yet: bounded by the number of objects.
#[derive(Default)]
struct Pending {
    keys: Mutex<BTreeSet<ObjectKey>>,
    notify: Notify,
    closed: AtomicBool,
}

/// Changed keys, without duplicates, for one reader.
pub struct Subscription {
    pending: Arc<Pending>,
}

impl Subscription {
    /// Waits until something changed and gives all keys that did; empty when the cache is gone.
    pub async fn next(&mut self) -> BTreeSet<ObjectKey> {
        loop {
            let keys = std::mem::take(&mut *self.pending.keys.lock());
            if !keys.is_empty() || self.pending.closed.load(Ordering::Acquire) {
                return keys;
            }
            self.pending.notify.notified().await;
        }
    }
}

/// How a cache is to be filled; see [`Cache::builder`].
pub struct CacheBuilder<T> {
    source: Source,
    indexes: Vec<Index<T>>,
    trim: fn(&mut T),
}

impl<T: Object> CacheBuilder<T> {
    /// Only objects of this namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.source.namespace = namespace.to_owned();
        self
    }

    /// Only objects that these selectors match.
    #[must_use]
    pub fn options(mut self, options: ListOptions) -> Self {
        self.source.options = options;
        self
    }

    /// The server sends metadata alone.
    #[must_use]
    pub fn partial(mut self) -> Self {
        self.source.partial = true;
        self
    }

    /// Keeps an index under this name.
    #[must_use]
    pub fn index(mut self, name: &'static str, values: fn(&T) -> Vec<String>) -> Self {
        self.indexes.push(Index { name, values, keys: HashMap::new() });
        self
    }

    /// What is dropped from objects before they are kept; by default the managed fields.
    #[must_use]
    pub fn trim(mut self, trim: fn(&mut T)) -> Self {
        self.trim = trim;
        self
    }

    /// Starts the watch. Needs a Tokio runtime. It ends when the last clone of the cache is dropped.
    #[must_use]
    pub fn start(self) -> Cache<T> {
        let shared = Arc::new(Shared {
            store: RwLock::new(Store { objects: BTreeMap::new(), indexes: self.indexes }),
            hooks: RwLock::default(),
            subscriptions: Mutex::default(),
            progress: watch::Sender::new(Progress::default()),
            trim: self.trim,
        });
        let task = tokio::spawn(reflector::run(self.source, Box::new(Filling::of(shared.clone()))));
        Cache { task: Arc::new(Running { task, shared: shared.clone() }), shared }
    }
}

struct Running<T: Object> {
    task: tokio::task::JoinHandle<()>,
    shared: Arc<Shared<T>>,
}

impl<T: Object> Drop for Running<T> {
    fn drop(&mut self) {
        self.task.abort();
        for pending in self.shared.subscriptions.lock().iter().filter_map(std::sync::Weak::upgrade) {
            pending.closed.store(true, Ordering::Release);
            pending.notify.notify_one();
        }
    }
}

/// A local copy of a collection. Cheap to clone; clones share the copy.
pub struct Cache<T: Object> {
    shared: Arc<Shared<T>>,
    task: Arc<Running<T>>,
}

impl<T: Object> Clone for Cache<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), task: self.task.clone() }
    }
}

impl<K: Kind> Cache<K> {
    /// A cache of a kind known at compile time, in all namespaces.
    #[must_use]
    pub fn builder(client: Client) -> CacheBuilder<K> {
        Self::builder_at(client, K::resource())
    }
}

impl<T: Object> Cache<T> {
    /// A cache of a kind known at run time.
    #[must_use]
    pub fn builder_at(client: Client, resource: ApiResource) -> CacheBuilder<T> {
        CacheBuilder {
            source: Source {
                client,
                resource,
                namespace: String::new(),
                options: ListOptions::default(),
                partial: false,
            },
            indexes: Vec::new(),
            trim: |object| object.meta_mut().managed_fields = None,
        }
    }

    /// The object, if it is known.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<T>> {
        self.get_key(&ObjectKey::new(namespace, name))
    }

    /// The object, if it is known.
    #[must_use]
    pub fn get_key(&self, key: &ObjectKey) -> Option<Arc<T>> {
        self.shared.store.read().objects.get(key).cloned()
    }

    /// All objects of the namespace, or of all namespaces when it is empty, in order of their keys.
    #[must_use]
    pub fn list(&self, namespace: &str) -> Vec<Arc<T>> {
        let store = self.shared.store.read();
        if namespace.is_empty() {
            return store.objects.values().cloned().collect();
        }
        let from = ObjectKey::new(namespace, "");
        let range = store.objects.range((Bound::Included(from), Bound::Unbounded));
        range.take_while(|(k, _)| &*k.namespace == namespace).map(|(_, o)| o.clone()).collect()
    }

    /// All keys.
    #[must_use]
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.shared.store.read().objects.keys().cloned().collect()
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.store.read().objects.len()
    }

    /// Whether there is no object.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects an index has under this value, in order of their keys. An index that was not declared
    /// has nothing.
    #[must_use]
    pub fn by_index(&self, index: &str, value: &str) -> Vec<Arc<T>> {
        let store = self.shared.store.read();
        let Some(index) = store.indexes.iter().find(|i| i.name == index) else { return Vec::new() };
        let keys = index.keys.get(value).into_iter().flatten();
        keys.filter_map(|k| store.objects.get(k).cloned()).collect()
    }

    /// Declares an index after the start; existing objects are indexed now. A second declaration under the
    /// same name changes nothing.
    pub fn add_index(&self, name: &'static str, values: fn(&T) -> Vec<String>) {
        let mut store = self.shared.store.write();
        if store.indexes.iter().any(|i| i.name == name) {
            return;
        }
        let mut keys: HashMap<String, BTreeSet<ObjectKey>> = HashMap::new();
        for (key, object) in &store.objects {
            for value in values(object) {
                keys.entry(value).or_default().insert(key.clone());
            }
        }
        store.indexes.push(Index { name, values, keys });
    }

    /// Calls the hook for every object that is known, and from now on for every change, in order, on the
    /// watch's task: it must be quick and must not read this cache's subscriptions.
    pub fn hook(&self, hook: impl Fn(&Change<'_, T>) + Send + Sync + 'static) {
        // The write lock on the hooks holds back changes until the existing objects have been told.
        let mut hooks = self.shared.hooks.write();
        let known: Vec<_> =
            self.shared.store.read().objects.iter().map(|(k, o)| (k.clone(), o.clone())).collect();
        for (key, object) in &known {
            hook(&Change { key, old: None, new: Some(object) });
        }
        hooks.push(Box::new(hook));
    }

    /// Keys of objects as they change; starts with all that are known.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        let pending = Arc::new(Pending::default());
        self.shared.subscriptions.lock().push(Arc::downgrade(&pending));
        pending.keys.lock().extend(self.keys());
        Subscription { pending }
    }

    /// The newest revision the cache has reached.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.shared.revision()
    }

    /// Waits until the cache has reached the revision.
    pub async fn wait_for(&self, revision: u64) {
        let mut progress = self.shared.progress.subscribe();
        // The sender lives in `self.shared`, so this cannot end early.
        let _ = progress.wait_for(|p| p.revision >= revision).await;
    }

    /// Waits until the condition holds, looking again whenever the cache changes.
    pub async fn wait_until(&self, holds: impl Fn(&Self) -> bool) {
        let mut progress = self.shared.progress.subscribe();
        while !holds(self) {
            if progress.changed().await.is_err() {
                return;
            }
        }
    }

    /// Whether the first list is complete.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.shared.progress.borrow().synced
    }

    /// Waits until the first list is complete.
    pub async fn synced(&self) {
        let mut progress = self.shared.progress.subscribe();
        let _ = progress.wait_for(|p| p.synced).await;
    }
}
