//! The protocol as clients see it: requests to a real server over TLS, and what must come back.

mod access;
mod addresses;
mod harness;

use harness::{start, with_server};
use serde_json::Value;

const CM: &str = "/api/v1/namespaces/default/configmaps";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const PODS: &str = "/api/v1/namespaces/default/pods";
const POD: &str = r#"{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}"#;

/// method, path, body, code, reason, message
type Row = (&'static str, &'static str, &'static str, u16, &'static str, &'static str);

#[test]
fn refusals_are_worded_as_clients_know_them() {
    let rows: &[Row] = &[
        ("GET", "/api/v1/namespaces/default/pods/x", "", 404, "NotFound", r#"pods "x" not found"#),
        (
            "GET",
            "/apis/apps/v1/namespaces/default/deployments/x",
            "",
            404,
            "NotFound",
            r#"deployments.apps "x" not found"#,
        ),
        ("GET", "/api/v1/foo", "", 404, "NotFound", "the server could not find the requested resource"),
        (
            "GET",
            "/api/v1/namespaces/default/services/kubernetes/foo",
            "",
            404,
            "NotFound",
            "the server could not find the requested resource",
        ),
        (
            "GET",
            "/api/v1/pods?limit=x",
            "",
            400,
            "BadRequest",
            r#"strconv.ParseInt: parsing "x": invalid syntax"#,
        ),
        (
            "GET",
            "/api/v1/pods?labelSelector=a=!b",
            "",
            400,
            "BadRequest",
            "unable to parse requirement: found '!', expected: identifier",
        ),
        (
            "GET",
            "/api/v1/pods?fieldSelector=spec.foo=b",
            "",
            400,
            "BadRequest",
            "field label not supported: spec.foo",
        ),
        (
            "GET",
            "/api/v1/configmaps?resourceVersionMatch=Exact",
            "",
            422,
            "Invalid",
            r#"ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"#,
        ),
        (
            "PUT",
            PODS,
            "{}",
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        ),
        (
            "POST",
            CM,
            "{}",
            422,
            "Invalid",
            r#"ConfigMap "" is invalid: metadata.name: Required value: name or generateName is required"#,
        ),
        (
            "POST",
            CM,
            r#"{"metadata":{"name":"a","namespace":"b"}}"#,
            400,
            "BadRequest",
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            "POST",
            CM,
            r#"{"metadata":{"name":"a","resourceVersion":"1"}}"#,
            500,
            "",
            "resourceVersion should not be set on objects to be created",
        ),
        (
            "POST",
            "/api/v1/namespaces/default/configmaps?fieldValidation=Strict",
            r#"{"metadata":{"name":"a"},"foo":1}"#,
            400,
            "BadRequest",
            r#"ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "foo""#,
        ),
        (
            "PUT",
            "/api/v1/namespaces/default/services/kubernetes",
            r#"{"metadata":{"name":"foo"}}"#,
            400,
            "BadRequest",
            "the name of the object (foo) does not match the name on the URL (kubernetes)",
        ),
        (
            "PUT",
            "/api/v1/namespaces/default/services/kubernetes",
            r#"{"metadata":{"name":"kubernetes","resourceVersion":"1"}}"#,
            409,
            "Conflict",
            r#"Operation cannot be fulfilled on services "kubernetes": the object has been modified; please apply your changes to the latest version and try again"#,
        ),
        (
            "POST",
            "/api/v1/namespaces",
            r#"{"metadata":{"name":"default"}}"#,
            409,
            "AlreadyExists",
            r#"namespaces "default" already exists"#,
        ),
        (
            "GET",
            "/api/v1/namespaces/default/pods?watch=1&resourceVersionMatch=NotOlderThan",
            "",
            422,
            "Invalid",
            r#"ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"#,
        ),
    ];
    with_server(|api| async move {
        for (method, path, body, code, reason, message) in rows {
            let answer = api.send(method, path, &[], body).await;
            let got = (answer.code, answer.text("/reason"), answer.text("/message"));
            assert_eq!(got, (*code, *reason, *message), "{method} {path} {body}");
            assert_eq!(answer.text("/kind"), "Status", "{method} {path}");
        }
        let large = format!(r#"{{"metadata":{{"name":"a"}},"data":{{"a":"{}"}}}}"#, "x".repeat(3 << 20));
        let answer = api.post(CM, &large).await;
        assert_eq!((answer.code, answer.text("/reason")), (413, "RequestEntityTooLarge"));
        let answer = api.send("POST", CM, &[("content-type", "text/plain")], "{}").await;
        assert_eq!((answer.code, answer.text("/reason")), (415, "UnsupportedMediaType"));
        let answer = api.send("GET", CM, &[("accept", "text/foo")], "").await;
        assert_eq!((answer.code, answer.text("/reason")), (406, "NotAcceptable"));
        let answer = api.send_anonymous("GET", CM, &[]).await;
        assert_eq!((answer.code, answer.text("/reason")), (403, "Forbidden"));
        let answer = api.send_anonymous("GET", CM, &[("authorization", "Bearer nonsense")]).await;
        assert_eq!((answer.code, answer.text("/reason")), (401, "Unauthorized"));
        assert_eq!(api.send_anonymous("GET", "/readyz", &[]).await.code, 200);
    });
}

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
fn services_get_addresses_and_ports() {
    let services = "/api/v1/namespaces/default/services";
    with_server(|api| async move {
        let made = api
            .post(services, r#"{"metadata":{"name":"s"},"spec":{"type":"NodePort","ports":[{"port":80}]}}"#)
            .await;
        let address = made.text("/spec/clusterIP").to_string();
        assert!(address.starts_with("10."), "{}", made.body);
        assert_eq!(made.text("/spec/clusterIPs/0"), address);
        let port = made.body["spec"]["ports"][0]["nodePort"].as_u64().unwrap_or(0);
        assert!((30_000..=32_767).contains(&port));
        let taken = format!(
            r#"{{"metadata":{{"name":"t"}},"spec":{{"clusterIP":"{address}","ports":[{{"port":80}}]}}}}"#
        );
        let refused = api.post(services, &taken).await;
        assert!(refused.text("/message").ends_with("provided IP is already allocated"), "{}", refused.body);
        let kept = api
            .put(
                &format!("{services}/s"),
                r#"{"metadata":{"name":"s"},"spec":{"type":"NodePort","ports":[{"port":80}]}}"#,
            )
            .await;
        assert_eq!(
            (kept.text("/spec/clusterIP"), kept.body["spec"]["ports"][0]["nodePort"].as_u64()),
            (address.as_str(), Some(port)),
            "{}",
            kept.body
        );
        assert_eq!(api.delete(&format!("{services}/s"), "").await.code, 200);
        assert_eq!(api.post(services, &taken).await.code, 201, "a freed address can be had again");
        let none = api
            .post(services, r#"{"metadata":{"name":"h"},"spec":{"clusterIP":"None","ports":[{"port":80}]}}"#)
            .await;
        assert_eq!(none.text("/spec/clusterIPs/0"), "None");
        let own = api.get(&format!("{services}/kubernetes")).await;
        assert_eq!(own.text("/spec/clusterIP"), "10.96.0.1");
    });
}

const DEFINITION: &str = r#"{"metadata":{"name":"toys.x.io"},"spec":{"group":"x.io","scope":"Namespaced",
"names":{"plural":"toys","kind":"Toy"},"versions":[{"name":"v1","served":true,"storage":true,
"subresources":{"status":{}},"additionalPrinterColumns":[{"name":"Size","type":"integer","jsonPath":".spec.size"}],
"schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","required":["size"],
"properties":{"size":{"type":"integer","maximum":9},"color":{"type":"string","default":"red"}}},
"status":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}}},
{"name":"v2","served":true,"storage":false,"schema":{"openAPIV3Schema":{"type":"object",
"x-kubernetes-preserve-unknown-fields":true}}}]}}"#;

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

#[test]
fn what_was_acknowledged_survives_a_restart() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    runtime.block_on(async {
        let identity = std::sync::Arc::new(apiserver::Identity::system("test"));
        for round in 0..3 {
            let running = start(directory.path()).await;
            let path = format!("/api/v1/namespaces/default/configmaps?round={round}");
            let body = format!(r#"{{"metadata":{{"name":"round-{round}"}}}}"#);
            let request = http::Request::post(&path).header("content-type", "application/json");
            let made = running
                .server
                .handle(identity.clone(), request.body(serve::full(body)).expect("request"))
                .await;
            assert_eq!(made.status(), 201);
            // One more: where the cluster is.
            assert_eq!(running.server.store.snapshot("core/configmaps").len(), round + 2);
            running.shutdown().await;
        }
    });
}

#[test]
fn discovery_and_health() {
    with_server(|api| async move {
        assert_eq!(api.get("/api").await.text("/kind"), "APIVersions");
        assert_eq!(api.get("/apis").await.text("/kind"), "APIGroupList");
        let core = api.get("/api/v1").await;
        let names: Vec<&str> = core.body["resources"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|r| r["name"].as_str())
            .collect();
        for name in
            ["pods", "pods/log", "pods/eviction", "nodes/status", "services/proxy", "serviceaccounts/token"]
        {
            assert!(names.contains(&name), "{name}");
        }
        let accept = [(
            "accept",
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
        )];
        let all = api.send("GET", "/apis", &accept, "").await;
        assert_eq!(all.text("/kind"), "APIGroupDiscoveryList");
        let tag = all.headers["etag"].to_str().expect("tag").to_string();
        let again = api.send("GET", "/apis", &[accept[0], ("if-none-match", &tag)], "").await;
        assert_eq!(again.code, 304);
        assert_eq!(api.get("/version").await.text("/minor"), "36");
        for path in ["/healthz", "/livez", "/readyz", "/readyz/ping"] {
            assert_eq!(api.get(path).await.body, "ok", "{path}");
        }
        let verbose = api.get("/readyz?verbose").await;
        assert!(verbose.body.as_str().is_some_and(|text| text.ends_with("readyz check passed\n")));
        let metrics = api.get("/metrics").await;
        let text = metrics.body.as_str().unwrap_or("");
        for part in [
            "apiserver_request_total{code=\"200\",component=\"\",dry_run=\"\",group=\"\",resource=\"\",scope=\"\",subresource=\"/apis\",verb=\"GET\",version=\"\"} 2",
            "apiserver_request_duration_seconds_bucket{",
            "apiserver_request_sli_duration_seconds_count{",
            "apiserver_response_sizes_sum{",
            "apiserver_storage_objects{resource=\"namespaces\"} 4",
            "authentication_attempts{result=\"success\"}",
            "authorization_duration_seconds_count{result=\"allowed\"}",
            "process_resident_memory_bytes ",
            "kubernetes_build_info{",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let indicators = api.get("/metrics/slis").await;
        let text = indicators.body.as_str().unwrap_or("");
        assert!(text.contains("kubernetes_healthcheck{name=\"etcd\",type=\"readyz\"} 1"), "{text}");
        let refused = api.get("/version?timeout=soon").await;
        assert_eq!(
            (refused.code, refused.text("/message")),
            (400, "invalid timeout specified in the request URL")
        );
        let beta = ("accept", "application/json;as=Table;v=v1beta1;g=meta.k8s.io");
        let table = api.send("GET", "/api/v1/namespaces", &[beta], "").await;
        assert_eq!(table.text("/apiVersion"), "meta.k8s.io/v1beta1");
        assert_eq!(table.text("/rows/0/object/apiVersion"), "meta.k8s.io/v1beta1");
        let document = api.get("/openapi/v2").await;
        assert!(document.body["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
    });
}

#[test]
fn tokens_are_known_while_what_they_are_bound_to_exists() {
    with_server(|api| async move {
        let post = |path: String, body: &'static str| {
            let api = &api;
            async move { api.post(&path, body).await }
        };
        let refused = api.post(PODS, POD).await;
        let message = r#"pods "p" is forbidden: error looking up service account default/default: serviceaccount "default" not found"#;
        assert_eq!((refused.code, refused.text("/message")), (403, message));
        api.post(ACCOUNTS, r#"{"metadata":{"name":"default"}}"#).await;
        assert_eq!(api.post(PODS, POD).await.code, 201);
        let short = post(format!("{ACCOUNTS}/default/token"), r#"{"spec":{"expirationSeconds":599}}"#).await;
        let message = r#"TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes"#;
        assert_eq!((short.code, short.text("/message")), (422, message));
        let body = r#"{"spec":{"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"p"}}}"#;
        let made = post(format!("{ACCOUNTS}/default/token"), body).await;
        assert_eq!(made.code, 201, "{}", made.body);
        let bearer = format!("Bearer {}", made.text("/status/token"));
        let headers = [("authorization", bearer.as_str())];
        assert_eq!(api.send_anonymous("GET", PODS, &[("authorization", "Bearer a.b.c")]).await.code, 401);
        assert_eq!(api.send_anonymous("GET", "/version", &headers).await.code, 200);
        let listed = api.send_anonymous("GET", PODS, &headers).await;
        let message = r#"pods is forbidden: User "system:serviceaccount:default:default" cannot list resource "pods" in API group "" in the namespace "default""#;
        assert_eq!((listed.code, listed.text("/message")), (403, message));
        let binding = r#"{"metadata":{"name":"b"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"system:aggregate-to-view"},"subjects":[{"kind":"ServiceAccount","name":"default","namespace":"default"}]}"#;
        let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
        let bound = api.post(bindings, binding).await;
        assert_eq!(bound.code, 201, "{}", bound.body);
        let mut tries = 0;
        while api.send_anonymous("GET", PODS, &headers).await.code != 200 {
            tries += 1;
            assert!(tries < 500, "the binding has no effect");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(api.send_anonymous("GET", "/api/v1/nodes", &headers).await.code, 403);
        let review = serde_json::json!({"spec": {"token": made.text("/status/token")}}).to_string();
        let review = api.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await;
        assert_eq!(review.text("/status/user/username"), "system:serviceaccount:default:default");
        let groups = serde_json::json!([
            "system:serviceaccounts",
            "system:serviceaccounts:default",
            "system:authenticated"
        ]);
        assert_eq!(review.body["status"]["user"]["groups"], groups);
        api.delete(&format!("{PODS}/p"), r#"{"gracePeriodSeconds":0}"#).await;
        assert_eq!(api.send_anonymous("GET", "/version", &headers).await.code, 401);
        let keys = api.get("/openid/v1/jwks").await;
        assert_eq!(keys.text("/keys/0/alg"), "ES256");
    });
}
