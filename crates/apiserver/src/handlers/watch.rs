//! Watches: a cursor into the table's ring of events, with frames shared by all watchers of the same form.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use rand::Rng;
use serde_json::{Value, json};
use serve::Body;
use store::{Event, EventKind, Object, StoreError};
use tokio::time::Instant;

use crate::conversion;
use crate::metrics::Watching;
use crate::negotiate::{Format, Output, View};
use crate::proto;
use crate::resource::Resource;
use crate::selector::Selection;
use crate::server::{ApiServer, Call};
use crate::status::{Cause, Status};

use super::alarm::{self, Alarm};
use super::list::{ListOptions, pick};

/// How often a bookmark is sent when nothing else happens.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Events taken from the ring at a time.
const BATCH_MAX: usize = 256;
/// A chunk of frames is sent when it has this many bytes.
const CHUNK: usize = 64 << 10;
/// How long a watch lasts that asks for nothing, at least; up to twice this.
const DURATION_MIN: Duration = Duration::from_secs(1800);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Added = 0,
    Modified = 1,
    Deleted = 2,
}

impl Seen {
    fn name(self) -> &'static str {
        ["ADDED", "MODIFIED", "DELETED"][self as usize]
    }
}

/// What a watch has waited for.
enum News {
    Events(Result<store::Batch, StoreError>),
    Alarm(alarm::Cause),
}

struct Watcher {
    resource: Arc<Resource>,
    selection: Selection,
    namespace: String,
    output: Output,
    include: String,
    columns_sent: bool,
    initial: VecDeque<Arc<Object>>,
    initial_end: Option<u64>,
    sent: u64,
    events: Box<dyn store::Watch>,
    alarm: Alarm,
    ended: bool,
    /// For kinds that a webhook converts.
    converts: Option<Arc<ApiServer>>,
    watching: Option<Watching>,
}

/// GET of a collection or object with `watch`.
pub async fn watch(call: &mut Call) -> Result<Response<Body>, Status> {
    let output = call.output()?;
    let mut options = ListOptions::parse(call)?;
    if !call.info.name.is_empty() {
        let fields = format!("metadata.name={}", call.info.name);
        options.selection = Selection::parse("", &fields, &call.resource.labels)?;
    }
    let bookmarks = call.query.flag("allowWatchBookmarks");
    let initial_events = initial_events(call, &options, bookmarks)?;
    let timeout = match call.query.number("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds as u64),
        _ => DURATION_MIN.mul_f64(1.0 + rand::rng().random::<f64>()),
    };
    let start = super::get::revision(&options.version)?;
    let mut initial = VecDeque::new();
    let (from, initial_end) = match (start, initial_events) {
        (Some(revision), None | Some(false)) => {
            super::reach(&*call.server.store, Some(revision)).await?;
            (revision, None)
        }
        (None, Some(false)) => (call.server.store.revision(), None),
        (start, wanted) => {
            super::reach(&*call.server.store, start).await?;
            options.limit = 0;
            options.version = "0".into();
            options.version_match = String::new();
            let picked = pick(call, &options).await?;
            initial = picked.objects.into();
            (picked.revision, wanted.is_some().then_some(picked.revision))
        }
    };
    let events = match call.server.store.watch(&call.resource.table, from) {
        Ok(events) => events,
        Err(StoreError::Expired { requested, oldest }) => return Ok(expired(output, requested, oldest)),
        Err(other) => return Err(super::unavailable(other)),
    };
    let now = Instant::now();
    let watcher = Watcher {
        resource: call.resource.clone(),
        selection: options.selection,
        namespace: if call.resource.def.namespaced() { call.info.namespace.clone() } else { String::new() },
        output,
        include: call.query.text("includeObject").to_string(),
        columns_sent: false,
        initial,
        initial_end,
        sent: from,
        events,
        alarm: Alarm::new(
            now + timeout,
            bookmarks.then(|| now + BOOKMARK_EVERY.mul_f64(0.9 + 0.1 * rand::rng().random::<f64>())),
            BOOKMARK_EVERY,
            call.server.stopping(),
        ),
        ended: false,
        converts: conversion::is_hooked(&call.resource).then(|| call.server.clone()),
        watching: call.watching.take(),
    };
    let stream = futures_util::stream::unfold(watcher, |mut watcher| async move {
        let chunk = watcher.next().await?;
        Some((Ok(chunk), watcher))
    });
    Ok(respond(output, serve::streamed(stream)))
}

fn respond(output: Output, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(output.format.stream_type()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

fn initial_events(call: &Call, options: &ListOptions, bookmarks: bool) -> Result<Option<bool>, Status> {
    let forbid = |field: &str, text: &str| {
        let cause = Cause::forbidden(field, text);
        Status::invalid("meta.k8s.io", "ListOptions", "", vec![cause])
    };
    match call.query.get("sendInitialEvents") {
        None if !options.version_match.is_empty() => {
            let what = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            let mut causes = vec![Cause::forbidden("resourceVersionMatch", what)];
            if options.version_match != "NotOlderThan" {
                let text = format!(
                    "Unsupported value: {:?}: supported values: \"NotOlderThan\"",
                    options.version_match
                );
                causes.push(Cause::field("FieldValueNotSupported", "resourceVersionMatch", text));
            }
            Err(Status::invalid("meta.k8s.io", "ListOptions", "", causes))
        }
        None => Ok(None),
        Some(_) if options.version_match != "NotOlderThan" => Err(forbid(
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        )),
        Some("false" | "0") => Ok(Some(false)),
        Some(_) if !bookmarks => {
            Err(forbid("allowWatchBookmarks", "sendInitialEvents requires allowWatchBookmarks to be true"))
        }
        Some(_) => Ok(Some(true)),
    }
}

impl Watcher {
    /// The next chunk of frames, or the end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        if !self.initial.is_empty() {
            return Some(self.initial_chunk());
        }
        if let Some(revision) = self.initial_end.take() {
            return Some(self.bookmark(revision, true));
        }
        loop {
            if self.alarm.is_stopping() {
                return None;
            }
            match self.wait().await {
                News::Events(Ok((events, known))) => {
                    let chunk = match self.converts.clone() {
                        None => self.frames(&events),
                        Some(server) => match self.converted(&server, &events).await {
                            Ok(chunk) => chunk,
                            Err(status) => {
                                self.ended = true;
                                return Some(error_frame(self.output, &status));
                            }
                        },
                    };
                    self.sent = known;
                    if !chunk.is_empty() {
                        return Some(chunk);
                    }
                }
                News::Events(Err(error)) => {
                    self.ended = true;
                    return match error {
                        StoreError::Expired { requested, oldest } => {
                            Some(error_frame(self.output, &too_old(requested, oldest)))
                        }
                        StoreError::Closed => None,
                        other => Some(error_frame(self.output, &Status::unavailable(other.to_string()))),
                    };
                }
                News::Alarm(alarm::Cause::End) => return None,
                News::Alarm(alarm::Cause::Bookmark) => {
                    self.sent = self.sent.max(self.events.progress());
                    return Some(self.bookmark(self.sent, false));
                }
            }
        }
    }

    /// Waits for events first of all.
    async fn wait(&mut self) -> News {
        let (mut events, alarm) = (self.events.next(BATCH_MAX), &mut self.alarm);
        poll_fn(|cx| match events.as_mut().poll(cx) {
            Poll::Ready(events) => Poll::Ready(News::Events(events)),
            Poll::Pending => alarm.poll(cx).map(News::Alarm),
        })
        .await
    }

    fn initial_chunk(&mut self) -> Bytes {
        let mut chunk = Vec::new();
        while let Some(object) = self.initial.pop_front() {
            let frame = self.object_frame(Seen::Added, &object);
            chunk.extend_from_slice(&frame);
            if chunk.len() >= CHUNK {
                break;
            }
        }
        chunk.into()
    }

    /// The frames of events whose objects a webhook converts.
    async fn converted(&mut self, server: &ApiServer, events: &[Arc<Event>]) -> Result<Bytes, Status> {
        let convert = |objects| conversion::objects(server, &self.resource, objects);
        let seen: Vec<(Seen, Arc<Object>)> = match self.selection.has_fields() {
            false => {
                let seen = events.iter().filter_map(|event| Some((self.seen(event)?, event.object.clone())));
                let (seen, objects): (Vec<Seen>, Vec<Arc<Object>>) = seen.unzip();
                seen.into_iter().zip(convert(objects).await?).collect()
            }
            // Fields are those of the wanted version: both states have to be converted to know.
            true => {
                let before = events.iter().filter_map(|event| event.previous.clone()).collect();
                let (mut before, objects) = (
                    convert(before).await?.into_iter(),
                    convert(events.iter().map(|event| event.object.clone()).collect()).await?,
                );
                let states = events.iter().zip(objects).filter_map(|(event, object)| {
                    let previous = event.previous.as_ref().and_then(|_| before.next());
                    Some((self.seen_as(event, &object, previous.as_deref())?, object))
                });
                states.collect()
            }
        };
        let mut chunk: Vec<u8> = Vec::new();
        for (seen, object) in &seen {
            let seen = *seen;
            let frame = self.object_frame(seen, object);
            if let Some(watching) = &self.watching {
                watching.sent(frame.len());
            }
            chunk.extend_from_slice(&frame);
        }
        Ok(chunk.into())
    }

    fn frames(&mut self, events: &[Arc<Event>]) -> Bytes {
        let mut chunk: Vec<u8> = Vec::new();
        let mut only: Option<Bytes> = None;
        for event in events {
            let Some(seen) = self.seen(event) else { continue };
            let frame = self.frame(event, seen);
            if let Some(watching) = &self.watching {
                watching.sent(frame.len());
            }
            match only.take() {
                None if chunk.is_empty() => only = Some(frame),
                first => {
                    chunk.extend_from_slice(first.as_deref().unwrap_or_default());
                    chunk.extend_from_slice(&frame);
                }
            }
        }
        only.unwrap_or_else(|| chunk.into())
    }

    /// What the event is to this watcher: objects enter and leave its selection.
    fn seen(&self, event: &Event) -> Option<Seen> {
        self.seen_as(event, &event.object, event.previous.as_deref())
    }

    /// Like [`Self::seen`], with these states of the object.
    fn seen_as(&self, event: &Event, object: &Object, previous: Option<&Object>) -> Option<Seen> {
        if !self.namespace.is_empty() && *event.object.key.namespace != *self.namespace {
            return None;
        }
        if self.selection.is_everything() {
            return Some(match event.kind {
                EventKind::Created => Seen::Added,
                EventKind::Updated => Seen::Modified,
                EventKind::Deleted => Seen::Deleted,
            });
        }
        let before = previous.is_some_and(|object| self.selection.matches(object));
        let after = event.kind != EventKind::Deleted && self.selection.matches(object);
        match (before, after) {
            (false, true) => Some(Seen::Added),
            (true, true) => Some(Seen::Modified),
            (true, false) => Some(Seen::Deleted),
            (false, false) => None,
        }
    }

    fn frame(&mut self, event: &Event, seen: Seen) -> Bytes {
        let whole = self.output.view == View::Whole;
        if whole
            && matches!(self.output.format, Format::Json | Format::Pretty)
            && self.resource.stored.is_none()
        {
            let frame = || json_frame(seen.name(), &event.object.json);
            return event.frames[seen as usize].get_or_init(frame).clone();
        }
        self.object_frame(seen, &event.object)
    }

    fn object_frame(&mut self, seen: Seen, object: &Object) -> Bytes {
        let resource = &self.resource;
        match (self.output.view, self.output.format) {
            (View::Whole, Format::Protobuf) => proto_frame(seen.name(), &proto::enveloped(resource, object)),
            (View::Whole, Format::Yaml) => {
                let value: Value = serde_json::from_slice(&resource.present(object)).unwrap_or_default();
                value_frame(self.output, seen.name(), &value, "")
            }
            (View::Whole, _) => json_frame(seen.name(), &resource.present(object)),
            (view, _) => {
                let value: Value = serde_json::from_slice(&resource.present(object)).unwrap_or_default();
                let shown = match view {
                    View::Table => {
                        let columns = !std::mem::replace(&mut self.columns_sent, true);
                        let version = json!({"resourceVersion": object.modified.to_string()});
                        crate::view::table(resource, &[value], version, columns, &self.include)
                    }
                    _ => crate::view::partial(&value),
                };
                let shown = self.output.versioned(shown);
                value_frame(self.output, seen.name(), &shown, "meta_v1.PartialObjectMetadata")
            }
        }
    }

    fn bookmark(&self, revision: u64, initial_end: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let def = &self.resource.def;
        match self.output.view {
            View::Whole => {
                let value = json!({"kind": def.kind, "apiVersion": def.api_version(), "metadata": metadata});
                if self.output.format == Format::Protobuf {
                    let bytes =
                        schema::protobuf::encode_object(def.schema(), &def.api_version(), &def.kind, &value);
                    return proto_frame("BOOKMARK", &bytes);
                }
                value_frame(self.output, "BOOKMARK", &value, "")
            }
            View::Metadata => {
                let value = crate::view::partial(&json!({"metadata": metadata}));
                value_frame(self.output, "BOOKMARK", &value, "meta_v1.PartialObjectMetadata")
            }
            View::Table => {
                let value = json!({"kind": def.kind, "apiVersion": def.api_version(), "metadata": metadata});
                let version = json!({"resourceVersion": revision.to_string()});
                let table = crate::view::table(&self.resource, &[value], version, false, &self.include);
                value_frame(self.output, "BOOKMARK", &table, "")
            }
        }
    }
}

fn json_frame(kind: &str, object: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(object.len() + kind.len() + 24);
    frame.extend_from_slice(b"{\"type\":\"");
    frame.extend_from_slice(kind.as_bytes());
    frame.extend_from_slice(b"\",\"object\":");
    frame.extend_from_slice(object);
    frame.extend_from_slice(b"}\n");
    frame.into()
}

fn proto_frame(kind: &str, enveloped: &[u8]) -> Bytes {
    let event = schema::protobuf::encode_watch_event(kind, enveloped);
    let mut frame = Vec::with_capacity(event.len() + 4);
    frame.extend_from_slice(&(event.len() as u32).to_be_bytes());
    frame.extend_from_slice(&event);
    frame.into()
}

fn value_frame(output: Output, kind: &str, value: &Value, type_name: &'static str) -> Bytes {
    match output.format {
        Format::Protobuf => match api::schema_of(type_name) {
            Some(schema) => {
                let version = value.get("apiVersion").and_then(Value::as_str).unwrap_or("v1");
                let own = value.get("kind").and_then(Value::as_str).unwrap_or("");
                proto_frame(kind, &schema::protobuf::encode_object(&schema, version, own, value))
            }
            None => Bytes::new(),
        },
        Format::Yaml => {
            let mut text = crate::answer::yaml(&json!({"type": kind, "object": value}));
            text.extend_from_slice(b"---\n");
            text.into()
        }
        _ => json_frame(kind, &serde_json::to_vec(value).unwrap_or_default()),
    }
}

fn too_old(requested: u64, oldest: u64) -> Status {
    Status::expired(format!("too old resource version: {requested} ({oldest})"))
}

fn error_frame(output: Output, status: &Status) -> Bytes {
    value_frame(output, "ERROR", &status.to_value(), "meta_v1.Status")
}

/// A watch from a revision that is no longer kept: one event that says so.
fn expired(output: Output, requested: u64, oldest: u64) -> Response<Body> {
    respond(output, serve::full(error_frame(output, &too_old(requested, oldest))))
}
