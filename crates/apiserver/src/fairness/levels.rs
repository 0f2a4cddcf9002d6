//! The seats of a priority level, and the queues of those who wait for one.
//!
//! As long as there are seats, taking one is a compare-and-swap. Only when there are none requests go into one of a
//! few queues that their flow is dealt (the shortest of the hand), and queues are served in turn.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;

/// How long a request waits for a seat.
pub const WAIT_MAX: Duration = Duration::from_secs(15);

/// How a level queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queuing {
    /// How many queues there are.
    pub queues: u32,
    /// How many of them a flow may use.
    pub hand: u32,
    /// How many requests one holds.
    pub length: usize,
}

/// All levels, so that seats can be lent.
#[derive(Default)]
pub struct Board {
    levels: RwLock<Vec<Arc<Seats>>>,
    waiting: AtomicUsize,
}

impl Board {
    /// Replaces the levels.
    pub fn set(&self, levels: Vec<Arc<Seats>>) {
        *self.levels.write() = levels;
    }

    /// Seats that others would lend to this level.
    fn lent_to(&self, level: &Seats) -> u32 {
        let levels = self.levels.read();
        let (mut free, mut borrowed) = (0_u32, 0_u32);
        for other in levels.iter() {
            let (used, own) = (other.used.load(Ordering::Relaxed), other.nominal.load(Ordering::Relaxed));
            borrowed += used.saturating_sub(own);
            if !std::ptr::eq(&**other, level) {
                free += other.lendable.load(Ordering::Relaxed).min(own.saturating_sub(used));
            }
        }
        free.saturating_sub(borrowed)
    }

    /// Gives free seats to whoever waits.
    fn serve(&self) {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return;
        }
        let levels = self.levels.read().clone();
        levels.iter().for_each(Seats::serve);
    }
}

/// The seats of one level.
pub struct Seats {
    nominal: AtomicU32,
    lendable: AtomicU32,
    used: AtomicU32,
    queued: AtomicUsize,
    waiting: Mutex<Waiting>,
    board: Weak<Board>,
}

#[derive(Default)]
struct Waiting {
    queues: BTreeMap<u32, VecDeque<Waiter>>,
    /// The queue that was served last.
    last: u32,
}

struct Waiter {
    seats: u32,
    tell: oneshot::Sender<Pass>,
}

/// Seats that are taken; they are free again when this is dropped.
pub struct Pass {
    seats: u32,
    of: Option<Arc<Seats>>,
}

impl Pass {
    /// For requests that need no seat.
    pub fn exempt() -> Self {
        Self { seats: 0, of: None }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(of) = self.of.take() {
            of.used.fetch_sub(self.seats, Ordering::AcqRel);
            if let Some(board) = of.board.upgrade() {
                board.serve();
            }
        }
    }
}

impl Seats {
    /// A level without seats.
    pub fn new(board: &Arc<Board>) -> Arc<Self> {
        Arc::new(Self {
            nominal: AtomicU32::new(0),
            lendable: AtomicU32::new(0),
            used: AtomicU32::new(0),
            queued: AtomicUsize::new(0),
            waiting: Mutex::default(),
            board: Arc::downgrade(board),
        })
    }

    /// Says how many seats there are, and how many of them may be lent while they are free.
    pub fn set(&self, nominal: u32, lendable: u32) {
        self.nominal.store(nominal, Ordering::Relaxed);
        self.lendable.store(lendable, Ordering::Relaxed);
    }

    /// How many seats there are.
    pub fn nominal(&self) -> u32 {
        self.nominal.load(Ordering::Relaxed)
    }

    /// Takes seats if they are free here or can be borrowed. Who wants more than there are gets all.
    fn take(self: &Arc<Self>, seats: u32) -> Option<Pass> {
        let mut used = self.used.load(Ordering::Acquire);
        loop {
            let nominal = self.nominal.load(Ordering::Relaxed);
            let fits = used.saturating_add(seats) <= nominal || used == 0;
            let lent = || self.board.upgrade().is_some_and(|board| board.lent_to(self) >= seats);
            if !fits && !lent() {
                return None;
            }
            match self.used.compare_exchange_weak(used, used + seats, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(Pass { seats, of: Some(self.clone()) }),
                Err(now) => used = now,
            }
        }
    }

    /// Takes seats, or waits for them in one of the flow's queues. `None`: there is no place to wait, or it took too
    /// long.
    pub async fn enter(self: &Arc<Self>, seats: u32, flow: u64, queuing: Option<Queuing>) -> Option<Pass> {
        if self.queued.load(Ordering::Acquire) == 0
            && let Some(pass) = self.take(seats)
        {
            return Some(pass);
        }
        let told = self.wait(seats, flow, queuing?)?;
        // A seat may have become free meanwhile, with nobody to serve us.
        self.serve();
        tokio::time::timeout(WAIT_MAX, told).await.ok()?.ok()
    }

    fn wait(&self, seats: u32, flow: u64, queuing: Queuing) -> Option<oneshot::Receiver<Pass>> {
        let mut waiting = self.waiting.lock();
        let length = |at: &u32| waiting.queues.get(at).map_or(0, VecDeque::len);
        let at = hand(flow, queuing).into_iter().min_by_key(length)?;
        let queue = waiting.queues.entry(at).or_default();
        if queue.len() >= queuing.length {
            // Those who have gone away take no place.
            let before = queue.len();
            queue.retain(|waiter| !waiter.tell.is_closed());
            let gone = before - queue.len();
            self.count(|count| count.fetch_sub(gone, Ordering::AcqRel));
            if queue.len() >= queuing.length {
                return None;
            }
        }
        let (tell, told) = oneshot::channel();
        queue.push_back(Waiter { seats, tell });
        self.count(|count| count.fetch_add(1, Ordering::AcqRel));
        Some(told)
    }

    fn count(&self, change: impl Fn(&AtomicUsize) -> usize) {
        change(&self.queued);
        if let Some(board) = self.board.upgrade() {
            change(&board.waiting);
        }
    }

    /// Gives free seats to those who wait, one queue after the other.
    fn serve(self: &Arc<Self>) {
        if self.queued.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut waiting = self.waiting.lock();
        loop {
            let last = waiting.last;
            let after = waiting.queues.range(last.saturating_add(1)..).next();
            let Some(at) = after.or_else(|| waiting.queues.iter().next()).map(|(at, _)| *at) else { return };
            let Some(queue) = waiting.queues.get_mut(&at) else { return };
            let Some(first) = queue.front() else {
                waiting.queues.remove(&at);
                continue;
            };
            let gone = first.tell.is_closed();
            let pass = if gone { None } else { self.take(first.seats) };
            if !gone && pass.is_none() {
                return;
            }
            let waiter = queue.pop_front();
            if queue.is_empty() {
                waiting.queues.remove(&at);
            }
            waiting.last = at;
            self.count(|count| count.fetch_sub(1, Ordering::AcqRel));
            if let (Some(waiter), Some(pass)) = (waiter, pass)
                && let Err(mut unwanted) = waiter.tell.send(pass)
            {
                // Its seats go back here: dropping it would come back to this lock.
                unwanted.of = None;
                self.used.fetch_sub(unwanted.seats, Ordering::AcqRel);
            }
        }
    }
}

/// The queues that a flow is dealt: the same ones each time, and few in common with another flow's.
fn hand(flow: u64, queuing: Queuing) -> Vec<u32> {
    let mut left = flow;
    let mut dealt: Vec<u32> = Vec::with_capacity(queuing.hand as usize);
    for i in 0..queuing.hand.min(queuing.queues) {
        let choices = u64::from(queuing.queues - i);
        let mut card = u32::try_from(left % choices).unwrap_or(0);
        left = (left / choices) ^ flow.rotate_left(7 * (i + 1));
        // The card-th of those that have not been dealt.
        let mut sorted = dealt.clone();
        sorted.sort_unstable();
        for known in sorted {
            card += u32::from(known <= card);
        }
        dealt.push(card);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUING: Queuing = Queuing { queues: 16, hand: 4, length: 2 };

    fn level(nominal: u32, lendable: u32, board: &Arc<Board>) -> Arc<Seats> {
        let seats = Seats::new(board);
        seats.set(nominal, lendable);
        seats
    }

    #[test]
    fn a_hand_has_different_queues() {
        for flow in [0, 1, 7, u64::MAX, 0x1234_5678_9abc_def0] {
            let mut dealt = hand(flow, QUEUING);
            assert_eq!(dealt, hand(flow, QUEUING));
            dealt.sort_unstable();
            dealt.dedup();
            assert!(dealt.len() == 4 && dealt.iter().all(|at| *at < 16), "{dealt:?}");
        }
        assert_eq!(hand(9, Queuing { queues: 1, hand: 8, length: 1 }), [0]);
    }

    #[tokio::test]
    async fn who_finds_no_seat_waits_for_one() {
        let board = Arc::new(Board::default());
        let seats = level(2, 0, &board);
        board.set(vec![seats.clone()]);
        let first = seats.enter(1, 1, None).await.expect("a seat");
        let second = seats.enter(1, 1, None).await.expect("a seat");
        assert!(seats.enter(1, 1, None).await.is_none(), "nothing is queued here");
        let waits = tokio::spawn({
            let seats = seats.clone();
            async move { seats.enter(1, 1, Some(QUEUING)).await.is_some() }
        });
        while seats.queued.load(Ordering::Acquire) == 0 {
            tokio::task::yield_now().await;
        }
        // Who goes away gives way to the next.
        let impatient = seats.wait(1, 2, QUEUING).expect("a place");
        drop(impatient);
        drop(first);
        assert!(waits.await.expect("task"));
        drop(second);
        seats.serve();
        assert_eq!((seats.used.load(Ordering::Acquire), seats.queued.load(Ordering::Acquire)), (0, 0));
        assert_eq!(board.waiting.load(Ordering::Acquire), 0);
    }

    #[tokio::test]
    async fn queues_are_bounded() {
        let board = Arc::new(Board::default());
        let seats = level(1, 0, &board);
        board.set(vec![seats.clone()]);
        let _taken = seats.enter(1, 1, None).await;
        let places: Vec<_> = (0..20).map(|_| seats.wait(1, 5, QUEUING)).collect();
        assert_eq!(places.iter().flatten().count(), 8, "four queues of two");
        drop(places);
        assert!(seats.wait(1, 5, QUEUING).is_some(), "those who went away take no place");
    }

    #[tokio::test]
    async fn free_seats_are_lent() {
        let board = Arc::new(Board::default());
        let (busy, idle) = (level(1, 0, &board), level(4, 2, &board));
        board.set(vec![busy.clone(), idle.clone()]);
        let mut taken = Vec::new();
        while let Some(pass) = busy.enter(1, 1, None).await {
            taken.push(pass);
        }
        assert_eq!(taken.len(), 3, "its own, and two lent");
        let own = idle.enter(1, 1, None).await;
        assert!(own.is_some(), "a lender keeps what it does not lend");
        drop(taken);
        assert_eq!(busy.used.load(Ordering::Acquire), 0);
    }

    #[tokio::test]
    async fn flows_are_served_in_turn() {
        let board = Arc::new(Board::default());
        let seats = level(1, 0, &board);
        board.set(vec![seats.clone()]);
        let queuing = Queuing { queues: 2, hand: 1, length: 50 };
        let mut taken = seats.enter(1, 1, None).await;
        let (even, odd) = (0, 1);
        let mut waiting = Vec::new();
        for flow in [even, even, even, odd] {
            waiting.push((flow, seats.wait(1, flow, queuing).expect("a place")));
        }
        let mut served = Vec::new();
        while !waiting.is_empty() {
            drop(taken.take());
            let at = waiting.iter_mut().position(|(_, told)| match told.try_recv() {
                Ok(pass) => {
                    taken = Some(pass);
                    true
                }
                Err(_) => false,
            });
            served.push(waiting.remove(at.expect("somebody is served")).0);
        }
        let place = served.iter().position(|flow| *flow == odd).expect("served");
        assert!(place <= 1, "the flow that asks little does not wait behind the other: {served:?}");
    }
}
