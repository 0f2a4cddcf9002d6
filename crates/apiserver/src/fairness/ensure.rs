//! Follows FlowSchemas and PriorityLevelConfigurations: the default ones are kept, all of them configure the stage.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use store::{Object, Precondition, Range, StoreError, Write};

use super::defaults::{self, KEPT};
use crate::codec;
use crate::object;
use crate::server::ApiServer;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMAS: &str = "flowschemas";
const LEVELS: &str = "prioritylevelconfigurations";
/// How long to wait when the objects cannot be followed.
const RETRY: Duration = Duration::from_secs(1);

/// Follows the objects until the server ends.
pub async fn follow(server: Arc<ApiServer>) {
    let mut stopping = server.stopping();
    loop {
        let revision = server.store.revision();
        settle(&server).await;
        let watch = |plural: &str| server.store.watch(&format!("{GROUP}/{plural}"), revision);
        let (Ok(mut schemas), Ok(mut levels)) = (watch(SCHEMAS), watch(LEVELS)) else {
            tokio::time::sleep(RETRY).await;
            continue;
        };
        tokio::select! {
            _ = schemas.next(64) => {}
            _ = levels.next(64) => {}
            _ = stopping.changed() => return,
        }
    }
}

fn stored(server: &ApiServer, plural: &str) -> Vec<(Arc<Object>, Value)> {
    let snapshot = server.store.snapshot(&format!("{GROUP}/{plural}"));
    let objects = snapshot.iter(&Range::default());
    objects.filter_map(|o| Some((o.clone(), serde_json::from_slice(&o.json).ok()?))).collect()
}

/// Makes and mends the default objects, and configures the stage by what is there.
pub async fn settle(server: &ApiServer) {
    let writes = [(LEVELS, defaults::levels()), (SCHEMAS, defaults::schemas())].map(|(plural, all)| {
        let known = stored(server, plural);
        let writes = all.into_iter().map(move |(name, spec)| {
            let found = known.iter().find(|(_, value)| object::name(value) == name).cloned();
            keep(server, plural, name, spec, found)
        });
        futures_util::future::join_all(writes)
    });
    futures_util::future::join_all(writes).await;
    let levels: Vec<Value> = stored(server, LEVELS).into_iter().map(|(_, value)| value).collect();
    let schemas = stored(server, SCHEMAS);
    for (object, schema) in &schemas {
        dangling(server, object, schema, &levels).await;
    }
    let schemas: Vec<Value> = schemas.into_iter().map(|(_, value)| value).collect();
    server.fairness.configure(&schemas, &levels);
}

/// Makes a default object, or mends it.
async fn keep(
    server: &ApiServer,
    plural: &str,
    name: &str,
    spec: Value,
    found: Option<(Arc<Object>, Value)>,
) {
    let catalog = server.catalog();
    let Some(resource) = catalog.stored(GROUP, plural) else { return };
    let mut wanted = json!({"spec": spec});
    codec::default(&resource.def, &mut wanted);
    let outcome = match found {
        None => {
            let new = json!({"metadata": {"name": name, "annotations": {KEPT: "true"}, "generation": 1,
                    "uid": uuid::Uuid::new_v4().to_string(),
                    "creationTimestamp": object::timestamp(jiff::Timestamp::now())},
                "spec": wanted["spec"], "status": {}});
            write(server, plural, name, Precondition::Absent, &new).await
        }
        Some((stored, value)) => {
            let mark = value.pointer("/metadata/annotations").and_then(|own| own.get(KEPT));
            let untouched = value["metadata"]["generation"] == 1;
            let kept = mark.and_then(Value::as_str).map_or(untouched, |mark| mark == "true");
            if !(kept || defaults::is_mandatory(name)) || value["spec"] == wanted["spec"] {
                return;
            }
            let mut new = value.clone();
            new["spec"] = wanted["spec"].clone();
            let generation = value["metadata"]["generation"].as_i64().unwrap_or(0);
            object::set_at(&mut new, "metadata.generation", (generation + 1).into());
            write(server, plural, name, Precondition::Revision(stored.modified), &new).await
        }
    };
    // Whoever was faster brings us back by the event of that write.
    if let Err(cause) = outcome {
        tracing::debug!(%cause, name, "keep a default object of flow control");
    }
}

/// A schema's condition says whether its level is there.
async fn dangling(server: &ApiServer, stored: &Object, schema: &Value, levels: &[Value]) {
    let level = schema["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or("");
    let there = levels.iter().any(|own| object::name(own) == level);
    let (status, reason, how) = match there {
        true => ("False", "Found", "and it exists"),
        false => ("True", "NotFound", "but there is no such object"),
    };
    let message =
        format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {how}");
    let mut conditions = schema["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let own = conditions.iter().position(|own| own["type"] == "Dangling");
    if own
        .is_some_and(|at| conditions[at]["status"] == status && conditions[at]["message"] == message.as_str())
    {
        return;
    }
    let now = object::timestamp(jiff::Timestamp::now());
    let new = json!({"type": "Dangling", "status": status, "lastTransitionTime": now, "reason": reason,
        "message": message});
    match own {
        Some(at) => conditions[at] = new,
        None => conditions.push(new),
    }
    let mut value = schema.clone();
    object::set_at(&mut value, "status.conditions", conditions.into());
    let precondition = Precondition::Revision(stored.modified);
    if let Err(cause) = write(server, SCHEMAS, object::name(schema), precondition, &value).await {
        tracing::debug!(%cause, name = object::name(schema), "write the status of a flow schema");
    }
}

async fn write(
    server: &ApiServer,
    plural: &str,
    name: &str,
    precondition: Precondition,
    value: &Value,
) -> Result<(), StoreError> {
    let catalog = server.catalog();
    let Some(resource) = catalog.stored(GROUP, plural) else { return Ok(()) };
    let value = Some(object::draft(resource, value));
    let write = Write { key: resource.key("", name), precondition, value, last: None };
    server.store.write(write).await.map(|_| ())
}
