//! A watch: events as they arrive, one JSON document a line.

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::{ApiError, Body, Error};

/// The longest event that is accepted, in bytes.
const EVENT_BYTES_MAX: usize = 64 << 20;

/// What a watch tells.
#[derive(Clone, Debug)]
pub enum WatchEvent<T> {
    /// The object was created, or exists at the start.
    Added(T),
    /// The object changed.
    Modified(T),
    /// The object is gone; this is its last state.
    Deleted(T),
    /// Everything up to this revision has been told.
    Bookmark {
        /// The revision.
        resource_version: String,
        /// Whether the objects that existed at the start have now all been told.
        initial_end: bool,
    },
    /// The event was well-formed, the object in it was not.
    Unreadable(String),
}

/// The stream of a watch.
pub struct WatchStream {
    body: Body,
    buffer: BytesMut,
    scanned: usize,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize, Default)]
struct BookmarkObject {
    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
}

impl WatchStream {
    pub(crate) fn new(body: Body) -> Self {
        Self { body, buffer: BytesMut::new(), scanned: 0 }
    }

    /// The next event; `None` when the server ended the watch. An error event ends it too.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<WatchEvent<T>>, Error> {
        Ok(match self.next_text().await? {
            Some(event) => Some(event.decode()?),
            None => None,
        })
    }

    /// The next event that has already arrived.
    pub fn buffered<T: DeserializeOwned>(&mut self) -> Result<Option<WatchEvent<T>>, Error> {
        Ok(match self.buffered_text() {
            Some(event) => Some(event.decode()?),
            None => None,
        })
    }

    /// [`WatchStream::next`], not decoded.
    pub(crate) async fn next_text(&mut self) -> Result<Option<Text>, Error> {
        loop {
            if let Some(event) = self.buffered_text() {
                return Ok(Some(event));
            }
            if self.buffer.len() > EVENT_BYTES_MAX {
                return Err(Error::Request(format!("a watch event is longer than {EVENT_BYTES_MAX} bytes")));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    fn buffered_text(&mut self) -> Option<Text> {
        loop {
            let Some(at) = self.buffer[self.scanned..].iter().position(|b| *b == b'\n') else {
                self.scanned = self.buffer.len();
                return None;
            };
            let end = self.scanned + at;
            let line = self.buffer.split_to(end);
            self.buffer.advance(1);
            self.scanned = 0;
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Some(Text(line));
            }
        }
    }
}

/// The line of one event.
pub(crate) struct Text(BytesMut);

/// An event whose object is still text: from bytes, as everything else is decoded.
pub(crate) enum Told<'a> {
    /// The object is as this, or was when it went.
    Object {
        kind: &'a str,
        object: &'a [u8],
    },
    Bookmark {
        resource_version: String,
        initial_end: bool,
    },
}

impl Text {
    /// What the event tells; an error when it tells of one.
    pub(crate) fn told(&self) -> Result<Told<'_>, Error> {
        let undecodable = |source| Error::Decode { what: "a watch event".to_owned(), source };
        let line: Line<'_> = serde_json::from_slice(&self.0).map_err(undecodable)?;
        let object = line.object.get().as_bytes();
        match line.kind {
            "BOOKMARK" => {
                let meta = serde_json::from_slice::<BookmarkObject>(object).map_err(undecodable)?.metadata;
                let initial_end =
                    meta.annotations.is_some_and(|a| a.contains_key("k8s.io/initial-events-end"));
                let resource_version = meta.resource_version.unwrap_or_default();
                Ok(Told::Bookmark { resource_version, initial_end })
            }
            "ERROR" => {
                let status: Status = serde_json::from_slice(object).map_err(undecodable)?;
                Err(Error::Api(ApiError { status: Box::new(status), retry_after_s: None }))
            }
            kind => Ok(Told::Object { kind, object }),
        }
    }

    fn decode<T: DeserializeOwned>(&self) -> Result<WatchEvent<T>, Error> {
        let (kind, object) = match self.told()? {
            Told::Object { kind, object } => (kind, object),
            Told::Bookmark { resource_version, initial_end } => {
                return Ok(WatchEvent::Bookmark { resource_version, initial_end });
            }
        };
        Ok(match serde_json::from_slice::<T>(object) {
            Err(error) => WatchEvent::Unreadable(error.to_string()),
            Ok(object) => match kind {
                "ADDED" => WatchEvent::Added(object),
                "DELETED" => WatchEvent::Deleted(object),
                _ => WatchEvent::Modified(object),
            },
        })
    }
}
