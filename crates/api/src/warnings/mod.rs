//! What upstream's servers take but warn of: deprecated fields, values that do not do what they seem to.
//!
//! ```text
//! warnings::create(&kind, &object) -> Vec<String>
//! warnings::update(&kind, "", &old, &new) -> Vec<String>
//! warnings::deprecated(&kind) -> Option<&str>        // said of every request for the kind
//! ```
//!
//! Like validation these read value trees in canonical form with all defaults, after validation found nothing.

mod address;
mod overlap;
mod pod;
mod small;
mod workload;

use std::cell::RefCell;

use base::names;
use serde_json::Value;

use crate::KindDef;
use crate::validation::check::At;

/// The findings so far.
pub(crate) type Found = Vec<String>;

/// What is said of every request for a kind that upstream has deprecated.
pub fn deprecated(def: &KindDef) -> Option<&'static str> {
    match (def.group.as_ref(), def.version.as_ref(), def.kind.as_ref()) {
        ("", "v1", "Endpoints") => {
            Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
        }
        ("", "v1", "ComponentStatus") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        _ => None,
    }
}

/// What is doubtful about a new object.
pub fn create(def: &KindDef, object: &Value) -> Vec<String> {
    let mut found = Found::new();
    if def.custom {
        return found;
    }
    let errors = RefCell::default();
    let at = At::root(object, &errors);
    match (def.group.as_ref(), def.kind.as_ref()) {
        ("", "Pod") => {
            hostname(&at, "this is used in the Pod's hostname", &mut found);
            pod::pod(&at, false, &mut found);
        }
        ("apps" | "batch", _) | ("", "ReplicationController" | "PodTemplate") => {
            workload::create(def, &at, &mut found);
        }
        (group, kind) => small::create(group, kind, &at, &mut found),
    }
    found
}

/// What is doubtful about a changed object.
pub fn update(def: &KindDef, subresource: &str, old: &Value, new: &Value) -> Vec<String> {
    let mut found = Found::new();
    if def.custom {
        return found;
    }
    let errors = RefCell::default();
    let (at, before) = (At::root(new, &errors), At::root(old, &errors));
    match (def.group.as_ref(), def.kind.as_ref(), subresource) {
        ("", kind, "status") => small::status(kind, &at, &mut found),
        // People do not change pods, and what does is busy.
        (_, _, "status") | ("", "Pod", _) => {}
        ("apps" | "batch", _, "") | ("", "ReplicationController" | "PodTemplate", "") => {
            workload::update(def, &at, &before, &mut found);
        }
        (group, kind, "") => small::update(group, kind, &at, &before, &mut found),
        _ => {}
    }
    found
}

/// Names that become part of host names should be DNS labels.
fn hostname(at: &At<'_>, used: &str, found: &mut Found) {
    let metadata = at.get("metadata");
    let wrong = names::dns1123_label(metadata.get("name").text());
    if !wrong.is_empty() {
        found.push(format!(
            "metadata.name: {used}, which can result in surprising behavior; a DNS label is recommended: [{}]",
            wrong.join(" ")
        ));
    }
}

/// The text of an annotation, if it is there.
fn annotation<'a>(at: &At<'a>, key: &str) -> Option<&'a str> {
    at.value.get("metadata")?.get("annotations")?.get(key)?.as_str()
}

/// `place: fractional byte value "1500m" is invalid, must be an integer`.
fn whole_bytes(amounts: &At<'_>, name: &str, found: &mut Found) {
    let amount = amounts.key(name);
    if let Some(quantity) = amount.quantity().filter(|q| q.nanos() % 1_000_000_000 != 0) {
        found.push(format!(
            "{}: fractional byte value \"{quantity}\" is invalid, must be an integer",
            amount.place()
        ));
    }
}

/// The storage a claim asks for.
fn claim_spec(spec: &At<'_>, found: &mut Found) {
    let resources = spec.get("resources");
    whole_bytes(&resources.get("requests"), "storage", found);
    whole_bytes(&resources.get("limits"), "storage", found);
}
