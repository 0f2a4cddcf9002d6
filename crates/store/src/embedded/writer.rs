//! The writer thread: takes all queued writes, decides them against the head state, commits them as one frame,
//! and publishes what is durable.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

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
    pub deadlines: BTreeSet<(u64, Key)>,
    pub asked: Vec<oneshot::Sender<Result<u64, StoreError>>>,
    pub retry: Option<Instant>,
    /// Set when the files can no longer be trusted: nothing is written until the next open.
    pub broken: Option<String>,
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
            let mut writes = writes.into_iter().peekable();
            while writes.peek().is_some() {
                self.commit(&mut writes, &mut frame);
            }
            self.commands(commands);
            self.checkpoint_if_due();
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
        [Some(age), expiry, self.retry].into_iter().flatten().min().unwrap_or(age)
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
    fn commit(
        &mut self,
        writes: &mut std::iter::Peekable<impl Iterator<Item = Queued>>,
        frame: &mut Vec<u8>,
    ) {
        let base = self.memory.revision();
        let mut heads: HashMap<Key, Option<u64>> = HashMap::new();
        let mut changes: Vec<Change> = Vec::new();
        let mut accepted = Vec::new();
        let mut refused = Vec::new();
        segment::begin_frame(frame);
        while let Some(next) = writes.peek() {
            if !changes.is_empty() && frame.len() + next.record.len() > FRAME_MAX {
                break;
            }
            let Some(queued) = writes.next() else { break };
            let Queued { key, precondition, to, record, done, place } = queued;
            let head = match heads.get(&key) {
                Some(head) => *head,
                None => self.memory.get(&key).map(|object| object.modified),
            };
            if !holds(precondition, head, matches!(to, To::Delete { .. })) {
                refused.push((key, done, place));
                continue;
            }
            let revision = base + changes.len() as u64 + 1;
            heads.insert(key.clone(), matches!(to, To::Put { .. }).then_some(revision));
            frame.extend_from_slice(&record);
            accepted.push((done, place));
            changes.push(Change { key, revision, to });
        }
        if !changes.is_empty() {
            match self.append(frame, changes.len(), base + 1) {
                Ok(()) => self.publish(changes, accepted),
                Err(error) => {
                    let again = || match &error {
                        StoreError::NoSpace(text) => StoreError::NoSpace(text.clone()),
                        other => StoreError::Unavailable(other.to_string()),
                    };
                    let later = now() + RETRY_AFTER.as_secs();
                    for ((done, _), change) in accepted.into_iter().zip(changes) {
                        match done {
                            Some(_) => answer(done, Err(again())),
                            None => drop(self.deadlines.insert((later, change.key))),
                        }
                    }
                }
            }
        }
        for (key, done, _place) in refused {
            let current = self.memory.get(&key);
            answer(done, Err(StoreError::Conflict { key, current }));
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
                tracing::error!("{text}");
                *self.failed.lock() = Some(text.clone());
                self.broken = Some(text.clone());
                Err(StoreError::Unavailable(text))
            }
        }
    }

    fn publish(&mut self, changes: Vec<Change>, accepted: Vec<(Done, Option<OwnedSemaphorePermit>)>) {
        for change in &changes {
            match &change.to {
                To::Put { expires: Some(at), .. } => drop(self.deadlines.insert((*at, change.key.clone()))),
                To::Put { .. } | To::Delete { .. } => {}
            }
        }
        let Some(last) = changes.last().map(|change| change.revision) else { return };
        let results = self.memory.publish(changes, last);
        for ((done, _place), result) in accepted.into_iter().zip(results) {
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
        if self.checkpointing.is_some() && self.since > 2 * self.threshold {
            self.end_checkpoint();
        }
        let due = self.since > self.threshold && self.retry.is_none_or(|at| Instant::now() >= at);
        if self.checkpointing.is_some() || self.broken.is_some() || !due && self.asked.is_empty() {
            return;
        }
        let Some(mut checkpoint) = self.checkpoint.take() else { return };
        let moment = self.moment();
        self.since = 0;
        self.retry = None;
        let (keys, queue) = (self.keys.clone(), self.queue.clone());
        let write = move || {
            let result = checkpoint.write(&moment, &keys);
            queue.command(Command::CheckpointEnded);
            (checkpoint, result)
        };
        match std::thread::Builder::new().name("store-checkpoint".into()).spawn(write) {
            Ok(thread) => self.checkpointing = Some(thread),
            Err(error) => self.broken = Some(format!("no thread for a checkpoint: {error}")),
        }
    }

    /// Takes the result of the running checkpoint, waiting for it.
    fn end_checkpoint(&mut self) {
        let Some(thread) = self.checkpointing.take() else { return };
        let Ok((checkpoint, result)) = thread.join() else {
            self.broken = Some("checkpoint thread panicked; open the store again".into());
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

fn answer(done: Done, result: Result<Arc<Object>, StoreError>) {
    if let Some(done) = done {
        let _ = done.send(result);
    }
}
