//! What upstream's servers refuse: the rules of built-in kinds, one function per kind, looked up in one table.
//!
//! ```text
//! validation::rules("apps", "Deployment")            // None: only metadata and the schema are checked
//! validation::create(&kind, &object) -> Vec<FieldError>
//! validation::update(&kind, "status", &old, &new) -> Vec<FieldError>
//! ```
//!
//! Rules read value trees in canonical form with all defaults. Nothing is allocated while nothing is wrong.

mod admission;
mod autoscaling;
mod certificates;
pub mod check;
mod container;
mod core;
mod csi;
mod definition;
mod devices;
mod flow;
mod handler;
mod job;
mod meta;
pub(crate) mod net;
mod networking;
mod placement;
mod pod;
mod pod_change;
mod registration;
mod resources;
mod service;
mod slices;
mod small;
mod storage;
mod url;
mod volume;
mod webhook;
mod workload;

use std::cell::RefCell;

use base::names;
use check::At;
use schema::FieldError;
use serde_json::Value;

use crate::KindDef;

/// Judges a new object, metadata included.
pub type Create = fn(&At<'_>);
/// Judges a changed object: new, old, subresource.
pub type Update = fn(&At<'_>, &At<'_>, &str);

/// The rules of one kind.
#[derive(Clone, Copy)]
pub struct Rules {
    /// A new object, metadata included.
    pub create: Create,
    /// A changed object: new, old, subresource.
    pub update: Update,
}

/// The rules of a kind, if it has its own.
pub fn rules(group: &str, kind: &str) -> Option<Rules> {
    let (create, update): (Create, Update) = match (group, kind) {
        ("", "Pod") => (pod_change::create, pod_change::update),
        ("", "Event") => return registration::rules(group, kind),
        ("", kind) => return core::rules(kind),
        ("admissionregistration.k8s.io", kind) => return admission::rules(kind),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => (definition::create, definition::update),
        ("resource.k8s.io", kind) => return devices::rules(kind),
        ("flowcontrol.apiserver.k8s.io", kind) => return flow::rules(kind),
        ("apps", kind) => return workload::rules(kind),
        ("batch", kind) => return job::rules(kind),
        ("networking.k8s.io", "ServiceCIDR" | "IPAddress") => return registration::rules(group, kind),
        ("networking.k8s.io", kind) => return networking::rules(kind),
        ("discovery.k8s.io", "EndpointSlice") => (networking::slice, networking::slice_update),
        ("certificates.k8s.io", "CertificateSigningRequest") => (certificates::create, certificates::update),
        ("autoscaling", kind) => return autoscaling::rules(kind),
        ("storage.k8s.io", kind) if kind != "StorageClass" => return csi::rules(kind),
        (group, kind) => return small::rules(group, kind).or_else(|| registration::rules(group, kind)),
    };
    Some(Rules { create, update })
}

/// What is wrong with a new object.
pub fn create(def: &KindDef, object: &Value) -> Vec<FieldError> {
    let out = RefCell::new(Vec::new());
    let at = At::root(object, &out);
    match rules(&def.group, &def.kind).filter(|_| !def.custom) {
        Some(rules) => (rules.create)(&at),
        None if def.custom => meta::accessor(&at.get("metadata"), def.namespaced(), name_rule(def)),
        None => meta::create(&at.get("metadata"), def.namespaced(), name_rule(def)),
    }
    // Every new object is judged by the common rules last, for kinds whose own ask for less.
    if at.found() == 0 {
        meta::accessor(&at.get("metadata"), def.namespaced(), names::path_segment);
    }
    out.into_inner()
}

/// What is wrong with a changed object.
pub fn update(def: &KindDef, subresource: &str, old: &Value, new: &Value) -> Vec<FieldError> {
    let out = RefCell::new(Vec::new());
    let (at, before) = (At::root(new, &out), At::root(old, &out));
    // Every change is judged by the common rules first; single kinds repeat some of them, and so do their answers.
    meta::accessor(&at.get("metadata"), def.namespaced(), names::path_segment);
    meta::update(&at.get("metadata"), &before.get("metadata"));
    match rules(&def.group, &def.kind).filter(|_| !def.custom) {
        Some(rules) => (rules.update)(&at, &before, subresource),
        None => meta::update(&at.get("metadata"), &before.get("metadata")),
    }
    out.into_inner()
}

/// Whether the kind's rules say everything, so that the schema need not be asked.
pub fn complete(def: &KindDef) -> bool {
    !def.custom && rules(&def.group, &def.kind).is_some()
}

/// Most names are DNS subdomains; roles are path segments.
fn name_rule(def: &KindDef) -> meta::NameRule {
    match (def.group.as_ref(), def.kind.as_ref()) {
        ("rbac.authorization.k8s.io", _) => names::path_segment,
        _ => names::dns1123_subdomain,
    }
}

/// An address is named as it is written in its one canonical form.
fn ip_address(name: &str) -> Vec<String> {
    match name.parse::<std::net::IpAddr>() {
        Ok(address) if address.to_string() == name => Vec::new(),
        Ok(address) => vec![format!("must be in canonical form (\"{address}\")")],
        Err(_) => vec![net::IP.to_string()],
    }
}
