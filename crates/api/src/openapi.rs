//! OpenAPI documents, made from a registry on demand: v3 per group version, v2 for all.

mod operations;
pub mod proto;
mod schemas;

use std::collections::BTreeMap;

use schema::{ObjectRef, Schema, Type};
use serde_json::{Map, Value, json};

use crate::docs::Docs;
use crate::kinds::{KindDef, join};
use crate::registry::Registry;
use operations::Paths;
use schemas::Schemas;

/// The edition of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edition {
    /// Swagger 2.0: `definitions`.
    V2,
    /// OpenAPI 3.0: `components.schemas`.
    V3,
}

impl Edition {
    fn reference(self, name: &str) -> Value {
        let at = if self == Edition::V2 { "#/definitions/" } else { "#/components/schemas/" };
        json!({"$ref": format!("{at}{name}")})
    }
}

/// `api/v1` or `apis/{group}/{version}`: the documents of v3 by their names.
pub fn v3_names(registry: &Registry) -> Vec<String> {
    let groups = registry.groups().into_iter();
    groups
        .flat_map(|(group, versions)| versions.into_iter().map(move |v| document_name(&group, &v)))
        .collect()
}

fn document_name(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// The v3 document of one group version, or `None` if nothing is served there.
pub fn v3(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let kinds: Vec<&KindDef> = registry
        .kinds()
        .iter()
        .filter(|k| k.group == group && k.version == version)
        .map(AsRef::as_ref)
        .collect();
    if kinds.is_empty() {
        return None;
    }
    let (paths, schemas) = build(registry, Edition::V3, &kinds);
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": base::KUBERNETES_VERSION},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"BearerToken": bearer()}},
    }))
}

/// The v3 index: where each document is, named by its content. `hash` gives a document's hash by its name.
pub fn v3_index(registry: &Registry, hash: impl Fn(&str) -> String) -> Value {
    let mut paths = Map::new();
    for name in v3_names(registry) {
        let url = format!("/openapi/v3/{name}?hash={}", hash(&name));
        paths.insert(name, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

/// The v2 document of everything.
pub fn v2(registry: &Registry) -> Value {
    let kinds: Vec<&KindDef> = registry.kinds().iter().map(AsRef::as_ref).collect();
    let (paths, definitions) = build(registry, Edition::V2, &kinds);
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": base::KUBERNETES_VERSION},
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {"BearerToken": bearer()},
        "security": [{"BearerToken": []}],
    })
}

fn bearer() -> Value {
    json!({"description": "Bearer token", "type": "apiKey", "name": "authorization", "in": "header"})
}

fn build(registry: &Registry, edition: Edition, kinds: &[&KindDef]) -> (Value, Value) {
    let docs = Docs::load();
    let mut schemas = Schemas::new(edition, &docs, registry);
    let mut paths = Paths::new(edition);
    let mut versions: BTreeMap<(String, String), ()> = BTreeMap::new();
    for kind in kinds {
        versions.insert((kind.group.to_string(), kind.version.to_string()), ());
        paths.add(kind, &mut schemas);
    }
    for (group, version) in versions.keys() {
        paths.add_resource_list(group, version, &mut schemas);
    }
    (paths.finish(), schemas.finish())
}

/// The definition's name of a built-in type: `core_v1.Pod` is `io.k8s.api.core.v1.Pod`.
fn definition_name(type_name: &str) -> String {
    let (module, ty) = type_name.split_once('.').unwrap_or(("", type_name));
    let (group, version) = module.rsplit_once('_').unwrap_or((module, ""));
    match group {
        "meta" if ty == "Quantity" => "io.k8s.apimachinery.pkg.api.resource.Quantity".to_string(),
        "meta" if ty == "IntOrString" => "io.k8s.apimachinery.pkg.util.intstr.IntOrString".to_string(),
        "meta" if ty == "RawExtension" => "io.k8s.apimachinery.pkg.runtime.RawExtension".to_string(),
        "meta" => format!("io.k8s.apimachinery.pkg.apis.meta.{version}.{ty}"),
        "apiextensions" => format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{ty}"),
        "apiregistration" => format!("io.k8s.kube-aggregator.pkg.apis.apiregistration.{version}.{ty}"),
        "metrics" => format!("io.k8s.metrics.pkg.apis.metrics.{version}.{ty}"),
        _ => format!("io.k8s.api.{group}.{version}.{ty}"),
    }
}

/// The definition's name of a custom kind: the group's labels from the end, version, kind.
fn custom_name(kind: &KindDef, name: &str) -> String {
    let group: Vec<&str> = kind.group.split('.').rev().collect();
    format!("{}.{}.{name}", group.join("."), kind.version)
}

/// A schema that refers to a built-in type by its full name.
fn builtin(type_name: &str) -> Schema {
    Schema::new(Type::Object(ObjectRef::lazy(type_name.to_string(), crate::types::object)))
}

/// Whether a document is about the group version at `path` (`/apis/apps/v1`), for the index.
pub fn gv_of_document(name: &str) -> Option<(String, String)> {
    let rest = name.strip_prefix("apis/").or_else(|| name.strip_prefix("api/"))?;
    let (group, version) = rest.split_once('/').unwrap_or(("", rest));
    let known = !version.is_empty() && !version.contains('/') && name == document_name(group, version);
    known.then(|| (group.to_string(), version.to_string()))
}

/// `v1` or `apps/v1` as the base of paths: `/api/v1`, `/apis/apps/v1`.
fn base_path(group: &str, version: &str) -> String {
    let prefix = if group.is_empty() { "api" } else { "apis" };
    format!("/{prefix}/{}", join(group, version))
}
