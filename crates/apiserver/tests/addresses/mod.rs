//! Addresses of Services: the objects that tell of them, and the ranges they come from.

use std::future::Future;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Server, start, with_server};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";

fn service(name: &str, address: &str) -> String {
    let mut spec = json!({"ports": [{"port": 80}]});
    if !address.is_empty() {
        spec["clusterIP"] = address.into();
    }
    json!({"metadata": {"name": name}, "spec": spec}).to_string()
}

async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    for _ in 0..1000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

async fn code(api: &Server, path: &str) -> u16 {
    api.get(path).await.code
}

#[test]
fn every_cluster_address_has_its_object() {
    with_server(|api| async move {
        let made = api.post(SERVICES, &service("a", "")).await;
        assert_eq!(made.code, 201, "{}", made.body);
        let address = made.text("/spec/clusterIP").to_owned();
        let path = format!("{ADDRESSES}/{address}");
        let object = api.get(&path).await;
        let parent = json!({"group": "", "resource": "services", "namespace": "default", "name": "a"});
        assert_eq!(object.body["spec"]["parentRef"], parent);
        let labels = json!({"ipaddress.kubernetes.io/ip-family": "IPv4",
            "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"});
        assert_eq!(object.body["metadata"]["labels"], labels);
        // The Service `kubernetes` has one from the start.
        assert_eq!(api.get(&format!("{ADDRESSES}/10.96.0.1")).await.code, 200);
        // Who deletes the object of a living Service gets another.
        let uid = object.text("/metadata/uid");
        assert_eq!(api.delete(&path, "").await.code, 200);
        until("another object", || async {
            let now = api.get(&path).await;
            now.code == 200 && now.text("/metadata/uid") != uid
        })
        .await;
        assert_eq!(api.delete(&format!("{SERVICES}/a"), "").await.code, 200);
        // The address is free at once, and its object becomes the next owner's.
        assert_eq!(api.post(SERVICES, &service("b", &address)).await.code, 201);
        until("the object names the new Service", || async {
            api.get(&path).await.text("/spec/parentRef/name") == "b"
        })
        .await;
        let external = json!({"spec": {"type": "ExternalName", "externalName": "x.example"}}).to_string();
        assert_eq!(api.patch("merge", &format!("{SERVICES}/b"), &external).await.code, 200);
        until("the object goes", || async { code(&api, &path).await == 404 }).await;
    });
}

#[test]
fn addresses_that_others_hold_are_not_given() {
    with_server(|api| async move {
        let taken = json!({"metadata": {"name": "10.96.0.7"},
            "spec": {"parentRef": {"resource": "gateways", "group": "example.com", "name": "g"}}});
        assert_eq!(api.post(ADDRESSES, &taken.to_string()).await.code, 201);
        let refused = api.post(SERVICES, &service("a", "10.96.0.7")).await;
        let message = r#"Service "a" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.7"]: failed to allocate IP 10.96.0.7: provided IP is already allocated"#;
        assert_eq!((refused.code, refused.text("/message")), (422, message));
        api.delete(&format!("{ADDRESSES}/10.96.0.7"), "").await;
        assert_eq!(api.post(SERVICES, &service("a", "10.96.0.7")).await.code, 201);
    });
}

#[test]
fn further_ranges_give_addresses_while_they_are_ready() {
    with_server(|api| async move {
        let mismatch = "the provided network does not match the current range";
        let refused = api.post(SERVICES, &service("a", "10.200.0.5")).await;
        assert!(refused.text("/message").ends_with(mismatch), "{}", refused.body);
        let range = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.200.0.0/28"]}}).to_string();
        assert_eq!(api.post(RANGES, &range).await.code, 201);
        assert_eq!(api.post(SERVICES, &service("a", "10.200.0.5")).await.code, 201);
        // The first and the last address of a range are not given.
        let refused = api.post(SERVICES, &service("b", "10.200.0.15")).await;
        assert!(refused.text("/message").ends_with(mismatch), "{}", refused.body);
        let protect = json!({"metadata": {"finalizers": ["example.com/keep"]}}).to_string();
        api.patch("merge", &format!("{RANGES}/more"), &protect).await;
        assert_eq!(api.delete(&format!("{RANGES}/more"), "").await.code, 200);
        let refused = api.post(SERVICES, &service("b", "10.200.0.6")).await;
        assert!(refused.text("/message").ends_with(mismatch), "{}", refused.body);
    });
}

#[test]
fn what_is_missing_is_made_at_the_start() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    runtime.block_on(async {
        let running = start(directory.path()).await;
        let store = running.server.store.clone();
        let objects = || -> Vec<(store::Key, u64)> {
            let snapshot = store.snapshot("networking.k8s.io/ipaddresses");
            snapshot.iter(&store::Range::default()).map(|o| (o.key.clone(), o.modified)).collect()
        };
        let (key, modified) = objects().pop().expect("the object of the Service kubernetes");
        let precondition = store::Precondition::Revision(modified);
        store.write(store::Write { key, precondition, value: None, last: None }).await.expect("deleted");
        let orphan: Value = json!({"metadata": {"name": "10.96.0.9",
                "labels": {"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}},
            "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "gone"}}});
        let request = http::Request::post(ADDRESSES).header("content-type", "application/json");
        let request = request.body(serve::full(orphan.to_string())).expect("request");
        let identity = std::sync::Arc::new(apiserver::Identity::system("test"));
        assert_eq!(running.server.handle(identity, request).await.status(), 201);
        drop(store);
        running.shutdown().await;
        let running = start(directory.path()).await;
        let snapshot = running.server.store.snapshot("networking.k8s.io/ipaddresses");
        let all = snapshot.iter(&store::Range::default());
        let names: Vec<String> = all.map(|o| o.key.name.to_string()).collect();
        assert_eq!(names, ["10.96.0.1"]);
        running.shutdown().await;
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
