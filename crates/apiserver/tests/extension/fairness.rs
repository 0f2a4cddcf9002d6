//! Priority and fairness as clients see it.

use serde_json::{Value, json};

use super::hook::until;
use crate::harness::{Answer, Server, with_server};

const GROUP: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const JANE: [(&str, &str); 2] = [("impersonate-user", "jane"), ("impersonate-group", "system:masters-not")];

fn classified(answer: &Answer) -> (String, String) {
    let header =
        |name: &str| answer.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("").to_string();
    (header("x-kubernetes-pf-flowschema-uid"), header("x-kubernetes-pf-prioritylevel-uid"))
}

async fn uids(api: &Server, schema: &str, level: &str) -> (String, String) {
    let uid = |answer: Answer| answer.text("/metadata/uid").to_string();
    let schema = uid(api.get(&format!("{GROUP}/flowschemas/{schema}")).await);
    (schema, uid(api.get(&format!("{GROUP}/prioritylevelconfigurations/{level}")).await))
}

async fn configured(api: &Server) {
    until("requests are classified", || async {
        let (schema, level) = classified(&api.get("/version").await);
        !schema.is_empty() && !level.is_empty()
    })
    .await;
}

#[test]
fn requests_are_told_apart() {
    with_server(|api| async move {
        configured(&api).await;
        let metrics = api.get("/metrics").await;
        let seats = "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"workload-low\"} 245";
        assert!(metrics.body.as_str().is_some_and(|text| text.lines().any(|line| line == seats)));
        assert_eq!(classified(&api.get("/api/v1/pods").await), uids(&api, "exempt", "exempt").await);
        let jane = api.send("GET", "/api/v1/pods", &JANE, "").await;
        assert_eq!(
            (jane.code, classified(&jane)),
            (403, uids(&api, "global-default", "global-default").await)
        );
        let level = json!({"metadata": {"name": "mine"}, "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}}}});
        let schema = json!({"metadata": {"name": "jane"}, "spec": {"matchingPrecedence": 50,
            "priorityLevelConfiguration": {"name": "mine"}, "distinguisherMethod": {"type": "ByUser"},
            "rules": [{"subjects": [{"kind": "User", "user": {"name": "jane"}}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"],
                    "namespaces": ["*"], "clusterScope": true}]}]}});
        let schema = api.post(&format!("{GROUP}/flowschemas"), &schema.to_string()).await;
        assert_eq!(schema.code, 201, "{}", schema.body);
        let dangling = |wanted: &'static str| {
            let api = &api;
            async move {
                let found = api.get(&format!("{GROUP}/flowschemas/jane")).await;
                found.text("/status/conditions/0/status") == wanted
            }
        };
        until("its level is missed", || dangling("True")).await;
        let made = api.post(&format!("{GROUP}/prioritylevelconfigurations"), &level.to_string()).await;
        assert_eq!(made.code, 201, "{}", made.body);
        until("its level is found", || dangling("False")).await;
        let wanted = uids(&api, "jane", "mine").await;
        until("jane has a level of her own", || async {
            classified(&api.send("GET", "/api/v1/pods", &JANE, "").await) == wanted
        })
        .await;
        api.delete(&format!("{GROUP}/flowschemas/jane"), "").await;
        let wanted = uids(&api, "global-default", "global-default").await;
        until("jane is as everybody", || async {
            classified(&api.send("GET", "/api/v1/pods", &JANE, "").await) == wanted
        })
        .await;
    });
}

#[test]
fn the_default_objects_are_kept() {
    with_server(|api| async move {
        configured(&api).await;
        let path = |kind: &str, name: &str| format!("{GROUP}/{kind}/{name}");
        let precedence = |value: u64| json!({"spec": {"matchingPrecedence": value}}).to_string();
        let of = |name: &'static str| {
            let (api, path) = (&api, path("flowschemas", name));
            async move { api.get(&path).await.body["spec"]["matchingPrecedence"].as_u64() }
        };
        for (name, own) in [("exempt", 1), ("service-accounts", 9000)] {
            api.patch("merge", &path("flowschemas", name), &precedence(77)).await;
            until("it is as it was", || async { of(name).await == Some(own) }).await;
        }
        // Who takes a suggested one over keeps it; the mandatory ones nobody can take over.
        let mine = json!({"metadata": {"annotations": {"apf.kubernetes.io/autoupdate-spec": "false"}},
            "spec": {"matchingPrecedence": 77}})
        .to_string();
        for name in ["service-accounts", "catch-all"] {
            let patched = api.patch("merge", &path("flowschemas", name), &mine).await;
            assert_eq!(patched.code, 200, "{}", patched.body);
        }
        until("catch-all is as it was", || async { of("catch-all").await == Some(10000) }).await;
        assert_eq!(of("service-accounts").await, Some(77));
        assert_eq!(api.delete(&path("prioritylevelconfigurations", "system"), "").await.code, 200);
        until("the level is back", || async {
            api.get(&path("prioritylevelconfigurations", "system")).await.code == 200
        })
        .await;
    });
}

#[test]
fn who_finds_no_seat_is_told_when_to_come_again() {
    with_server(|api| async move {
        configured(&api).await;
        // A level with one seat that queues nothing.
        let level = json!({"metadata": {"name": "narrow"}, "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": 0, "limitResponse": {"type": "Reject"}}}});
        let schema = json!({"metadata": {"name": "narrow"}, "spec": {"matchingPrecedence": 50,
            "priorityLevelConfiguration": {"name": "narrow"},
            "rules": [{"subjects": [{"kind": "User", "user": {"name": "jane"}}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"],
                    "namespaces": ["*"], "clusterScope": true}]}]}});
        for (plural, object) in [("prioritylevelconfigurations", level), ("flowschemas", schema)] {
            // No borrowing hides the narrowness: the others lend nothing.
            let made = api.post(&format!("{GROUP}/{plural}"), &object.to_string()).await;
            assert_eq!(made.code, 201, "{}", made.body);
        }
        let levels = api.get(&format!("{GROUP}/prioritylevelconfigurations")).await;
        for level in levels.body["items"].as_array().expect("levels") {
            let name = level["metadata"]["name"].as_str().unwrap_or("");
            let patch = json!({"metadata": {"annotations": {"apf.kubernetes.io/autoupdate-spec": "false"}},
                "spec": {"limited": {"lendablePercent": 0}}});
            if level["spec"]["type"] == "Limited" {
                api.patch(
                    "merge",
                    &format!("{GROUP}/prioritylevelconfigurations/{name}"),
                    &patch.to_string(),
                )
                .await;
            }
        }
        let wanted = uids(&api, "narrow", "narrow").await;
        let may = json!({"metadata": {"name": "jane"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole", "name": "cluster-admin"}, "subjects": [{"kind": "User", "name": "jane"}]});
        api.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &may.to_string()).await;
        let maps = "/api/v1/namespaces/default/configmaps";
        until("jane has a narrow level", || async {
            let got = api.send("GET", maps, &JANE, "").await;
            got.code == 200 && classified(&got) == wanted
        })
        .await;
        let mut holds = api.hang(maps, &JANE);
        until("the seat is taken", || {
            // It is refused itself when it comes while one of these reads has the seat.
            if holds.is_finished() {
                holds = api.hang(maps, &JANE);
            }
            async { api.send("GET", maps, &JANE, "").await.code == 429 }
        })
        .await;
        let refused = api.send("GET", maps, &JANE, "").await;
        holds.abort();
        assert_eq!(refused.headers.get("retry-after").and_then(|v| v.to_str().ok()), Some("1"));
        assert_eq!(refused.body, Value::from("Too many requests, please try again later.\n"));
        assert_eq!(classified(&refused), wanted);
        until("the seat is free again", || async { api.send("GET", maps, &JANE, "").await.code == 200 })
            .await;
    });
}
