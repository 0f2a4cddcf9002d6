//! One resource's objects: a hash map for point reads, a persistent ordered map for lists, a ring of events.

use std::hash::BuildHasher;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hashbrown::{DefaultHashBuilder, HashTable};
use imbl::OrdMap;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::pace::Allowance;
use super::ring::Ring;
use super::{Change, Shared, To, realize};
use crate::api::{Event, EventKind, Key, Object, Range, Snapshot, StoreError};
use crate::splice;

/// Rebuilt snapshots kept for the next page of the same list.
const SERVED_MAX: usize = 4;
/// What waking one watcher costs, mostly the kernel's part of sending to it, with as much again left for others;
/// sets how far apart wake-ups of many watchers are.
const WAKE_COST: Duration = Duration::from_micros(15);
/// Wake-ups are never further apart than this while there is news.
const WAKE_GAP_MAX: Duration = Duration::from_millis(5);
/// Gaps below this are not worth a timer.
const WAKE_GAP_MIN: Duration = Duration::from_micros(100);

/// Where an object stands in its table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

type Ordered = OrdMap<Name, Arc<Object>>;

#[derive(Debug)]
pub(super) struct State {
    by_name: HashTable<Arc<Object>>,
    ordered: Ordered,
    pub ring: Ring,
    /// The revision of the newest change.
    pub last: u64,
    served: Vec<(u64, Ordered)>,
}

#[derive(Debug)]
pub(super) struct Table {
    pub resource: Arc<str>,
    pub shared: Arc<Shared>,
    pub state: RwLock<State>,
    hasher: DefaultHashBuilder,
    pub news: Notify,
    pub watchers: AtomicUsize,
    /// One past the newest sequence number of the ring, for watchers to look at without the lock. It is raised
    /// before they are woken.
    pub end: AtomicU64,
    allowance: Mutex<Allowance>,
    waking: AtomicBool,
}

fn hash(hasher: &DefaultHashBuilder, namespace: &str, name: &str) -> u64 {
    hasher.hash_one((namespace, name))
}

impl State {
    fn find(&self, hasher: &DefaultHashBuilder, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        let same = |object: &Arc<Object>| &*object.key.name == name && &*object.key.namespace == namespace;
        self.by_name.find(hash(hasher, namespace, name), same)
    }

    fn insert(&mut self, hasher: &DefaultHashBuilder, object: Arc<Object>) {
        let at = hash(hasher, &object.key.namespace, &object.key.name);
        let name = Name { namespace: object.key.namespace.clone(), name: object.key.name.clone() };
        let same =
            |old: &Arc<Object>| old.key.name == object.key.name && old.key.namespace == object.key.namespace;
        match self.by_name.find_mut(at, same) {
            Some(slot) => *slot = object.clone(),
            None => {
                let rehash = |object: &Arc<Object>| hash(hasher, &object.key.namespace, &object.key.name);
                self.by_name.insert_unique(at, object.clone(), rehash);
            }
        }
        self.ordered.insert(name, object);
    }

    fn remove(&mut self, hasher: &DefaultHashBuilder, object: &Object) {
        let at = hash(hasher, &object.key.namespace, &object.key.name);
        let same =
            |old: &Arc<Object>| old.key.name == object.key.name && old.key.namespace == object.key.namespace;
        if let Ok(slot) = self.by_name.find_entry(at, same) {
            slot.remove();
        }
        let name = Name { namespace: object.key.namespace.clone(), name: object.key.name.clone() };
        self.ordered.remove(&name);
    }
}

impl Table {
    pub fn new(resource: Arc<str>, base: u64, shared: Arc<Shared>) -> Self {
        Self {
            resource,
            shared,
            state: RwLock::new(State {
                by_name: HashTable::new(),
                ordered: OrdMap::new(),
                ring: Ring::new(base),
                last: base,
                served: Vec::new(),
            }),
            hasher: DefaultHashBuilder::default(),
            news: Notify::new(),
            watchers: AtomicUsize::new(0),
            end: AtomicU64::new(0),
            allowance: Mutex::default(),
            waking: AtomicBool::new(false),
        }
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.state.read().find(&self.hasher, namespace, name).cloned()
    }

    pub fn version(&self, key: &Key, revision: u64) -> Option<Arc<Object>> {
        let state = self.state.read();
        let current = state.find(&self.hasher, &key.namespace, &key.name);
        if let Some(object) = current.filter(|object| object.modified == revision) {
            return Some(object.clone());
        }
        let first = state.ring.after(revision.saturating_sub(1));
        let events = (first..state.ring.end()).map_while(|at| state.ring.get(at));
        let mut then =
            events.take_while(|event| event.object.modified == revision).map(|event| &event.object);
        then.find(|object| object.key.name == key.name && object.key.namespace == key.namespace).cloned()
    }

    pub fn len(&self) -> usize {
        self.state.read().by_name.len()
    }

    /// The revision up to which this state of the table is complete. Whoever raised the revision of the whole
    /// has left this table's lock before, so nothing up to it can be missing.
    pub fn complete(&self, state: &State) -> u64 {
        self.shared.revision.load(Ordering::Acquire).max(state.last)
    }

    pub fn view(&self) -> View {
        let state = self.state.read();
        View { revision: self.complete(&state), objects: state.ordered.clone() }
    }

    pub fn view_at(&self, revision: u64) -> Result<View, StoreError> {
        let state = self.state.read();
        let oldest = state.ring.floor();
        if revision < oldest {
            return Err(StoreError::Expired { requested: revision, oldest });
        }
        if let Some((_, objects)) = state.served.iter().find(|(at, _)| *at == revision) {
            return Ok(View { revision, objects: objects.clone() });
        }
        let mut objects = state.ordered.clone();
        let mut undone = 0;
        for event in state.ring.undo(revision) {
            undone += 1;
            let key = &event.object.key;
            let name = Name { namespace: key.namespace.clone(), name: key.name.clone() };
            match &event.previous {
                Some(previous) => objects.insert(name, previous.clone()),
                None => objects.remove(&name),
            };
        }
        drop(state);
        if undone > 0 {
            let mut state = self.state.write();
            if state.served.len() == SERVED_MAX {
                state.served.remove(0);
            }
            state.served.push((revision, objects.clone()));
        }
        Ok(View { revision, objects })
    }

    /// Applies this table's part of a batch. `own` hears of every object replaced and its successor.
    pub fn apply(
        &self,
        changes: Vec<(usize, Change)>,
        results: &mut [Option<Arc<Object>>],
        own: impl Fn(Option<&Arc<Object>>, Option<&Arc<Object>>),
    ) {
        let framed = self.watchers.load(Ordering::Relaxed) > 0;
        let seconds = self.shared.seconds();
        let mut state = self.state.write();
        for (at, change) in changes {
            let previous = state.find(&self.hasher, &change.key.namespace, &change.key.name).cloned();
            let revision = change.revision;
            let Some((kind, object)) = self.change(&mut state, change, previous.as_ref()) else { continue };
            own(previous.as_ref(), (kind != EventKind::Deleted).then_some(&object));
            results[at] = Some(object.clone());
            state.last = revision;
            let event = Event { kind, object, previous, frames: Default::default() };
            state.ring.push(Arc::new(event), framed, seconds);
        }
        let old = state.ring.trim(&self.shared.history, seconds);
        let floor = state.ring.floor();
        let stale: Vec<_> = state.served.extract_if(.., |(revision, _)| *revision < floor).collect();
        self.end.store(state.ring.end(), Ordering::Release);
        drop(state);
        drop((old, stale));
    }

    fn change(
        &self,
        state: &mut State,
        change: Change,
        previous: Option<&Arc<Object>>,
    ) -> Option<(EventKind, Arc<Object>)> {
        let Change { key, revision, to } = change;
        let key = match previous {
            Some(previous) => previous.key.clone(),
            None => Key { resource: self.resource.clone(), ..key },
        };
        match to {
            To::Put { draft, expires, created } => {
                let created = created.or(previous.map(|object| object.created)).unwrap_or(revision);
                let object = Arc::new(realize(key, draft, created, revision, expires));
                state.insert(&self.hasher, object.clone());
                let kind = if previous.is_some() { EventKind::Updated } else { EventKind::Created };
                Some((kind, object))
            }
            To::Delete { last } => {
                let previous = previous?;
                let object = match last {
                    Some(draft) => realize(key, draft, previous.created, revision, previous.expires),
                    None => Object {
                        json: splice::refill(previous, revision),
                        key,
                        created: previous.created,
                        modified: revision,
                        hole: previous.hole,
                        expires: previous.expires,
                        index: previous.index.clone(),
                        protobuf: std::sync::OnceLock::new(),
                    },
                };
                state.remove(&self.hasher, previous);
                Some((EventKind::Deleted, Arc::new(object)))
            }
        }
    }

    pub fn reset(&self, mut objects: Vec<Arc<Object>>, revision: u64) {
        objects.sort_by(|a, b| (&a.key.namespace, &a.key.name).cmp(&(&b.key.namespace, &b.key.name)));
        let mut by_name = HashTable::with_capacity(objects.len());
        let rehash = |object: &Arc<Object>| hash(&self.hasher, &object.key.namespace, &object.key.name);
        for object in &objects {
            by_name.insert_unique(rehash(object), object.clone(), rehash);
        }
        let named = |object: Arc<Object>| {
            (Name { namespace: object.key.namespace.clone(), name: object.key.name.clone() }, object)
        };
        let ordered = objects.into_iter().map(named).collect();
        let mut state = self.state.write();
        let old =
            (std::mem::replace(&mut state.by_name, by_name), std::mem::replace(&mut state.ordered, ordered));
        state.served.clear();
        state.ring.reset(revision);
        self.end.store(state.ring.end(), Ordering::Release);
        state.last = revision;
        drop(state);
        drop(old);
    }

    pub fn age(&self) {
        let seconds = self.shared.seconds();
        let mut state = self.state.write();
        let old = state.ring.trim(&self.shared.history, seconds);
        let floor = state.ring.floor();
        let stale: Vec<_> = state.served.extract_if(.., |(revision, _)| *revision < floor).collect();
        drop(state);
        drop((old, stale));
    }

    /// Wakes the watchers, now or (when there are many and they were woken just before) a little later.
    pub fn wake(self: &Arc<Self>) {
        if self.watchers.load(Ordering::Relaxed) == 0 {
            return;
        }
        let gap = self.gap();
        if gap < WAKE_GAP_MIN {
            return self.news.notify_waiters();
        }
        let due = self.allowance.lock().due(gap);
        if due <= Instant::now() {
            self.wake_now();
        } else if !self.waking.swap(true, Ordering::AcqRel) {
            let table = self.clone();
            self.shared.pace.at(due, table);
        }
    }

    /// How far apart wake-ups should be on the average.
    fn gap(&self) -> Duration {
        let watchers = u32::try_from(self.watchers.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        WAKE_COST.saturating_mul(watchers).min(WAKE_GAP_MAX)
    }

    /// Wakes the watchers at once.
    pub fn wake_now(&self) {
        self.waking.store(false, Ordering::Release);
        self.allowance.lock().spend(Instant::now(), self.gap());
        self.news.notify_waiters();
    }
}

/// An immutable view of one table.
#[derive(Debug, Clone)]
pub(crate) struct View {
    revision: u64,
    objects: Ordered,
}

impl View {
    pub fn empty(revision: u64) -> Self {
        Self { revision, objects: OrdMap::new() }
    }
}

impl Snapshot for View {
    fn revision(&self) -> u64 {
        self.revision
    }

    fn iter<'a>(&'a self, range: &Range) -> Box<dyn Iterator<Item = &'a Arc<Object>> + Send + 'a> {
        let first = range.namespace.clone().map(|namespace| Name { namespace, name: "".into() });
        let after = range.after.clone().map(|(namespace, name)| Name { namespace, name });
        let start = match (first, after) {
            (Some(first), Some(after)) if after < first => Bound::Included(first),
            (_, Some(after)) => Bound::Excluded(after),
            (Some(first), None) => Bound::Included(first),
            (None, None) => Bound::Unbounded,
        };
        let rest = self.objects.range((start, Bound::Unbounded)).map(|(_, object)| object);
        match range.namespace.clone() {
            Some(namespace) => Box::new(rest.take_while(move |object| object.key.namespace == namespace)),
            None => Box::new(rest),
        }
    }

    fn len(&self) -> usize {
        self.objects.len()
    }
}

/// Keeps the number of watchers of a table.
#[derive(Debug)]
pub(super) struct Watching(pub Arc<Table>);

impl Watching {
    pub fn new(table: Arc<Table>) -> Self {
        table.watchers.fetch_add(1, Ordering::Relaxed);
        Self(table)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Revisions as the tables count them.
pub(super) fn latest(revision: &AtomicU64) -> u64 {
    revision.load(Ordering::Acquire)
}
