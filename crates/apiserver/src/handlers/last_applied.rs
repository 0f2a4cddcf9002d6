//! Objects that `kubectl apply` looked after before, and `kubectl apply --server-side` looks after now.
//!
//! Client-side apply keeps its last configuration in an annotation. Upstream lets the manager `kubectl` take over
//! what that configuration says and nobody changed since, and keeps the annotation up to date, so that a person may
//! go back and forth between the two.

use api::KindDef;
use schema::managed::{self, ApplyError};
use serde_json::Value;

use crate::object;

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The only manager that this is done for.
const MANAGER: &str = "kubectl";

fn annotation(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(ANNOTATION)?.as_str().filter(|text| !text.is_empty())
}

/// Whether all conflicts are over fields that still are as client-side apply left them; else the rest of the conflicts.
pub fn settles(def: &KindDef, manager: &str, live: &Value, error: ApplyError) -> Result<(), ApplyError> {
    let ApplyError::Conflicts(mut conflicts) = error else { return Err(error) };
    let last = annotation(live).filter(|_| manager == MANAGER);
    let last = last.and_then(|text| serde_json::from_str::<Value>(text).ok());
    let version = def.api_version();
    if let Some(last) = last.filter(|last| last.get("apiVersion").and_then(Value::as_str) == Some(&version)) {
        let own = managed::unchanged(def.schema(), &last, live).paths();
        conflicts.retain(|conflict| !own.contains(&conflict.field));
    }
    if conflicts.is_empty() { Ok(()) } else { Err(ApplyError::Conflicts(conflicts)) }
}

/// Writes the applied configuration into the annotation, if the object has it.
pub fn follow(manager: &str, config: &Value, new: &mut Value) {
    if manager != MANAGER || annotation(new).is_none() {
        return;
    }
    let mut config = config.clone();
    let annotations = object::metadata_mut(&mut config).get_mut("annotations").and_then(Value::as_object_mut);
    if let Some(annotations) = annotations {
        annotations.remove(ANNOTATION);
        if annotations.is_empty() {
            object::metadata_mut(&mut config).remove("annotations");
        }
    }
    new["metadata"]["annotations"][ANNOTATION] = Value::String(format!("{config}\n"));
}
