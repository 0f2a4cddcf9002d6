//! Policies and conditions that are expressions.

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use super::hook::{Hook, until};
use crate::harness::{Answer, Server, with_server};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const CM: &str = "/api/v1/namespaces/default/configmaps";

fn rules() -> Value {
    json!({"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
        "resources": ["configmaps"]}]})
}

/// A validating policy for config maps; `spec` is added to it.
fn policy(name: &str, spec: Value) -> Value {
    let mut policy = json!({"metadata": {"name": name}, "spec": {"matchConstraints": rules()}});
    let parts = spec.as_object().expect("spec").clone();
    policy["spec"].as_object_mut().expect("spec").extend(parts);
    policy
}

fn binding(name: &str, policy: &str, spec: Value) -> Value {
    let mut binding = json!({"metadata": {"name": name}, "spec": {"policyName": policy}});
    let parts = spec.as_object().expect("spec").clone();
    binding["spec"].as_object_mut().expect("spec").extend(parts);
    binding
}

async fn made(api: &Server, plural: &str, object: &Value) {
    let made = api.post(&format!("{GROUP}/{plural}"), &object.to_string()).await;
    assert_eq!(made.code, 201, "{}", made.body);
}

fn map(name: &str, data: Value) -> String {
    json!({"metadata": {"name": name}, "data": data}).to_string()
}

fn warnings(answer: &Answer) -> Vec<String> {
    let all = answer.headers.get_all("warning").iter();
    all.filter_map(|value| value.to_str().ok()).map(str::to_string).collect()
}

#[test]
fn a_policy_refuses_what_its_expressions_do_not_allow() {
    with_server(|api| async move {
        let spec = json!({
            "variables": [
                {"name": "size", "expression": "'size' in object.data ? int(object.data.size) : 1"},
                {"name": "twice", "expression": "variables.size * 2"}],
            "matchConditions": [{"name": "not-exempt", "expression": "object.metadata.name != 'exempt'"}],
            "validations": [
                {"expression": "variables.twice <= 10", "messageExpression": "'size ' + string(variables.size) + ' is too much'"},
                {"expression": "!has(object.data.secret)", "message": "no secrets", "reason": "Forbidden"},
                {"expression": "namespaceObject.metadata.name == 'default' && request.userInfo.username != ''"},
                {"expression": "authorizer.group('').resource('configmaps').namespace('default').check('get').allowed()"}],
            "auditAnnotations": [{"key": "size", "valueExpression": "string(variables.size)"}]});
        made(&api, "validatingadmissionpolicies", &policy("p", spec)).await;
        assert_eq!(api.post(CM, &map("free", json!({"size": "9"}))).await.code, 201, "nothing is bound");
        made(
            &api,
            "validatingadmissionpolicybindings",
            &binding("b", "p", json!({"validationActions": ["Deny"]})),
        )
        .await;

        assert_eq!(api.post(CM, &map("ok", json!({"size": "5"}))).await.code, 201);
        assert_eq!(api.post(CM, &map("exempt", json!({"size": "50"}))).await.code, 201);
        let refused = api.post(CM, &map("big", json!({"size": "6"}))).await;
        let wanted = "configmaps \"big\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: size 6 is too much";
        assert_eq!(
            (refused.code, refused.text("/reason"), refused.text("/message")),
            (422, "Invalid", wanted)
        );
        assert!(refused.text("/details/causes/0/message").starts_with("ValidatingAdmissionPolicy 'p'"));
        let refused = api.post(CM, &map("secret", json!({"secret": "x"}))).await;
        assert_eq!((refused.code, refused.text("/reason")), (403, "Forbidden"));
        assert!(refused.text("/message").ends_with("denied request: no secrets"));
        let refused = api.post(CM, &map("odd", json!({"size": "x"}))).await;
        assert!(
            refused.text("/message").contains("composited variable \"size\" fails to evaluate"),
            "{}",
            refused.body
        );
        let refused = api.patch("merge", &format!("{CM}/ok"), r#"{"data":{"size":"7"}}"#).await;
        assert_eq!(refused.code, 422);

        let warn = r#"{"spec":{"validationActions":["Warn","Audit"]}}"#;
        api.patch("merge", &format!("{GROUP}/validatingadmissionpolicybindings/b"), warn).await;
        let warned = api.post(CM, &map("big", json!({"size": "6"}))).await;
        let wanted = "299 - \"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': size 6 is too much\"";
        assert_eq!((warned.code, warnings(&warned)), (201, vec![wanted.to_string()]));
    });
}

#[test]
fn parameters_come_from_other_objects() {
    with_server(|api| async move {
        let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "validations": [{"expression": "params == null || object.data.size == params.data.size"}]});
        made(&api, "validatingadmissionpolicies", &policy("p", spec)).await;
        let spaces = "/api/v1/namespaces";
        assert_eq!(api.post(spaces, r#"{"metadata":{"name":"rules"}}"#).await.code, 201);
        let wanted = |name: &str, size: &str| {
            json!({"metadata": {"name": name, "labels": {"is": "rule"}}, "data": {"size": size}}).to_string()
        };
        let reference = json!({"name": "wanted", "namespace": "rules", "parameterNotFoundAction": "Deny"});
        let spec = json!({"validationActions": ["Deny"], "paramRef": reference, "matchResources": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}}});
        made(&api, "validatingadmissionpolicybindings", &binding("b", "p", spec)).await;
        let refused = api.post(CM, &map("a", json!({"size": "1"}))).await;
        let why = "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction";
        assert!(refused.text("/message").ends_with(why), "{}", refused.body);
        assert_eq!(api.post("/api/v1/namespaces/rules/configmaps", &wanted("wanted", "1")).await.code, 201);
        assert_eq!(api.post(CM, &map("a", json!({"size": "1"}))).await.code, 201);
        assert_eq!(api.post(CM, &map("b", json!({"size": "2"}))).await.code, 422);
        // By labels: all that are selected must agree.
        let path = format!("{GROUP}/validatingadmissionpolicybindings/b");
        let select = r#"{"spec":{"paramRef":{"name":null,"selector":{"matchLabels":{"is":"rule"}}}}}"#;
        let patched = api.patch("merge", &path, select).await;
        assert_eq!(patched.code, 200, "{}", patched.body);
        assert_eq!(api.post(CM, &map("c", json!({"size": "1"}))).await.code, 201);
        api.post("/api/v1/namespaces/rules/configmaps", &wanted("other", "2")).await;
        assert_eq!(api.post(CM, &map("d", json!({"size": "1"}))).await.code, 422);
        // What cannot be evaluated passes where the policy says so.
        let ignore = r#"{"spec":{"failurePolicy":"Ignore","paramKind":{"apiVersion":"v9","kind":"Absent"}}}"#;
        api.patch("merge", &format!("{GROUP}/validatingadmissionpolicies/p"), ignore).await;
        assert_eq!(api.post(CM, &map("e", json!({"size": "1"}))).await.code, 201);
    });
}

#[test]
fn expressions_are_judged_when_they_are_written() {
    with_server(|api| async move {
        let path = format!("{GROUP}/validatingadmissionpolicies");
        for (validation, place, why) in [
            (
                json!({"expression": "object.x >"}),
                "spec.validations[0].expression",
                "compilation failed: ERROR: <input>:1:11",
            ),
            (
                json!({"expression": "'text'"}),
                "spec.validations[0].expression",
                "must evaluate to bool but got string",
            ),
            (
                json!({"expression": "true", "messageExpression": "1"}),
                "spec.validations[0].messageExpression",
                "must evaluate to string but got int",
            ),
            (
                json!({"expression": "params.x == 1"}),
                "spec.validations[0].expression",
                "undeclared reference to 'params'",
            ),
        ] {
            let refused =
                api.post(&path, &policy("p", json!({"validations": [validation]})).to_string()).await;
            assert_eq!(
                (refused.code, refused.text("/details/causes/0/field")),
                (422, place),
                "{}",
                refused.body
            );
            assert!(refused.text("/details/causes/0/message").contains(why), "{}", refused.body);
        }
        let spec = json!({"validations": [{"expression": "object.data.size > 1 && object.nothing == 1"}, {"expression": "true"}]});
        made(&api, "validatingadmissionpolicies", &policy("p", spec)).await;
        until("the policy is checked", || async {
            api.get(&format!("{path}/p")).await.body["status"]["observedGeneration"] == 1
        })
        .await;
        let checked = api.get(&format!("{path}/p")).await;
        let warnings =
            checked.body["status"]["typeChecking"]["expressionWarnings"].as_array().expect("warnings");
        assert_eq!((warnings.len(), &warnings[0]["fieldRef"]), (1, &json!("spec.validations[0].expression")));
        let text = warnings[0]["warning"].as_str().expect("text");
        assert!(text.starts_with("/v1, Kind=ConfigMap: compilation failed: ERROR: <input>:1:"), "{text}");
        assert!(text.contains("undefined field 'nothing'"), "{text}");
    });
}

#[test]
fn a_policy_changes_objects() {
    with_server(|api| async move {
        let mutations = json!([
            {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
                "Object{metadata: Object.metadata{labels: {'made': 'by-policy'}}, data: {'added': object.metadata.name}}"}},
            {"patchType": "JSONPatch", "jsonPatch": {"expression":
                "[JSONPatch{op: 'test', path: '/data/added', value: object.data.added}, JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: 'c'}]"}}]);
        let spec = json!({"reinvocationPolicy": "IfNeeded", "failurePolicy": "Fail", "mutations": mutations});
        made(&api, "mutatingadmissionpolicies", &policy("m", spec)).await;
        made(&api, "mutatingadmissionpolicybindings", &binding("b", "m", json!({}))).await;
        let changed = api.post(CM, &map("a", json!({"own": "x"}))).await;
        assert_eq!(changed.code, 201, "{}", changed.body);
        assert_eq!(changed.body["metadata"]["labels"], json!({"made": "by-policy", "a/b": "c"}));
        assert_eq!(changed.body["data"], json!({"own": "x", "added": "a"}));
        let wrong = json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
            "Object{metadata: Object.wrong{labels: {'a': 'b'}}}"}}]);
        let wrong =
            policy("n", json!({"reinvocationPolicy": "Never", "failurePolicy": "Fail", "mutations": wrong}));
        made(&api, "mutatingadmissionpolicies", &wrong).await;
        made(&api, "mutatingadmissionpolicybindings", &binding("c", "n", json!({}))).await;
        let refused = api.post(CM, &map("b", json!({}))).await;
        assert_eq!((refused.code, refused.text("/reason")), (403, "Invalid"), "{}", refused.body);
        assert!(
            refused.text("/message").starts_with("policy 'n' with binding 'c' denied request: type mismatch")
        );
    });
}

#[test]
fn conditions_keep_requests_from_webhooks() {
    with_server(|api| async move {
        let hook = Hook::start(&[], |request: &Request<Bytes>| {
            let review: Value = serde_json::from_slice(request.body()).expect("review");
            let answer = json!({"uid": review["request"]["uid"], "allowed": false});
            (200, json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": answer}))
        })
        .await;
        let url = format!("https://127.0.0.1:{}/", hook.address.port());
        let configuration = |condition: &str| {
            json!({"metadata": {"name": "w"}, "webhooks": [{"name": "w.example.com", "sideEffects": "None",
                "admissionReviewVersions": ["v1"], "clientConfig": {"url": url, "caBundle": hook.bundle},
                "rules": rules()["resourceRules"],
                "matchConditions": [{"name": "c", "expression": condition}]}]})
            .to_string()
        };
        let path = format!("{GROUP}/validatingwebhookconfigurations");
        let refused = api.post(&path, &configuration("object.metadata.name")).await;
        assert_eq!(
            refused.text("/details/causes/0/field"),
            "webhooks[0].matchConditions[0].expression",
            "{}",
            refused.body
        );
        let made = api
            .post(&path, &configuration("!object.metadata.name.startsWith('free-') && object.data.x != 'y'"))
            .await;
        assert_eq!(made.code, 201, "{}", made.body);
        assert_eq!(api.post(CM, &map("free-1", json!({"x": "z"}))).await.code, 201);
        assert_eq!(api.post(CM, &map("other", json!({"x": "y"}))).await.code, 201);
        let refused = api.post(CM, &map("held", json!({"x": "z"}))).await;
        assert!(
            refused.text("/message").starts_with("admission webhook \"w.example.com\" denied"),
            "{}",
            refused.body
        );
        let failed = api.post(CM, &map("odd", json!({}))).await;
        assert_eq!(failed.code, 403, "{}", failed.body);
        assert!(failed.text("/message").contains("resulted in error: no such key: data"), "{}", failed.body);
        hook.stop().await;
    });
}
