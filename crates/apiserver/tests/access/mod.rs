//! Who is let in, and what is admitted.

mod tokens;

use crate::harness::{Answer, with_server};

/// The `Warning` headers of an answer.
fn warnings(answer: &Answer) -> Vec<String> {
    let all = answer.headers.get_all("warning").iter();
    all.filter_map(|value| value.to_str().ok()).map(str::to_string).collect()
}

#[test]
fn bootstrap_tokens_are_known_by_their_secret() {
    with_server(|api| async move {
        let secrets = "/api/v1/namespaces/kube-system/secrets";
        let secret = r#"{"metadata":{"name":"bootstrap-token-abcdef"},"type":"bootstrap.kubernetes.io/token","stringData":{"token-id":"abcdef","token-secret":"0123456789abcdef","usage-bootstrap-authentication":"true","auth-extra-groups":"system:bootstrappers:mine"}}"#;
        let bearer = [("authorization", "Bearer abcdef.0123456789abcdef")];
        assert_eq!(api.send_anonymous("GET", "/version", &bearer).await.code, 401);
        assert_eq!(api.post(secrets, secret).await.code, 201);
        assert_eq!(api.send_anonymous("GET", "/version", &bearer).await.code, 200);
        let wrong = [("authorization", "Bearer abcdef.0123456789abcdee")];
        assert_eq!(api.send_anonymous("GET", "/version", &wrong).await.code, 401);
        let review = r#"{"spec":{"token":"abcdef.0123456789abcdef"}}"#;
        let review = api.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await;
        assert_eq!(review.text("/status/user/username"), "system:bootstrap:abcdef");
        let groups =
            serde_json::json!(["system:bootstrappers", "system:bootstrappers:mine", "system:authenticated"]);
        assert_eq!(review.body["status"]["user"]["groups"], groups);
        let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
        assert_eq!(api.send_anonymous("GET", requests, &bearer).await.code, 403);
        let binding = r#"{"metadata":{"name":"b"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"system:node-bootstrapper"},"subjects":[{"kind":"Group","name":"system:bootstrappers","apiGroup":"rbac.authorization.k8s.io"}]}"#;
        api.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
        let mut tries = 0;
        while api.send_anonymous("GET", requests, &bearer).await.code != 200 {
            tries += 1;
            assert!(tries < 500, "the binding has no effect");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let public = "/api/v1/namespaces/kube-public/configmaps/cluster-info";
        let info = api.send_anonymous("GET", public, &[]).await;
        assert!(info.text("/data/kubeconfig").contains("certificate-authority-data"), "{}", info.body);
        let expired = r#"{"stringData":{"expiration":"2020-01-01T00:00:00Z"}}"#;
        api.patch("merge", &format!("{secrets}/bootstrap-token-abcdef"), expired).await;
        assert_eq!(api.send_anonymous("GET", "/version", &bearer).await.code, 401);
    });
}

#[test]
fn pods_are_held_to_the_standard_of_their_namespace() {
    with_server(|api| async move {
        let namespace =
            r#"{"metadata":{"name":"held","labels":{"pod-security.kubernetes.io/enforce":"basic"}}}"#;
        let refused = api.post("/api/v1/namespaces", namespace).await;
        let message = r#"Namespace "held" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "basic": must be one of privileged, baseline, restricted"#;
        assert_eq!((refused.code, refused.text("/message")), (422, message));
        assert_eq!(api.post("/api/v1/namespaces", r#"{"metadata":{"name":"held"}}"#).await.code, 201);
        api.post("/api/v1/namespaces/held/serviceaccounts", r#"{"metadata":{"name":"default"}}"#).await;
        let pods = "/api/v1/namespaces/held/pods";
        let pod = |name: &str| {
            format!(
                r#"{{"metadata":{{"name":"{name}"}},"spec":{{"hostPID":true,"containers":[{{"name":"c","image":"i"}}]}}}}"#
            )
        };
        assert_eq!(api.post(pods, &pod("before")).await.code, 201);
        let labels = r#"{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"baseline"}}}"#;
        let changed = api.patch("merge", "/api/v1/namespaces/held", labels).await;
        assert_eq!(changed.code, 200);
        let expected = [
            r#"299 - "existing pods in namespace \"held\" violate the new PodSecurity enforce level \"baseline:latest\"""#,
            r#"299 - "before: host namespaces""#,
        ];
        assert_eq!(warnings(&changed), expected);
        let refused = api.post(pods, &pod("after")).await;
        let message = r#"pods "after" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostPID=true)"#;
        assert_eq!((refused.code, refused.text("/message")), (403, message));
        let deployment = r#"{"metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"hostPID":true,"containers":[{"name":"c","image":"i"}]}}}}"#;
        let made = api.post("/apis/apps/v1/namespaces/held/deployments", deployment).await;
        assert_eq!(made.code, 201);
        let expected =
            [r#"299 - "would violate PodSecurity \"baseline:latest\": host namespaces (hostPID=true)""#];
        assert_eq!(warnings(&made), expected);
        let labels = r#"{"metadata":{"labels":{"x":"y"}}}"#;
        assert_eq!(api.patch("merge", &format!("{pods}/before"), labels).await.code, 200);
        let image = r#"{"spec":{"containers":[{"name":"c","image":"other"}]}}"#;
        assert_eq!(api.patch("strategic", &format!("{pods}/before"), image).await.code, 403);
    });
}

/// A certificate request of this name, PEM, base64.
fn certificate_request(name: &str) -> String {
    use base64::Engine;
    let key = rcgen::KeyPair::generate().expect("key");
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("params");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let pem = params.serialize_request(&key).and_then(|request| request.pem()).expect("request");
    base64::engine::general_purpose::STANDARD.encode(pem)
}

#[test]
fn nodes_ask_for_certificates_in_their_own_name() {
    const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    with_server(|api| async move {
        let body = |name: &str, request: &str| {
            serde_json::json!({"metadata": {"name": name}, "spec": {"request": request,
                "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
                "usages": ["digital signature", "client auth"]}})
            .to_string()
        };
        let node = [("impersonate-user", "system:node:n1"), ("impersonate-group", "system:nodes")];
        let (own, other) = (certificate_request("system:node:n1"), certificate_request("system:node:n2"));
        let refused = api.send("POST", REQUESTS, &node, &body("other", &other)).await;
        let message = r#"certificatesigningrequests.certificates.k8s.io "other" is forbidden: can only create a node CSR with CN=system:node:n1"#;
        assert_eq!((refused.code, refused.text("/message")), (403, message));
        assert_eq!(api.send("POST", REQUESTS, &node, &body("own", &own)).await.code, 201);
        assert_eq!(api.post(REQUESTS, &body("other", &other)).await.code, 201);
        let garbage = api.post(REQUESTS, &body("garbage", "eA==")).await;
        assert_eq!((garbage.code, garbage.text("/details/causes/0/field")), (422, "spec.request"));
        let decide = |list: &str| format!(r#"{{"status":{{"conditions":[{list}]}}}}"#);
        let (yes, no) = (r#"{"type":"Approved","status":"True"}"#, r#"{"type":"Denied","status":"True"}"#);
        let approval = format!("{REQUESTS}/own/approval");
        let both = api.patch("merge", &approval, &decide(&format!("{yes},{no}"))).await;
        let message = r#"CertificateSigningRequest.certificates.k8s.io "own" is invalid: status.conditions: Invalid value: "Denied": Approved and Denied conditions are mutually exclusive"#;
        assert_eq!((both.code, both.text("/message")), (422, message));
        assert_eq!(api.patch("merge", &approval, &decide(yes)).await.code, 200);
        let removed = api.patch("merge", &approval, &decide("")).await;
        let message = r#"CertificateSigningRequest.certificates.k8s.io "own" is invalid: status.conditions: Forbidden: updates may not remove a condition of type "Approved""#;
        assert_eq!((removed.code, removed.text("/message")), (422, message));
        let status = format!("{REQUESTS}/own/status");
        let issued = r#"{"status":{"certificate":"eA=="}}"#;
        let garbage = api.patch("merge", &status, issued).await;
        assert_eq!((garbage.code, garbage.text("/details/causes/0/field")), (422, "status.certificate"));
    });
}
