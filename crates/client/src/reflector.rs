//! Keeps a cache current: one streaming list, then one watch for as long as it lasts.
//!
//! A server that cannot stream the initial list is asked for a paged list instead. A watch that ends is
//! taken up where it ended; one whose revision is too old starts over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use tokio::time::Instant;

use crate::cache::Shared;
use crate::watch::Told;
use crate::{ApiResource, Client, Error, List, ListOptions, Object, ObjectKey, WatchStream};

const DELAY_MIN: Duration = Duration::from_millis(50);
const DELAY_MAX: Duration = Duration::from_secs(30);
/// A watch that lived this long proves the server well.
const HEALTHY: Duration = Duration::from_secs(10);

/// Where a cache is filled from.
pub(crate) struct Source {
    pub(crate) client: Client,
    pub(crate) resource: ApiResource,
    pub(crate) namespace: String,
    pub(crate) options: ListOptions,
    /// The server sends metadata alone.
    pub(crate) partial: bool,
}

/// What a reflector fills, without its kind: there is one reflector in the program and not one for every
/// kind. Objects come as text.
pub(crate) trait Sink: Send + Sync {
    /// A reading of the whole collection begins.
    fn begin(&mut self);
    /// One object of the collection.
    fn collect(&mut self, object: &[u8], gone: bool) -> Result<(), serde_json::Error>;
    /// One page of the collection.
    fn collect_page(&mut self, page: &[u8]) -> Result<ListMeta, serde_json::Error>;
    /// The collection is complete, as of this revision.
    fn complete(&mut self, revision: u64);
    /// One object changed or went. Gives its resource version.
    fn apply(&mut self, object: &[u8], gone: bool) -> Result<String, serde_json::Error>;
    /// Nothing changed up to this revision.
    fn advance(&mut self, revision: u64);
}

/// The sink of a cache.
pub(crate) struct Filling<T> {
    shared: Arc<Shared<T>>,
    objects: BTreeMap<ObjectKey, T>,
}

impl<T> Filling<T> {
    pub(crate) fn of(shared: Arc<Shared<T>>) -> Self {
        Self { shared, objects: BTreeMap::new() }
    }
}

impl<T: Object> Sink for Filling<T> {
    fn begin(&mut self) {
        self.objects.clear();
    }

    fn collect(&mut self, object: &[u8], gone: bool) -> Result<(), serde_json::Error> {
        let object: T = serde_json::from_slice(object)?;
        let key = ObjectKey::of(&object);
        match gone {
            true => drop(self.objects.remove(&key)),
            false => drop(self.objects.insert(key, object)),
        }
        Ok(())
    }

    fn collect_page(&mut self, page: &[u8]) -> Result<ListMeta, serde_json::Error> {
        let page: List<T> = serde_json::from_slice(page)?;
        self.objects.extend(page.items.into_iter().map(|o| (ObjectKey::of(&o), o)));
        Ok(page.metadata)
    }

    fn complete(&mut self, revision: u64) {
        self.shared.replace(std::mem::take(&mut self.objects), revision);
    }

    fn apply(&mut self, object: &[u8], gone: bool) -> Result<String, serde_json::Error> {
        let object: T = serde_json::from_slice(object)?;
        let version = object.meta().resource_version.clone().unwrap_or_default();
        self.shared.apply(ObjectKey::of(&object), (!gone).then_some(object), number(&version));
        Ok(version)
    }

    fn advance(&mut self, revision: u64) {
        self.shared.advance(revision);
    }
}

struct Reflector {
    source: Source,
    sink: Box<dyn Sink>,
    /// Where the watch goes on; empty starts over.
    resource_version: String,
    streaming: bool,
}

pub(crate) async fn run(source: Source, sink: Box<dyn Sink>) {
    let mut reflector = Reflector { source, sink, resource_version: String::new(), streaming: true };
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

impl Reflector {
    /// Lists if needed, then watches until the watch ends.
    async fn round(&mut self) -> Result<(), Error> {
        if !self.resource_version.is_empty() {
            let stream = self.watch(false).await?;
            return self.follow(stream).await;
        }
        self.sink.begin();
        if self.streaming {
            match self.watch(true).await {
                Ok(stream) => return self.fill(stream).await,
                Err(error) if unsupported(&error) => self.streaming = false,
                Err(error) => return Err(error),
            }
        }
        self.list().await?;
        let stream = self.watch(false).await?;
        self.follow(stream).await
    }

    /// Reads the collection page by page.
    async fn list(&mut self) -> Result<(), Error> {
        const PAGE: u32 = 500;
        let s = &self.source;
        let mut options = ListOptions { limit: PAGE, ..s.options.clone() };
        loop {
            let (what, page) = s.client.list_text(&s.resource, &s.namespace, &options, s.partial).await?;
            let metadata = self.sink.collect_page(&page).map_err(|source| Error::Decode { what, source })?;
            self.resource_version = metadata.resource_version.unwrap_or_default();
            options.continue_token = metadata.continue_.unwrap_or_default();
            if options.continue_token.is_empty() {
                self.sink.complete(number(&self.resource_version));
                return Ok(());
            }
        }
    }

    async fn watch(&self, initial: bool) -> Result<WatchStream, Error> {
        let s = &self.source;
        let options = ListOptions { resource_version: self.resource_version.clone(), ..s.options.clone() };
        s.client.watch_at(&s.resource, &s.namespace, &options, initial, s.partial).await
    }

    /// Reads the initial events, then follows.
    async fn fill(&mut self, mut stream: WatchStream) -> Result<(), Error> {
        loop {
            let Some(event) = stream.next_text().await? else { return Ok(()) };
            match event.told()? {
                Told::Object { kind, object } => {
                    if let Err(error) = self.sink.collect(object, kind == "DELETED") {
                        self.unreadable(&error);
                    }
                }
                Told::Bookmark { resource_version, initial_end: true } => {
                    self.resource_version = resource_version;
                    break;
                }
                Told::Bookmark { .. } => {}
            }
        }
        self.sink.complete(number(&self.resource_version));
        self.follow(stream).await
    }

    async fn follow(&mut self, mut stream: WatchStream) -> Result<(), Error> {
        while let Some(event) = stream.next_text().await? {
            match event.told()? {
                Told::Object { kind, object } => match self.sink.apply(object, kind == "DELETED") {
                    Ok(version) => self.resource_version = version,
                    Err(error) => self.unreadable(&error),
                },
                Told::Bookmark { resource_version, .. } => {
                    self.sink.advance(number(&resource_version));
                    self.resource_version = resource_version;
                }
            }
        }
        Ok(())
    }

    fn unreadable(&self, error: &serde_json::Error) {
        tracing::warn!(resource = %self.source.resource.plural, %error, "an object cannot be read and is left out");
    }
}

/// The server does not know how to stream an initial list.
fn unsupported(error: &Error) -> bool {
    error.api().is_some_and(|e| matches!(e.code(), 400 | 405 | 415 | 422))
}

fn number(resource_version: &str) -> u64 {
    resource_version.parse().unwrap_or(0)
}
