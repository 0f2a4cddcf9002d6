//! Keeps a cache current: one streaming list, then one watch for as long as it lasts.
//!
//! A server that cannot stream the initial list is asked for a paged list instead. A watch that ends is
//! taken up where it ended; one whose revision is too old starts over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::cache::Shared;
use crate::crud::list_all;
use crate::{CacheBuilder, Error, ListOptions, Object, ObjectKey, WatchEvent, WatchStream};

const DELAY_MIN: Duration = Duration::from_millis(50);
const DELAY_MAX: Duration = Duration::from_secs(30);
/// A watch that lived this long proves the server well.
const HEALTHY: Duration = Duration::from_secs(10);

struct Reflector<T> {
    source: CacheBuilder<T>,
    shared: Arc<Shared<T>>,
    /// Where the watch goes on; empty starts over.
    resource_version: String,
    streaming: bool,
}

pub(crate) async fn run<T: Object>(source: CacheBuilder<T>, shared: Arc<Shared<T>>) {
    let mut reflector = Reflector { source, shared, resource_version: String::new(), streaming: true };
    let mut delay = DELAY_MIN;
    loop {
        let started = Instant::now();
        let outcome = reflector.round().await;
        if started.elapsed() >= HEALTHY {
            delay = DELAY_MIN;
        }
        if let Err(error) = outcome {
            let resource = &reflector.source.resource;
            if error.is_gone() {
                tracing::debug!(resource = %resource.plural, "the watch is too old, starting over");
                reflector.resource_version.clear();
            } else {
                tracing::debug!(resource = %resource.plural, error = %error.chain(), ?delay, "the watch failed");
            }
        }
        tokio::time::sleep(jittered(delay)).await;
        delay = (delay * 2).min(DELAY_MAX);
    }
}

/// Between one half and all of the delay, so that many watchers do not come back at once.
fn jittered(delay: Duration) -> Duration {
    use std::hash::{BuildHasher, Hasher};
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    delay / 2 + delay.mul_f64((random % 1024) as f64 / 2048.0)
}

impl<T: Object> Reflector<T> {
    /// Lists if needed, then watches until the watch ends.
    async fn round(&mut self) -> Result<(), Error> {
        if !self.resource_version.is_empty() {
            let stream = self.watch(false).await?;
            return self.follow(stream).await;
        }
        if self.streaming {
            match self.watch(true).await {
                Ok(stream) => return self.fill(stream).await,
                Err(error) if unsupported(&error) => self.streaming = false,
                Err(error) => return Err(error),
            }
        }
        let s = &self.source;
        let list = list_all(&s.client, &s.resource, &s.namespace, &s.options, s.partial).await?;
        self.resource_version = list.metadata.resource_version.unwrap_or_default();
        let objects = list.items.into_iter().map(|o| (ObjectKey::of(&o), o)).collect();
        self.shared.replace(objects, number(&self.resource_version));
        let stream = self.watch(false).await?;
        self.follow(stream).await
    }

    async fn watch(&self, initial: bool) -> Result<WatchStream, Error> {
        let s = &self.source;
        let options = ListOptions { resource_version: self.resource_version.clone(), ..s.options.clone() };
        s.client.watch_at(&s.resource, &s.namespace, &options, initial, s.partial).await
    }

    /// Reads the initial events, then follows.
    async fn fill(&mut self, mut stream: WatchStream) -> Result<(), Error> {
        let mut objects = BTreeMap::new();
        loop {
            match stream.next::<T>().await? {
                None => return Ok(()),
                Some(WatchEvent::Added(o) | WatchEvent::Modified(o)) => {
                    objects.insert(ObjectKey::of(&o), o);
                }
                Some(WatchEvent::Deleted(o)) => {
                    objects.remove(&ObjectKey::of(&o));
                }
                Some(WatchEvent::Bookmark { resource_version, initial_end: true }) => {
                    self.resource_version = resource_version;
                    break;
                }
                Some(WatchEvent::Bookmark { .. }) => {}
                Some(WatchEvent::Unreadable(error)) => self.unreadable(&error),
            }
        }
        self.shared.replace(objects, number(&self.resource_version));
        self.follow(stream).await
    }

    async fn follow(&mut self, mut stream: WatchStream) -> Result<(), Error> {
        while let Some(event) = stream.next::<T>().await? {
            let (object, gone) = match event {
                WatchEvent::Added(o) | WatchEvent::Modified(o) => (o, false),
                WatchEvent::Deleted(o) => (o, true),
                WatchEvent::Bookmark { resource_version, .. } => {
                    self.shared.advance(number(&resource_version));
                    self.resource_version = resource_version;
                    continue;
                }
                WatchEvent::Unreadable(error) => {
                    self.unreadable(&error);
                    continue;
                }
            };
            let version = object.meta().resource_version.clone().unwrap_or_default();
            let revision = number(&version);
            self.resource_version = version;
            self.shared.apply(ObjectKey::of(&object), (!gone).then_some(object), revision);
        }
        Ok(())
    }

    fn unreadable(&self, error: &str) {
        tracing::warn!(resource = %self.source.resource.plural, error, "an object cannot be read and is left out");
    }
}

/// The server does not know how to stream an initial list.
fn unsupported(error: &Error) -> bool {
    error.api().is_some_and(|e| matches!(e.code(), 400 | 405 | 415 | 422))
}

fn number(resource_version: &str) -> u64 {
    resource_version.parse().unwrap_or(0)
}
