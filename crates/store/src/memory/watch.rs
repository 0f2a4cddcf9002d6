//! A watch: a position in a table's ring, and a way to sleep until there is news.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::table::{Table, Watching, latest};
use crate::api::{Batch, Pending, StoreError, Watch};

#[derive(Debug)]
pub(super) struct Cursor {
    table: Watching,
    /// The next sequence number to deliver.
    next: u64,
    /// Everything up to here was delivered.
    delivered: u64,
}

impl Cursor {
    pub fn open(table: Arc<Table>, revision: u64) -> Result<Self, StoreError> {
        let table = Watching::new(table);
        let state = table.0.state.read();
        let oldest = state.ring.floor();
        if revision < oldest {
            return Err(StoreError::Expired { requested: revision, oldest });
        }
        let latest = table.0.complete(&state);
        if revision > latest {
            return Err(StoreError::Future { requested: revision, latest });
        }
        let next = state.ring.after(revision);
        drop(state);
        Ok(Self { table, next, delivered: revision })
    }

    async fn wait(&mut self, max: usize) -> Result<Batch, StoreError> {
        let table = &*self.table.0;
        loop {
            if let Some(found) = take(table, &mut self.next, &mut self.delivered, max)? {
                return Ok(found);
            }
            let mut news = pin!(table.news.notified());
            news.as_mut().enable();
            // What came in between is not told.
            if let Some(found) = take(table, &mut self.next, &mut self.delivered, max)? {
                return Ok(found);
            }
            news.await;
        }
    }
}

/// What there is from `next` on, without waiting.
fn take(table: &Table, next: &mut u64, delivered: &mut u64, max: usize) -> Result<Option<Batch>, StoreError> {
    if table.shared.closed.load(Ordering::Acquire) {
        return Err(StoreError::Closed);
    }
    if table.end.load(Ordering::Acquire) == *next {
        return Ok(None);
    }
    let state = table.state.read();
    if *next < state.ring.first() {
        return Err(StoreError::Expired { requested: *delivered, oldest: state.ring.floor() });
    }
    let end = state.ring.end().min(next.saturating_add(max.max(1) as u64));
    let events: Vec<_> = (*next..end).filter_map(|at| state.ring.get(at).cloned()).collect();
    let Some(newest) = events.last().map(|event| event.object.modified) else { return Ok(None) };
    *next = end;
    *delivered = match state.ring.get(end) {
        None => table.complete(&state),
        // Several changes may share a revision: it is only complete with the last of them.
        Some(following) if following.object.modified == newest => newest - 1,
        Some(_) => newest,
    };
    Ok(Some((events, *delivered)))
}

impl Watch for Cursor {
    fn next(&mut self, max: usize) -> Pending<'_, Batch> {
        Box::pin(self.wait(max))
    }

    fn progress(&self) -> u64 {
        let table = &self.table.0;
        let complete = latest(&table.shared.revision);
        let state = table.state.read();
        if self.next == state.ring.end() { complete.max(self.delivered) } else { self.delivered }
    }
}
