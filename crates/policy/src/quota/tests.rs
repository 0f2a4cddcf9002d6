//! Tables of usage and of what quotas allow.

use serde_json::{Value, json};

use super::*;

const PODS: Counted<'_> = Counted { group: "", plural: "pods" };

fn pod(requests: Value, limits: Value) -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c",
        "resources": {"requests": requests, "limits": limits}}]}})
}

fn quota(hard: Value, used: Value) -> Value {
    json!({"metadata": {"name": "q"}, "spec": {"hard": hard.clone()}, "status": {"hard": hard, "used": used}})
}

fn shown(usage: &Usage) -> String {
    usage.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn usage_by_table() {
    let with_init = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}}],
        "initContainers": [{"restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}}},
            {"resources": {"requests": {"cpu": "2", "example.com/gpu": "1"}}}], "overhead": {"cpu": "250m"}}});
    let ended = json!({"spec": {"containers": []}, "status": {"phase": "Succeeded"}});
    let service = json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}});
    let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}});
    let of = |plural| Counted { group: "", plural };
    let table = [
        (
            PODS,
            pod(json!({"cpu": "500m", "memory": "1Gi"}), json!({"memory": "2Gi"})),
            "count/pods=1 cpu=500m limits.memory=2Gi memory=1Gi pods=1 requests.cpu=500m requests.memory=1Gi",
        ),
        (PODS, with_init, "count/pods=1 cpu=2750m pods=1 requests.cpu=2750m requests.example.com/gpu=1"),
        (PODS, ended, "count/pods=1"),
        (
            of("services"),
            service,
            "count/services=1 services=1 services.loadbalancers=1 services.nodeports=2",
        ),
        (
            of("persistentvolumeclaims"),
            claim,
            "count/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/persistentvolumeclaims=1 \
             gold.storageclass.storage.k8s.io/requests.storage=1Gi persistentvolumeclaims=1 requests.storage=1Gi",
        ),
        (of("configmaps"), json!({}), "configmaps=1 count/configmaps=1"),
        (Counted { group: "apps", plural: "deployments" }, json!({}), "count/deployments.apps=1"),
    ];
    for (kind, object, wanted) in table {
        assert_eq!(shown(&kind.usage(&object, 0)), wanted, "{kind:?}");
    }
}

#[test]
fn requests_are_charged_or_refused() {
    let small = pod(json!({"cpu": "500m"}), json!({}));
    let best = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
    let table = [
        (quota(json!({"pods": "2"}), json!({"pods": "1"})), &small, Ok(Some("pods=2"))),
        (quota(json!({"services": "2"}), json!({"services": "1"})), &small, Ok(None)),
        (
            quota(json!({"pods": "1", "cpu": "1"}), json!({"pods": "1", "cpu": "600m"})),
            &small,
            Err(
                "exceeded quota: q, requested: cpu=500m,pods=1, used: cpu=600m,pods=1, limited: cpu=1,pods=1",
            ),
        ),
        (
            quota(json!({"cpu": "1"}), json!({"cpu": "0"})),
            &best,
            Err("failed quota: q: must specify cpu for: c"),
        ),
        (quota(json!({"pods": "1"}), json!({})), &small, Err("status unknown for quota: q, resources: pods")),
    ];
    for (quota, pod, wanted) in table {
        let got = charge(&quota, PODS, pod, None, 0).map(|usage| usage.map(|usage| shown(&usage)));
        let wanted = wanted.map(|usage| usage.map(str::to_string)).map_err(str::to_string);
        assert_eq!(got, wanted);
    }
}

#[test]
fn scopes_choose_pods() {
    let pods = [
        ("best", json!({"spec": {"containers": [{"name": "c"}]}})),
        ("ending", json!({"spec": {"activeDeadlineSeconds": 5, "containers": [{"name": "c"}]}})),
        ("sized", pod(json!({"cpu": "1"}), json!({}))),
        ("high", json!({"spec": {"priorityClassName": "high", "containers": [{"name": "c"}]}})),
    ];
    let selector = |operator: &str, values: Value| {
        json!({"scopeSelector": {"matchExpressions": [
        {"scopeName": "PriorityClass", "operator": operator, "values": values}]}})
    };
    let table = [
        (json!({"scopes": ["Terminating"]}), "ending"),
        (json!({"scopes": ["NotTerminating", "BestEffort"]}), "best high"),
        (json!({"scopes": ["NotBestEffort"]}), "sized"),
        (selector("In", json!(["high"])), "high"),
        (selector("DoesNotExist", json!([])), "best ending sized"),
        (json!({}), "best ending sized high"),
    ];
    for (spec, wanted) in table {
        let quota = json!({"spec": spec});
        let fits: Vec<&str> =
            pods.iter().filter(|(_, pod)| in_scope(&quota, PODS, pod)).map(|(name, _)| *name).collect();
        assert_eq!(fits.join(" "), wanted, "{quota}");
    }
}

#[test]
fn scopes_choose_claims_by_their_classes() {
    let claims = [
        ("none", json!({"spec": {}})),
        ("gold", json!({"spec": {"volumeAttributesClassName": "gold"}})),
        ("leaving", json!({"spec": {}, "status": {"currentVolumeAttributesClassName": "gold"}})),
        ("coming", json!({"status": {"modifyVolumeStatus": {"targetVolumeAttributesClassName": "gold"}}})),
        ("iron", json!({"spec": {"volumeAttributesClassName": "iron"}})),
    ];
    let kind = Counted { group: "", plural: "persistentvolumeclaims" };
    for (operator, values, wanted) in [
        ("In", json!(["gold"]), "gold leaving coming"),
        ("NotIn", json!(["gold"]), "none iron"),
        ("Exists", json!([]), "gold leaving coming iron"),
        ("DoesNotExist", json!([]), "none"),
    ] {
        let term = json!({"scopeName": "VolumeAttributesClass", "operator": operator, "values": values});
        let quota = json!({"spec": {"scopeSelector": {"matchExpressions": [term]}}});
        let fits = claims.iter().filter(|(_, claim)| in_scope(&quota, kind, claim)).map(|(name, _)| *name);
        assert_eq!(fits.collect::<Vec<_>>().join(" "), wanted, "{operator}");
        assert!(!in_scope(&quota, PODS, &json!({})));
    }
}

#[test]
fn totals_show_every_limited_resource() {
    let quota = quota(json!({"pods": "5", "services": "1", "cpu": "2"}), json!({}));
    let one = pod(json!({"cpu": "500m"}), json!({}));
    let used = total(&quota, [(PODS, &one), (PODS, &one)], 0);
    assert_eq!(shown(&used), "cpu=1 pods=2 services=0");
}
