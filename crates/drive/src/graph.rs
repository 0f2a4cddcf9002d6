//! Who owns whom: the metadata of every object that can be deleted, and the edges between them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::{ApiResource, Cache, Change, Client, ObjectKey, PartialObject};
use controllers::Resource;
use controllers::gc::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use crate::discovery::{Discovered, discover};
use crate::queue::Queue;

/// Absent owners that are remembered.
const ABSENT_MAX: usize = 10_000;
/// How long to wait for more changes of what is served before asking again.
const SETTLE: Duration = Duration::from_millis(300);
/// How long to wait after groups did not answer.
const RETRY: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Edges {
    nodes: HashMap<String, (Arc<Resource>, Arc<PartialObject>)>,
    dependents: HashMap<String, BTreeSet<String>>,
    absent: HashSet<String>,
}

/// The owner graph. It fills itself for as long as it lives.
pub struct Graph {
    client: Client,
    edges: Mutex<Edges>,
    caches: Mutex<HashMap<ApiResource, Cache<PartialObject>>>,
    discovered: RwLock<Discovered>,
    ready: watch::Sender<bool>,
    served_changed: Arc<Notify>,
    /// Woken with uids.
    collector: Mutex<Option<Arc<Queue>>>,
    /// Woken with the names of namespaces that lose objects.
    namespaces: Mutex<Option<Arc<Queue>>>,
}

impl Graph {
    /// Starts to fill a graph. Needs a Tokio runtime.
    #[must_use]
    pub fn start(client: Client) -> Arc<Self> {
        let graph = Arc::new(Self {
            client,
            edges: Mutex::default(),
            caches: Mutex::default(),
            discovered: RwLock::default(),
            ready: watch::Sender::new(false),
            served_changed: Arc::default(),
            collector: Mutex::default(),
            namespaces: Mutex::default(),
        });
        tokio::spawn(keep_current(Arc::downgrade(&graph)));
        graph
    }

    /// Wakes this queue with the uids of objects whose place in the graph changed.
    pub fn feed_collector(&self, queue: Arc<Queue>) {
        for uid in self.edges.lock().nodes.keys() {
            queue.add(ObjectKey::new("", uid));
        }
        *self.collector.lock() = Some(queue);
    }

    /// Wakes this queue with the names of namespaces that lost an object.
    pub fn feed_namespaces(&self, queue: Arc<Queue>) {
        *self.namespaces.lock() = Some(queue);
    }

    /// Waits until every resource has been listed once.
    pub async fn filled(&self) {
        let mut ready = self.ready.subscribe();
        // The sender lives in `self`.
        let _ = ready.wait_for(|r| *r).await;
    }

    /// What the API serves.
    #[must_use]
    pub fn served(&self) -> Discovered {
        self.discovered.read().clone()
    }

    /// The object with this uid.
    #[must_use]
    pub fn node(&self, uid: &str) -> Option<Node> {
        self.edges.lock().nodes.get(uid).map(node)
    }

    /// What names the object as an owner.
    #[must_use]
    pub fn dependents(&self, uid: &str) -> Vec<Node> {
        let edges = self.edges.lock();
        let uids = edges.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|u| edges.nodes.get(u)).map(node).collect()
    }

    /// Whether the object is known not to exist.
    #[must_use]
    pub fn is_absent(&self, uid: &str) -> bool {
        self.edges.lock().absent.contains(uid)
    }

    /// Remembers that the object does not exist.
    pub fn mark_absent(&self, uid: &str) {
        remember(&mut self.edges.lock().absent, uid);
    }

    /// The resource an owner reference means, if it is served.
    #[must_use]
    pub fn resource_of(&self, owner: &OwnerReference) -> Option<ApiResource> {
        let group = owner.api_version.split_once('/').map_or("", |(g, _)| g);
        let discovered = self.discovered.read();
        let mut all = discovered.resources.iter().map(|s| &s.resource);
        all.find(|r| r.group == group && r.kind == owner.kind.as_str()).cloned()
    }

    fn change(&self, resource: &Arc<Resource>, change: &Change<'_, PartialObject>) {
        let meta = |o: Option<&Arc<PartialObject>>| o.map(|o| o.metadata.clone()).unwrap_or_default();
        let (old, new) = (meta(change.old), meta(change.new));
        let mut woken: BTreeSet<String> = BTreeSet::new();
        {
            let mut edges = self.edges.lock();
            if change.old.is_some() && old.uid != new.uid {
                remove(&mut edges, &old, &mut woken);
            }
            if let Some(object) = change.new {
                insert(&mut edges, resource, object, &old, &mut woken);
            }
        }
        if let Some(queue) = &*self.collector.lock() {
            woken.iter().for_each(|uid| queue.add(ObjectKey::new("", uid)));
        }
        if change.new.is_none()
            && resource.namespaced
            && let Some(queue) = &*self.namespaces.lock()
        {
            queue.add(ObjectKey::new("", &change.key.namespace));
        }
        if matches!(&*resource.plural, "customresourcedefinitions" | "apiservices") {
            self.served_changed.notify_one();
        }
    }

    /// Starts caches of what is served, and drops those of what no longer is.
    async fn refresh(self: &Arc<Self>) -> Result<(), client::Error> {
        let discovered = discover(&self.client).await?;
        let is_event = |r: &ApiResource| r.plural == "events";
        let wanted = discovered.resources.iter().filter(|s| s.can(&["list", "watch", "delete"]));
        let wanted: HashSet<ApiResource> =
            wanted.map(|s| s.resource.clone()).filter(|r| !is_event(r)).collect();
        let complete = discovered.failure.is_none();
        *self.discovered.write() = discovered;
        let mut started = Vec::new();
        {
            let mut caches = self.caches.lock();
            // Groups that did not answer may only be slow: what they serve is kept.
            let gone = |r: &ApiResource| complete && !wanted.contains(r);
            for (_, cache) in caches.extract_if(|r, _| gone(r)) {
                for object in cache.list("") {
                    remove(&mut self.edges.lock(), &object.metadata, &mut BTreeSet::new());
                }
            }
            for resource in wanted {
                if caches.contains_key(&resource) {
                    continue;
                }
                let cache = self.cache(&resource);
                started.push(cache.clone());
                caches.insert(resource, cache);
            }
        }
        for cache in started {
            cache.synced().await;
        }
        self.ready.send_replace(true);
        Ok(())
    }

    fn cache(self: &Arc<Self>, resource: &ApiResource) -> Cache<PartialObject> {
        let cache = Cache::builder_at(self.client.clone(), resource.clone()).partial().trim(trim).start();
        let kind = Arc::new(Resource {
            group: resource.group.clone(),
            version: resource.version.clone(),
            kind: resource.kind.clone(),
            plural: resource.plural.clone(),
            namespaced: resource.namespaced,
        });
        let graph = Arc::downgrade(self);
        cache.hook(move |change| {
            if let Some(graph) = graph.upgrade() {
                graph.change(&kind, change);
            }
        });
        cache
    }
}

async fn keep_current(graph: std::sync::Weak<Graph>) {
    loop {
        let Some(graph) = graph.upgrade() else { return };
        let failed = match graph.refresh().await {
            Ok(()) => graph.discovered.read().failure.is_some(),
            Err(error) => {
                tracing::debug!(error = %error.chain(), "cannot ask what the API serves");
                true
            }
        };
        let filled = *graph.ready.borrow();
        let pause = match (failed, filled) {
            (false, _) => None,
            (true, true) => Some(RETRY),
            (true, false) => Some(SETTLE),
        };
        let changed = graph.served_changed.clone();
        // While this waits, it must not keep the graph alive.
        drop(graph);
        tokio::select! {
            () = changed.notified() => {}
            () = tokio::time::sleep(pause.unwrap_or(RETRY)), if pause.is_some() => {}
        }
        tokio::time::sleep(SETTLE).await;
    }
}

fn node((resource, object): &(Arc<Resource>, Arc<PartialObject>)) -> Node {
    Node { resource: (**resource).clone(), meta: object.metadata.clone() }
}

fn remember(absent: &mut HashSet<String>, uid: &str) {
    if absent.len() >= ABSENT_MAX {
        absent.clear();
    }
    absent.insert(uid.to_owned());
}

fn owners(meta: &ObjectMeta) -> impl Iterator<Item = &str> {
    meta.owner_references.iter().flatten().map(|o| o.uid.as_str())
}

/// Takes an object out; wakes what it owned, and owners that may wait for it.
fn remove(edges: &mut Edges, old: &ObjectMeta, woken: &mut BTreeSet<String>) {
    let uid = old.uid.as_deref().unwrap_or("");
    edges.nodes.remove(uid);
    remember(&mut edges.absent, uid);
    unlink(edges, old, uid);
    woken.extend(edges.dependents.get(uid).into_iter().flatten().cloned());
    woken.extend(owners(old).map(str::to_owned));
}

fn unlink(edges: &mut Edges, old: &ObjectMeta, uid: &str) {
    for owner in owners(old) {
        if let Some(dependents) = edges.dependents.get_mut(owner) {
            dependents.remove(uid);
            if dependents.is_empty() {
                edges.dependents.remove(owner);
            }
        }
    }
}

/// Puts an object in; wakes it and its neighbours where that may matter.
fn insert(
    edges: &mut Edges,
    resource: &Arc<Resource>,
    object: &Arc<PartialObject>,
    old: &ObjectMeta,
    woken: &mut BTreeSet<String>,
) {
    let new = &object.metadata;
    let uid = new.uid.clone().unwrap_or_default();
    edges.absent.remove(&uid);
    let relinked = old.owner_references != new.owner_references;
    if relinked {
        unlink(edges, old, &uid);
        woken.extend(owners(old).map(str::to_owned));
        for owner in owners(new) {
            edges.dependents.entry(owner.to_owned()).or_default().insert(uid.clone());
        }
    }
    let moved = old.deletion_timestamp.is_some() != new.deletion_timestamp.is_some();
    let finalized = old.finalizers != new.finalizers;
    let fresh = !edges.nodes.contains_key(&uid);
    edges.nodes.insert(uid.clone(), (resource.clone(), object.clone()));
    if moved || finalized {
        woken.extend(edges.dependents.get(&uid).into_iter().flatten().cloned());
    }
    let matters = !owners(new).eq(std::iter::empty::<&str>()) || new.deletion_timestamp.is_some();
    if matters && (relinked || moved || finalized || fresh) {
        woken.insert(uid);
    }
}

/// Only what the graph is about is kept.
fn trim(object: &mut PartialObject) {
    let old = std::mem::take(&mut object.metadata);
    object.metadata = ObjectMeta {
        name: old.name,
        namespace: old.namespace,
        uid: old.uid,
        resource_version: old.resource_version,
        owner_references: old.owner_references,
        finalizers: old.finalizers,
        deletion_timestamp: old.deletion_timestamp,
        ..ObjectMeta::default()
    };
}
