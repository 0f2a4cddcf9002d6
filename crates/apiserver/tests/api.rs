//! The protocol as clients see it: requests to a real server over TLS, and what must come back.

mod access;
mod addresses;
mod etcd;
mod extension;
mod failing;
mod harness;
mod objects;
mod serving;

use harness::with_server;

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
