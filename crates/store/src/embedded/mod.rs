//! The embedded store: a group-commit log in front of the in-memory tables, with checkpoints beside it.
//!
//! One thread owns the files. It takes whatever writes are queued, commits them as one frame with one
//! fdatasync, and only then shows them to readers and watchers, who never wait for a disk. FORMAT.md describes
//! the files.

mod backup;
mod blocks;
mod checkpoint;
mod log;
mod queue;
mod record;
mod recover;
mod segment;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use crate::api::{Key, Object, Pending, Snapshot, Store, StoreError, Watch, Write};
use crate::codec::Interner;
use crate::memory::{History, Memory, To};
use crate::seal::Keyring;
pub use backup::{restore, verify};
pub use blocks::BackupInfo;

/// Reads the records of a frame as recovery does; gives how many. For fuzzing.
pub fn read_records(payload: &[u8]) -> Result<usize, String> {
    let changes = record::decode(payload, 1, &Keyring::empty([""; 0]), &mut Interner::default());
    changes.map(|changes| changes.len()).map_err(|error| error.to_string())
}

/// Reads the objects of a checkpoint's block; gives how many. For fuzzing.
pub fn read_objects(payload: &[u8], count: u32) -> Result<usize, String> {
    let mut objects = Vec::new();
    blocks::decode(payload, count, &Keyring::empty([""; 0]), &mut Interner::default(), &mut objects)?;
    Ok(objects.len())
}
use blocks::Moment;
use checkpoint::Checkpoint;
use queue::{Command, Queue, Queued};
use writer::Writer;

/// How an embedded store is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Resources whose values are sealed before they reach a file.
    pub secret: Vec<String>,
    /// What is kept for watchers.
    pub history: History,
    /// Size of the first log segment, in bytes.
    pub segment_bytes_first: u64,
    /// Size of later log segments at most, in bytes.
    pub segment_bytes_max: u64,
    /// Log bytes after which a checkpoint is made; at least half as many as the last one had.
    pub checkpoint_bytes: u64,
    /// Bytes of the disk that are kept, twice: for deletions, and for a checkpoint when it is full.
    pub reserve_bytes: u64,
    /// Writes that may wait at once; more wait outside the queue.
    pub queue_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            secret: vec!["core/secrets".into()],
            history: History::default(),
            segment_bytes_first: 256 << 10,
            segment_bytes_max: 16 << 20,
            checkpoint_bytes: 64 << 20,
            reserve_bytes: 1 << 20,
            queue_max: 4096,
        }
    }
}

/// One record's encoded length at most, in bytes: several times what the API server lets in.
const RECORD_MAX: usize = 16 << 20;

/// A store in one directory of the local file system.
pub struct Embedded {
    memory: Arc<Memory>,
    queue: Arc<Queue>,
    places: Arc<Semaphore>,
    keys: Arc<Keyring>,
    keys_path: PathBuf,
    thread: Mutex<Option<JoinHandle<()>>>,
    failed: Arc<Mutex<Option<String>>>,
    ended: Arc<AtomicBool>,
    _lock: File,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded").field("revision", &self.memory.revision()).finish_non_exhaustive()
    }
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

fn unavailable(path: &Path, why: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(format!("{}: {why}", path.display()))
}

fn make_dir(dir: &Path) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| unavailable(dir, error))
}

/// Keeps every other process out of the directory while the file is open.
fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let mut options = File::options();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|error| unavailable(&path, error))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => {
                let why =
                    "another process has this store open; end it first, or choose another data directory";
                return Err(unavailable(&path, why));
            }
            Err(TryLockError::Error(error)) => return Err(unavailable(&path, error)),
        }
    }
}

/// How long the lock may still be held after its owner closed the store: a child that is just being started has a
/// copy of every descriptor until it runs its program.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Log bytes after which the next checkpoint is made. Half of what a checkpoint writes keeps both the cost of
/// writing everything again and the time to replay the log in bounds.
fn threshold(least: u64, checkpoint: &Checkpoint) -> u64 {
    least.max(checkpoint.bytes() / 2)
}

/// The keys file of a data directory.
fn keys_path(dir: &Path) -> PathBuf {
    dir.join("keys")
}

impl Embedded {
    /// Opens the store in `dir`, making it if it does not exist. Blocks until everything is loaded.
    ///
    /// Damaged files are refused with the file, the offset and what to do. Only a torn last write, which nobody
    /// was told of, is dropped.
    pub fn open(dir: &Path, options: Options) -> Result<Arc<Self>, StoreError> {
        make_dir(dir)?;
        let lock = lock(dir)?;
        let keys_path = keys_path(dir);
        let secret = options.secret.iter().map(String::as_str);
        let keys =
            Keyring::load(&keys_path, secret).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let memory = Arc::new(Memory::new(options.history));
        let (checkpoint, objects) = Checkpoint::load(dir, &keys)?;
        let mut deadlines: BTreeSet<(u64, Key)> = BTreeSet::new();
        deadlines.extend(objects.iter().filter_map(|object| Some((object.expires?, object.key.clone()))));
        memory.reset(objects, checkpoint.revision());
        let log_dir = dir.join("log");
        make_dir(&log_dir)?;
        let sizes = log::Sizes {
            first: options.segment_bytes_first.max(2 * segment::HEADER),
            most: options.segment_bytes_max.max(options.segment_bytes_first),
            reserve: options.reserve_bytes,
        };
        let mut replay = Replay { memory: &memory, keys: &keys, deadlines, bytes: 0 };
        let mut interner = crate::codec::Interner::default();
        let base = checkpoint.revision();
        let (log, last) =
            recover::recover(&log_dir, sizes, base, &mut |frame| replay.frame(frame, base, &mut interner))?;
        let Replay { deadlines, bytes, .. } = replay;
        debug_assert!(last >= base && memory.revision() == last);
        if keys.is_empty() && !options.secret.is_empty() {
            let made = keys.add().and_then(|()| keys.save(&keys_path));
            made.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        }
        let (queue, keys) = (Arc::new(Queue::default()), Arc::new(keys));
        let failed = Arc::new(Mutex::new(None));
        let ended = Arc::new(AtomicBool::new(false));
        let writer = Writer {
            memory: memory.clone(),
            queue: queue.clone(),
            keys: keys.clone(),
            log,
            threshold: threshold(options.checkpoint_bytes, &checkpoint),
            checkpoint: Some(checkpoint),
            checkpointing: None,
            checkpoint_bytes: options.checkpoint_bytes,
            since: bytes,
            covered: 0,
            deadlines,
            asked: Vec::new(),
            retry: None,
            broken: None,
            full: None,
            ease_at: None,
            reserve: (dir.join("reserve"), options.reserve_bytes),
            vouched: true,
            failed: failed.clone(),
            ended: ended.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run())
            .map_err(|error| unavailable(dir, format_args!("no thread for the writer: {error}")))?;
        let places = Arc::new(Semaphore::new(options.queue_max.max(1)));
        let thread = Mutex::new(Some(thread));
        Ok(Arc::new(Self { memory, queue, places, keys, keys_path, thread, failed, ended, _lock: lock }))
    }

    /// Finishes what is queued, refuses more, and waits until the files are closed. Blocks.
    pub fn close(&self) {
        self.queue.close();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("store writer panicked");
            self.memory.close();
        }
        self.places.close();
    }

    /// Makes a checkpoint now; gives its revision.
    pub async fn checkpoint(&self) -> Result<u64, StoreError> {
        let (done, ended) = oneshot::channel();
        if !self.queue.command(Command::Checkpoint(done)) {
            return Err(StoreError::Closed);
        }
        ended.await.map_err(|_| StoreError::Closed)?
    }

    /// Adds a new key that seals from now on; values sealed before stay readable.
    pub fn rotate_keys(&self) -> Result<(), StoreError> {
        let failed = |error: crate::seal::SealError| StoreError::Unavailable(error.to_string());
        // The file comes first: a value sealed with a key that exists only in memory would be lost.
        let next = Keyring::load(&self.keys_path, ["-"]).map_err(failed)?;
        next.add().and_then(|()| next.save(&self.keys_path)).map_err(failed)?;
        self.keys.replace(next);
        Ok(())
    }

    async fn moment(&self) -> Result<Moment, StoreError> {
        let (done, given) = oneshot::channel();
        if !self.queue.command(Command::Moment(done)) {
            return Err(StoreError::Closed);
        }
        given.await.map_err(|_| StoreError::Closed)
    }

    async fn queue(&self, write: Write, expires: Option<u64>) -> Result<Arc<Object>, StoreError> {
        let record = record::encode(&write, expires, &self.keys)
            .map_err(|error| StoreError::Unavailable(format!("{:?}: {error}", write.key)))?;
        if record.len() > RECORD_MAX {
            let why =
                format!("{:?}: {} bytes are more than the limit of {RECORD_MAX}", write.key, record.len());
            return Err(StoreError::Unavailable(why));
        }
        let place = self.places.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let (done, result) = oneshot::channel();
        let Write { key, precondition, value, last } = write;
        let to = match value {
            Some(draft) => To::Put { draft, expires, created: None },
            None => To::Delete { last },
        };
        let queued = Queued { key, precondition, to, record, done: Some(done), place: Some(place) };
        if !self.queue.push(queued) {
            return Err(StoreError::Closed);
        }
        result.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

/// Applies the log to the tables while opening.
struct Replay<'a> {
    memory: &'a Memory,
    keys: &'a Keyring,
    deadlines: BTreeSet<(u64, Key)>,
    bytes: u64,
}

impl Replay<'_> {
    fn frame(
        &mut self,
        frame: &segment::Frame<'_>,
        base: u64,
        interner: &mut crate::codec::Interner,
    ) -> Result<(), String> {
        let last = frame.first + u64::from(frame.count) - 1;
        if last <= base {
            return Ok(());
        }
        if frame.first <= base {
            return Err("checkpoint ends within a record".into());
        }
        let changes = record::decode(frame.payload, frame.first, self.keys, interner);
        let changes = changes.map_err(|error| error.to_string())?;
        if changes.len() != frame.count as usize {
            return Err(format!("{} writes in a record that says {}", changes.len(), frame.count));
        }
        for change in &changes {
            match &change.to {
                To::Put { expires: Some(at), .. } => drop(self.deadlines.insert((*at, change.key.clone()))),
                To::Put { .. } | To::Delete { .. } => {}
            }
        }
        self.bytes += frame.next - frame.offset;
        self.memory.publish(changes, last);
        Ok(())
    }
}

impl Store for Embedded {
    fn revision(&self) -> u64 {
        self.memory.revision()
    }

    fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.memory.get(key)
    }

    fn snapshot(&self, resource: &str) -> Arc<dyn Snapshot> {
        self.memory.snapshot(resource)
    }

    fn snapshot_at(&self, resource: &str, revision: u64) -> Result<Arc<dyn Snapshot>, StoreError> {
        self.memory.snapshot_at(resource, revision)
    }

    fn dependents(&self, uid: &str) -> Vec<Arc<Object>> {
        self.memory.dependents(uid)
    }

    fn write(&self, write: Write) -> Pending<'_, Arc<Object>> {
        Box::pin(self.queue(write, None))
    }

    fn write_until(&self, write: Write, expires: u64) -> Pending<'_, Arc<Object>> {
        Box::pin(self.queue(write, Some(expires)))
    }

    fn reach(&self, revision: Option<u64>) -> Pending<'_, u64> {
        Box::pin(async move {
            if self.ended.load(Ordering::Acquire) {
                return Err(StoreError::Closed);
            }
            self.memory.reach(revision.unwrap_or(0)).await
        })
    }

    fn watch(&self, resource: &str, revision: u64) -> Result<Box<dyn Watch>, StoreError> {
        self.memory.watch(resource, revision)
    }

    fn counts(&self) -> BTreeMap<Arc<str>, usize> {
        self.memory.counts()
    }

    fn failure(&self) -> Option<String> {
        if self.ended.load(Ordering::Acquire) {
            return Some(StoreError::Closed.to_string());
        }
        self.failed.lock().clone()
    }
}
