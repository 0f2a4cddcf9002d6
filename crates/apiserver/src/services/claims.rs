//! IPAddress objects: one for every cluster address, made and deleted together with the Service that has it.
//! Whether an address is free is decided in memory, for the speed of it; the objects tell of it, and those that
//! others make keep their addresses from being given.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::{join, join_all};
use serde_json::{Value, json};
use store::{Key, Object, Precondition, Store, StoreError, Write};

use super::{Reserved, addresses};
use crate::object::{self, at, meta_text};
use crate::resource::Resource;
use crate::server::ApiServer;

const GROUP: &str = "networking.k8s.io";
const PLURAL: &str = "ipaddresses";
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const OURS: &str = "ipallocator.k8s.io";
/// How often an object is written when others are faster.
const ATTEMPTS_MAX: usize = 4;
/// How many objects are written at once when many are missing.
const WRITES_MAX: usize = 64;

/// Writes an object, and what tells of the addresses that are reserved for it. Both are one commit, so that it takes
/// no longer than the object alone.
pub async fn write(
    server: &ApiServer,
    write: Write,
    reserved: &Reserved<'_>,
    service: Option<&Value>,
) -> Result<Arc<Object>, StoreError> {
    let alone = reserved.addresses.is_empty() || server.allocation.shared;
    let Some(service) = service.filter(|_| !alone) else {
        return server.store.write(write).await;
    };
    let claims = join_all(reserved.addresses.iter().map(|address| claim(server, *address, service)));
    let (written, claimed) = join(server.store.write(write), claims).await;
    if written.is_err() {
        join_all(claimed.into_iter().flatten().map(|object| release(server.store.clone(), object))).await;
    }
    written
}

/// Whether an IPAddress is one of those that this server makes.
pub fn is_ours(address: &Value) -> bool {
    address.pointer("/metadata/labels").and_then(|labels| labels.get(MANAGED_BY)) == Some(&json!(OURS))
}

pub(super) fn name(service: &Value) -> (&str, &str) {
    (meta_text(service, "namespace"), object::name(service))
}

pub(super) fn parent(address: &Value) -> (&str, &str) {
    let text = |field: &str| at(address, field).and_then(Value::as_str).unwrap_or("");
    (text("spec.parentRef.namespace"), text("spec.parentRef.name"))
}

pub(super) fn object_of(address: IpAddr, service: &Value) -> Value {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let (namespace, name) = name(service);
    json!({
        "metadata": {"name": address.to_string(), "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": object::timestamp(jiff::Timestamp::now()),
            "labels": {FAMILY: family, MANAGED_BY: OURS}},
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": namespace, "name": name}},
    })
}

/// Writes the object of one address. What is left of an earlier owner is replaced.
async fn claim(server: &ApiServer, address: IpAddr, service: &Value) -> Option<Arc<Object>> {
    let catalog = server.catalog();
    let resource = catalog.stored(GROUP, PLURAL)?;
    let key = resource.key("", &address.to_string());
    let mut precondition = Precondition::Absent;
    for _ in 0..ATTEMPTS_MAX {
        let value = Some(object::draft(resource, &object_of(address, service)));
        match server.store.write(Write { key: key.clone(), precondition, value, last: None }).await {
            Ok(object) => return Some(object),
            Err(StoreError::Conflict { current: None, .. }) => precondition = Precondition::Absent,
            Err(StoreError::Conflict { current: Some(current), .. }) => {
                let known: Value = serde_json::from_slice(&current.json).unwrap_or_default();
                if !is_ours(&known) || parent(&known) == name(service) {
                    return None;
                }
                precondition = Precondition::Revision(current.modified);
            }
            Err(cause) => {
                tracing::warn!(%address, %cause, "write IPAddress");
                return None;
            }
        }
    }
    None
}

pub(super) async fn release(store: Arc<dyn Store>, object: Arc<Object>) {
    let precondition = Precondition::Revision(object.modified);
    let write = Write { key: object.key.clone(), precondition, value: None, last: None };
    match store.write(write).await {
        // Somebody else has the address by now, or it is gone.
        Ok(_) | Err(StoreError::Conflict { .. }) => {}
        Err(cause) => tracing::warn!(address = %object.key.name, %cause, "delete IPAddress"),
    }
}

pub(super) fn key(server: &ApiServer, address: IpAddr) -> Option<Key> {
    Some(server.catalog().stored(GROUP, PLURAL)?.key("", &address.to_string()))
}

/// Deletes, without being waited for, the objects of addresses that a Service has no more.
pub fn gone(server: &ApiServer, old: &Value, new: Option<&Value>) {
    let kept = new.map(addresses).unwrap_or_default();
    for address in addresses(old).into_iter().filter(|address| !kept.contains(address)) {
        let Some(found) = key(server, address).and_then(|key| server.store.get(&key)) else { continue };
        let known: Value = serde_json::from_slice(&found.json).unwrap_or_default();
        if let (true, Ok(runtime)) =
            (is_ours(&known) && parent(&known) == name(old), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(release(server.store.clone(), found));
        }
    }
}

/// What follows from a write of an IPAddress itself, by whomever.
pub fn wrote(server: &ApiServer, old: Option<&Value>, new: Option<&Value>) {
    let address = |of: &Value| object::name(of).parse::<IpAddr>().ok();
    let mut used = server.allocation.used.lock();
    match (old, new) {
        (None, Some(new)) => {
            if let Some(address) = address(new) {
                used.addresses.entry(address).or_insert_with(|| meta_text(new, "uid").into());
            }
        }
        (Some(old), None) => {
            if let Some(address) = address(old)
                && used.addresses.get(&address).is_some_and(|owner| &**owner == meta_text(old, "uid"))
            {
                used.addresses.remove(&address);
            }
        }
        _ => {}
    }
}

/// Makes what is missing and deletes what no Service has, once at the start.
pub async fn repair(server: &Arc<ApiServer>) {
    let services = values(server, "core/services");
    let mut missing = Vec::new();
    for service in &services {
        let known =
            |address: &IpAddr| key(server, *address).is_some_and(|key| server.store.get(&key).is_some());
        missing
            .extend(addresses(service).into_iter().filter(|a| !known(a)).map(|address| (address, service)));
    }
    for some in missing.chunks(WRITES_MAX) {
        join_all(some.iter().map(|(address, service)| claim(server, *address, service))).await;
    }
    let Some(table) = server.catalog().stored(GROUP, PLURAL).map(|resource| resource.table.clone()) else {
        return;
    };
    let snapshot = server.store.snapshot(&table);
    let owners: HashMap<String, (&str, &str)> = services
        .iter()
        .flat_map(|service| addresses(service).into_iter().map(move |a| (a.to_string(), name(service))))
        .collect();
    let owned = |object: &Value| owners.get(object::name(object)) == Some(&parent(object));
    for object in snapshot.iter(&store::Range::default()) {
        let value: Value = serde_json::from_slice(&object.json).unwrap_or_default();
        if is_ours(&value) && !owned(&value) && !super::shared::is_young(server, &value) {
            release(server.store.clone(), object.clone()).await;
        } else if !is_ours(&value) {
            wrote(server, None, Some(&value));
        }
    }
}

pub(super) fn values(server: &ApiServer, table: &str) -> Vec<Value> {
    let snapshot = server.store.snapshot(table);
    snapshot
        .iter(&store::Range::default())
        .filter_map(|object| serde_json::from_slice(&object.json).ok())
        .collect()
}

/// The kinds whose writes change what addresses there are: `wrote` for IPAddresses, the ranges for ServiceCIDRs.
pub fn after_write(server: &ApiServer, resource: &Resource, old: Option<&Value>, new: Option<&Value>) {
    match &*resource.def.kind {
        "IPAddress" => {
            wrote(server, old, new);
            // An address that a Service has does not stay without its object.
            if let (Some(old), None) = (old, new) {
                again(server, old);
            }
        }
        "ServiceCIDR" => server.allocation.set_ranges(&values(server, "networking.k8s.io/servicecidrs")),
        _ => {}
    }
}

/// Writes, without being waited for, the object of an address anew if its Service still has it.
fn again(server: &ApiServer, old: &Value) {
    let (namespace, name) = parent(old);
    let catalog = server.catalog();
    let found = catalog.stored("", "services").and_then(|r| server.store.get(&r.key(namespace, name)));
    let service: Option<Value> = found.and_then(|found| serde_json::from_slice(&found.json).ok());
    let (Some(service), Ok(address)) = (service, object::name(old).parse::<IpAddr>()) else { return };
    let (Some(resource), Ok(runtime)) =
        (catalog.stored(GROUP, PLURAL), tokio::runtime::Handle::try_current())
    else {
        return;
    };
    if addresses(&service).contains(&address) {
        let (store, key) = (server.store.clone(), resource.key("", &address.to_string()));
        let value = Some(object::draft(resource, &object_of(address, &service)));
        runtime.spawn(async move {
            let write = Write { key, precondition: Precondition::Absent, value, last: None };
            if let Err(cause) = store.write(write).await {
                tracing::debug!(%address, %cause, "write IPAddress again");
            }
        });
    }
}
