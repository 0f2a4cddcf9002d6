//! A bounded ring of events: watchers are cursors into it, and snapshots of the past are made by undoing it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::History;
use crate::api::{Event, EventKind};

/// Bookkeeping per event beyond the JSON it keeps alive, in bytes.
const OVERHEAD: usize = 256;

#[derive(Debug)]
struct Slot {
    event: Arc<Event>,
    cost: usize,
    seconds: u32,
}

/// Events in revision order; each has a sequence number that never comes back.
#[derive(Debug)]
pub(super) struct Ring {
    slots: VecDeque<Slot>,
    /// The sequence number of the oldest event kept.
    first: u64,
    /// Everything after this revision is kept.
    floor: u64,
    bytes: usize,
}

impl Ring {
    pub fn new(floor: u64) -> Self {
        Self { slots: VecDeque::new(), first: 0, floor, bytes: 0 }
    }

    pub fn floor(&self) -> u64 {
        self.floor
    }

    pub fn first(&self) -> u64 {
        self.first
    }

    /// One past the newest sequence number.
    pub fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// The event of a sequence number that is not before the first.
    pub fn get(&self, sequence: u64) -> Option<&Arc<Event>> {
        let at = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        self.slots.get(at).map(|slot| &slot.event)
    }

    /// The sequence number of the first event after `revision`.
    pub fn after(&self, revision: u64) -> u64 {
        self.first + self.slots.partition_point(|slot| slot.event.object.modified <= revision) as u64
    }

    /// Events after `revision`, newest first.
    pub fn undo(&self, revision: u64) -> impl Iterator<Item = &Arc<Event>> {
        let newest_first = self.slots.iter().rev().map(|slot| &slot.event);
        newest_first.take_while(move |event| event.object.modified > revision)
    }

    /// Appends. `framed` says that watchers will make and keep encoded frames.
    pub fn push(&mut self, event: Arc<Event>, framed: bool, seconds: u32) {
        let superseded = event.previous.as_ref().map_or(0, |object| object.json.len());
        let own = event.object.json.len();
        let gone = if event.kind == EventKind::Deleted { own } else { 0 };
        let cost = OVERHEAD + superseded + gone + if framed { own } else { 0 };
        self.bytes += cost;
        self.slots.push_back(Slot { event, cost, seconds });
    }

    /// Takes out what exceeds the bounds, to be dropped outside of locks.
    pub fn trim(&mut self, history: &History, seconds: u32) -> Vec<Arc<Event>> {
        let mut out = Vec::new();
        while let Some(slot) = self.slots.front() {
            let old = seconds.saturating_sub(slot.seconds) > history.age_max_seconds
                && self.slots.len() > history.events_kept;
            let over = self.slots.len() > history.events_max || self.bytes > history.bytes_max;
            if !(old || over) {
                break;
            }
            self.bytes -= slot.cost;
            self.floor = slot.event.object.modified;
            self.first += 1;
            out.extend(self.slots.pop_front().map(|slot| slot.event));
        }
        out
    }

    /// Forgets everything up to `floor`, so that every cursor finds itself behind.
    pub fn reset(&mut self, floor: u64) {
        self.first = self.end() + 1;
        self.slots.clear();
        self.bytes = 0;
        self.floor = floor;
    }
}
