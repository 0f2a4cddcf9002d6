//! CustomResourceDefinitions: kinds that come and go while the server runs.
//!
//! One task follows the table of definitions. Whatever changed, it settles each definition's conditions and serves
//! the kinds of all established ones; it carries no state of its own.

use std::sync::Arc;
use std::time::Duration;

use api::custom::accept::{Taken, Verdict};
use serde_json::{Value, json};
use store::{Object, Precondition, Range, StoreError, Write};

use crate::object::{self, at, metadata_mut, set_at};
use crate::resource::Resource;
use crate::server::ApiServer;

const TABLE: &str = "apiextensions.k8s.io/customresourcedefinitions";
const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
/// How often definitions are looked at while instances of deleted ones are still there.
const CLEANUP_EVERY: Duration = Duration::from_millis(500);

/// A new definition: no status but the stored version.
pub fn prepare(object: &mut Value) {
    let versions = at(object, "spec.versions").and_then(Value::as_array).cloned().unwrap_or_default();
    let stored: Vec<Value> = versions
        .iter()
        .filter(|version| version["storage"] == true)
        .map(|version| version["name"].clone())
        .take(1)
        .collect();
    let names = json!({"kind": "", "plural": ""});
    set_at(object, "status", json!({"storedVersions": stored, "acceptedNames": names, "conditions": null}));
    names_default(object);
    if at(object, "spec.conversion").is_none() {
        set_at(object, "spec.conversion", json!({"strategy": "None"}));
    }
}

/// The version that objects are stored in from now on is among those they may be stored in.
pub fn remember_stored(object: &mut Value) {
    let versions = at(object, "spec.versions").and_then(Value::as_array);
    let name = versions.into_iter().flatten().find(|v| v["storage"] == true).map(|v| v["name"].clone());
    let known = at(object, "status.storedVersions").and_then(Value::as_array).cloned().unwrap_or_default();
    if let Some(name) = name.filter(|name| !known.contains(name)) {
        let stored: Vec<Value> = known.into_iter().chain([name]).collect();
        set_at(object, "status.storedVersions", stored.into());
    }
}

fn names_default(object: &mut Value) {
    let kind = at(object, "spec.names.kind").and_then(Value::as_str).unwrap_or("").to_string();
    for (field, value) in [("singular", kind.to_lowercase()), ("listKind", format!("{kind}List"))] {
        let path = format!("spec.names.{field}");
        if at(object, &path).and_then(Value::as_str).unwrap_or("").is_empty() && !kind.is_empty() {
            set_at(object, &path, value.into());
        }
    }
}

/// A definition whose deletion begins waits for its instances.
pub fn terminating(object: &mut Value) {
    if object::finalizers(object).any(|finalizer| finalizer == FINALIZER) || object::is_deleting(object) {
        return;
    }
    let list = metadata_mut(object).entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = list.as_array_mut() {
        list.push(FINALIZER.into());
    }
    let text = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    condition(object, "Terminating", "True", "InstanceDeletionPending", text);
}

/// Sets a condition; the time changes only with the status.
fn condition(object: &mut Value, kind: &str, status: &str, reason: &str, message: &str) {
    let mut list = at(object, "status.conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let now = object::timestamp(jiff::Timestamp::now());
    let mut new = json!({"type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": now});
    match list.iter_mut().find(|own| own["type"] == kind) {
        Some(own) => {
            if own["status"] == status {
                new["lastTransitionTime"] = own["lastTransitionTime"].clone();
            }
            *own = new;
        }
        None => list.push(new),
    }
    set_at(object, "status.conditions", list.into());
}

fn is_true(object: &Value, kind: &str) -> bool {
    let list = at(object, "status.conditions").and_then(Value::as_array).into_iter().flatten();
    list.into_iter().any(|own| own["type"] == kind && own["status"] == "True")
}

/// Follows the definitions until the server ends.
pub async fn follow(server: Arc<ApiServer>) {
    let mut stopping = server.stopping();
    loop {
        let revision = server.store.revision();
        let pending = settle(&server).await;
        let Ok(mut events) = server.store.watch(TABLE, revision) else {
            tokio::time::sleep(CLEANUP_EVERY).await;
            continue;
        };
        // Our own writes come by as events and find nothing to do.
        let wait = async {
            match pending {
                true => drop(tokio::time::timeout(CLEANUP_EVERY, events.next(64)).await),
                false => drop(events.next(64).await),
            }
        };
        tokio::select! {
            () = wait => {}
            _ = stopping.changed() => return,
        }
        if *stopping.borrow() {
            return;
        }
    }
}

/// Brings definitions and served kinds together; true while a deleted definition still has instances.
pub async fn settle(server: &Arc<ApiServer>) -> bool {
    let snapshot = server.store.snapshot(TABLE);
    let stored: Vec<Arc<Object>> = snapshot.iter(&Range::default()).cloned().collect();
    let mut served: Vec<Value> = Vec::new();
    let mut pending = false;
    let parse = |object: &Arc<Object>| serde_json::from_slice::<Value>(&object.json).ok();
    let (objects, mut definitions): (Vec<&Arc<Object>>, Vec<Value>) =
        stored.iter().filter_map(|object| Some((object, parse(object)?))).unzip();
    for (i, object) in objects.into_iter().enumerate() {
        let old = definitions[i].clone();
        let mut new = old.clone();
        accept(server, &mut new, &definitions);
        if new != old && write(server, object, &new).await.is_err() {
            // Somebody was faster; the event of that write brings us back.
            continue;
        }
        if is_true(&new, "Established") {
            served.push(new.clone());
        }
        definitions[i] = new;
    }
    serve(server, &served, &stored);
    for definition in served.iter().filter(|definition| object::is_deleting(definition)) {
        pending |= !clean_up(server, definition).await;
    }
    pending
}

/// Sets the conditions of names, establishment and approval, and the accepted names.
fn accept(server: &ApiServer, definition: &mut Value, all: &[Value]) {
    let text = |of: &Value, path: &str| at(of, path).and_then(Value::as_str).unwrap_or("").to_string();
    let (group, own) = (text(definition, "spec.group"), object::name(definition).to_string());
    let mut taken = Taken::default();
    let others = all.iter().filter(|other| object::name(other) != own && text(other, "spec.group") == group);
    others.for_each(|other| taken.add(other));
    let registry = server.registry.get();
    for def in registry.kinds().iter().filter(|def| !def.custom && def.group == group) {
        taken.resources.extend([def.plural.to_string(), def.singular.to_string()]);
        taken.kinds.extend([def.kind.to_string(), def.list_kind.to_string()]);
    }
    let verdict = api::custom::accept::names(definition, &taken);
    let free = verdict.holds;
    let approval = api::custom::accept::conformance(definition);
    for Verdict { kind, holds, reason, message } in [Some(verdict), approval].into_iter().flatten() {
        condition(definition, kind, if holds { "True" } else { "False" }, reason, &message);
    }
    if !is_true(definition, "Established") {
        let (status, reason, message) = match free {
            true => ("True", "InitialNamesAccepted", "the initial names have been accepted"),
            false => ("False", "NotAccepted", "not all names are accepted"),
        };
        condition(definition, "Established", status, reason, message);
    }
    remember_stored(definition);
}

/// Serves the kinds of these definitions, if they are others than now.
fn serve(server: &ApiServer, definitions: &[Value], stored: &[Arc<Object>]) {
    // The specs decide; the generation counts their changes.
    let mark: Vec<String> = definitions
        .iter()
        .map(|definition| {
            let generation = definition.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
            format!("{}/{generation}", object::meta_text(definition, "uid"))
        })
        .collect();
    let mut last = server.custom_mark.lock();
    if *last == mark {
        return;
    }
    tracing::debug!(definitions = definitions.len(), stored = stored.len(), "custom kinds changed");
    let mut definitions: Vec<&Value> = definitions.iter().collect();
    definitions.sort_by_key(|definition| at(definition, "spec.group").and_then(Value::as_str).unwrap_or(""));
    let kinds = definitions.into_iter().flat_map(api::custom::kinds).map(Arc::new);
    let registry = server.registry.get().with_custom(kinds);
    server.set_registry(registry);
    *last = mark;
}

async fn write(server: &ApiServer, current: &Object, new: &Value) -> Result<(), StoreError> {
    let catalog = server.catalog();
    let Some(resource) = catalog.stored("apiextensions.k8s.io", "customresourcedefinitions") else {
        return Ok(());
    };
    let gone = object::is_deleting(new) && object::finalizers(new).next().is_none();
    let draft = object::draft(resource, new);
    let (value, last) = if gone { (None, Some(draft)) } else { (Some(draft), None) };
    let precondition = Precondition::Revision(current.modified);
    server.store.write(Write { key: current.key.clone(), precondition, value, last }).await.map(|_| ())
}

/// Deletes the instances of a deleted definition, and lets it go when none is left.
async fn clean_up(server: &ApiServer, definition: &Value) -> bool {
    let text = |path: &str| at(definition, path).and_then(Value::as_str).unwrap_or("");
    let catalog = server.catalog();
    let Some(resource) = catalog.stored(text("spec.group"), text("spec.names.plural")).cloned() else {
        return false;
    };
    let snapshot = server.store.snapshot(&resource.table);
    let instances: Vec<Arc<Object>> = snapshot.iter(&Range::default()).cloned().collect();
    for instance in &instances {
        if let Err(cause) = delete_instance(server, &resource, instance).await {
            tracing::debug!(%cause, key = ?instance.key, "delete instance");
        }
    }
    if !server.store.snapshot(&resource.table).is_empty() {
        return false;
    }
    let catalog = server.catalog();
    let Some(own) = catalog.stored("apiextensions.k8s.io", "customresourcedefinitions") else { return false };
    let Some(current) = server.store.get(&own.key("", object::name(definition))) else { return true };
    let Ok(mut new) = serde_json::from_slice::<Value>(&current.json) else { return false };
    if let Some(list) = new.pointer_mut("/metadata/finalizers").and_then(Value::as_array_mut) {
        list.retain(|finalizer| finalizer != FINALIZER);
    }
    condition(&mut new, "Terminating", "False", "InstanceDeletionCompleted", "removed all instances");
    write(server, &current, &new).await.is_ok()
}

async fn delete_instance(
    server: &ApiServer,
    resource: &Resource,
    instance: &Object,
) -> Result<(), StoreError> {
    let Ok(mut value) = serde_json::from_slice::<Value>(&instance.json) else { return Ok(()) };
    let held = object::finalizers(&value).next().is_some();
    if held && object::is_deleting(&value) {
        return Ok(());
    }
    let metadata = metadata_mut(&mut value);
    metadata.insert("deletionTimestamp".into(), object::timestamp(jiff::Timestamp::now()).into());
    metadata.insert("deletionGracePeriodSeconds".into(), 0.into());
    // In the bytes' own version: no conversion stands between an object and its end.
    let mut draft = object::draft(resource, &value);
    if !instance.json.starts_with(resource.stored_head.as_bytes()) {
        draft = object::draft_of_own(resource, &value);
    }
    let value = held.then_some(draft);
    let precondition = Precondition::Revision(instance.modified);
    server.store.write(Write { key: instance.key.clone(), precondition, value, last: None }).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_storage_version_is_remembered() {
        let mut definition = json!({"spec": {"versions": [{"name": "v1", "storage": false},
            {"name": "v2", "storage": true}]}, "status": {"storedVersions": ["v1"]}});
        for _ in 0..2 {
            remember_stored(&mut definition);
            assert_eq!(definition["status"]["storedVersions"], json!(["v1", "v2"]));
        }
    }
}
