//! The bounded queue in front of the writer thread.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::blocks::Moment;
use crate::api::{Key, Object, Precondition, StoreError};

/// Where the answer to a write goes; the store's own writes need none.
pub(super) type Done = Option<oneshot::Sender<Result<Arc<Object>, StoreError>>>;

/// An encoded write that waits for its turn.
pub(super) struct Queued {
    pub key: Key,
    pub precondition: Precondition,
    pub to: crate::memory::To,
    pub record: Vec<u8>,
    pub done: Done,
    /// Its place in the queue, given back when it is answered.
    pub place: Option<OwnedSemaphorePermit>,
}

/// Other requests to the writer thread.
pub(super) enum Command {
    /// Give all tables at one revision.
    Moment(oneshot::Sender<Moment>),
    /// Make a checkpoint now.
    Checkpoint(oneshot::Sender<Result<u64, StoreError>>),
    /// A checkpoint has ended.
    CheckpointEnded,
}

/// What the writer takes at once.
#[derive(Default)]
pub(super) struct Inbox {
    pub writes: Vec<Queued>,
    pub commands: Vec<Command>,
    pub closed: bool,
}

#[derive(Default)]
struct Waiting {
    inbox: Inbox,
    asleep: bool,
}

/// Many senders, one receiver that takes everything.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Queue {
    fn change(&self, change: impl FnOnce(&mut Inbox) -> bool) -> bool {
        let mut waiting = self.waiting.lock();
        let done = change(&mut waiting.inbox);
        if std::mem::take(&mut waiting.asleep) {
            self.changed.notify_one();
        }
        done
    }

    /// Hands over a write; false when closed.
    pub fn push(&self, write: Queued) -> bool {
        self.change(|inbox| {
            if !inbox.closed {
                inbox.writes.push(write);
            }
            !inbox.closed
        })
    }

    /// Hands over a command; false when closed.
    pub fn command(&self, command: Command) -> bool {
        self.change(|inbox| {
            if !inbox.closed {
                inbox.commands.push(command);
            }
            !inbox.closed
        })
    }

    /// Whether nothing waits.
    pub fn is_idle(&self) -> bool {
        let waiting = self.waiting.lock();
        waiting.inbox.writes.is_empty() && waiting.inbox.commands.is_empty() && !waiting.inbox.closed
    }

    /// Lets the writer end after what is queued.
    pub fn close(&self) {
        self.change(|inbox| {
            inbox.closed = true;
            true
        });
    }

    /// Takes everything, sleeping until there is something or `until` has come.
    pub fn take(&self, until: Instant) -> Inbox {
        let mut waiting = self.waiting.lock();
        loop {
            let inbox = &mut waiting.inbox;
            if !inbox.writes.is_empty()
                || !inbox.commands.is_empty()
                || inbox.closed
                || Instant::now() >= until
            {
                let closed = inbox.closed;
                let taken = std::mem::take(inbox);
                inbox.closed = closed;
                waiting.asleep = false;
                return taken;
            }
            waiting.asleep = true;
            self.changed.wait_until(&mut waiting, until);
        }
    }
}
