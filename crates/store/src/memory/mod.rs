//! The in-memory tables that serve every read and watch, whatever store feeds them.
//!
//! A feeder calls [`Memory::publish`] with changes that are already durable, in revision order, from one thread.
//! Each table takes its own lock once per batch; the revision of the whole is raised after all tables, so a
//! reader that sees a revision also sees everything up to it.

mod pace;
mod ring;
mod table;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch as latest;

use crate::api::{Draft, Key, Object, Snapshot, StoreError, Watch};
use crate::splice;
use table::Table;
pub(crate) use table::View;

/// Bounds on what is kept per table for watchers and continued lists.
#[derive(Debug, Clone, Copy)]
pub struct History {
    /// Events kept at most.
    pub events_max: usize,
    /// Memory held at most by events and by the superseded versions they keep alive, in bytes.
    pub bytes_max: usize,
    /// Events older than this are dropped beyond [`History::events_kept`], in seconds.
    pub age_max_seconds: u32,
    /// Events that age alone never drops.
    pub events_kept: usize,
}

impl Default for History {
    fn default() -> Self {
        Self { events_max: 100_000, bytes_max: 32 << 20, age_max_seconds: 300, events_kept: 100 }
    }
}

/// One durable change.
#[derive(Debug)]
pub(crate) struct Change {
    pub key: Key,
    pub revision: u64,
    pub to: To,
}

/// A change and its place in the batch.
type Numbered = (usize, Change);

/// What a change leads to.
#[derive(Debug)]
pub(crate) enum To {
    /// A new state. `created` is known to stores that keep it; else it follows from the table.
    Put { draft: Draft, expires: Option<u64>, created: Option<u64> },
    /// Gone. The draft replaces the last state in the deletion event.
    Delete { last: Option<Draft> },
}

/// What every table needs to know of the whole.
#[derive(Debug)]
pub(crate) struct Shared {
    pub revision: AtomicU64,
    pub closed: AtomicBool,
    pub history: History,
    pub pace: pace::Pace,
    start: std::time::Instant,
}

impl Shared {
    /// Whole seconds since the tables were made.
    pub fn seconds(&self) -> u32 {
        u32::try_from(self.start.elapsed().as_secs()).unwrap_or(u32::MAX)
    }
}

/// All tables.
#[derive(Debug)]
pub(crate) struct Memory {
    shared: Arc<Shared>,
    tables: RwLock<HashMap<Arc<str>, Arc<Table>>>,
    owners: Mutex<HashMap<Arc<str>, BTreeSet<Key>>>,
    /// What tables that do not exist yet start from.
    base: AtomicU64,
    reached: latest::Sender<u64>,
}

impl Memory {
    /// Empty tables at revision 0.
    pub fn new(history: History) -> Self {
        let shared = Shared {
            revision: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            history,
            pace: pace::Pace::default(),
            start: std::time::Instant::now(),
        };
        Self {
            shared: Arc::new(shared),
            tables: RwLock::default(),
            owners: Mutex::default(),
            base: AtomicU64::new(0),
            reached: latest::Sender::new(0),
        }
    }

    pub fn revision(&self) -> u64 {
        self.shared.revision.load(Ordering::Acquire)
    }

    fn existing(&self, resource: &str) -> Option<Arc<Table>> {
        self.tables.read().get(resource).cloned()
    }

    fn table(&self, resource: &str) -> Arc<Table> {
        if let Some(table) = self.existing(resource) {
            return table;
        }
        let mut tables = self.tables.write();
        if let Some(table) = tables.get(resource) {
            return table.clone();
        }
        let name: Arc<str> = resource.into();
        let base = self.base.load(Ordering::Acquire);
        let table = Arc::new(Table::new(name.clone(), base, self.shared.clone()));
        tables.insert(name, table.clone());
        table
    }

    pub fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.existing(&key.resource)?.get(&key.namespace, &key.name)
    }

    /// The version of an object, or its deletion, at exactly `revision`, if it is still known.
    pub fn version(&self, key: &Key, revision: u64) -> Option<Arc<Object>> {
        self.existing(&key.resource)?.version(key, revision)
    }

    pub fn snapshot(&self, resource: &str) -> Arc<View> {
        match self.existing(resource) {
            Some(table) => Arc::new(table.view()),
            None => Arc::new(View::empty(self.revision())),
        }
    }

    pub fn snapshot_at(&self, resource: &str, revision: u64) -> Result<Arc<dyn Snapshot>, StoreError> {
        let latest = self.revision();
        if revision > latest {
            let view = self.snapshot(resource);
            if view.revision() >= revision {
                return Ok(Arc::new(self.table(resource).view_at(revision)?));
            }
            return Err(StoreError::Future { requested: revision, latest });
        }
        Ok(Arc::new(self.table(resource).view_at(revision)?))
    }

    /// All tables at one revision. Only the publishing thread may ask, between batches.
    pub fn all(&self) -> Vec<(Arc<str>, View)> {
        let tables: Vec<_> = self.tables.read().values().cloned().collect();
        let mut all: Vec<_> = tables.iter().map(|table| (table.resource.clone(), table.view())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    pub fn dependents(&self, uid: &str) -> Vec<Arc<Object>> {
        let keys: Vec<Key> = match self.owners.lock().get(uid) {
            Some(keys) => keys.iter().cloned().collect(),
            None => return Vec::new(),
        };
        let owned = |object: &Arc<Object>| object.index.owners.iter().any(|owner| &**owner == uid);
        keys.iter().filter_map(|key| self.get(key)).filter(owned).collect()
    }

    pub fn counts(&self) -> BTreeMap<Arc<str>, usize> {
        let tables = self.tables.read();
        tables.iter().map(|(name, table)| (name.clone(), table.len())).filter(|(_, n)| *n > 0).collect()
    }

    pub fn watch(&self, resource: &str, revision: u64) -> Result<Box<dyn Watch>, StoreError> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        Ok(Box::new(watch::Cursor::open(self.table(resource), revision)?))
    }

    /// Waits until everything up to `revision` is visible.
    pub async fn reach(&self, revision: u64) -> Result<u64, StoreError> {
        let mut seen = self.reached.subscribe();
        loop {
            let now = self.revision();
            if now >= revision {
                return Ok(now);
            }
            if self.shared.closed.load(Ordering::Acquire) || seen.changed().await.is_err() {
                return Err(StoreError::Closed);
            }
        }
    }

    /// Applies a batch in revision order and raises the revision to `revision`. Gives for each change the new
    /// version, or the last one for a deletion (`None` when there was nothing to delete).
    pub fn publish(&self, changes: Vec<Change>, revision: u64) -> Vec<Option<Arc<Object>>> {
        let mut results = vec![None; changes.len()];
        let mut groups: Vec<(Arc<Table>, Vec<Numbered>)> = Vec::new();
        for (at, change) in changes.into_iter().enumerate() {
            match groups.iter_mut().find(|(table, _)| table.resource == change.key.resource) {
                Some((_, group)) => group.push((at, change)),
                None => groups.push((self.table(&change.key.resource), vec![(at, change)])),
            }
        }
        for (table, group) in &mut groups {
            table.apply(std::mem::take(group), &mut results, |old, new| self.own(old, new));
        }
        self.raise(revision);
        for (table, _) in &groups {
            table.wake();
        }
        results
    }

    /// Raises the revision without a change.
    pub fn raise(&self, revision: u64) {
        self.shared.revision.fetch_max(revision, Ordering::AcqRel);
        self.reached.send_replace(revision);
    }

    fn own(&self, old: Option<&Arc<Object>>, new: Option<&Arc<Object>>) {
        let before = old.map_or(&[][..], |object| &object.index.owners);
        let after = new.map_or(&[][..], |object| &object.index.owners);
        if before == after {
            return;
        }
        let mut owners = self.owners.lock();
        if let Some(old) = old {
            for uid in before.iter().filter(|uid| !after.contains(uid)) {
                if let Some(keys) = owners.get_mut(uid) {
                    keys.remove(&old.key);
                    if keys.is_empty() {
                        owners.remove(uid);
                    }
                }
            }
        }
        if let Some(new) = new {
            for uid in after.iter().filter(|uid| !before.contains(uid)) {
                owners.entry(uid.clone()).or_default().insert(new.key.clone());
            }
        }
    }

    /// Replaces everything by `objects` as of `revision`; watchers and continued lists start anew. Objects come
    /// in any order.
    pub fn reset(&self, objects: Vec<Arc<Object>>, revision: u64) {
        let mut by_table: HashMap<Arc<str>, Vec<Arc<Object>>> = HashMap::new();
        let mut owners: HashMap<Arc<str>, BTreeSet<Key>> = HashMap::new();
        for object in objects {
            for uid in &object.index.owners {
                owners.entry(uid.clone()).or_default().insert(object.key.clone());
            }
            by_table.entry(object.key.resource.clone()).or_default().push(object);
        }
        *self.owners.lock() = owners;
        self.base.store(revision, Ordering::Release);
        for name in by_table.keys() {
            self.table(name);
        }
        let tables: Vec<_> = self.tables.read().values().cloned().collect();
        for table in &tables {
            table.reset(by_table.remove(&table.resource).unwrap_or_default(), revision);
        }
        self.raise(revision);
        for table in &tables {
            table.wake_now();
        }
    }

    /// Drops events that are too old, in all tables.
    pub fn age(&self) {
        let tables: Vec<_> = self.tables.read().values().cloned().collect();
        for table in tables {
            table.age();
        }
    }

    /// Ends all watches.
    pub fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        let tables: Vec<_> = self.tables.read().values().cloned().collect();
        for table in tables {
            table.wake_now();
        }
        self.reached.send_replace(self.revision());
    }
}

/// Makes the object of a draft at its revision.
pub(crate) fn realize(key: Key, draft: Draft, created: u64, modified: u64, expires: Option<u64>) -> Object {
    Object {
        json: splice::fill(&draft.bytes, draft.hole, modified),
        key,
        created,
        modified,
        hole: draft.hole,
        expires,
        index: draft.index,
        protobuf: std::sync::OnceLock::new(),
    }
}
