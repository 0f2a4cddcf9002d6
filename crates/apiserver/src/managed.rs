//! The upkeep of `managedFields`: who wrote what, through which endpoint.

use api::KindDef;
use schema::fieldset::FieldSet;
use schema::managed::{Actor, track_update};
use serde_json::Value;

use crate::object;
use crate::server::Call;

/// Bytes of a field manager's name at most.
const MANAGER_MAX: usize = 128;

/// The writer's name: `fieldManager`, or the beginning of the user agent.
pub fn manager(call: &Call) -> String {
    let asked = call.query.text("fieldManager");
    if !asked.is_empty() {
        return asked.to_string();
    }
    let agent = call.head.headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok());
    let agent = agent.unwrap_or("").split('/').next().unwrap_or("");
    let name: String = agent.chars().filter(|c| !c.is_control()).take(MANAGER_MAX).collect();
    if name.is_empty() { "unknown".to_string() } else { name }
}

/// The fields an endpoint does not take from the writer.
pub fn reset(def: &KindDef, subresource: &str) -> FieldSet {
    match subresource {
        "" if def.has_status() => FieldSet::of_fields(&["status"]),
        "status" if def.custom => FieldSet::of_fields(&["spec", "metadata"]),
        "status" if def.group == "apps" => FieldSet::of_fields(&["spec", "metadata.labels"]),
        "status" => FieldSet::of_fields(&["spec"]),
        "finalize" | "approval" => FieldSet::of_fields(&["metadata"]),
        _ => FieldSet::new(),
    }
}

/// Notes a create (`old` absent) or update.
pub fn updated(def: &KindDef, manager: &str, subresource: &str, old: Option<&Value>, new: &mut Value) {
    let now = object::timestamp(jiff::Timestamp::now());
    let version = def.api_version();
    let actor = Actor { manager, api_version: &version, subresource, now: &now };
    track_update(def.schema(), old, new, actor, &reset(def, subresource));
}
