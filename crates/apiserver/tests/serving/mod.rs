//! The server itself: what it tells of itself, and its restarts.

use apiserver::{ApiServer, Config};

use crate::POD;
use crate::harness::{Server, config, runtime, start, with_server};

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
            // Two more: where the cluster is, and how servers behind this one know who asks.
            assert_eq!(running.server.store.snapshot("core/configmaps").len(), round + 3);
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
fn pods_are_held_to_what_the_configuration_says() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("pod-security.yaml");
    let text = "apiVersion: pod-security.admission.config.k8s.io/v1\nkind: PodSecurityConfiguration\n\
        defaults: {enforce: baseline}\nexemptions: {namespaces: [kube-system], runtimeClasses: [vm]}\n";
    std::fs::write(&file, text).expect("file");
    runtime().block_on(async {
        let config = Config { pod_security: Some(file.clone()), ..config(&dir.path().join("data")) };
        let running = ApiServer::start(config.clone()).await.expect("start");
        let api = Server::of(&running, &dir.path().join("data"));
        let pod = |space: &str| {
            let body = POD.replace(r#""spec":{"#, r#""spec":{"hostNetwork":true,"#);
            let api = &api;
            let path = format!("/api/v1/namespaces/{space}/pods");
            let accounts = format!("/api/v1/namespaces/{space}/serviceaccounts");
            async move {
                api.post(&accounts, r#"{"metadata":{"name":"default"}}"#).await;
                api.post(&path, &body).await
            }
        };
        let refused = pod("default").await;
        assert_eq!(refused.code, 403, "{}", refused.body);
        assert!(
            refused.text("/message").contains(r#"violates PodSecurity "baseline:latest""#),
            "{}",
            refused.body
        );
        let exempt = pod("kube-system").await;
        assert_eq!(exempt.code, 201, "{}", exempt.body);
        running.shutdown().await;
        std::fs::write(&file, "defaults: {enforce: strict}").expect("file");
        let error = ApiServer::start(config).await.err().expect("refused").to_string();
        assert!(error.contains("pod-security.yaml") && error.contains("strict"), "{error}");
    });
}

#[test]
fn a_key_of_another_certificate_is_warned_of() {
    use base64::Engine;
    with_server(|api| async move {
        let pair = |name: &str| serve::pki::Authority::generate(name).expect("pair").pair().clone();
        let (one, other) = (pair("a"), pair("b"));
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let secret = |name: &str, certificate: &str, key: &str| {
            serde_json::json!({"metadata": {"name": name}, "type": "kubernetes.io/tls",
                "data": {"tls.crt": encode(certificate), "tls.key": encode(key)}})
            .to_string()
        };
        let rows = [
            ("fits", secret("fits", &one.certificate, &one.key), None),
            (
                "not",
                secret("not", &one.certificate, &other.key),
                Some("tls: private key does not match public key"),
            ),
            (
                "no",
                secret("no", "x", &one.key),
                Some("tls: failed to find any PEM data in certificate input"),
            ),
            (
                "nor",
                secret("nor", &one.certificate, "x"),
                Some("tls: failed to find any PEM data in key input"),
            ),
        ];
        for (name, body, want) in rows {
            let made = api.post("/api/v1/namespaces/default/secrets", &body).await;
            assert_eq!(made.code, 201, "{}", made.body);
            let warning = made.headers.get("warning").and_then(|value| value.to_str().ok());
            assert_eq!(warning.map(str::to_owned), want.map(|want| format!("299 - \"{want}\"")), "{name}");
        }
    });
}
