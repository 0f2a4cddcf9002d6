//! What a store is: the trait, the objects it keeps and the errors it gives.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

/// Names one object. `resource` is `group/plural`, with `core` for the legacy group (`core/pods`).
/// `namespace` is empty for cluster-scoped objects.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// `group/plural`, the name of the table.
    pub resource: Arc<str>,
    /// Empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
}

/// What selectors, the garbage collector and preconditions need without decoding the object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// `metadata.labels`, sorted by key.
    pub labels: Box<[(Arc<str>, Arc<str>)]>,
    /// The kind's selectable fields beyond `metadata.name` and `metadata.namespace`, in the kind's order.
    pub fields: Box<[(Arc<str>, Arc<str>)]>,
    /// The uids of `metadata.ownerReferences`.
    pub owners: Box<[Arc<str>]>,
}

/// A serialized JSON object whose `metadata.resourceVersion` string is still empty.
/// `hole` is the byte offset just after its opening quote, where the decimal revision belongs.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The JSON text with `"resourceVersion":""`.
    pub bytes: Bytes,
    /// Offset of the revision within `bytes`.
    pub hole: u32,
    /// The extracted index of the object.
    pub index: Index,
}

/// One immutable version of an object.
#[derive(Debug)]
pub struct Object {
    /// Its name.
    pub key: Key,
    /// JSON with the resourceVersion spliced in. For the object of a deletion event: the last state, with the
    /// revision of the deletion.
    pub json: Bytes,
    /// The revision that created it.
    pub created: u64,
    /// The revision of this version.
    pub modified: u64,
    /// Offset of the revision's digits within `json`.
    pub hole: u32,
    /// When the store deletes it by itself, in seconds since the epoch.
    pub expires: Option<u64>,
    /// The extracted index.
    pub index: Index,
    /// The protobuf form, made on first demand.
    pub protobuf: OnceLock<Bytes>,
}

/// What must hold for a write to happen; checked in the order of revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// The object must not exist.
    Absent,
    /// The object's latest version must have this revision.
    Revision(u64),
    /// Nothing is asked.
    None,
}

/// One change, acknowledged when durable.
#[derive(Debug, Clone)]
pub struct Write {
    /// The object it changes.
    pub key: Key,
    /// What must hold.
    pub precondition: Precondition,
    /// The new state, or `None` to delete. A deletion may carry the final state in `last`.
    pub value: Option<Draft>,
    /// For deletions: the state to show in the deletion event instead of the stored one.
    pub last: Option<Draft>,
}

/// Part of a table in key order.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// Only this namespace, or all when `None`.
    pub namespace: Option<Arc<str>>,
    /// Start strictly after this (namespace, name).
    pub after: Option<(Arc<str>, Arc<str>)>,
}

/// An immutable view of one table at a revision; cheap to make and to keep.
pub trait Snapshot: Send + Sync {
    /// The store's revision at the time of the snapshot.
    fn revision(&self) -> u64;
    /// Objects of the range in (namespace, name) order.
    fn iter<'a>(&'a self, range: &Range) -> Box<dyn Iterator<Item = &'a Arc<Object>> + Send + 'a>;
    /// How many objects the whole table has.
    fn len(&self) -> usize;
    /// Whether the table is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A page as taken from a snapshot; kept only for callers that want it materialised.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The objects.
    pub objects: Vec<Arc<Object>>,
    /// The revision of the snapshot.
    pub revision: u64,
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It was created.
    Created,
    /// It was changed.
    Updated,
    /// It was deleted.
    Deleted,
}

/// One change as watchers see it; shared by all of them.
#[derive(Debug)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The state after it (for a deletion the last state, at the deletion's revision).
    pub object: Arc<Object>,
    /// The state before it, absent for a creation. Selectors need it to tell "left the selection".
    pub previous: Option<Arc<Object>>,
    /// The framed JSON watch event, made on first demand: index by [`EventKind`] as the watcher sees it
    /// (0 ADDED, 1 MODIFIED, 2 DELETED).
    pub frames: [OnceLock<Bytes>; 3],
}

/// Events, and the revision up to which the table is known with them.
pub type Batch = (Vec<Arc<Event>>, u64);

/// A cursor into a table's ring of events.
pub trait Watch: Send {
    /// The next events in revision order (at most `max`), waiting until there is at least one.
    /// The second value is the revision up to which the table is now known, for bookmarks.
    fn next(&mut self, max: usize) -> Pending<'_, Batch>;
    /// The revision up to which nothing is missing, without waiting: a bookmark may carry it.
    fn progress(&self) -> u64;
}

/// Why a store refused.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The precondition did not hold. Carries the object's latest version.
    #[error("precondition failed on {key:?}")]
    Conflict {
        /// The object.
        key: Key,
        /// Its latest version, if it exists.
        current: Option<Arc<Object>>,
    },
    /// The revision is older than what is kept.
    #[error("revision {requested} has been compacted, oldest is {oldest}")]
    Expired {
        /// What was asked for.
        requested: u64,
        /// The oldest revision that can still be watched or listed.
        oldest: u64,
    },
    /// The revision lies in the future.
    #[error("revision {requested} is in the future, latest is {latest}")]
    Future {
        /// What was asked for.
        requested: u64,
        /// The latest revision.
        latest: u64,
    },
    /// The disk is full, or the size limit is reached: nothing was written, reads go on.
    #[error("no space: {0}")]
    NoSpace(String),
    /// Files or peers are damaged or unreachable; the text says which and what to do.
    #[error("{0}")]
    Unavailable(String),
    /// The store has been closed.
    #[error("store is closed")]
    Closed,
}

/// The answer to a write or read that is waited for.
pub type Pending<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A durable, revisioned, watchable set of tables.
pub trait Store: Send + Sync + 'static {
    /// The latest revision that is durable and visible.
    fn revision(&self) -> u64;
    /// The object's latest durable version.
    fn get(&self, key: &Key) -> Option<Arc<Object>>;
    /// The table as it is now.
    fn snapshot(&self, resource: &str) -> Arc<dyn Snapshot>;
    /// The table as it was at `revision`, if still kept (continue tokens).
    fn snapshot_at(&self, resource: &str, revision: u64) -> Result<Arc<dyn Snapshot>, StoreError>;
    /// Objects that name `uid` as an owner, over all tables.
    fn dependents(&self, uid: &str) -> Vec<Arc<Object>>;
    /// Applies one change. Ready when durable; then visible to every reader and watcher.
    /// Gives the new version, or for a deletion the last one.
    fn write(&self, write: Write) -> Pending<'_, Arc<Object>>;
    /// Like [`Store::write`], for an object that the store itself deletes at or soon after `expires` (seconds
    /// since the epoch). A later write without an expiry keeps the object for ever.
    fn write_until(&self, write: Write, expires: u64) -> Pending<'_, Arc<Object>>;
    /// Waits until the store has reached at least `revision` (resourceVersion "not older than" reads), and for
    /// a replicated store with `None` until it has reached what the quorum had when called.
    fn reach(&self, revision: Option<u64>) -> Pending<'_, u64>;
    /// Watches a table from just after `revision`.
    fn watch(&self, resource: &str, revision: u64) -> Result<Box<dyn Watch>, StoreError>;
    /// Object counts per table, for metrics.
    fn counts(&self) -> BTreeMap<Arc<str>, usize>;
    /// Why writes are refused at present, if they are: a full or failing disk, an etcd out of reach. Never waits.
    fn failure(&self) -> Option<String>;
}
