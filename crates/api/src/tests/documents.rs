//! Discovery and OpenAPI of the built-in kinds and of a custom one.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::{Registry, custom, discovery, openapi};

fn registry() -> Registry {
    let crd: Value = serde_json::from_str(include_str!("thing.json")).expect("json");
    Registry::builtin().with_custom(custom::kinds(&crd).into_iter().map(Arc::new))
}

/// Every `$ref` below a value.
fn references(value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(to)) = map.get("$ref") {
                out.insert(to.clone());
            }
            map.values().for_each(|v| references(v, out));
        }
        Value::Array(items) => items.iter().for_each(|v| references(v, out)),
        _ => {}
    }
}

fn check_whole(document: &Value, schemas: &str) {
    let mut wanted = BTreeSet::new();
    references(document, &mut wanted);
    for to in &wanted {
        let pointer = to.trim_start_matches('#');
        assert!(document.pointer(pointer).is_some(), "{to} is missing");
    }
    assert!(document.pointer(schemas).and_then(Value::as_object).is_some_and(|s| s.len() > 3));
    let mut ids = BTreeSet::new();
    let operations = document["paths"].as_object().expect("paths").values();
    for operation in operations.flat_map(|p| p.as_object().expect("path").values()) {
        if let Some(id) = operation.get("operationId").and_then(Value::as_str) {
            assert!(ids.insert(id.to_string()), "{id} twice");
        }
    }
}

#[test]
fn documents_are_whole() {
    let registry = registry();
    for name in openapi::v3_names(&registry) {
        let (group, version) = openapi::gv_of_document(&name).expect("name");
        check_whole(&openapi::v3(&registry, &group, &version).expect("document"), "/components/schemas");
    }
    check_whole(&openapi::v2(&registry), "/definitions");
    assert!(openapi::v3(&registry, "no.such", "v1").is_none());
}

#[test]
fn operations_are_named_as_clients_expect() {
    let document = openapi::v3(&registry(), "", "v1").expect("core");
    let id = |path: &str, method: &str| {
        document["paths"][path][method]["operationId"].as_str().unwrap_or("").to_string()
    };
    let pods = "/api/v1/namespaces/{namespace}/pods";
    assert_eq!(id(pods, "get"), "listCoreV1NamespacedPod");
    assert_eq!(id(pods, "delete"), "deleteCoreV1CollectionNamespacedPod");
    let pod = "/api/v1/namespaces/{namespace}/pods/{name}";
    assert_eq!(id(pod, "patch"), "patchCoreV1NamespacedPod");
    assert_eq!(id(&format!("{pod}/exec"), "post"), "connectCoreV1PostNamespacedPodExec");
    assert_eq!(id(&format!("{pod}/eviction"), "post"), "createCoreV1NamespacedPodEviction");
    assert_eq!(id("/api/v1/pods", "get"), "listCoreV1PodForAllNamespaces");
    let patch = &document["paths"][pod]["patch"];
    assert!(patch["parameters"].as_array().expect("list").iter().any(|p| p["name"] == "fieldValidation"));
    assert_eq!(patch["tags"], json!(["core_v1"]));
    let containers =
        &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    let thing = openapi::v3(&registry(), "example.com", "v1").expect("custom");
    let spec = &thing["components"]["schemas"]["com.example.v1.Thing"]["properties"]["spec"]["properties"];
    assert_eq!(spec["n"], json!({"type": "integer", "minimum": 1, "maximum": 10}));
    assert_eq!(spec["one"]["oneOf"], json!([{"required": ["a"]}, {"required": ["b"]}]));
}

#[test]
fn discovery_lists() {
    let registry = registry();
    let core = discovery::resource_list(&registry, "", "v1").expect("core");
    let named =
        |name: &str| core["resources"].as_array().expect("list").iter().find(|r| r["name"] == name).cloned();
    assert_eq!(named("pods/eviction").expect("eviction")["group"], "policy");
    assert_eq!(named("bindings").expect("bindings").get("storageVersionHash"), None);
    let apps = discovery::resource_list(&registry, "apps", "v1").expect("apps");
    assert_eq!(apps["resources"][0]["storageVersionHash"], "85nkx63pcBU=");
    assert_eq!(discovery::group_list(&registry)["groups"][0]["name"], "apiregistration.k8s.io");
    let autoscaling = discovery::group(&registry, "autoscaling").expect("group");
    assert_eq!(autoscaling["preferredVersion"]["version"], "v2");
    let aggregated = discovery::aggregated(&registry, false);
    let last = aggregated["items"].as_array().and_then(|i| i.last()).expect("custom group");
    assert_eq!(last["versions"][0]["resources"][0]["responseKind"]["group"], "example.com");
    assert_eq!(discovery::etag(b"x").len(), 130);
}
