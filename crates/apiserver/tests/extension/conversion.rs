//! Custom resources in versions that a webhook converts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use super::hook::{Hook, until};
use crate::harness::{Server, with_server};

const V1: &str = "/apis/shop.example.com/v1/namespaces/default/places";
const V2: &str = "/apis/shop.example.com/v2/namespaces/default/places";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// `host: a:1` in v1 is `host: a, port: "1"` in v2.
fn converted(request: &Request<Bytes>) -> (u16, Value) {
    let review: Value = serde_json::from_slice(request.body()).expect("review");
    let desired = review["request"]["desiredAPIVersion"].clone();
    let objects = review["request"]["objects"].as_array().expect("objects").iter().map(|object| {
        let mut new = object.clone();
        new["apiVersion"] = desired.clone();
        if object["metadata"]["name"] == "renamed" {
            new["metadata"]["uid"] = "another".into();
        }
        new["metadata"]["generation"] = 99.into();
        let host = object["host"].as_str().unwrap_or("").to_string();
        if desired == "shop.example.com/v2" {
            let (host, port) = host.split_once(':').unwrap_or((&host, ""));
            (new["host"], new["port"]) = (host.into(), port.into());
        } else {
            new["host"] = format!("{host}:{}", object["port"].as_str().unwrap_or("")).into();
            new.as_object_mut().expect("object").remove("port");
        }
        new
    });
    let objects: Vec<Value> = objects.collect();
    let wrong = objects.iter().any(|object| object["host"].as_str().is_some_and(|h| h.starts_with("wrong")));
    let result = match wrong {
        true => json!({"status": "Failure", "message": "no such place"}),
        false => json!({"status": "Success"}),
    };
    let answer = json!({"kind": "ConversionReview", "apiVersion": review["apiVersion"], "response": {
        "uid": review["request"]["uid"], "result": result, "convertedObjects": objects}});
    (200, answer)
}

fn definition(client: Value, stored: &str) -> Value {
    let version = |name: &str| {
        let text = json!({"type": "string"});
        json!({"name": name, "served": true, "storage": name == stored, "schema": {"openAPIV3Schema": {
            "type": "object", "properties": {"host": text, "port": text}}},
            "selectableFields": if name == "v1" { json!([{"jsonPath": ".host"}]) } else { json!([{"jsonPath": ".host"}, {"jsonPath": ".port"}]) }})
    };
    json!({"metadata": {"name": "places.shop.example.com"}, "spec": {
        "group": "shop.example.com", "scope": "Namespaced",
        "names": {"plural": "places", "singular": "place", "kind": "Place", "listKind": "PlaceList"},
        "versions": [version("v1"), version("v2")],
        "conversion": {"strategy": "Webhook", "webhook": {
            "clientConfig": client, "conversionReviewVersions": ["v1", "v1beta1"]}}}})
}

fn place(version: &str, name: &str, host: &str) -> String {
    json!({"apiVersion": format!("shop.example.com/{version}"), "kind": "Place",
        "metadata": {"name": name}, "host": host})
    .to_string()
}

async fn defined(api: &Server, definition: &Value) {
    let made = api.post(DEFINITIONS, &definition.to_string()).await;
    assert_eq!(made.code, 201, "{}", made.body);
    until("the kind is served", || async { api.get(V2).await.code == 200 && api.get(V1).await.code == 200 })
        .await;
}

#[test]
fn a_webhook_converts_what_is_read_listed_watched_and_written() {
    with_server(|api| async move {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let hook = Hook::start(&[], move |request: &Request<Bytes>| {
            counted.fetch_add(1, Ordering::Relaxed);
            assert_eq!(request.uri().path(), "/convert");
            converted(request)
        })
        .await;
        let url = format!("https://127.0.0.1:{}/convert", hook.address.port());
        let mut definition = definition(json!({"url": url, "caBundle": hook.bundle}), "v1");
        defined(&api, &definition).await;

        let made = api.post(V1, &place("v1", "a", "a:1")).await;
        assert_eq!((made.code, calls.load(Ordering::Relaxed)), (201, 0), "{}", made.body);
        let read = api.get(&format!("{V2}/a")).await;
        assert_eq!((read.text("/host"), read.text("/port")), ("a", "1"), "{}", read.body);
        assert_eq!(read.body["metadata"]["generation"], 1);
        assert_eq!(read.text("/apiVersion"), "shop.example.com/v2");

        let made = api
            .post(
                V2,
                &json!({"apiVersion": "shop.example.com/v2", "kind": "Place",
            "metadata": {"name": "b"}, "host": "b", "port": "2"})
                .to_string(),
            )
            .await;
        assert_eq!((made.code, made.text("/port")), (201, "2"), "{}", made.body);
        assert_eq!(api.get(&format!("{V1}/b")).await.text("/host"), "b:2");
        let patched = api.patch("merge", &format!("{V2}/b"), r#"{"port":"3"}"#).await;
        assert_eq!((patched.code, patched.text("/port")), (200, "3"), "{}", patched.body);
        assert_eq!(api.get(&format!("{V1}/b")).await.text("/host"), "b:3");
        let apply = r#"{"apiVersion":"shop.example.com/v2","kind":"Place","port":"4"}"#;
        let applied = api.patch("apply", &format!("{V2}/b?fieldManager=m&force=true"), apply).await;
        assert_eq!((applied.code, applied.text("/port")), (200, "4"), "{}", applied.body);

        let before = calls.load(Ordering::Relaxed);
        let list = api.get(V2).await;
        let items = list.body["items"].as_array().expect("items");
        let ports: Vec<&str> = items.iter().filter_map(|item| item["port"].as_str()).collect();
        assert_eq!((ports, calls.load(Ordering::Relaxed) - before), (vec!["1", "4"], 1), "{}", list.body);
        let events = api.watch(V2, 1).await;
        let seen: Vec<&str> = events.iter().filter_map(|event| event["object"]["port"].as_str()).collect();
        assert_eq!(seen, ["1", "4"]);
        let since = list.text("/metadata/resourceVersion");
        api.patch("merge", &format!("{V1}/a"), r#"{"host":"a:9"}"#).await;
        let events = api.watch(&format!("{V2}?resourceVersion={since}"), 1).await;
        assert_eq!(events[0]["object"]["port"], "9", "{events:?}");

        // Another version is stored from now on; what was stored before is converted when it is read.
        definition["spec"]["versions"][0]["storage"] = false.into();
        definition["spec"]["versions"][1]["storage"] = true.into();
        let versions = json!({"spec": {"versions": definition["spec"]["versions"]}}).to_string();
        let path = format!("{DEFINITIONS}/places.shop.example.com");
        assert_eq!(api.patch("merge", &path, &versions).await.code, 200);
        until("both versions have been stored", || async {
            api.get(&path).await.body["status"]["storedVersions"] == json!(["v1", "v2"])
        })
        .await;
        assert_eq!(api.post(V1, &place("v1", "c", "c:5")).await.code, 201);
        for (path, member, wanted) in [(V1, "host", ["a:9", "b:4", "c:5"]), (V2, "port", ["9", "4", "5"])] {
            let list = api.get(path).await;
            let items = list.body["items"].as_array().expect("items");
            let all: Vec<&str> = items.iter().filter_map(|item| item[member].as_str()).collect();
            assert_eq!(all, wanted, "{}", list.body);
        }
        let gone = api.delete(&format!("{V2}/a"), "").await;
        assert_eq!(gone.code, 200, "{}", gone.body);
        assert!(hook.connections() <= 2, "{} connections", hook.connections());
        assert_eq!(api.delete(&path, "").await.code, 200);
        until("the definition is gone", || async { api.get(&path).await.code == 404 }).await;
        hook.stop().await;
    });
}

#[test]
fn fields_are_selected_as_the_version_has_them() {
    with_server(|api| async move {
        let hook = Hook::start(&[], converted).await;
        let url = format!("https://127.0.0.1:{}/convert", hook.address.port());
        defined(&api, &definition(json!({"url": url, "caBundle": hook.bundle}), "v1")).await;
        for (name, host) in [("a", "x:1"), ("b", "x:2"), ("c", "y:1")] {
            assert_eq!(api.post(V1, &place("v1", name, host)).await.code, 201);
        }
        let cases: [(&str, &str, &[&str]); 5] = [
            (V2, "host=x", &["a", "b"]),
            (V2, "host=x,port=2", &["b"]),
            (V2, "port!=2,metadata.name!=a", &["c"]),
            (V1, "host=x:1", &["a"]),
            (V1, "host=x", &[]),
        ];
        for (path, selector, wanted) in cases {
            let list = api.get(&format!("{path}?fieldSelector={selector}")).await;
            let items = list.body["items"].as_array().expect("items");
            let names: Vec<&str> =
                items.iter().filter_map(|item| item["metadata"]["name"].as_str()).collect();
            assert_eq!(names, wanted, "{path} {selector}");
        }
        let since = api.get(V1).await.text("/metadata/resourceVersion").to_string();
        for host in ["x:2", "x:3", "x:1"] {
            api.patch("merge", &format!("{V1}/a"), &json!({"host": host}).to_string()).await;
        }
        api.delete(&format!("{V1}/b"), "").await;
        let events = api.watch(&format!("{V2}?fieldSelector=host=x,port=2&resourceVersion={since}"), 1).await;
        let seen: Vec<String> = events
            .iter()
            .map(|event| {
                let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or("");
                format!("{} {} {}", text("/type"), text("/object/metadata/name"), text("/object/port"))
            })
            .collect();
        assert_eq!(seen, ["ADDED a 2", "DELETED a 3", "DELETED b 2"]);
        hook.stop().await;
    });
}

#[test]
fn a_conversion_that_fails_is_told() {
    with_server(|api| async move {
        let hook = Hook::start(&[], converted).await;
        let url = format!("https://127.0.0.1:{}/convert", hook.address.port());
        defined(&api, &definition(json!({"url": url, "caBundle": hook.bundle}), "v1")).await;
        for (name, host, wanted) in [
            (
                "refused",
                "wrong:1",
                "conversion webhook for shop.example.com/v1, Kind=Place failed: no such place",
            ),
            (
                "renamed",
                "x:1",
                "conversion webhook for shop.example.com/v1, Kind=Place returned invalid object: must have the same UID",
            ),
        ] {
            assert_eq!(api.post(V1, &place("v1", name, host)).await.code, 201);
            let read = api.get(&format!("{V2}/{name}")).await;
            assert_eq!(read.code, 500);
            assert!(read.text("/message").starts_with(wanted), "{}", read.body);
            assert_eq!(api.get(V2).await.code, 500);
            assert_eq!(api.watch(V2, 1).await[0]["message"], read.body["message"]);
            assert_eq!(api.delete(&format!("{V1}/{name}"), "").await.code, 200);
        }
        api.post(V1, &place("v1", "late", "l:1")).await;
        let port = hook.address.port();
        hook.stop().await;
        let read = api.get(&format!("{V2}/late")).await;
        let wanted = format!(
            "conversion webhook for shop.example.com/v1, Kind=Place failed: Post \"https://127.0.0.1:{port}/convert?timeout=30s\": dial tcp 127.0.0.1:{port}: "
        );
        assert!(read.text("/message").starts_with(&wanted), "{}", read.body);
    });
}

#[test]
fn a_webhook_may_be_behind_a_service() {
    with_server(|api| async move {
        let hook = Hook::start(&["hook.default.svc"], converted).await;
        let port = hook.address.port();
        let service = json!({"service": {"name": "hook", "namespace": "default", "path": "/convert"},
            "caBundle": hook.bundle});
        defined(&api, &definition(service, "v1")).await;
        api.post(V1, &place("v1", "a", "a:1")).await;
        let message = api.get(&format!("{V2}/a")).await.text("/message").to_string();
        assert!(message.ends_with("service \"hook\" not found"), "{message}");
        let service = json!({"metadata": {"name": "hook"}, "spec": {"ports": [{"port": 443}]}}).to_string();
        assert_eq!(api.post("/api/v1/namespaces/default/services", &service).await.code, 201);
        let message = api.get(&format!("{V2}/a")).await.text("/message").to_string();
        assert!(message.ends_with("no endpoints available for service \"hook\""), "{message}");
        let slice = json!({"metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "hook"}},
            "addressType": "IPv4", "ports": [{"port": port}], "endpoints": [{"addresses": ["127.0.0.1"]}]});
        let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
        let made = api.post(slices, &slice.to_string()).await;
        assert_eq!(made.code, 422, "loopback is not an endpoint's address: {}", made.body);
        hook.stop().await;
    });
}
