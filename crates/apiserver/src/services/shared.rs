//! Several servers on one store: what one gives, no other gives too.
//!
//! Each server knows in memory what is in use and follows what the others write, so that it rarely picks what
//! another has. What decides is the store: before a Service is written, an object is created for each of its new
//! addresses (its IPAddress) and node ports (a record of our own), and only one server can create it. A server that
//! ends between the two leaves an object that no Service has; it counts for a minute and may be replaced then.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use store::{EventKind, Key, Object, Precondition, Range, Store, StoreError, Write};

use super::claims::{self, is_ours, name, parent, release, values};
use super::{Reserved, addresses, allocate, ports};
use crate::object::{self, meta_text};
use crate::resource::Resource;
use crate::server::ApiServer;
use crate::status::{Cause, Status};

/// The table of claimed node ports.
const PORTS: &str = "kutter/nodeports";
const SERVICES: &str = "core/services";
/// How often others may be faster.
const ATTEMPTS_MAX: usize = 64;
/// How often is looked whether a claim goes whose Service is gone, and after which time.
const LOOKS_MAX: usize = 10;
const LOOK_AFTER: Duration = Duration::from_millis(20);
/// How long a claim counts that no Service has: time for its server to write the Service.
const YOUNG: SignedDuration = SignedDuration::from_secs(60);
/// Events that are taken at once.
const EVENTS_MAX: usize = 256;

/// Claims of a Service that is not yet written; given back when dropped, unless kept.
#[derive(Default)]
pub struct Claims {
    store: Option<Arc<dyn Store>>,
    objects: Vec<Arc<Object>>,
}

impl Claims {
    /// The Service is written.
    pub fn keep(&mut self) {
        self.store = None;
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        let (Some(store), Ok(runtime)) = (self.store.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let objects = std::mem::take(&mut self.objects);
        runtime.spawn(async move {
            for object in objects {
                release(store.clone(), object).await;
            }
        });
    }
}

/// Something that one Service can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thing {
    Address(IpAddr),
    Port(u16, &'static str),
}

impl Thing {
    fn key(self, server: &ApiServer) -> Option<Key> {
        match self {
            Self::Address(address) => claims::key(server, address),
            Self::Port(port, protocol) => Some(Key {
                resource: PORTS.into(),
                namespace: "".into(),
                name: format!("{port}-{}", protocol.to_lowercase()).into(),
            }),
        }
    }

    fn draft(self, server: &ApiServer, key: &Key, service: &Value) -> Option<store::Draft> {
        let catalog = server.catalog();
        let resource = catalog.stored("networking.k8s.io", "ipaddresses")?;
        match self {
            Self::Address(address) => Some(object::draft(resource, &claims::object_of(address, service))),
            Self::Port(..) => {
                // Of the same form, under a kind of its own.
                let mut record = claims::object_of(IpAddr::from([0, 0, 0, 0]), service);
                record["kind"] = json!("NodePort");
                record["apiVersion"] = json!("kutter/v1");
                record["metadata"]["name"] = json!(&*key.name);
                Some(object::draft_of_own(resource, &record))
            }
        }
    }

    fn is_of(self, service: &Value) -> bool {
        things(service).contains(&self)
    }

    /// Takes it out of a Service.
    fn clear(self, service: &mut Value) {
        match self {
            Self::Address(address) => {
                let list = service.pointer_mut("/spec/clusterIPs").and_then(Value::as_array_mut);
                let own = |entry: &&mut Value| entry.as_str() == Some(&address.to_string());
                if let Some(entry) = list.into_iter().flatten().find(own) {
                    *entry = json!("");
                }
            }
            Self::Port(port, protocol) => {
                let list = service.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
                let own =
                    |entry: &&mut Value| entry["nodePort"] == port && ports::protocol(entry) == protocol;
                match list.into_iter().flatten().find(own).and_then(Value::as_object_mut) {
                    Some(entry) => drop(entry.remove("nodePort")),
                    None => {
                        let spec = service.get_mut("spec").and_then(Value::as_object_mut);
                        spec.and_then(|spec| spec.remove("healthCheckNodePort"));
                    }
                }
            }
        }
    }

    /// The refusal of a Service that asks for just this.
    fn refusal(self, service: &Value) -> Status {
        let cause = match self {
            Self::Address(address) => {
                let what = format!("failed to allocate IP {address}: provided IP is already allocated");
                Cause::invalid("spec.clusterIPs", &json!([address.to_string()]), &what)
            }
            Self::Port(port, _) => {
                let list = service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
                let place = list.into_iter().position(|entry| entry["nodePort"] == port);
                let field = place.map_or("spec.healthCheckNodePort".to_owned(), |index| {
                    format!("spec.ports[{index}].nodePort")
                });
                Cause::invalid(&field, &json!(port), "provided port is already allocated")
            }
        };
        Status::invalid("", "Service", object::name(service), vec![cause])
    }
}

fn things(service: &Value) -> Vec<Thing> {
    let ports = ports::taken(service).into_iter().map(|(port, protocol)| Thing::Port(port, protocol));
    addresses(service).into_iter().map(Thing::Address).chain(ports).collect()
}

/// Like [`allocate`], safe from other servers on the same store.
pub async fn reserve<'a>(
    server: &'a ApiServer,
    resource: &Resource,
    old: Option<&Value>,
    object: &mut Value,
) -> Result<Reserved<'a>, Status> {
    let is_service = resource.def.group.is_empty() && resource.def.kind == "Service";
    if !server.allocation.shared || !is_service {
        return allocate(server, resource, old, object);
    }
    let mut avoided = Avoided { server, things: Vec::new() };
    let mut tried = object.clone();
    let mut all = allocate(server, resource, old, &mut tried)?;
    let mut new = all.things();
    for _ in 0..ATTEMPTS_MAX {
        let mut again = false;
        for thing in new {
            match claim(server, thing, &tried).await {
                Ok(claimed) => {
                    all.claims.store.get_or_insert_with(|| server.store.clone());
                    all.claims.objects.extend(claimed);
                }
                Err(Refused::Store(error)) => return Err(Status::internal(error.to_string())),
                Err(Refused::Taken) if thing.is_of(object) => return Err(thing.refusal(object)),
                Err(Refused::Taken) => {
                    again = true;
                    all.give_up(thing);
                    thing.clear(&mut tried);
                    avoided.add(thing, meta_text(&tried, "uid"));
                }
            }
        }
        if !again {
            *object = tried;
            return Ok(all);
        }
        let mut more = allocate(server, resource, old, &mut tried)?;
        new = more.things();
        all.addresses.append(&mut more.addresses);
        all.ports.append(&mut more.ports);
    }
    Err(Status::internal("other servers were always faster to take an address or a node port".to_owned()))
}

impl Reserved<'_> {
    fn things(&self) -> Vec<Thing> {
        let ports = self.ports.iter().map(|(port, protocol)| Thing::Port(*port, protocol));
        self.addresses.iter().map(|address| Thing::Address(*address)).chain(ports).collect()
    }

    fn give_up(&mut self, thing: Thing) {
        match thing {
            Thing::Address(address) => self.addresses.retain(|own| *own != address),
            Thing::Port(port, protocol) => self.ports.retain(|own| *own != (port, protocol)),
        }
    }
}

/// What others were faster to take: not to be picked again while this Service is about to be written. By then their
/// Services may be known here, and own what is theirs.
struct Avoided<'a> {
    server: &'a ApiServer,
    things: Vec<Thing>,
}

const ELSEWHERE: &str = "elsewhere";

impl Avoided<'_> {
    /// The thing is marked as in use already: by the Service that wanted it, unless its owner is known by now.
    fn add(&mut self, thing: Thing, uid: &str) {
        let mut used = self.server.allocation.used.lock();
        let owner = match thing {
            Thing::Address(address) => used.addresses.get_mut(&address),
            Thing::Port(port, protocol) => used.ports.get_mut(&(port, protocol)),
        };
        if let Some(owner) = owner.filter(|owner| &***owner == uid) {
            *owner = ELSEWHERE.into();
        }
        self.things.push(thing);
    }
}

impl Drop for Avoided<'_> {
    fn drop(&mut self) {
        if self.things.is_empty() {
            return;
        }
        let mut used = self.server.allocation.used.lock();
        used.addresses.retain(|address, owner| {
            &**owner != ELSEWHERE || !self.things.contains(&Thing::Address(*address))
        });
        used.ports.retain(|(port, protocol), owner| {
            &**owner != ELSEWHERE || !self.things.contains(&Thing::Port(*port, protocol))
        });
    }
}

enum Refused {
    Taken,
    Store(StoreError),
}

/// Creates the object of a thing; gives it, or nothing if the Service had it already.
async fn claim(server: &ApiServer, thing: Thing, service: &Value) -> Result<Option<Arc<Object>>, Refused> {
    let Some(key) = thing.key(server) else { return Ok(None) };
    let Some(draft) = thing.draft(server, &key, service) else { return Ok(None) };
    let mut precondition = Precondition::Absent;
    for _ in 0..LOOKS_MAX {
        let write = Write { key: key.clone(), precondition, value: Some(draft.clone()), last: None };
        let current = match server.store.write(write).await {
            Ok(object) => return Ok(Some(object)),
            Err(StoreError::Conflict { current: Some(current), .. }) => current,
            Err(StoreError::Conflict { current: None, .. }) => {
                precondition = Precondition::Absent;
                continue;
            }
            Err(error) => return Err(Refused::Store(error)),
        };
        let known: Value = serde_json::from_slice(&current.json).unwrap_or_default();
        if is_ours(&known) && parent(&known) == name(service) {
            return Ok(None);
        }
        if !is_ours(&known) || owner(server, &known).is_some_and(|owner| thing.is_of(&owner)) {
            return Err(Refused::Taken);
        }
        // No Service has it: one that is about to be written, or one that has just gone.
        match is_young(server, &known) {
            false => precondition = Precondition::Revision(current.modified),
            true => tokio::time::sleep(LOOK_AFTER).await,
        }
    }
    Err(Refused::Taken)
}

/// The Service that a claim names.
fn owner(server: &ApiServer, claim: &Value) -> Option<Value> {
    let (namespace, name) = parent(claim);
    let key = server.catalog().stored("", "services")?.key(namespace, name);
    serde_json::from_slice(&server.store.get(&key)?.json).ok()
}

/// Whether the Service of a claim may still be on its way.
pub fn is_young(server: &ApiServer, claim: &Value) -> bool {
    let made = meta_text(claim, "creationTimestamp").parse::<Timestamp>();
    server.allocation.shared && made.is_ok_and(|made| Timestamp::now().duration_since(made) < YOUNG)
}

/// Deletes, without being waited for, the records of ports that a Service has no more.
pub fn gone(server: &ApiServer, old: &Value, new: Option<&Value>) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    if !server.allocation.shared {
        return;
    }
    let kept = new.map(ports::taken).unwrap_or_default();
    for (port, protocol) in ports::taken(old).into_iter().filter(|port| !kept.contains(port)) {
        let found = Thing::Port(port, protocol).key(server).and_then(|key| server.store.get(&key));
        let Some(found) = found else { continue };
        let known: Value = serde_json::from_slice(&found.json).unwrap_or_default();
        if parent(&known) == name(old) {
            runtime.spawn(release(server.store.clone(), found));
        }
    }
}

/// Makes records of ports that are missing and deletes those that no Service has, once at the start.
pub async fn repair(server: &Arc<ApiServer>) {
    if !server.allocation.shared {
        return;
    }
    for service in values(server, SERVICES) {
        for (port, protocol) in ports::taken(&service) {
            if claim(server, Thing::Port(port, protocol), &service).await.is_err() {
                let (namespace, name) = name(&service);
                tracing::warn!(namespace, name, port, "another Service has this node port too");
            }
        }
    }
    let snapshot = server.store.snapshot(PORTS);
    for object in snapshot.iter(&Range::default()) {
        let known: Value = serde_json::from_slice(&object.json).unwrap_or_default();
        let number = object.key.name.split_once('-').and_then(|(port, _)| port.parse::<u16>().ok());
        let has = |service: &Value| ports::taken(service).iter().any(|(port, _)| Some(*port) == number);
        if !owner(server, &known).is_some_and(|owner| has(&owner)) && !is_young(server, &known) {
            release(server.store.clone(), object.clone()).await;
        }
    }
}

/// Follows what other servers write, until the server stops.
pub async fn follow(server: Arc<ApiServer>) {
    if !server.allocation.shared {
        return;
    }
    let services = table(server.clone(), SERVICES, |server, old, new| match (old, new) {
        (Some(old), new) => {
            server.allocation.forget(old, new);
            new.inspect(|new| server.allocation.learn(new));
        }
        (None, new) => drop(new.inspect(|new| server.allocation.learn(new))),
    });
    let made = table(server.clone(), "networking.k8s.io/ipaddresses", |server, old, new| {
        // Those of Services come with the Services.
        if !old.or(new).is_some_and(is_ours) {
            claims::wrote(server, old, new);
        }
    });
    let ranges = table(server.clone(), "networking.k8s.io/servicecidrs", |server, _, _| {
        server.allocation.set_ranges(&values(server, "networking.k8s.io/servicecidrs"));
    });
    tokio::join!(services, made, ranges);
}

/// Calls `wrote` for every change of a table. Our own come by too and change nothing.
async fn table(
    server: Arc<ApiServer>,
    table: &'static str,
    wrote: impl Fn(&ApiServer, Option<&Value>, Option<&Value>),
) {
    let parse = |object: &Arc<Object>| serde_json::from_slice::<Value>(&object.json).ok();
    let mut stopping = server.stopping();
    while !*stopping.borrow() {
        let revision = server.store.revision();
        // What came before the watch, or while it had fallen behind.
        for object in server.store.snapshot(table).iter(&Range::default()) {
            wrote(&server, None, parse(object).as_ref());
        }
        let Ok(mut events) = server.store.watch(table, revision) else { continue };
        loop {
            let batch = tokio::select! {
                batch = events.next(EVENTS_MAX) => batch,
                _ = stopping.changed() => return,
            };
            let Ok((batch, _)) = batch else { break };
            for event in batch {
                let new = (event.kind != EventKind::Deleted).then(|| parse(&event.object)).flatten();
                let old = event.previous.as_ref().and_then(parse);
                wrote(&server, old.as_ref(), new.as_ref());
            }
        }
        tokio::time::sleep(LOOK_AFTER).await;
    }
}
