//! A pull from the name to the record: manifest, configuration, layers side by side, the index last.

use super::blob::{fetch, pipe};
use super::config::Registries;
use super::endpoint::Endpoint;
use super::http::Http;
use super::manifest::{self, ACCEPT, DOCUMENT_MAX, Descriptor, Manifest};
use super::proxy::Proxies;
use super::{Fault, Limits};
use crate::config::PullRequest;
use crate::images::{Configuration, Images, Record, Reference, digest, layer_name};
use crate::proto::now;
use crate::runtime::{Error, ImageError};
use crate::state::Progress;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{ACCEPT as ACCEPT_HEADER, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{HeaderName, Method};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use tokio::sync::{mpsc, oneshot, watch};

/// Times a pull is begun anew because somebody removed a layer that it counted on.
const ROUNDS_MAX: u32 = 3;
/// Indexes within indexes.
const DEPTH_MAX: usize = 3;
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Pulls an image into every store at once; answers with its record. Each layer is downloaded once.
pub async fn pull(
    stores: &[Images],
    registries: Option<&Path>,
    limits: Limits,
    request: &PullRequest,
    progress: Option<mpsc::Sender<Progress>>,
) -> Result<Record, Error> {
    let image = Reference::parse(&request.reference)?;
    let explain = |fault: Fault| fault.explain(&request.reference, &image.registry);
    let registries = Arc::new(Registries::load(registries).map_err(explain)?);
    let places = registries.places(&image, request.auth.as_ref()).map_err(explain)?;
    let endpoints = places.into_iter().map(|p| Endpoint::new(p, &image.repository)).collect();
    let http = Http::new(registries, Proxies::of_process().map_err(explain)?, limits.times);
    let pull = Pull { stores, limits, image: &image, given: &request.reference, endpoints, http };
    let manifest = pull.resolve().await.map_err(explain)?;
    for _ in 0..ROUNDS_MAX {
        if let Some(record) = pull.bring(&manifest, progress.clone()).await? {
            return Ok(record);
        }
    }
    let reason = "its layers are removed as fast as they come".into();
    Err(ImageError::Other { reference: request.reference.clone(), reason }.into())
}

struct Pull<'a> {
    stores: &'a [Images],
    limits: Limits,
    image: &'a Reference,
    given: &'a str,
    endpoints: Vec<Endpoint>,
    http: Http,
}

/// A manifest and where it came from.
enum Resolved {
    /// The image is here already under this digest.
    Here(Record),
    Found {
        /// Digest of what the name means: an index or a manifest.
        digest: String,
        config: Descriptor,
        layers: Vec<Descriptor>,
        /// Index of the endpoint.
        at: usize,
    },
}

/// Counts what has arrived.
struct Meter {
    to: Option<mpsc::Sender<Progress>>,
    done: AtomicU64,
    total: u64,
    layers_done: AtomicU32,
    layers: u32,
}

impl Meter {
    fn tell(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(to) = &self.to {
            let layers_done = self.layers_done.load(Ordering::Relaxed);
            // A listener that is behind misses a step and no more.
            let _ = to.try_send(Progress { done, total: self.total, layers_done, layers: self.layers });
        }
    }
}

impl Pull<'_> {
    /// Asks place after place for the manifest. When none has it, the registry's own answer counts.
    async fn resolve(&self) -> Result<Resolved, Fault> {
        let mut before = Vec::new();
        for (at, endpoint) in self.endpoints.iter().enumerate() {
            let fault = match self.resolve_at(at, endpoint).await {
                Ok(found) => return Ok(found),
                Err(fault) => fault,
            };
            if at + 1 == self.endpoints.len() {
                return Err(also(fault, &before));
            }
            tracing::debug!(mirror = endpoint.name(), error = %fault, "a mirror did not help");
            before.push(format!("mirror {}: {fault}", endpoint.name()));
        }
        Err(Fault::protocol("no registry is configured for it".into()))
    }

    async fn resolve_at(&self, at: usize, endpoint: &Endpoint) -> Result<Resolved, Fault> {
        let mut accept = HeaderMap::new();
        accept.insert(ACCEPT_HEADER, HeaderValue::from_static(ACCEPT));
        let wanted = self.image.digest.as_deref().or(self.image.tag.as_deref()).unwrap_or("latest");
        if let Some(record) = self.unchanged(endpoint, wanted, &accept).await? {
            return Ok(Resolved::Here(record));
        }
        let (mut top, mut name, mut expected) = (None, wanted.to_owned(), self.image.digest.clone());
        for _ in 0..DEPTH_MAX {
            let path = format!("manifests/{name}");
            let got = endpoint.document(&self.http, &self.limits, &path, &accept, DOCUMENT_MAX).await?;
            let (headers, bytes) = got;
            let actual = digest(&bytes);
            let promised = headers.get(&CONTENT_DIGEST).and_then(|v| v.to_str().ok()).map(str::to_owned);
            let promised = promised.filter(|p| p.starts_with("sha256:"));
            if let Some(digest) = expected.or(promised).filter(|d| *d != actual) {
                let reason = format!("the {} bytes of the manifest hash to {actual}", bytes.len());
                return Err(Fault::Corrupt { digest, reason });
            }
            let top = top.get_or_insert(actual);
            let media = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
            match manifest::parse(&bytes, media)? {
                Manifest::Image { config, layers } => {
                    return Ok(Resolved::Found { digest: top.clone(), config, layers, at });
                }
                Manifest::Index(own) => {
                    name.clone_from(&own.digest);
                    expected = Some(own.digest);
                }
            }
        }
        Err(Fault::protocol(format!("its indexes are nested deeper than {DEPTH_MAX}")))
    }

    /// The record, if every store has what the name means at the registry by now. Costs a HEAD, and only
    /// when an image of that name is here.
    async fn unchanged(
        &self,
        endpoint: &Endpoint,
        wanted: &str,
        accept: &HeaderMap,
    ) -> Result<Option<Record>, Fault> {
        let known = |store: &Images| store.find(self.given).ok().flatten();
        let Some(record) = self.stores.first().and_then(known) else { return Ok(None) };
        let path = format!("manifests/{wanted}");
        let answer = endpoint.ask(&self.http, Method::HEAD, &path, accept).await?;
        let promised = answer.headers().get(&CONTENT_DIGEST).and_then(|v| v.to_str().ok());
        let Some(name) = promised.map(|d| self.image.with_digest(d)) else { return Ok(None) };
        let same =
            |store: &Images| known(store).is_some_and(|r| r.digests.contains(&name) && store.complete(&r));
        Ok(self.stores.iter().all(same).then_some(record))
    }

    /// Brings configuration and layers and writes the record; `None` when a layer vanished meanwhile.
    async fn bring(
        &self,
        resolved: &Resolved,
        progress: Option<mpsc::Sender<Progress>>,
    ) -> Result<Option<Record>, Error> {
        let (top, config, layers, at) = match resolved {
            Resolved::Here(record) => return Ok(Some(record.clone())),
            Resolved::Found { digest, config, layers, at } => (digest, config, layers, *at),
        };
        // The place that had the manifest first, then the others.
        let mut endpoints: Vec<&Endpoint> = self.endpoints.iter().collect();
        let first = endpoints.remove(at);
        endpoints.insert(0, first);
        let bytes = self.configuration(&endpoints, config).await?;
        let parsed = self.parse(&bytes, layers.len())?;
        let size = layers.iter().fold(0u64, |sum, l| sum.saturating_add(l.size));
        let meter = Meter {
            to: progress,
            done: AtomicU64::new(0),
            total: size,
            layers_done: AtomicU32::new(0),
            layers: u32::try_from(layers.len()).unwrap_or(u32::MAX),
        };
        meter.tell(0);
        self.layers(&endpoints, layers, &parsed.rootfs.diff_ids, &meter).await?;
        let record = Record {
            id: config.digest.clone(),
            tags: if self.image.digest.is_none() {
                self.image.tagged().into_iter().collect()
            } else {
                vec![]
            },
            digests: vec![self.image.with_digest(top)],
            layers: parsed.rootfs.diff_ids.iter().rev().map(|d| layer_name(d)).collect(),
            size: size.saturating_add(config.size),
            config: parsed.config.unwrap_or_default(),
            pinned: false,
            last_used: now(),
        };
        for store in self.stores {
            if !store.commit(&record, &bytes)? {
                return Ok(None);
            }
        }
        Ok(Some(record))
    }

    async fn configuration(&self, endpoints: &[&Endpoint], config: &Descriptor) -> Result<Bytes, Error> {
        let explain = |fault: Fault| fault.explain(self.given, &self.image.registry);
        if config.size > DOCUMENT_MAX as u64 {
            return Err(explain(Fault::protocol(format!("its configuration has {} bytes", config.size))));
        }
        let path = format!("blobs/{}", config.digest);
        let mut last = Fault::protocol("no place to ask".into());
        for endpoint in endpoints {
            let got =
                endpoint.document(&self.http, &self.limits, &path, &HeaderMap::new(), DOCUMENT_MAX).await;
            match got {
                Ok((_, bytes)) if bytes.len() as u64 == config.size && digest(&bytes) == config.digest => {
                    return Ok(bytes);
                }
                Ok((_, bytes)) => {
                    let (length, actual) = (bytes.len(), digest(&bytes));
                    let reason = format!(
                        "the configuration has {length} bytes that hash to {actual}, its manifest says {} bytes",
                        config.size
                    );
                    last = Fault::Corrupt { digest: config.digest.clone(), reason };
                }
                Err(fault) => last = fault,
            }
        }
        Err(explain(last))
    }

    fn parse(&self, bytes: &[u8], layers: usize) -> Result<Configuration, Error> {
        let fail = |reason: String| ImageError::Other { reference: self.given.to_owned(), reason };
        let parsed: Configuration = serde_json::from_slice(bytes)
            .map_err(|e| fail(format!("its configuration does not parse: {e}")))?;
        parsed.check().map_err(fail)?;
        let ids = &parsed.rootfs.diff_ids;
        if ids.len() != layers {
            return Err(fail(format!("it has {layers} layers and {} digests for them", ids.len())).into());
        }
        Ok(parsed)
    }

    async fn layers(
        &self,
        endpoints: &[&Endpoint],
        layers: &[Descriptor],
        diff_ids: &[String],
        meter: &Meter,
    ) -> Result<(), Error> {
        let (stop, stopped) = watch::channel(false);
        let mut jobs = Vec::new();
        for (layer, diff_id) in layers.iter().zip(diff_ids) {
            let (stop, stopped) = (&stop, stopped.clone());
            jobs.push(async move {
                let done = self.layer(endpoints, layer, diff_id, meter, stopped).await;
                if done.is_err() {
                    stop.send_replace(true);
                }
                done
            });
        }
        // Every job is waited for, so that none leaves a layer half unpacked.
        let results: Vec<_> = stream::iter(jobs).buffer_unordered(self.limits.layers_at_once).collect().await;
        let mut failures = results.into_iter().filter_map(Result::err);
        let Some(failure) = failures.find_map(|f| f) else { return Ok(()) };
        if matches!(&failure, Error::Image(ImageError::Corrupt { .. } | ImageError::Layer { .. })) {
            for store in self.stores {
                store.discard(diff_ids)?;
            }
        }
        Err(failure)
    }

    /// One layer into every store that lacks it. The error is `None` if another layer's failure stopped it.
    async fn layer(
        &self,
        endpoints: &[&Endpoint],
        layer: &Descriptor,
        diff_id: &str,
        meter: &Meter,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<(), Option<Error>> {
        let locks: Vec<_> = self.stores.iter().map(|s| s.claim(diff_id)).collect();
        let mut held = Vec::new();
        for lock in &locks {
            held.push(lock.lock().await);
        }
        if *stopped.borrow() {
            return Err(None);
        }
        let lacking: Vec<Images> = self.stores.iter().filter(|s| !s.has_layer(diff_id)).cloned().collect();
        if lacking.is_empty() {
            meter.layers_done.fetch_add(1, Ordering::Relaxed);
            meter.tell(layer.size);
            return Ok(());
        }
        let (mut sinks, mut tasks) = (Vec::new(), Vec::new());
        for store in lacking {
            let (sink, source) = pipe();
            sinks.push(sink);
            let (diff_id, bound) = (diff_id.to_owned(), self.limits.unpack.bound(layer.size));
            tasks.push(thread(move || store.unpack_layer(&diff_id, source, bound)));
        }
        let arrived = |bytes| meter.tell(bytes);
        let fetched = tokio::select! {
            fetched = fetch(&self.http, &self.limits, endpoints, layer, &mut sinks, &arrived) => Some(fetched),
            _ = stopped.wait_for(|s| *s) => None,
        };
        drop(sinks);
        let mut unpacked = Ok(());
        for task in tasks {
            let done =
                task.await.unwrap_or_else(|_| Err(Error::Failed("the thread that unpacks ended".into())));
            unpacked = unpacked.and(done);
        }
        match (fetched, unpacked) {
            (Some(Ok(())), Ok(())) => {
                meter.layers_done.fetch_add(1, Ordering::Relaxed);
                meter.tell(0);
                Ok(())
            }
            (None, _) => Err(None),
            // Where the download is to blame, what the reader says follows from it.
            (Some(Err(Fault::Protocol(_)) | Ok(())), Err(error)) => Err(Some(error)),
            (Some(Err(fault)), _) => Err(Some(fault.explain(self.given, &self.image.registry))),
        }
    }
}

/// Runs `work` in a thread of its own. The pool for blocking work is no place for what waits for the network:
/// looking up a name needs it too.
fn thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
    let (to, from) = oneshot::channel();
    let spawned = std::thread::Builder::new().name("layer".into()).spawn(move || {
        // Nobody listens when the pull was given up.
        let _ = to.send(work());
    });
    if let Err(error) = spawned {
        tracing::warn!(%error, "no thread for a layer");
    }
    from
}

/// Adds what mirrors said to the registry's own answer.
fn also(fault: Fault, before: &[String]) -> Fault {
    if before.is_empty() {
        return fault;
    }
    let add = |text: String| format!("{text} ({})", before.join("; "));
    match fault {
        Fault::Unreachable(text) => Fault::Unreachable(add(text)),
        Fault::Broken(text) => Fault::Broken(add(text)),
        Fault::Setup(text) => Fault::Setup(add(text)),
        Fault::Protocol(text) => Fault::Protocol(add(text)),
        Fault::Unauthorized(text) => Fault::Unauthorized(add(text)),
        Fault::Corrupt { digest, reason } => Fault::Corrupt { digest, reason: add(reason) },
        Fault::Status { code, text, from, headers } => Fault::Status { code, text: add(text), from, headers },
    }
}
