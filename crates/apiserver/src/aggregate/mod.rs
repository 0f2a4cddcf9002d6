//! Other API servers behind this one: APIService objects say which group versions they serve.
//!
//! One task follows these objects. It registers the groups that this server serves itself, asks the others whether
//! they answer, and keeps what they serve for discovery. Requests look a group version up in what the task left.

mod check;
mod documents;
mod local;
mod merge;
mod priorities;
mod proxy;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use serve::outbound::ClientTls;
use store::{Precondition, Range, StoreError, Write};
use tokio::sync::Notify;

use crate::object::{self, at};
use crate::server::ApiServer;

pub use documents::{discovery, openapi};
pub use proxy::forward;

const GROUP: &str = "apiregistration.k8s.io";
const PLURAL: &str = "apiservices";
const TABLE: &str = "apiregistration.k8s.io/apiservices";
/// How often servers that answer are asked again.
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// How soon servers that do not answer are asked again, at first; it doubles up to [`CHECK_EVERY`].
const RETRY_MIN: Duration = Duration::from_secs(1);
/// The most servers behind this one; further ones are not reachable.
const REMOTES_MAX: usize = 256;

/// What this server shows others so that they believe it who asks.
#[derive(Debug, Clone, Default)]
pub struct FrontProxy {
    /// Certificate chain, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: String,
}

/// A group version served by another.
#[derive(Clone)]
pub struct Remote {
    /// The APIService's name.
    pub name: String,
    /// Group.
    pub group: String,
    /// Version.
    pub version: String,
    /// The Service: namespace, name, port.
    pub service: (String, String, u64),
    /// How to talk to it, or why that is impossible.
    pub tls: Result<ClientTls, String>,
    /// Whether it answers.
    pub available: bool,
    /// What it answered for its resources; null if it never did.
    resources: Value,
    /// Its OpenAPI v2 document and the tag of that.
    openapi: Option<Arc<(Value, String)>>,
    /// The hash of its OpenAPI v3 document, if it has one.
    openapi_v3: Option<String>,
}

impl Remote {
    fn same_place(&self, other: &Remote) -> bool {
        let gv = |remote: &Remote| (remote.group.clone(), remote.version.clone());
        self.service == other.service && gv(self) == gv(other)
    }

    /// `/apis/group/version` or `/api/version`.
    fn path(&self) -> String {
        match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        }
    }
}

/// What is known of other servers.
#[derive(Default)]
pub struct Aggregation {
    any: AtomicBool,
    registered: AtomicBool,
    remotes: RwLock<Arc<Vec<Arc<Remote>>>>,
    priorities: RwLock<Arc<merge::Priorities>>,
    documents: Mutex<Option<Arc<documents::Documents>>>,
    changed: Notify,
    /// Shown to the other servers.
    pub front: std::sync::OnceLock<FrontProxy>,
}

impl Aggregation {
    /// Whether there is any other server.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// The kinds served here are others now.
    pub fn kinds_changed(&self) {
        self.changed.notify_one();
    }

    /// Who else serves this group version.
    pub fn find(&self, group: &str, version: &str) -> Option<Arc<Remote>> {
        if !self.any() {
            return None;
        }
        let remotes = self.remotes.read();
        remotes.iter().find(|remote| remote.group == group && remote.version == version).cloned()
    }

    /// Whether the groups of this server were registered since it started.
    fn registered(&self) -> bool {
        self.registered.load(Ordering::Acquire)
    }

    fn set_registered(&self) {
        self.registered.store(true, Ordering::Release);
    }

    fn remotes(&self) -> Arc<Vec<Arc<Remote>>> {
        self.remotes.read().clone()
    }

    fn set(&self, remotes: Vec<Arc<Remote>>, priorities: merge::Priorities) {
        let any = !remotes.is_empty();
        *self.remotes.write() = Arc::new(remotes);
        *self.priorities.write() = Arc::new(priorities);
        *self.documents.lock() = None;
        self.any.store(any, Ordering::Release);
    }
}

/// All APIService objects.
fn stored(server: &ApiServer) -> Vec<(Arc<store::Object>, Value)> {
    let snapshot = server.store.snapshot(TABLE);
    let objects = snapshot.iter(&Range::default());
    objects.filter_map(|o| Some((o.clone(), serde_json::from_slice(&o.json).ok()?))).collect()
}

fn remote(server: &ApiServer, value: &Value) -> Option<Remote> {
    let service = at(value, "spec.service").filter(|service| service.is_object())?;
    let text = |path: &str| at(value, path).and_then(Value::as_str).unwrap_or("").to_string();
    let port = service.get("port").and_then(Value::as_u64).unwrap_or(443);
    Some(Remote {
        name: object::name(value).to_string(),
        group: text("spec.group"),
        version: text("spec.version"),
        service: (text("spec.service.namespace"), text("spec.service.name"), port),
        tls: tls(server, value),
        available: false,
        resources: Value::Null,
        openapi: None,
        openapi_v3: None,
    })
}

fn tls(server: &ApiServer, value: &Value) -> Result<ClientTls, String> {
    let front = server.aggregation.front.get().cloned().unwrap_or_default();
    let bundle = at(value, "spec.caBundle").and_then(Value::as_str).unwrap_or("");
    let bundle = STANDARD.decode(bundle).map_err(|cause| format!("caBundle: {cause}"))?;
    let bundle = String::from_utf8_lossy(&bundle).into_owned();
    let careless = at(value, "spec.insecureSkipTLSVerify") == Some(&Value::Bool(true));
    let roots = match (careless, bundle.trim().is_empty()) {
        (true, _) => String::new(),
        (false, true) => crate::hook::machine_authorities()?,
        (false, false) => bundle,
    };
    server.outbound.tls(&roots, &front.certificate, &front.key).map_err(|cause| cause.to_string())
}

/// Follows APIServices, Services and their endpoints until the server ends.
pub async fn follow(server: Arc<ApiServer>) {
    let mut stopping = server.stopping();
    let mut retry = RETRY_MIN;
    loop {
        let revision = server.store.revision();
        let healthy = settle(&server).await;
        retry = if healthy { RETRY_MIN } else { (retry * 2).min(CHECK_EVERY) };
        let again = if healthy { CHECK_EVERY } else { retry };
        tokio::select! {
            () = news(&server, revision, again) => {}
            _ = stopping.changed() => return,
        }
        if *stopping.borrow() {
            return;
        }
    }
}

/// Waits for something that may matter.
async fn news(server: &ApiServer, revision: u64, again: Duration) {
    let own = changed(server, TABLE, revision, |_| true);
    if !server.aggregation.any() {
        tokio::select! {
            () = own => {}
            () = server.aggregation.changed.notified() => {}
        }
        return;
    }
    let remotes = server.aggregation.remotes();
    let ours = |namespace: &str, name: &str| {
        remotes.iter().any(|remote| remote.service.0 == namespace && remote.service.1 == name)
    };
    let services = changed(server, "core/services", revision, |o| ours(&o.key.namespace, &o.key.name));
    let slices = changed(server, "discovery.k8s.io/endpointslices", revision, |o| {
        let owner = o.index.labels.iter().find(|(key, _)| &**key == "kubernetes.io/service-name");
        owner.is_some_and(|(_, name)| ours(&o.key.namespace, name))
    });
    tokio::select! {
        () = own => {}
        () = services => {}
        () = slices => {}
        () = server.aggregation.changed.notified() => {}
        () = tokio::time::sleep(again) => {}
    }
}

/// Waits until an object of the table that matters has changed since a revision.
async fn changed(server: &ApiServer, table: &str, revision: u64, matters: impl Fn(&store::Object) -> bool) {
    let Ok(mut events) = server.store.watch(table, revision) else {
        return tokio::time::sleep(RETRY_MIN).await;
    };
    loop {
        match events.next(64).await {
            Ok((events, _)) if events.iter().any(|event| matters(&event.object)) => return,
            Ok(_) => {}
            Err(_) => return tokio::time::sleep(RETRY_MIN).await,
        }
    }
}

/// Brings what is known and what is stored together; false when a server does not answer.
pub async fn settle(server: &Arc<ApiServer>) -> bool {
    local::register(server).await;
    let objects = stored(server);
    let mut priorities: merge::Priorities = HashMap::new();
    for (_, value) in &objects {
        let text = |path: &str| at(value, path).and_then(Value::as_str).unwrap_or("").to_string();
        let number = |path: &str| at(value, path).and_then(Value::as_i64).unwrap_or(0);
        let own = (number("spec.groupPriorityMinimum"), number("spec.versionPriority"));
        priorities.insert((text("spec.group"), text("spec.version")), own);
    }
    let before = server.aggregation.remotes();
    let mut remotes: Vec<Remote> = Vec::new();
    for (_, value) in &objects {
        let Some(mut new) = remote(server, value).filter(|_| remotes.len() < REMOTES_MAX) else { continue };
        if let Some(old) = before.iter().find(|old| old.name == new.name && old.same_place(&new)) {
            new = Remote { tls: new.tls, ..Remote::clone(old) };
        }
        remotes.push(new);
    }
    // Who is known from now on is routed to, before anybody has been asked.
    server.aggregation.set(remotes.iter().cloned().map(Arc::new).collect(), priorities.clone());
    let checks = remotes.iter_mut().map(|remote| check::check(server, remote));
    let found = futures_util::future::join_all(checks).await;
    let healthy = remotes.iter().all(|remote| remote.available);
    server.aggregation.set(remotes.iter().cloned().map(Arc::new).collect(), priorities);
    for (remote, condition) in remotes.iter().zip(found) {
        let own = objects.iter().find(|(_, value)| object::name(value) == remote.name);
        if let Some((object, value)) = own {
            condition.write(server, object, value).await;
        }
    }
    healthy
}

/// The condition `Available` as it is to be.
struct Condition {
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Condition {
    /// Sets the condition in a value; false when it is there already.
    fn set(&self, value: &mut Value) -> bool {
        let mut list = at(value, "status.conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let now = object::timestamp(jiff::Timestamp::now());
        let mut new = serde_json::json!({"type": "Available", "status": self.status, "lastTransitionTime": now,
            "reason": self.reason, "message": self.message});
        match list.iter_mut().find(|own| own["type"] == "Available") {
            Some(own) => {
                if own["status"] == self.status {
                    new["lastTransitionTime"] = own["lastTransitionTime"].clone();
                }
                if *own == new {
                    return false;
                }
                *own = new;
            }
            None => list.push(new),
        }
        object::set_at(value, "status.conditions", list.into());
        true
    }

    async fn write(&self, server: &ApiServer, object: &store::Object, value: &Value) {
        let mut new = value.clone();
        if !self.set(&mut new) {
            return;
        }
        let precondition = Precondition::Revision(object.modified);
        // Whoever was faster brings us back by the event of that write.
        if let Err(cause) = write(server, object::name(value), precondition, Some(&new)).await {
            tracing::debug!(%cause, name = object::name(value), "write the status of an APIService");
        }
    }
}

/// Writes or deletes an APIService.
async fn write(
    server: &ApiServer,
    name: &str,
    precondition: Precondition,
    value: Option<&Value>,
) -> Result<(), StoreError> {
    let catalog = server.catalog();
    let Some(resource) = catalog.stored(GROUP, PLURAL) else { return Ok(()) };
    let value = value.map(|value| object::draft(resource, value));
    let key = resource.key("", name);
    server.store.write(Write { key, precondition, value, last: None }).await.map(|_| ())
}
