//! The lives of objects: written, listed, watched, of kinds built in and added.

use serde_json::Value;

use crate::harness::with_server;
use crate::{ACCOUNTS, CM, POD, PODS};

const DEFINITION: &str = r#"{"metadata":{"name":"toys.x.io"},"spec":{"group":"x.io","scope":"Namespaced",
"names":{"plural":"toys","kind":"Toy"},"versions":[{"name":"v1","served":true,"storage":true,
"subresources":{"status":{}},"additionalPrinterColumns":[{"name":"Size","type":"integer","jsonPath":".spec.size"}],
"schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","required":["size"],
"properties":{"size":{"type":"integer","maximum":9},"color":{"type":"string","default":"red"}}},
"status":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}}},
{"name":"v2","served":true,"storage":false,"schema":{"openAPIV3Schema":{"type":"object",
"x-kubernetes-preserve-unknown-fields":true}}}]}}"#;

#[test]
fn an_object_lives() {
    with_server(|api| async move {
        let made = api.post(CM, r#"{"metadata":{"name":"a","labels":{"x":"y"}},"data":{"k":"v"}}"#).await;
        assert_eq!(made.code, 201, "{}", made.body);
        let uid = made.text("/metadata/uid").to_string();
        let version = made.text("/metadata/resourceVersion").to_string();
        assert!(!uid.is_empty() && !version.is_empty());
        assert_eq!(api.post(CM, r#"{"metadata":{"name":"a"}}"#).await.text("/reason"), "AlreadyExists");
        let same = api.patch("merge", &format!("{CM}/a"), r#"{"data":{"k":"v"}}"#).await;
        assert_eq!(same.text("/metadata/resourceVersion"), version, "a change of nothing writes nothing");
        let dry = api.patch("merge", &format!("{CM}/a?dryRun=All"), r#"{"data":{"k":"dry"}}"#).await;
        assert_eq!(dry.text("/data/k"), "dry");
        let patched =
            api.patch("json", &format!("{CM}/a"), r#"[{"op":"add","path":"/data/z","value":"1"}]"#).await;
        assert_eq!((patched.text("/data/k"), patched.text("/data/z")), ("v", "1"));
        let applied = api
            .patch(
                "apply",
                &format!("{CM}/a?fieldManager=m"),
                "apiVersion: v1\nkind: ConfigMap\ndata: {q: r}",
            )
            .await;
        assert_eq!((applied.code, applied.text("/data/q")), (200, "r"), "{}", applied.body);
        let conflict = api
            .patch(
                "apply",
                &format!("{CM}/a?fieldManager=m"),
                "apiVersion: v1\nkind: ConfigMap\ndata: {k: r}",
            )
            .await;
        assert_eq!((conflict.code, conflict.text("/reason")), (409, "Conflict"));
        let wrong = api.delete(&format!("{CM}/a"), r#"{"preconditions":{"uid":"other"}}"#).await;
        assert_eq!((wrong.code, wrong.text("/reason")), (409, "Conflict"));
        let held = api.patch("merge", &format!("{CM}/a"), r#"{"metadata":{"finalizers":["x.io/y"]}}"#).await;
        assert_eq!(held.code, 200, "{}", held.body);
        let marked = api.delete(&format!("{CM}/a"), "").await;
        assert!(!marked.text("/metadata/deletionTimestamp").is_empty());
        let freed = api.patch("merge", &format!("{CM}/a"), r#"{"metadata":{"finalizers":null}}"#).await;
        assert_eq!(freed.code, 200, "{}", freed.body);
        assert_eq!(api.get(&format!("{CM}/a")).await.code, 404);
        let name = api.post(CM, r#"{"metadata":{"generateName":"gen-"}}"#).await;
        assert!(name.text("/metadata/name").starts_with("gen-"));
        let warned = api.post(CM, r#"{"metadata":{"name":"w"},"foo":1}"#).await;
        let warning = warned.headers.get("warning").and_then(|value| value.to_str().ok());
        assert_eq!(warning, Some(r#"299 - "unknown field \"foo\"""#));
    });
}

#[test]
fn lists_are_paged_and_selected() {
    with_server(|api| async move {
        for name in ["a", "b", "c", "d"] {
            let parity = if name < "c" { "low" } else { "high" };
            let body = format!(r#"{{"metadata":{{"name":"{name}","labels":{{"half":"{parity}"}}}}}}"#);
            assert_eq!(api.post(CM, &body).await.code, 201);
        }
        let names = |list: &Value| -> Vec<String> {
            let items = list["items"].as_array().cloned().unwrap_or_default();
            items.iter().filter_map(|item| item["metadata"]["name"].as_str()).map(str::to_string).collect()
        };
        let first = api.get(&format!("{CM}?limit=3")).await;
        assert_eq!(
            (names(&first.body), &first.body["metadata"]["remainingItemCount"]),
            (vec!["a".into(), "b".into(), "c".into()], &Value::from(1))
        );
        assert_eq!(api.delete(&format!("{CM}/d"), "").await.code, 200);
        let token = first.text("/metadata/continue");
        let second = api.get(&format!("{CM}?limit=3&continue={token}")).await;
        assert_eq!(names(&second.body), ["d"], "the second page is of the first one's revision");
        assert_eq!(first.text("/metadata/resourceVersion"), second.text("/metadata/resourceVersion"));
        let low = api.get(&format!("{CM}?labelSelector=half%3Dlow")).await;
        assert_eq!(names(&low.body), ["a", "b"]);
        let field = api.get(&format!("{CM}?fieldSelector=metadata.name%3Dc")).await;
        assert_eq!(names(&field.body), ["c"]);
        let accept = [("accept", "application/json;as=Table;g=meta.k8s.io;v=v1")];
        let table = api.send("GET", CM, &accept, "").await;
        assert_eq!((table.text("/kind"), table.body["rows"].as_array().map(Vec::len)), ("Table", Some(3)));
        let accept = [("accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")];
        let partial = api.send("GET", CM, &accept, "").await;
        assert_eq!(partial.text("/kind"), "PartialObjectMetadataList");
        let proto = api.send("GET", CM, &[("accept", "application/vnd.kubernetes.protobuf")], "").await;
        assert_eq!(proto.headers["content-type"], "application/vnd.kubernetes.protobuf");
        let yaml = api.send("GET", &format!("{CM}/a"), &[("accept", "application/yaml")], "").await;
        assert!(yaml.body.as_str().is_some_and(|text| text.contains("kind: ConfigMap")));
    });
}

#[test]
fn watches_tell_every_change() {
    with_server(|api| async move {
        let start = api.get(CM).await;
        let from = start.text("/metadata/resourceVersion").to_string();
        assert_eq!(api.post(CM, r#"{"metadata":{"name":"a","labels":{"x":"1"}}}"#).await.code, 201);
        api.patch("merge", &format!("{CM}/a"), r#"{"metadata":{"labels":{"x":"2"}}}"#).await;
        api.delete(&format!("{CM}/a"), "").await;
        let kinds = |events: &[Value]| -> Vec<String> {
            events.iter().map(|event| event["type"].as_str().unwrap_or("").to_string()).collect()
        };
        let all = api.watch(&format!("{CM}?resourceVersion={from}"), 1).await;
        assert_eq!(kinds(&all), ["ADDED", "MODIFIED", "DELETED"]);
        let one = api.watch(&format!("{CM}?resourceVersion={from}&labelSelector=x%3D1"), 1).await;
        assert_eq!(kinds(&one), ["ADDED", "DELETED"], "leaving the selection is a deletion");
        let two = api.watch(&format!("{CM}?resourceVersion={from}&labelSelector=x%3D2"), 1).await;
        assert_eq!(kinds(&two), ["ADDED", "DELETED"], "entering the selection is an addition");
        let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
        let streamed = api.watch(&format!("/api/v1/namespaces?{query}"), 1).await;
        assert_eq!(kinds(&streamed), ["ADDED", "ADDED", "ADDED", "ADDED", "BOOKMARK"]);
        let mark = &streamed[4]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"];
        assert_eq!(mark, "true");
    });
}

#[test]
fn subresources_have_their_own_rules() {
    with_server(|api| async move {
        let account = api.post(ACCOUNTS, r#"{"metadata":{"name":"default"}}"#).await;
        assert_eq!(account.code, 201, "{}", account.body);
        let pod = api.post(PODS, POD).await;
        assert_eq!(
            (pod.code, pod.text("/status/phase"), pod.text("/status/qosClass")),
            (201, "Pending", "BestEffort"),
            "{}",
            pod.body
        );
        let gate = POD
            .replace(r#""p""#, r#""gated""#)
            .replace(r#""spec":{"#, r#""spec":{"schedulingGates":[{"name":"example.com/gate"}],"#);
        let gated = api.post(PODS, &gate).await;
        assert_eq!(gated.text("/status/conditions/0/reason"), "SchedulingGated", "{}", gated.body);
        let status = api
            .patch(
                "merge",
                &format!("{PODS}/p/status"),
                r#"{"spec":{"nodeName":"n"},"status":{"phase":"Running"}}"#,
            )
            .await;
        assert_eq!((status.text("/status/phase"), status.text("/spec/nodeName")), ("Running", ""));
        let binding = r#"{"metadata":{"name":"p"},"target":{"kind":"Node","name":"n"}}"#;
        assert_eq!(api.post(&format!("{PODS}/p/binding"), binding).await.code, 201);
        assert_eq!(api.post(&format!("{PODS}/p/binding"), binding).await.code, 409);
        let bound = api.get(&format!("{PODS}/p")).await;
        assert_eq!(bound.text("/spec/nodeName"), "n");
        assert_eq!(bound.text("/status/conditions/0/type"), "PodScheduled");
        let deleted = api.delete(&format!("{PODS}/p"), "").await;
        assert_eq!(deleted.body["metadata"]["deletionGracePeriodSeconds"], 30);
        let forced = api.delete(&format!("{PODS}/p"), r#"{"gracePeriodSeconds":0}"#).await;
        assert_eq!((forced.code, api.get(&format!("{PODS}/p")).await.code), (200, 404));
        let log = api.get(&format!("{PODS}/p/log")).await;
        assert_eq!((log.code, log.text("/message")), (404, r#"pods "p" not found"#));

        let deployments = "/apis/apps/v1/namespaces/default/deployments";
        let body = r#"{"metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}"#;
        let made = api.post(deployments, body).await;
        assert_eq!(
            (made.code, &made.body["spec"]["replicas"], &made.body["metadata"]["generation"]),
            (201, &1.into(), &1.into()),
            "{}",
            made.body
        );
        let scaled =
            api.patch("merge", &format!("{deployments}/d/scale"), r#"{"spec":{"replicas":4}}"#).await;
        assert_eq!((scaled.text("/kind"), &scaled.body["spec"]["replicas"]), ("Scale", &4.into()));
        let now = api.get(&format!("{deployments}/d")).await;
        assert_eq!(now.body["metadata"]["generation"], 2);

        let namespace = api.post("/api/v1/namespaces", r#"{"metadata":{"name":"gone"}}"#).await;
        assert_eq!(namespace.text("/status/phase"), "Active");
        assert_eq!(api.delete("/api/v1/namespaces/gone", "").await.text("/status/phase"), "Terminating");
        let done = api
            .put(
                "/api/v1/namespaces/gone/finalize",
                r#"{"metadata":{"name":"gone"},"spec":{"finalizers":[]}}"#,
            )
            .await;
        assert_eq!((done.code, api.get("/api/v1/namespaces/gone").await.code), (200, 404), "{}", done.body);
    });
}

#[test]
fn custom_kinds_come_and_go() {
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let toys = "/apis/x.io/v1/namespaces/default/toys";
    with_server(|api| async move {
        let made = api.post(definitions, DEFINITION).await;
        assert_eq!(made.code, 201, "{}", made.body);
        let mut code = 404;
        for _ in 0..100 {
            code = api.get(toys).await.code;
            if code == 200 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(code, 200, "served soon after its creation");
        let big = api
            .post(toys, r#"{"apiVersion":"x.io/v1","kind":"Toy","metadata":{"name":"t"},"spec":{"size":10}}"#)
            .await;
        assert_eq!((big.code, big.text("/reason")), (422, "Invalid"), "{}", big.body);
        let toy = api.post(toys, r#"{"apiVersion":"x.io/v1","kind":"Toy","metadata":{"name":"t"},"spec":{"size":3,"junk":1},"status":{"a":1}}"#).await;
        assert_eq!(
            (toy.code, toy.text("/spec/color"), &toy.body["spec"]["junk"], &toy.body["status"]),
            (201, "red", &Value::Null, &Value::Null)
        );
        let other = api.get("/apis/x.io/v2/namespaces/default/toys/t").await;
        assert_eq!((other.text("/apiVersion"), &other.body["spec"]["size"]), ("x.io/v2", &3.into()));
        let status =
            api.patch("merge", &format!("{toys}/t/status"), r#"{"spec":{"size":1},"status":{"b":2}}"#).await;
        assert_eq!((&status.body["spec"]["size"], &status.body["status"]["b"]), (&3.into(), &2.into()));
        assert_eq!(status.body["metadata"]["generation"], 1);
        let accept = [("accept", "application/json;as=Table;g=meta.k8s.io;v=v1")];
        let table = api.send("GET", toys, &accept, "").await;
        assert_eq!(table.body["rows"][0]["cells"], serde_json::json!(["t", 3]));
        assert_eq!(api.get("/apis/x.io/v1").await.text("/kind"), "APIResourceList");
        assert!(api.get("/openapi/v3/apis/x.io/v1").await.body["components"]["schemas"].is_object());
        assert_eq!(api.delete(&format!("{definitions}/toys.x.io"), "").await.code, 200);
        for _ in 0..200 {
            code = api.get(&format!("{definitions}/toys.x.io")).await.code;
            if code == 404 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!((code, api.get(toys).await.code), (404, 404), "gone with its instances");
    });
}
