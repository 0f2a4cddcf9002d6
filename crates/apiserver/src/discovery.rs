//! Discovery: which groups, versions and resources are served; one document per version, or all in one.

use std::sync::Arc;

use aws_lc_rs::digest;
use http::Response;
use http::header::{ACCEPT, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use serde_json::{Value, json};
use serve::Body;

use api::{KindDef, Registry};

use crate::answer;
use crate::negotiate::{self, Format};
use crate::query::Query;
use crate::server::ApiServer;
use crate::status::Status;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Answers `/api…` and `/apis…`.
pub fn answer(
    server: &Arc<ApiServer>,
    segments: &[&str],
    query: &Query,
    head: &http::request::Parts,
) -> Result<Response<Body>, Status> {
    let registry = server.registry.get();
    if segments.len() == 1 && wants_aggregated(head) {
        return Ok(aggregated(&registry, segments[0] == "api", head));
    }
    let output = negotiate::output(&head.headers, query, true, false);
    let format = output.map_or(Format::Json, |output| output.format);
    match segments {
        ["api"] => Ok(answer::typed(200, format, "meta_v1.APIVersions", &versions(server))),
        ["apis"] => Ok(answer::typed(200, format, "meta_v1.APIGroupList", &groups(&registry))),
        ["api", version] => resources(&registry, "", version, format),
        ["apis", group] => match registry.groups().iter().find(|(name, _)| name == group) {
            Some((name, versions)) => {
                let mut value = group_value(name, versions);
                value["kind"] = "APIGroup".into();
                value["apiVersion"] = "v1".into();
                Ok(answer::typed(200, format, "meta_v1.APIGroup", &value))
            }
            None => Ok(answer::text(404, "404 page not found\n")),
        },
        ["apis", group, version] => resources(&registry, group, version, format),
        _ => Ok(answer::text(404, "404 page not found\n")),
    }
}

fn wants_aggregated(head: &http::request::Parts) -> bool {
    let accept = head.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    accept.split(',').any(|clause| {
        let clause: String = clause.chars().filter(|c| !c.is_whitespace()).collect();
        clause.starts_with("application/json;")
            && clause.contains("as=APIGroupDiscoveryList")
            && clause.contains("g=apidiscovery.k8s.io")
            && (clause.contains("v=v2;") || clause.ends_with("v=v2"))
    })
}

fn versions(server: &ApiServer) -> Value {
    json!({
        "kind": "APIVersions",
        "apiVersion": "v1",
        "versions": ["v1"],
        "serverAddressByClientCIDRs":
            [{"clientCIDR": "0.0.0.0/0", "serverAddress": server.settings.advertise.to_string()}],
    })
}

fn group_value(name: &str, versions: &[String]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
}

fn groups(registry: &Registry) -> Value {
    let groups: Vec<Value> = registry
        .groups()
        .iter()
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, versions)| group_value(name, versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn storage_hash(def: &KindDef) -> String {
    use base64::Engine;
    let text = format!("{}/{}/{}", def.stored.0, def.stored.1, def.kind);
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(&hash.as_ref()[..8])
}

fn resources(
    registry: &Registry,
    group: &str,
    version: &str,
    format: Format,
) -> Result<Response<Body>, Status> {
    let kinds: Vec<_> =
        registry.kinds().iter().filter(|def| def.group == group && def.version == version).collect();
    if kinds.is_empty() {
        return Ok(answer::text(404, "404 page not found\n"));
    }
    let mut list = Vec::new();
    for def in kinds {
        let mut entry = json!({
            "name": def.plural,
            "singularName": def.singular,
            "namespaced": def.namespaced(),
            "kind": def.kind,
            "verbs": def.verbs,
        });
        if !def.short_names.is_empty() {
            entry["shortNames"] = json!(def.short_names);
        }
        if !def.categories.is_empty() {
            entry["categories"] = json!(def.categories);
        }
        if def.is_stored() {
            entry["storageVersionHash"] = storage_hash(def).into();
        }
        list.push(entry);
        for sub in &def.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", def.plural, sub.name),
                "singularName": "",
                "namespaced": def.namespaced(),
                "kind": sub.kind.2,
                "verbs": sub.verbs,
            });
            if sub.kind.0 != def.group || sub.kind.1 != def.version {
                if !sub.kind.0.is_empty() {
                    entry["group"] = sub.kind.0.as_ref().into();
                }
                entry["version"] = sub.kind.1.as_ref().into();
            }
            list.push(entry);
        }
    }
    list.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    let value = json!({"kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": api::kinds::join(group, version), "resources": list});
    Ok(answer::typed(200, format, "meta_v1.APIResourceList", &value))
}

fn aggregated(registry: &Registry, legacy: bool, head: &http::request::Parts) -> Response<Body> {
    let items: Vec<Value> = registry
        .groups()
        .iter()
        .filter(|(name, _)| name.is_empty() == legacy)
        .map(|(group, versions)| {
            let versions: Vec<Value> =
                versions.iter().map(|version| aggregated_version(registry, group, version)).collect();
            let metadata = if legacy { json!({}) } else { json!({"name": group}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {}, "items": items});
    let body = serde_json::to_vec(&list).unwrap_or_default();
    let hash = digest::digest(&digest::SHA256, &body);
    let etag: String = hash.as_ref().iter().take(32).map(|byte| format!("{byte:02X}")).collect();
    let etag = format!("\"{etag}\"");
    let known = head.headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let mut response = match known == Some(etag.as_str()) {
        true => answer::bytes(304, AGGREGATED, ""),
        false => answer::bytes(200, AGGREGATED, body),
    };
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&etag) {
        headers.insert(ETAG, value);
    }
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    response
}

fn aggregated_version(registry: &Registry, group: &str, version: &str) -> Value {
    let kinds = registry.kinds().iter().filter(|def| def.group == group && def.version == version);
    let resources: Vec<Value> = kinds
        .map(|def| {
            let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
            let mut entry = json!({
                "resource": def.plural,
                "responseKind": kind(&def.group, &def.version, &def.kind),
                "scope": if def.namespaced() { "Namespaced" } else { "Cluster" },
                "singularResource": def.singular,
                "verbs": def.verbs,
            });
            if !def.short_names.is_empty() {
                entry["shortNames"] = json!(def.short_names);
            }
            if !def.categories.is_empty() {
                entry["categories"] = json!(def.categories);
            }
            let subresources: Vec<Value> = def
                .subresources
                .iter()
                .map(|sub| {
                    json!({"subresource": sub.name,
                        "responseKind": kind(&sub.kind.0, &sub.kind.1, &sub.kind.2), "verbs": sub.verbs})
                })
                .collect();
            if !subresources.is_empty() {
                entry["subresources"] = subresources.into();
            }
            entry
        })
        .collect();
    json!({"version": version, "freshness": "Current", "resources": resources})
}
