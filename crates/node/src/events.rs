//! Events in the API: best effort, repeated ones counted, never in anyone's way.

use std::collections::HashMap;

use client::{Client, Patch, WriteOptions};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;
use tokio::sync::mpsc;

/// Events that wait to be sent; more are dropped.
const QUEUE: usize = 1024;
/// Events that are remembered to be counted.
const REMEMBERED: usize = 1024;

/// One event before it is an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Said {
    about: String,
    field: Option<String>,
    warning: bool,
    reason: &'static str,
    message: String,
}

/// Where events go.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<(ObjectReference, Said)>,
}

impl Recorder {
    /// Starts the task that sends events.
    pub fn start(client: Client, node: String) -> Recorder {
        let (queue, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(send_all(client, node, receiver));
        Recorder { queue }
    }

    /// Says something about a pod, or about one of its containers (`spec.containers{name}`).
    pub fn pod(
        &self,
        pod: &Pod,
        field: Option<String>,
        warning: bool,
        reason: &'static str,
        message: String,
    ) {
        let m = &pod.metadata;
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: m.name.clone(),
            namespace: m.namespace.clone(),
            uid: m.uid.clone(),
            resource_version: m.resource_version.clone(),
            field_path: field.clone(),
        };
        self.say(about, field, warning, reason, message);
    }

    /// Says something about the node.
    pub fn node(&self, name: &str, warning: bool, reason: &'static str, message: String) {
        let about = ObjectReference {
            kind: Some("Node".into()),
            name: Some(name.into()),
            uid: Some(name.into()),
            ..ObjectReference::default()
        };
        self.say(about, None, warning, reason, message);
    }

    fn say(
        &self,
        about: ObjectReference,
        field: Option<String>,
        warning: bool,
        reason: &'static str,
        message: String,
    ) {
        let mut message = message;
        if message.len() > 1000 {
            let cut = (0..=1000).rev().find(|i| message.is_char_boundary(*i)).unwrap_or(0);
            message.truncate(cut);
        }
        let key = about.uid.clone().unwrap_or_default();
        log(&about, field.as_deref(), warning, reason, &message);
        let _ = self.queue.try_send((about, Said { about: key, field, warning, reason, message }));
    }
}

/// What is told to the API is in the log, too: pulled, started, unhealthy, killed, backing off …
fn log(about: &ObjectReference, field: Option<&str>, warning: bool, reason: &str, message: &str) {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (kind, namespace, name) = (text(&about.kind), text(&about.namespace), text(&about.name));
    let object = match namespace.as_str() {
        "" => format!("{} {name}", kind.to_lowercase()),
        _ => format!("{} {namespace}/{name}", kind.to_lowercase()),
    };
    let field = field.unwrap_or_default();
    match warning {
        true => tracing::warn!(object, field, reason, "{message}"),
        false => tracing::info!(object, field, reason, "{message}"),
    }
}

async fn send_all(client: Client, node: String, mut queue: mpsc::Receiver<(ObjectReference, Said)>) {
    let mut sent: HashMap<Said, (String, i32)> = HashMap::new();
    let mut serial = 0u64;
    while let Some((about, said)) = queue.recv().await {
        let namespace = about.namespace.clone().unwrap_or_else(|| "default".into());
        let now = Timestamp::now();
        if let Some((name, count)) = sent.get_mut(&said) {
            *count += 1;
            let patch = Patch::Strategic(json!({ "count": *count, "lastTimestamp": Time(now) }));
            let options = WriteOptions::default();
            match client.patch::<Event>(&namespace, name, &patch, &options).await {
                Err(e) if e.is_not_found() => drop(sent.remove(&said)),
                _ => continue,
            }
        }
        if sent.len() >= REMEMBERED {
            sent.clear();
        }
        serial += 1;
        let base = about.name.clone().unwrap_or_default();
        let name = format!("{base}.{:x}{serial:x}", now.as_nanosecond());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: about,
            reason: Some(said.reason.into()),
            message: Some(said.message.clone()),
            type_: Some(if said.warning { "Warning" } else { "Normal" }.into()),
            source: Some(EventSource { component: Some("kubelet".into()), host: Some(node.clone()) }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(node.clone()),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            ..Event::default()
        };
        match client.create(&event).await {
            Ok(_) => drop(sent.insert(said, (name, 1))),
            Err(e) => tracing::debug!(error = %e.chain(), "an event was lost"),
        }
    }
}
