//! Events: what happened, for people, written in the background and never in anyone's way.
//!
//! The same event again raises a count instead of making another object; many alike become one; one object
//! cannot make more than a few in a row. What does not fit is dropped.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use client::{Client, Patch, WriteOptions};
use controllers::{Note, Target};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;
use tokio::sync::mpsc;

/// Events that may wait to be written.
const WAITING_MAX: usize = 16_384;
/// Events that are written at once; then one every [`PACE`]: what happens goes before what is told of it.
const ROW_MAX: f64 = 100.0;
const PACE: Duration = Duration::from_millis(1);
/// Events that are remembered, so that they can be counted.
const REMEMBERED_MAX: usize = 4096;
/// Events of one object that are written in a row; then one every [`REFILL_S`] seconds.
const BURST: f64 = 25.0;
const REFILL_S: f64 = 300.0;
/// Different messages with one reason about one object within [`ALIKE_WINDOW_S`] seconds that stay apart.
const ALIKE_MAX: u32 = 10;
const ALIKE_WINDOW_S: i64 = 600;
const MESSAGE_MAX: usize = 1024;

struct Told {
    component: &'static str,
    about: Target,
    field_path: String,
    note: Note,
    at: Timestamp,
}

/// Takes events and writes them in the background. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Told>,
    component: &'static str,
}

impl Recorder {
    /// Starts the writer; it ends when the last recorder is dropped. `host` is the node's name, for events
    /// that come from one. Needs a Tokio runtime.
    #[must_use]
    pub fn start(client: Client, component: &'static str, host: &str) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        tokio::spawn(Writer::new(client, host).run(receiver));
        Self { sender, component }
    }

    /// The same recorder speaking for another component.
    #[must_use]
    pub fn of(&self, component: &'static str) -> Self {
        Self { sender: self.sender.clone(), component }
    }

    /// Tells something about an object.
    pub fn tell(&self, about: &Target, note: &Note) {
        self.tell_of(about, "", note);
    }

    /// Tells something about a part of an object: `spec.containers{web}`.
    pub fn tell_of(&self, about: &Target, field_path: &str, note: &Note) {
        let told = Told {
            component: self.component,
            about: about.clone(),
            field_path: field_path.to_owned(),
            note: note.clone(),
            at: Timestamp::now(),
        };
        // A full queue means that more happens than anyone could read.
        if self.sender.try_send(told).is_err() {
            tracing::debug!(reason = %note.reason, "an event is dropped: too many are waiting");
        }
    }
}

struct Known {
    name: String,
    count: i32,
}

struct Alike {
    messages: u32,
    since: Timestamp,
}

struct Budget {
    tokens: f64,
    at: Timestamp,
}

impl Budget {
    /// Takes a token if there is one. There are never more than `most`; one comes back every `refill_s` seconds.
    fn take(&mut self, now: Timestamp, most: f64, refill_s: f64) -> bool {
        let refill = now.duration_since(self.at).as_secs_f64() / refill_s;
        self.tokens = (self.tokens + refill).clamp(0.0, most);
        self.at = now;
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }
}

struct Writer {
    client: Client,
    host: String,
    known: HashMap<String, Known>,
    alike: HashMap<String, Alike>,
    budgets: HashMap<String, Budget>,
}

static SEQUENCE: AtomicU64 = AtomicU64::new(0);

impl Writer {
    fn new(client: Client, host: &str) -> Self {
        let (known, alike, budgets) = Default::default();
        Self { client, host: host.to_owned(), known, alike, budgets }
    }

    async fn run(mut self, mut receiver: mpsc::Receiver<Told>) {
        let mut row = Budget { tokens: ROW_MAX, at: Timestamp::now() };
        while let Some(told) = receiver.recv().await {
            if !row.take(Timestamp::now(), ROW_MAX, PACE.as_secs_f64()) {
                tokio::time::sleep(PACE).await;
            }
            if let Err(error) = self.write(told).await {
                tracing::debug!(error = %error.chain(), "an event could not be written");
            }
        }
    }

    async fn write(&mut self, mut told: Told) -> Result<(), client::Error> {
        let object = format!("{}/{}/{}/{}", told.component, told.about.uid, told.about.name, told.field_path);
        let kind = format!("{object}/{}/{}", told.note.reason, told.note.warning);
        told.note.message.truncate(told.note.message.floor_char_boundary(MESSAGE_MAX));
        let mut same = format!("{kind}/{}", told.note.message);
        if !self.known.contains_key(&same) && self.too_many_alike(&kind, told.at) {
            told.note.message = format!("(combined from similar events): {}", told.note.message);
            same = kind;
        }
        if !self.may_write(object, told.at) {
            return Ok(());
        }
        if let Some(known) = self.known.get_mut(&same) {
            known.count += 1;
            let patch =
                json!({"count": known.count, "lastTimestamp": Time(told.at), "message": told.note.message});
            let namespace = namespace_of(&told.about);
            let (patch, options) = (Patch::Merge(patch), WriteOptions::default());
            match self.client.patch::<Event>(namespace, &known.name, &patch, &options).await {
                Err(error) if error.is_not_found() => {}
                outcome => return outcome.map(drop),
            }
        }
        let event = self.event(&told);
        let name = event.metadata.name.clone().unwrap_or_default();
        self.client.create(&event).await?;
        if self.known.len() >= REMEMBERED_MAX {
            self.known.clear();
        }
        self.known.insert(same, Known { name, count: 1 });
        Ok(())
    }

    fn too_many_alike(&mut self, kind: &str, now: Timestamp) -> bool {
        if self.alike.len() >= REMEMBERED_MAX {
            self.alike.clear();
        }
        let alike = self.alike.entry(kind.to_owned()).or_insert(Alike { messages: 0, since: now });
        if now.duration_since(alike.since).as_secs() > ALIKE_WINDOW_S {
            *alike = Alike { messages: 0, since: now };
        }
        alike.messages += 1;
        alike.messages > ALIKE_MAX
    }

    /// Takes a token of the object's budget.
    fn may_write(&mut self, object: String, now: Timestamp) -> bool {
        if self.budgets.len() >= REMEMBERED_MAX {
            self.budgets.clear();
        }
        let budget = self.budgets.entry(object).or_insert(Budget { tokens: BURST, at: now });
        budget.take(now, BURST, REFILL_S)
    }

    fn event(&self, told: &Told) -> Event {
        let about = &told.about;
        let unique = told.at.as_nanosecond() as u64 ^ (SEQUENCE.fetch_add(1, Ordering::Relaxed) << 48);
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{unique:x}", about.name)),
                namespace: Some(namespace_of(about).to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some(about.resource.api_version()),
                kind: Some(about.resource.kind.to_string()),
                namespace: Some(about.namespace.clone()).filter(|n| !n.is_empty()),
                name: Some(about.name.clone()),
                uid: Some(about.uid.clone()).filter(|u| !u.is_empty()),
                field_path: Some(told.field_path.clone()).filter(|f| !f.is_empty()),
                resource_version: None,
            },
            reason: Some(told.note.reason.to_string()),
            message: Some(told.note.message.clone()),
            type_: Some(if told.note.warning { "Warning" } else { "Normal" }.to_owned()),
            source: Some(EventSource {
                component: Some(told.component.to_owned()),
                host: Some(self.host.clone()).filter(|h| !h.is_empty()),
            }),
            reporting_component: Some(told.component.to_owned()),
            reporting_instance: Some(self.host.clone()),
            first_timestamp: Some(Time(told.at)),
            last_timestamp: Some(Time(told.at)),
            count: Some(1),
            ..Event::default()
        }
    }
}

/// Events about cluster-scoped objects live in the default namespace.
fn namespace_of(about: &Target) -> &str {
    if about.namespace.is_empty() { "default" } else { &about.namespace }
}
