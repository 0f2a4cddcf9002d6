//! What ends the wait of a watch besides events: its deadline, its next bookmark, the end of the server.
//!
//! A busy table wakes hundreds of watches many times a second, so what stays the same between two events (a timer
//! set, a waker registered) is kept and not made anew.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::watch::Receiver;
use tokio::time::{Instant, Sleep, sleep_until};

/// Why the alarm went off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The watch ends: its time is over, or the server stops.
    End,
    /// It is time for a bookmark.
    Bookmark,
}

/// The timers of one watch.
pub struct Alarm {
    deadline: Instant,
    bookmark_at: Option<Instant>,
    bookmark_every: Duration,
    timer: Pin<Box<Sleep>>,
    stopping: Receiver<bool>,
    stopped: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Who hears of timer and stop already.
    told: Option<Waker>,
}

impl Alarm {
    /// Ends at `deadline` or when `stopping` becomes true. The first bookmark is due at `bookmark_at`, if there
    /// are any, the others `bookmark_every` after the one before.
    pub fn new(
        deadline: Instant,
        bookmark_at: Option<Instant>,
        bookmark_every: Duration,
        mut stopping: Receiver<bool>,
    ) -> Self {
        let mut own = stopping.clone();
        let stopped = async move {
            // An error says that the sender is gone, and the server with it.
            let _ = own.wait_for(|stopping| *stopping).await;
        };
        // What is true already is to be seen as news.
        if *stopping.borrow_and_update() {
            stopping.mark_changed();
        }
        let first = bookmark_at.map_or(deadline, |at| at.min(deadline));
        Self {
            deadline,
            bookmark_at,
            bookmark_every,
            timer: Box::pin(sleep_until(first)),
            stopping,
            stopped: Box::pin(stopped),
            told: None,
        }
    }

    /// Whether the server stops.
    pub fn is_stopping(&self) -> bool {
        self.stopping.has_changed().unwrap_or(true)
    }

    /// Ready when the watch has something to do besides events.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        if self.is_stopping() {
            return Poll::Ready(Cause::End);
        }
        if !self.timer.is_elapsed() {
            if self.told.as_ref().is_some_and(|told| told.will_wake(cx.waker())) {
                return Poll::Pending;
            }
            if self.stopped.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Cause::End);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                self.told = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        Poll::Ready(self.ring(Instant::now()))
    }

    /// What the timer means at `now`; sets it anew.
    fn ring(&mut self, now: Instant) -> Cause {
        match &mut self.bookmark_at {
            Some(at) if now < self.deadline => {
                *at = now + self.bookmark_every;
                self.timer.as_mut().reset((*at).min(self.deadline));
                self.told = None;
                Cause::Bookmark
            }
            _ => Cause::End,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn rings(alarm: &mut Alarm) -> Cause {
        poll_fn(|cx| alarm.poll(cx)).await
    }

    #[tokio::test]
    async fn bookmarks_until_the_deadline() {
        let (_stop, stopping) = tokio::sync::watch::channel(false);
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut alarm = Alarm::new(start + 25 * second, Some(start + 5 * second), 10 * second, stopping);
        let mut seen = Vec::new();
        loop {
            let at = alarm.timer.deadline();
            seen.push(at.duration_since(start).as_secs());
            if alarm.ring(at) == Cause::End {
                break;
            }
        }
        assert_eq!(seen, [5, 15, 25]);
    }

    #[tokio::test]
    async fn ends_with_the_server() {
        for before in [true, false] {
            let (stop, stopping) = tokio::sync::watch::channel(before);
            let far = Instant::now() + Duration::from_secs(3600);
            let mut alarm = Alarm::new(far, None, Duration::ZERO, stopping);
            let waiting = tokio::spawn(async move { rings(&mut alarm).await });
            tokio::task::yield_now().await;
            stop.send_replace(true);
            assert_eq!(waiting.await.ok(), Some(Cause::End));
        }
    }
}
