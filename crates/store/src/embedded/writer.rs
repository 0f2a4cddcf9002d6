//! The writer thread: takes all queued writes, decides them against the head state, commits them as one frame,
//! and publishes what is durable.

use std::collections::{BTreeSet, HashMap};
use std::iter::Peekable;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::blocks::Moment;
use super::checkpoint::Checkpoint;
use super::log::Log;
use super::queue::{Command, Done, Inbox, Queue, Queued};
use super::{is_full, record, segment};
use crate::api::{Key, Object, Precondition, StoreError, Write};
use crate::memory::{Change, Memory, To};
use crate::seal::Keyring;

/// Bytes of one frame at most, unless one record alone is larger.
const FRAME_MAX: usize = 4 << 20;
/// Objects that expire in one round at most.
const EXPIRE_MAX: usize = 1000;
/// How often old events are dropped.
const AGE_EVERY: Duration = Duration::from_secs(30);
/// Bytes of a frame on a full disk, which has to fit into what is kept for that.
const FRAME_MAX_FULL: usize = 64 << 10;
/// How often a full disk is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a failed checkpoint waits before the next.
const RETRY_AFTER: Duration = Duration::from_secs(5);

type CheckpointThread = JoinHandle<(Checkpoint, Result<(), StoreError>)>;

/// Everything the thread owns.
pub(super) struct Writer {
    pub memory: Arc<Memory>,
    pub queue: Arc<Queue>,
    pub keys: Arc<Keyring>,
    pub log: Log,
    /// Absent while a thread writes it.
    pub checkpoint: Option<Checkpoint>,
    pub checkpointing: Option<CheckpointThread>,
    /// Log bytes after which a checkpoint is made, at least.
    pub checkpoint_bytes: u64,
    /// Log bytes after which the next is made.
    pub threshold: u64,
    /// Log bytes since the last checkpoint began.
    pub since: u64,
    /// Log bytes that the running checkpoint covers.
    pub covered: u64,
    pub deadlines: BTreeSet<(u64, Key)>,
    pub asked: Vec<oneshot::Sender<Result<u64, StoreError>>>,
    pub retry: Option<Instant>,
    /// Set when the files can no longer be trusted: nothing is written until the next open.
    pub broken: Option<String>,
    /// Set while the disk is full: only what frees space is written.
    pub full: Option<String>,
    /// When taking space again is tried next, after it failed.
    pub ease_at: Option<Instant>,
    /// The file that keeps space for a checkpoint on a full disk, and how much.
    pub reserve: (PathBuf, u64),
    /// Whether something after the last frame says that it was complete.
    pub vouched: bool,
    /// Why writes are refused, for everybody to see.
    pub failed: Arc<Mutex<Option<String>>>,
    pub ended: Arc<AtomicBool>,
}

/// Seconds since the epoch.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Writer {
    /// Runs until the queue is closed.
    pub fn run(mut self) {
        let mut frame = Vec::new();
        let mut age = Instant::now() + AGE_EVERY;
        loop {
            let inbox = self.queue.take(self.wake_at(age));
            if Instant::now() >= age {
                self.memory.age();
                age = Instant::now() + AGE_EVERY;
            }
            let Inbox { mut writes, commands, closed } = inbox;
            writes.extend(self.expire());
            self.ease();
            let mut writes = writes.into_iter().peekable();
            while writes.peek().is_some() {
                self.commit(&mut writes, &mut frame);
            }
            self.commands(commands);
            self.checkpoint_if_due();
            if !self.vouched && self.queue.is_idle() {
                segment::begin_frame(&mut frame);
                self.log.vouch(&mut frame, self.memory.revision() + 1);
                self.vouched = true;
            }
            if closed {
                break;
            }
        }
        self.close(&mut frame);
    }

    /// Until when there is nothing to do.
    fn wake_at(&self, age: Instant) -> Instant {
        let expiry = self.deadlines.first().map(|(at, _)| {
            Instant::now()
                + Duration::from_secs(at.saturating_sub(now()).min(3600)).max(Duration::from_millis(200))
        });
        let look = self.full.is_some().then(|| Instant::now() + LOOK_EVERY);
        [Some(age), expiry, self.retry, look].into_iter().flatten().min().unwrap_or(age)
    }

    /// Deletions of what has expired.
    fn expire(&mut self) -> Vec<Queued> {
        let now = now();
        let mut out = Vec::new();
        while out.len() < EXPIRE_MAX && self.deadlines.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.deadlines.pop_first() else { break };
            let Some(object) =
                self.memory.get(&key).filter(|object| object.expires.is_some_and(|at| at <= now))
            else {
                continue;
            };
            let precondition = Precondition::Revision(object.modified);
            let write = Write { key, precondition, value: None, last: None };
            match record::encode(&write, None, &self.keys) {
                Ok(record) => out.push(Queued {
                    key: write.key,
                    precondition,
                    to: To::Delete { last: None },
                    record,
                    done: None,
                    place: None,
                }),
                Err(error) => tracing::warn!("expiry of {:?} not written: {error}", write.key),
            }
        }
        out
    }

    /// Commits the next writes as one frame and answers them.
    fn commit(&mut self, writes: &mut Peekable<std::vec::IntoIter<Queued>>, frame: &mut Vec<u8>) {
        let base = self.memory.revision();
        let frame_max = if self.full.is_some() { FRAME_MAX_FULL } else { FRAME_MAX };
        let mut heads: HashMap<Key, Option<u64>> = HashMap::new();
        let mut accepted: Vec<Queued> = Vec::new();
        let mut refused = Vec::new();
        segment::begin_frame(frame);
        while let Some(next) = writes.peek() {
            if !accepted.is_empty() && frame.len() + next.record.len() > frame_max {
                break;
            }
            let Some(queued) = writes.next() else { break };
            let head = match heads.get(&queued.key) {
                Some(head) => *head,
                None => self.memory.get(&queued.key).map(|object| object.modified),
            };
            if !holds(queued.precondition, head, matches!(queued.to, To::Delete { .. })) {
                refused.push(queued);
                continue;
            }
            if let Some(full) = self.full.as_ref().filter(|_| !frees(&queued.to)) {
                answer(queued.done, Err(StoreError::NoSpace(full.clone())));
                continue;
            }
            let revision = base + accepted.len() as u64 + 1;
            heads.insert(queued.key.clone(), matches!(queued.to, To::Put { .. }).then_some(revision));
            frame.extend_from_slice(&queued.record);
            accepted.push(queued);
        }
        if !accepted.is_empty() {
            match self.append(frame, accepted.len(), base + 1) {
                Ok(()) => self.publish(accepted, base + 1),
                Err(StoreError::NoSpace(text)) if self.full.is_none() => {
                    self.press(text);
                    let mut again = accepted.into_iter().peekable();
                    while again.peek().is_some() {
                        self.commit(&mut again, frame);
                    }
                }
                Err(error) => self.give_up(accepted, &error),
            }
        }
        for Queued { key, done, .. } in refused {
            let current = self.memory.get(&key);
            answer(done, Err(StoreError::Conflict { key, current }));
        }
    }

    /// Answers writes that could not be written; the store's own are tried again later.
    fn give_up(&mut self, writes: Vec<Queued>, error: &StoreError) {
        let later = now() + RETRY_AFTER.as_secs();
        for write in writes {
            let again = match error {
                StoreError::NoSpace(text) => StoreError::NoSpace(text.clone()),
                other => StoreError::Unavailable(other.to_string()),
            };
            match write.done {
                Some(_) => answer(write.done, Err(again)),
                None => drop(self.deadlines.insert((later, write.key))),
            }
        }
    }

    fn append(&mut self, frame: &mut [u8], count: usize, first: u64) -> Result<(), StoreError> {
        if let Some(broken) = &self.broken {
            return Err(StoreError::Unavailable(broken.clone()));
        }
        let count =
            u32::try_from(count).map_err(|_| StoreError::Unavailable("too many writes at once".into()))?;
        let before = self.log.position().1;
        match self.log.append(frame, count, first) {
            Ok(()) => {
                self.since += frame.len() as u64;
                self.vouched = false;
                Ok(())
            }
            Err(error) => {
                let (path, _) = self.log.position();
                let text = format!("{} at offset {before}: {error}", path.display());
                if is_full(&error) {
                    return Err(StoreError::NoSpace(text));
                }
                // After a failed fdatasync the kernel may have dropped what was written: only a new open can tell.
                let text = format!("{text}; nothing more is written until the store is opened again");
                self.fail(text.clone());
                Err(StoreError::Unavailable(text))
            }
        }
    }

    /// Writes nothing more.
    fn fail(&mut self, text: String) {
        tracing::error!("{text}");
        *self.failed.lock() = Some(text.clone());
        self.broken = Some(text);
    }

    /// The disk is full: from now on only what frees space is written, in what is kept for that.
    fn press(&mut self, text: String) {
        let told = format!("{text}; only deletions are written until there is space again");
        tracing::error!("{told}");
        self.log.press();
        *self.failed.lock() = Some(told.clone());
        self.full = Some(told);
        self.ease_at = None;
    }

    /// Takes all writes again if the disk has room again.
    fn ease(&mut self) {
        let waits = self.ease_at.is_some_and(|at| Instant::now() < at);
        // A running checkpoint has what is kept for it.
        if self.full.is_none() || self.broken.is_some() || self.checkpointing.is_some() || waits {
            return;
        }
        let (path, size) = &self.reserve;
        let also = if segment::holds(path, *size) { 0 } else { *size };
        let eased = match self.log.ease(also) {
            Ok(true) => segment::hold(path, *size).map(|()| true),
            other => other,
        };
        match eased {
            Ok(true) => {
                tracing::info!("the disk has space again; all writes are taken");
                self.full = None;
                *self.failed.lock() = None;
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!("space on the disk not taken: {error}");
                self.ease_at = Some(Instant::now() + RETRY_AFTER);
            }
        }
    }

    fn publish(&mut self, writes: Vec<Queued>, first: u64) {
        let (mut changes, mut waiting) = (Vec::new(), Vec::new());
        for (revision, Queued { key, to, done, place, .. }) in (first..).zip(writes) {
            if let To::Put { expires: Some(at), .. } = &to {
                self.deadlines.insert((*at, key.clone()));
            }
            changes.push(Change { key, revision, to });
            waiting.push((done, place));
        }
        let Some(last) = changes.last().map(|change| change.revision) else { return };
        let results = self.memory.publish(changes, last);
        for ((done, _place), result) in waiting.into_iter().zip(results) {
            answer(done, result.ok_or(StoreError::Closed));
        }
    }

    fn commands(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Moment(done) => {
                    let _ = done.send(self.moment());
                }
                Command::Checkpoint(done) => self.asked.push(done),
                Command::CheckpointEnded => self.end_checkpoint(),
            }
        }
    }

    fn moment(&self) -> Moment {
        Moment { tables: self.memory.all(), revision: self.memory.revision() }
    }

    /// Begins a checkpoint when enough was logged or one was asked for; waits for a running one when the log
    /// has outgrown it by far, so that disk use stays bounded.
    fn checkpoint_if_due(&mut self) {
        if self.checkpointing.is_some() && self.covered + self.since > 3 * self.threshold {
            self.end_checkpoint();
        }
        // On a full disk a checkpoint may let go of much log.
        let enough = self.since > self.threshold || self.full.is_some() && self.since > 0;
        let due = enough && self.retry.is_none_or(|at| Instant::now() >= at);
        if self.checkpointing.is_some() || self.broken.is_some() || !due && self.asked.is_empty() {
            return;
        }
        let Some(mut checkpoint) = self.checkpoint.take() else { return };
        if self.full.is_some() {
            let _ = std::fs::remove_file(&self.reserve.0);
        }
        let moment = self.moment();
        self.covered = std::mem::take(&mut self.since);
        self.retry = None;
        let (keys, queue) = (self.keys.clone(), self.queue.clone());
        let write = move || {
            let result = checkpoint.write(&moment, &keys);
            queue.command(Command::CheckpointEnded);
            (checkpoint, result)
        };
        match std::thread::Builder::new().name("store-checkpoint".into()).spawn(write) {
            Ok(thread) => self.checkpointing = Some(thread),
            Err(error) => self.fail(format!("no thread for a checkpoint: {error}; start the process again")),
        }
    }

    /// Takes the result of the running checkpoint, waiting for it.
    fn end_checkpoint(&mut self) {
        let Some(thread) = self.checkpointing.take() else { return };
        let Ok((checkpoint, result)) = thread.join() else {
            self.fail("checkpoint thread panicked; open the store again".into());
            return;
        };
        let result = result.and_then(|()| {
            let retired = self.log.retire(checkpoint.revision());
            retired.map_err(|error| StoreError::Unavailable(format!("old log segment not removed: {error}")))
        });
        if let Err(error) = &result {
            tracing::warn!("checkpoint failed, trying again: {error}");
            self.since = self.since.max(self.threshold + 1);
            self.retry = Some(Instant::now() + RETRY_AFTER);
        }
        for done in self.asked.drain(..) {
            let told = match &result {
                Ok(()) => Ok(checkpoint.revision()),
                Err(error) => Err(StoreError::Unavailable(error.to_string())),
            };
            let _ = done.send(told);
        }
        self.threshold = super::threshold(self.checkpoint_bytes, &checkpoint);
        self.checkpoint = Some(checkpoint);
        self.ease();
    }

    /// Ends with an empty frame, which vouches for the one before it.
    fn close(&mut self, frame: &mut Vec<u8>) {
        self.end_checkpoint();
        if self.broken.is_none() {
            segment::begin_frame(frame);
            if let Err(error) = self.log.append(frame, 0, self.memory.revision() + 1) {
                tracing::warn!("closing mark not written: {error}");
            }
        }
        self.memory.close();
        self.ended.store(true, Ordering::Release);
    }
}

fn holds(precondition: Precondition, head: Option<u64>, delete: bool) -> bool {
    match precondition {
        Precondition::Absent => head.is_none() && !delete,
        Precondition::Revision(revision) => head == Some(revision),
        Precondition::None => head.is_some() || !delete,
    }
}

/// Whether a write makes the store smaller, now or as a step towards it: a deletion, or a state of an object whose
/// deletion has begun.
fn frees(to: &To) -> bool {
    const ENDING: &[u8] = b"\"deletionTimestamp\":";
    match to {
        To::Delete { .. } => true,
        To::Put { draft, .. } => draft.bytes.windows(ENDING.len()).any(|part| part == ENDING),
    }
}

fn answer(done: Done, result: Result<Arc<Object>, StoreError>) {
    if let Some(done) = done {
        let _ = done.send(result);
    }
}
