//! A watch of the run's pods, as any client sees them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;

use crate::phases::{Bench, JSON, in_namespace};
use crate::{BenchError, Endpoint, Worker};

/// The watch. It goes on where it was when the server ends it.
pub struct Pods {
    endpoint: Arc<Endpoint>,
    selector: &'static str,
    /// Where the watch goes on if the server ends it, as it does with watchers that it finds slow.
    revision: String,
    body: Incoming,
    rest: Vec<u8>,
    seen: usize,
    /// How long to wait for the next event.
    patience: Duration,
    _worker: Worker,
}

/// What the phases look at in an event.
#[derive(Deserialize)]
pub struct Event {
    /// `ADDED`, `MODIFIED`, `DELETED`.
    pub r#type: String,
    /// The pod.
    pub object: Pod,
}

/// A pod.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Pod {
    metadata: Meta,
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Meta {
    name: String,
    resource_version: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

impl Pod {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    /// Whether its condition `Ready` is true.
    pub fn is_ready(&self) -> bool {
        self.status.conditions.iter().any(|c| c.r#type == "Ready" && c.status == "True")
    }
}

async fn open(
    endpoint: &Arc<Endpoint>,
    selector: &str,
    from: &str,
) -> Result<(Worker, Incoming), BenchError> {
    let mut worker = endpoint.connect().await?;
    let from = if from.is_empty() { String::new() } else { format!("&resourceVersion={from}") };
    let path = in_namespace("pods", &format!("?watch=true{selector}{from}"));
    let (status, body) = worker.open(Method::GET, &path, JSON, Bytes::new()).await?;
    if !status.is_success() {
        let what = format!("GET {path}");
        return Err(BenchError::Refused { what, status: status.as_u16(), body: String::new() });
    }
    Ok((worker, body))
}

impl Pods {
    /// Watches the pods of the run that a selector (`&fieldSelector=…`, or nothing) takes.
    pub async fn watch(bench: &Bench<'_>, selector: &'static str) -> Result<Pods, BenchError> {
        let endpoint = Arc::clone(&bench.endpoint);
        let (worker, body) = open(&endpoint, selector, "").await?;
        let revision = String::new();
        let patience = bench.args.patience();
        Ok(Pods { endpoint, selector, revision, body, rest: Vec::new(), seen: 0, patience, _worker: worker })
    }

    /// The name in the next wanted event, and the event's size in bytes. Others are passed over.
    ///
    /// # Errors
    /// [`BenchError::Late`] when nothing comes for as long as the run has patience, in the words `what`, `done` of `all`; what breaks or
    /// refuses the connection.
    pub async fn next(
        &mut self,
        wanted: impl Fn(&Event) -> bool,
        (what, done, all): (&'static str, usize, usize),
    ) -> Result<(String, usize), BenchError> {
        loop {
            while let Some(length) = self.rest[self.seen..].iter().position(|b| *b == b'\n') {
                let line = &self.rest[self.seen..self.seen + length];
                let event: Option<Event> = serde_json::from_slice(line).ok();
                self.seen += length + 1;
                let Some(mut event) = event else { continue };
                let revision = std::mem::take(&mut event.object.metadata.resource_version);
                if !revision.is_empty() {
                    self.revision = revision;
                }
                if wanted(&event) {
                    return Ok((event.object.metadata.name, length));
                }
            }
            self.rest.drain(..self.seen);
            self.seen = 0;
            let late = || BenchError::Late { what, done, wanted: all, seconds: self.patience.as_secs() };
            let frame = tokio::time::timeout(self.patience, self.body.frame()).await.map_err(|_| late())?;
            match frame {
                Some(Ok(frame)) => self.rest.extend_from_slice(frame.data_ref().map_or(&[], |d| d)),
                _ => {
                    self.rest.clear();
                    (self._worker, self.body) = open(&self.endpoint, self.selector, &self.revision).await?;
                }
            }
        }
    }
}
