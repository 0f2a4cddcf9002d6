//! The groups that this server serves itself have APIServices too.

use serde_json::{Value, json};
use store::Precondition;

use super::{Condition, priorities, stored, write};
use crate::object;
use crate::server::ApiServer;

/// Says that an APIService is kept by the server: `onstart` or `true`.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

fn available() -> Condition {
    let message = "Local APIServices are always available".to_string();
    Condition { status: "True", reason: "Local", message }
}

/// An APIService of what is served here: name, group, version, priorities, and whether it is custom.
type Wanted = (String, String, String, (i64, i64), bool);

/// The APIServices of what is served here.
fn wanted(server: &ApiServer) -> Vec<Wanted> {
    let registry = server.registry.get();
    let mut out: Vec<Wanted> = Vec::new();
    for kind in registry.kinds() {
        let (group, version) = (kind.group.to_string(), kind.version.to_string());
        let name = format!("{version}.{group}");
        if out.iter().any(|(known, ..)| *known == name) {
            continue;
        }
        let own = match kind.custom {
            true => Some(priorities::CUSTOM),
            false => priorities::builtin(&group, &version),
        };
        out.extend(own.map(|own| (name, group, version, own, kind.custom)));
    }
    out
}

/// Makes what is missing, mends what this server keeps, and deletes what it no longer serves.
pub async fn register(server: &ApiServer) {
    let known = stored(server);
    let wanted = wanted(server);
    let first = !server.aggregation.registered();
    for (name, group, version, (group_priority, version_priority), custom) in &wanted {
        let label = if *custom { "true" } else { "onstart" };
        let spec = json!({"group": group, "version": version, "groupPriorityMinimum": group_priority,
            "versionPriority": version_priority});
        let found = known.iter().find(|(_, value)| object::name(value) == name);
        let outcome = match found {
            // What a user deleted of the built-in groups comes back with the next start.
            None if first || *custom => {
                let mut new = json!({"metadata": {"name": name, "labels": {MANAGED: label},
                        "uid": uuid::Uuid::new_v4().to_string(),
                        "creationTimestamp": object::timestamp(jiff::Timestamp::now())},
                    "spec": spec, "status": {}});
                available().set(&mut new);
                write(server, name, Precondition::Absent, Some(&new)).await
            }
            Some((object, value)) => {
                let mut new = value.clone();
                let managed = value.pointer("/metadata/labels").and_then(|labels| labels.get(MANAGED));
                let keeps = managed.and_then(Value::as_str).is_some_and(|own| own == "true" || first);
                if keeps && new["spec"] != spec {
                    new["spec"] = spec;
                }
                if new["spec"]["service"].is_null() {
                    available().set(&mut new);
                }
                match new == *value {
                    true => Ok(()),
                    false => write(server, name, Precondition::Revision(object.modified), Some(&new)).await,
                }
            }
            None => Ok(()),
        };
        if let Err(cause) = outcome {
            tracing::debug!(%cause, name, "register an APIService");
        }
    }
    for (object, value) in &known {
        let labels = value.pointer("/metadata/labels");
        let managed = labels.and_then(|labels| labels.get(MANAGED)).and_then(Value::as_str);
        let name = object::name(value);
        let gone = !wanted.iter().any(|(known, ..)| known == name);
        if gone && (managed == Some("true") || managed == Some("onstart") && first) {
            if let Err(cause) = write(server, name, Precondition::Revision(object.modified), None).await {
                tracing::debug!(%cause, name, "delete an APIService");
            }
        } else if gone && value["spec"]["service"].is_null() {
            available().write(server, object, value).await;
        }
    }
    server.aggregation.set_registered();
}
