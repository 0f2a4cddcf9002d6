//! Discovery documents, made from a registry on demand: the legacy lists and the aggregated form.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256, Sha512};

use crate::kinds::{KindDef, Scope, join};
use crate::registry::Registry;

/// A strong ETag of a document's bytes, with its quotes.
pub fn etag(bytes: &[u8]) -> String {
    format!("\"{}\"", hash(bytes))
}

/// The upper-case hexadecimal hash that also names OpenAPI documents.
pub fn hash(bytes: &[u8]) -> String {
    Sha512::digest(bytes).iter().map(|b| format!("{b:02X}")).collect()
}

/// `/api`: the versions of the core group. `address` is where clients reach the server, `host:port`.
pub fn api_versions(registry: &Registry, address: &str) -> Value {
    let groups = registry.groups();
    let versions = groups.into_iter().find(|(group, _)| group.is_empty()).map(|(_, v)| v).unwrap_or_default();
    let addresses = json!([{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]);
    json!({"kind": "APIVersions", "versions": versions, "serverAddressByClientCIDRs": addresses})
}

/// `/apis`: all named groups.
pub fn group_list(registry: &Registry) -> Value {
    let named = registry.groups().into_iter().filter(|(group, _)| !group.is_empty());
    let groups: Vec<Value> = named.map(|(group, versions)| group_entry(&group, &versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/{group}`.
pub fn group(registry: &Registry, name: &str) -> Option<Value> {
    let (group, versions) =
        registry.groups().into_iter().find(|(group, _)| group == name && !name.is_empty())?;
    let mut entry = group_entry(&group, &versions);
    entry["kind"] = "APIGroup".into();
    entry["apiVersion"] = "v1".into();
    Some(entry)
}

fn group_entry(group: &str, versions: &[String]) -> Value {
    let entry = |v: &String| json!({"groupVersion": join(group, v), "version": v});
    let entries: Vec<Value> = versions.iter().map(entry).collect();
    let preferred = entries.first().cloned().unwrap_or(Value::Null);
    json!({"name": group, "versions": entries, "preferredVersion": preferred})
}

/// `/apis/{group}/{version}` (group empty: `/api/{version}`).
pub fn resource_list(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let kinds = registry.kinds().iter().filter(|k| k.group == group && k.version == version);
    let resources: Vec<Value> = kinds.flat_map(|k| resources(k)).collect();
    if resources.is_empty() {
        return None;
    }
    let gv = join(group, version);
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": gv, "resources": resources}))
}

fn resources(kind: &KindDef) -> Vec<Value> {
    let mut main = Map::new();
    main.insert("name".to_string(), json!(kind.plural));
    main.insert("singularName".to_string(), json!(kind.singular));
    main.insert("namespaced".to_string(), json!(kind.namespaced()));
    main.insert("kind".to_string(), json!(kind.kind));
    main.insert("verbs".to_string(), json!(kind.verbs));
    if !kind.short_names.is_empty() {
        main.insert("shortNames".to_string(), json!(kind.short_names));
    }
    if !kind.categories.is_empty() {
        main.insert("categories".to_string(), json!(kind.categories));
    }
    if kind.is_stored() {
        main.insert("storageVersionHash".to_string(), json!(storage_hash(kind)));
    }
    let mut out = vec![Value::Object(main)];
    for sub in &kind.subresources {
        let mut entry = json!({"name": format!("{}/{}", kind.plural, sub.name), "singularName": "",
            "namespaced": kind.namespaced(), "kind": sub.kind.2, "verbs": sub.verbs});
        if (&sub.kind.0, &sub.kind.1) != (&kind.group, &kind.version) {
            entry["group"] = json!(sub.kind.0);
            entry["version"] = json!(sub.kind.1);
        }
        out.push(entry);
    }
    out
}

/// Tells clients when the stored form of a resource changed.
fn storage_hash(kind: &KindDef) -> String {
    let text = format!("{}/{}/{}", kind.stored.0, kind.stored.1, kind.kind);
    STANDARD.encode(&Sha256::digest(text.as_bytes())[..8])
}

/// `/api` or `/apis` in the aggregated form: the core group alone, or all named groups.
pub fn aggregated(registry: &Registry, core: bool) -> Value {
    let groups = registry.groups().into_iter().filter(|(group, _)| group.is_empty() == core);
    let items: Vec<Value> =
        groups.map(|(group, versions)| aggregated_group(registry, &group, &versions)).collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_group(registry: &Registry, group: &str, versions: &[String]) -> Value {
    let version = |v: &String| {
        let kinds = registry.kinds().iter().filter(|k| k.group == group && k.version == *v);
        let resources: Vec<Value> = kinds.map(|k| aggregated_resource(k)).collect();
        json!({"version": v, "resources": resources, "freshness": "Current"})
    };
    let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
    json!({"metadata": metadata, "versions": versions.iter().map(version).collect::<Vec<_>>()})
}

fn aggregated_resource(kind: &KindDef) -> Value {
    let scope = if kind.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" };
    let own = kind_ref(kind, &kind.group, &kind.version, &kind.kind);
    let mut out = json!({"resource": kind.plural, "responseKind": own, "scope": scope,
        "singularResource": kind.singular, "verbs": kind.verbs});
    if !kind.short_names.is_empty() {
        out["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        out["categories"] = json!(kind.categories);
    }
    if !kind.subresources.is_empty() {
        let entries = kind.subresources.iter().map(|s| {
            let shown = kind_ref(kind, &s.kind.0, &s.kind.1, &s.kind.2);
            json!({"subresource": s.name, "responseKind": shown, "verbs": s.verbs})
        });
        out["subresources"] = entries.collect();
    }
    out
}

/// Built-in kinds leave out their own group and version; custom ones name them.
fn kind_ref(of: &KindDef, group: &str, version: &str, kind: &str) -> Value {
    if !of.custom && group == of.group && version == of.version {
        json!({"group": "", "version": "", "kind": kind})
    } else {
        json!({"group": group, "version": version, "kind": kind})
    }
}
