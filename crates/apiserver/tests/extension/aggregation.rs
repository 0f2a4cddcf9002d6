//! Other API servers behind this one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use apiserver::{ApiServer, Config};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use super::hook::{Hook, until};
use crate::harness::{Server, config, runtime, start, with_server};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const NAME: &str = "v1.farm.example.com";
const COWS: &str = "/apis/farm.example.com/v1/namespaces/default/cows";

/// A small API server: it says what it was asked, and by whom.
fn answer(request: &Request<Bytes>) -> (u16, Value) {
    let header = |name: &str| -> Vec<String> {
        let all = request.headers().get_all(name).into_iter();
        all.filter_map(|value| value.to_str().ok()).map(str::to_string).collect()
    };
    match request.uri().path() {
        "/apis/farm.example.com/v1" => {
            let cows = json!({"name": "cows", "singularName": "cow", "namespaced": true, "kind": "Cow",
                "verbs": ["get", "list"]});
            let list = json!({"kind": "APIResourceList", "apiVersion": "v1",
                "groupVersion": "farm.example.com/v1", "resources": [cows]});
            (200, list)
        }
        "/openapi/v2" => {
            let cow = json!({"get": {"schema": {"$ref": "#/definitions/Cow"}}});
            (200, json!({"paths": {COWS: cow}, "definitions": {"Cow": {"type": "object"}}}))
        }
        "/openapi/v3" => {
            let name = "apis/farm.example.com/v1";
            (200, json!({"paths": {name: {"serverRelativeURL": format!("/openapi/v3/{name}?hash=AB")}}}))
        }
        "/openapi/v3/apis/farm.example.com/v1" => (200, json!({"openapi": "3.0.0"})),
        path if path.starts_with("/apis/farm.example.com/v1/") => {
            let body = String::from_utf8_lossy(request.body()).into_owned();
            let said = json!({"path": request.uri().to_string(), "method": request.method().as_str(),
                "user": header("x-remote-user"), "groups": header("x-remote-group"),
                "authorization": header("authorization"), "body": body});
            (200, said)
        }
        path => (404, json!({"path": path})),
    }
}

fn service(hook: &Hook) -> Value {
    json!({"metadata": {"name": NAME}, "spec": {"group": "farm.example.com", "version": "v1",
        "service": {"namespace": "default", "name": "farm", "port": hook.address.port()},
        "caBundle": hook.bundle, "groupPriorityMinimum": 17900, "versionPriority": 15}})
}

async fn condition(api: &Server, name: &str) -> (String, String) {
    let found = api.get(&format!("{SERVICES}/{name}")).await;
    let text = |field: &str| found.text(&format!("/status/conditions/0/{field}")).to_string();
    (text("status"), text("reason"))
}

async fn becomes(api: &Server, name: &str, status: &str, reason: &str) {
    let wanted = (status.to_string(), reason.to_string());
    until(&format!("{name} is {status} {reason}"), || async { condition(api, name).await == wanted }).await;
}

#[test]
fn requests_reach_the_server_of_an_apiservice() {
    with_server(|api| async move {
        let broken = Arc::new(AtomicBool::new(false));
        let fails = broken.clone();
        let hook = Hook::start(&["farm.default.svc"], move |request: &Request<Bytes>| {
            if fails.load(Ordering::Relaxed) { (500, json!({})) } else { answer(request) }
        })
        .await;
        assert_eq!(api.get(COWS).await.code, 404);
        let made = api.post(SERVICES, &service(&hook).to_string()).await;
        assert_eq!(made.code, 201, "{}", made.body);
        becomes(&api, NAME, "False", "ServiceNotFound").await;
        let away = api.get(COWS).await;
        assert_eq!((away.code, away.body.as_str()), (503, Some("service unavailable\n")));
        let farm =
            r#"{"metadata":{"name":"farm"},"spec":{"type":"ExternalName","externalName":"localhost"}}"#;
        assert_eq!(api.post("/api/v1/namespaces/default/services", farm).await.code, 201);
        becomes(&api, NAME, "True", "Passed").await;

        let said = api.get(&format!("{COWS}?limit=5")).await;
        assert_eq!((said.code, said.text("/path")), (200, format!("{COWS}?limit=5").as_str()));
        assert_eq!(said.body["user"], json!(["kubernetes-admin"]));
        assert_eq!(said.body["groups"], json!(["system:masters", "system:authenticated"]));
        let lies = [
            ("x-remote-user", "other"),
            ("authorization", "Bearer x"),
            ("impersonate-user", "jane"),
            ("impersonate-group", "system:masters"),
        ];
        let said = api.send("POST", COWS, &lies, r#"{"a":1}"#).await;
        assert_eq!(said.body["user"], json!(["jane"]), "{}", said.body);
        assert_eq!((said.text("/body"), said.text("/method")), (r#"{"a":1}"#, "POST"));
        assert_eq!(said.body["authorization"], json!([]));
        let refused = api.send("GET", COWS, &[("impersonate-user", "jane")], "").await;
        assert_eq!(refused.code, 403, "{}", refused.body);

        let groups = api.get("/apis").await;
        let names: Vec<&str> = groups.body["groups"]
            .as_array()
            .expect("groups")
            .iter()
            .filter_map(|g| g["name"].as_str())
            .collect();
        assert_eq!(names[..3], ["apiregistration.k8s.io", "farm.example.com", "apps"]);
        let one = api.get("/apis/farm.example.com").await;
        assert_eq!(one.text("/preferredVersion/groupVersion"), "farm.example.com/v1");
        assert_eq!(api.get("/apis/farm.example.com/v1").await.text("/resources/0/name"), "cows");
        let accept = [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
        let freshness = || async {
            let all = api.send("GET", "/apis", &accept, "").await;
            let items = all.body["items"].as_array().cloned().unwrap_or_default();
            let farm = items.into_iter().find(|item| item["metadata"]["name"] == "farm.example.com");
            let version = farm.expect("group")["versions"][0].clone();
            assert_eq!(version["resources"][0]["resource"], "cows");
            version["freshness"].as_str().unwrap_or("").to_string()
        };
        assert_eq!(freshness().await, "Current");
        let v2 = api.get("/openapi/v2").await;
        assert!(v2.body["paths"].get(COWS).is_some() && v2.body["paths"].get("/api/v1/pods").is_some());
        assert_eq!(v2.body["definitions"]["Cow"]["type"], "object");
        let v3 = api.get("/openapi/v3").await;
        let url = v3.body["paths"]["apis/farm.example.com/v1"]["serverRelativeURL"].as_str().expect("url");
        assert_eq!(api.get(url).await.body["openapi"], "3.0.0");

        broken.store(true, Ordering::Relaxed);
        api.patch("merge", &format!("{SERVICES}/{NAME}"), r#"{"spec":{"versionPriority":16}}"#).await;
        becomes(&api, NAME, "False", "FailedDiscoveryCheck").await;
        assert_eq!((api.get(COWS).await.code, freshness().await.as_str()), (503, "Stale"));
        assert_eq!(api.delete(&format!("{SERVICES}/{NAME}"), "").await.code, 200);
        until("nobody serves it", || async { api.get(COWS).await.code == 404 }).await;
        assert_eq!(api.get("/apis/farm.example.com").await.code, 404);
        hook.stop().await;
    });
}

#[test]
fn what_is_served_here_has_apiservices() {
    with_server(|api| async move {
        becomes(&api, "v1.apps", "True", "Local").await;
        let apps = api.get(&format!("{SERVICES}/v1.apps")).await;
        let label = "/metadata/labels/kube-aggregator.kubernetes.io~1automanaged";
        assert_eq!(
            (apps.text(label), apps.body["spec"]["groupPriorityMinimum"].as_i64()),
            ("onstart", Some(17800))
        );
        becomes(&api, "v1.", "True", "Local").await;
        let definition = json!({"metadata": {"name": "places.shop.example.com"}, "spec": {
            "group": "shop.example.com", "scope": "Namespaced",
            "names": {"plural": "places", "singular": "place", "kind": "Place", "listKind": "PlaceList"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
        let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        assert_eq!(api.post(definitions, &definition.to_string()).await.code, 201);
        let own = "v1.shop.example.com";
        becomes(&api, own, "True", "Local").await;
        // What this server keeps is mended and comes back, as long as it serves it.
        let path = format!("{SERVICES}/{own}");
        assert_eq!(api.get(&path).await.text(label), "true");
        api.patch("merge", &path, r#"{"spec":{"versionPriority":7}}"#).await;
        until("it is mended", || async { api.get(&path).await.body["spec"]["versionPriority"] == 100 }).await;
        assert_eq!(api.delete(&path, "").await.code, 200);
        becomes(&api, own, "True", "Local").await;
        api.delete(&format!("{definitions}/places.shop.example.com"), "").await;
        until("it is gone", || async { api.get(&path).await.code == 404 }).await;
    });
}

#[test]
fn a_server_in_front_says_who_asks() {
    with_server(|api| async move {
        let map =
            api.get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await;
        assert_eq!(map.text("/data/requestheader-allowed-names"), r#"["front-proxy-client"]"#);
        assert!(map.text("/data/requestheader-client-ca-file").starts_with("-----BEGIN CERTIFICATE"));
        assert!(map.text("/data/client-ca-file").starts_with("-----BEGIN CERTIFICATE"));
        let who = |answer: crate::harness::Answer| answer.body["status"]["userInfo"].clone();
        let review = r#"{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1"}"#;
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let named = [("x-remote-user", "jane"), ("x-remote-group", "g"), ("x-remote-extra-a%2fb", "c")];
        let jane = who(api.send_as(&api.front, "POST", path, &named, review).await);
        assert_eq!(jane["username"], "jane", "{jane}");
        assert_eq!(
            (&jane["groups"], &jane["extra"]["a/b"]),
            (&json!(["g", "system:authenticated"]), &json!(["c"]))
        );
        let nobody = api.send_as(&api.front, "POST", path, &[], review).await;
        assert_ne!(nobody.text("/status/userInfo/username"), "front-proxy-client");
        // Without that certificate the headers mean nothing.
        let admin = who(api.send("POST", path, &named, review).await);
        assert_eq!(admin["username"], "kubernetes-admin");
    });
}

#[test]
fn a_second_server_serves_a_group_of_the_first() {
    let (first, second) = (tempfile::tempdir().expect("directory"), tempfile::tempdir().expect("directory"));
    runtime().block_on(async {
        let front = start(first.path()).await;
        // The second believes the first as its front.
        let pki = |directory: &std::path::Path, name: &str| directory.join("pki").join(name);
        std::fs::create_dir_all(second.path().join("pki")).expect("pki");
        for name in ["front-proxy-ca.crt", "front-proxy-ca.key"] {
            std::fs::copy(pki(first.path(), name), pki(second.path(), name)).expect("copy");
        }
        let names = vec!["farm.default.svc".to_string()];
        let back = ApiServer::start(Config { names, ..config(second.path()) }).await.expect("start");
        let (near, far) = (Server::of(&front, first.path()), Server::of(&back, second.path()));
        let definition = json!({"metadata": {"name": "cows.farm.example.com"}, "spec": {
            "group": "farm.example.com", "scope": "Namespaced",
            "names": {"plural": "cows", "singular": "cow", "kind": "Cow", "listKind": "CowList"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
        let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        assert_eq!(far.post(definitions, &definition.to_string()).await.code, 201);
        let farm = r#"{"metadata":{"name":"farm"},"spec":{"type":"ExternalName","externalName":"localhost"}}"#;
        assert_eq!(near.post("/api/v1/namespaces/default/services", farm).await.code, 201);
        let bundle = std::fs::read(pki(second.path(), "ca.crt")).expect("authority");
        let service = json!({"metadata": {"name": NAME}, "spec": {"group": "farm.example.com", "version": "v1",
            "service": {"namespace": "default", "name": "farm", "port": back.address.port()},
            "caBundle": STANDARD.encode(bundle), "groupPriorityMinimum": 2000, "versionPriority": 15}});
        assert_eq!(near.post(SERVICES, &service.to_string()).await.code, 201);
        becomes(&near, NAME, "True", "Passed").await;

        let cow = r#"{"apiVersion":"farm.example.com/v1","kind":"Cow","metadata":{"name":"a"}}"#;
        let made = near.post(COWS, cow).await;
        assert_eq!((made.code, far.get(&format!("{COWS}/a")).await.code), (201, 200), "{}", made.body);
        assert_eq!(near.post(COWS, cow).await.text("/reason"), "AlreadyExists");
        let labelled = near.patch("merge", &format!("{COWS}/a"), r#"{"metadata":{"labels":{"b":"c"}}}"#).await;
        assert_eq!(labelled.text("/metadata/labels/b"), "c", "{}", labelled.body);
        // A watch passes as it goes, and ends as it ends.
        let events = near.watch(COWS, 1).await;
        assert_eq!((events.len(), &events[0]["type"]), (1, &json!("ADDED")), "{events:?}");
        // Both servers decide who may do what: this one lets her pass, that one does not know her.
        let may = json!({"metadata": {"name": "jane"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole", "name": "cluster-admin"}, "subjects": [{"kind": "User", "name": "jane"}]});
        near.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &may.to_string()).await;
        let jane = [("impersonate-user", "jane")];
        until("jane may, here", || async {
            near.send("GET", "/api/v1/pods", &jane, "").await.code == 200
        })
        .await;
        let refused = near.send("GET", COWS, &jane, "").await;
        let wanted = "cows.farm.example.com is forbidden: User \"jane\" cannot list resource \"cows\"";
        assert!(refused.code == 403 && refused.text("/message").starts_with(wanted), "{}", refused.body);
        assert!(near.get("/openapi/v2").await.body["paths"].get(format!("{COWS}/{{name}}").replace("default", "{namespace}")).is_some());
        assert_eq!(near.delete(&format!("{COWS}/a"), "").await.code, 200);
        assert_eq!(far.get(&format!("{COWS}/a")).await.code, 404);
        back.shutdown().await;
        front.shutdown().await;
    });
}
