//! What the kubelet does around containers: probes, hooks, resizes, refusals, and how a crash is shown.

use std::sync::Arc;
use std::sync::Mutex;

use client::{Cache, Kind, Patch, WriteOptions};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::peer::Peer;
use crate::rig::{Rig, Sort, phase, ready, script, status, waits};

/// Everything; what does not disturb the rest runs side by side.
pub async fn all(rig: &Rig) {
    tokio::join!(crashes(rig), probes(rig), hooks(rig), refusals(rig), surroundings(rig));
    resizes(rig).await;
}

const SLEEP: &str = "trap 'exit 0' TERM; while true; do sleep 0.1; done";

fn quick(containers: Value) -> Value {
    json!({ "terminationGracePeriodSeconds": 1, "containers": containers })
}

/// A crash is never shown as a back-off before the restart that follows it was counted.
async fn crashes(rig: &Rig) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let keep = seen.clone();
    let cache = Cache::<Pod>::builder(rig.client.clone()).start();
    cache.hook(move |change| {
        let pod = change.new.filter(|p| p.metadata.name.as_deref() == Some("crasher"));
        if let Some(s) = pod.and_then(|p| status(p, "c").cloned()) {
            keep.lock().expect("lock").push(s);
        }
    });
    rig.create("crasher", quick(json!([script("c", "exit 3")]))).await;
    rig.pod("crasher", "backs off", |p| waits(p, "c", "CrashLoopBackOff")).await;
    let shown = seen.lock().expect("lock").clone();
    let backs_off = |s: &&k8s_openapi::api::core::v1::ContainerStatus| {
        let waiting = s.state.as_ref().and_then(|s| s.waiting.as_ref());
        waiting.and_then(|w| w.reason.as_deref()) == Some("CrashLoopBackOff")
    };
    let counts: Vec<i32> = shown.iter().filter(backs_off).map(|s| s.restart_count).collect();
    assert!(!counts.contains(&0), "{shown:?}");
    rig.delete("crasher").await;
}

/// Probes of every kind: thresholds, what they hold back, and what their failure does.
async fn probes(rig: &Rig) {
    let (http, tcp, grpc) = (Peer::http().await, Peer::tcp().await, Peer::grpc().await);
    let mut c = script("c", SLEEP);
    c["startupProbe"] =
        json!({ "grpc": { "port": grpc.port }, "periodSeconds": 1, "failureThreshold": 1000 });
    c["livenessProbe"] = json!({ "httpGet": { "port": http.port, "path": "/live" }, "periodSeconds": 1, "failureThreshold": 2 });
    c["readinessProbe"] =
        json!({ "tcpSocket": { "port": tcp.port }, "periodSeconds": 1, "successThreshold": 2 });
    tcp.set(false);
    grpc.set(false);
    rig.create("probed", quick(json!([c]))).await;
    rig.event(
        "probed",
        "Unhealthy",
        "Startup probe failed: service unhealthy (responded with \"NOT_SERVING\")",
    )
    .await;
    let pod = rig.pod("probed", "runs", |p| phase(p) == "Running").await;
    assert_eq!(status(&pod, "c").and_then(|s| s.started), Some(false));
    assert_eq!(http.asked(), 0, "liveness waits for startup");
    grpc.set(true);
    let pod =
        rig.pod("probed", "has started", |p| status(p, "c").and_then(|s| s.started) == Some(true)).await;
    assert!(!ready(&pod));
    rig.event("probed", "Unhealthy", "Readiness probe failed: dial tcp 127.0.0.1:").await;
    tcp.set(true);
    rig.pod("probed", "is ready", ready).await;
    assert_eq!(status(&rig.pod("probed", "is", |_| true).await, "c").map(|s| s.restart_count), Some(0));
    http.set(false);
    rig.pod("probed", "is restarted", |p| status(p, "c").is_some_and(|s| s.restart_count > 0)).await;
    rig.event("probed", "Unhealthy", "Liveness probe failed: HTTP probe failed with statuscode: 500").await;
    rig.event("probed", "Killing", "Container c failed liveness probe, will be restarted").await;
    rig.delete("probed").await;
}

/// Hooks after the start and before the stop.
async fn hooks(rig: &Rig) {
    let http = Peer::http().await;
    let mut c = script("c", SLEEP);
    c["lifecycle"] = json!({
        "postStart": { "exec": { "command": ["sh", "-c", "echo hook > /made"] } },
        "preStop": { "httpGet": { "port": http.port, "host": "127.0.0.1", "path": "/stop" } },
    });
    rig.create("hooked", quick(json!([c]))).await;
    let pod = rig.pod("hooked", "is ready", ready).await;
    assert_eq!(rig.exec(&pod, "cat /made").await, "hook");
    rig.delete("hooked").await;
    assert_eq!(http.asked(), 1);

    let mut c = script("c", SLEEP);
    c["lifecycle"] = json!({ "postStart": { "exec": { "command": ["sh", "-c", "exit 7"] } },
        "preStop": { "sleep": { "seconds": 1 } } });
    rig.create("unhooked", quick(json!([c]))).await;
    rig.event("unhooked", "FailedPostStartHook", "PostStartHook failed").await;
    rig.delete("unhooked").await;
}

/// What the node refuses, and how it says so.
async fn refusals(rig: &Rig) {
    let with = |extra: Value| {
        let mut spec = quick(json!([script("c", SLEEP)]));
        spec.as_object_mut().expect("a map").extend(extra.as_object().expect("a map").clone());
        spec
    };
    let sysctl = |name: &str, value: &str| json!({ "securityContext": { "sysctls": [{ "name": name, "value": value }] } });
    rig.create("unsafe", with(sysctl("kernel.msgmax", "65536"))).await;
    rig.create("userns", with(json!({ "hostUsers": false }))).await;
    let class = json!({ "metadata": { "name": "odd" }, "handler": "odd-handler" });
    let class: k8s_openapi::api::node::v1::RuntimeClass = serde_json::from_value(class).expect("a class");
    rig.client.create(&class).await.expect("created");
    rig.create("class", with(json!({ "runtimeClassName": "odd" }))).await;
    let class = json!({ "metadata": { "name": "named" }, "handler": "runc" });
    let class: k8s_openapi::api::node::v1::RuntimeClass = serde_json::from_value(class).expect("a class");
    rig.client.create(&class).await.expect("created");
    rig.create("named", with(json!({ "runtimeClassName": "named" }))).await;
    rig.pod("named", "runs", ready).await;

    let pod = rig.pod("unsafe", "is refused", |p| phase(p) == "Failed").await;
    let s = pod.status.expect("status");
    assert_eq!(
        (s.reason.as_deref(), s.message.as_deref()),
        (
            Some("SysctlForbidden"),
            Some("Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted")
        )
    );
    match rig.sort {
        Sort::Embedded => drop(rig.pod("userns", "runs", ready).await),
        // containerd 1.6 knows nothing of user namespaces.
        Sort::Cri => {
            rig.event("userns", "FailedCreatePodSandBox", "can't set `spec.hostUsers: false`").await;
        }
    }
    rig.event("class", "FailedCreatePodSandBox", "no runtime for \"odd-handler\" is configured").await;
    for name in ["unsafe", "userns", "class", "named"] {
        rig.delete(name).await;
    }
}

/// Safe kernel parameters, groups of volumes, parts of volumes, filters of system calls.
async fn surroundings(rig: &Rig) {
    let mut c = script("c", SLEEP);
    c["volumeMounts"] = json!([
        { "name": "d", "mountPath": "/whole" }, { "name": "d", "mountPath": "/part", "subPath": "a/b" }]);
    c["securityContext"] = json!({ "seccompProfile": { "type": "RuntimeDefault" }, "runAsUser": 1000 });
    let spec = json!({
        "terminationGracePeriodSeconds": 1, "containers": [c],
        "volumes": [{ "name": "d", "emptyDir": {} }],
        "securityContext": {
            "fsGroup": 2000, "supplementalGroups": [3000],
            "sysctls": [{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "80" }],
        },
    });
    rig.create("around", spec).await;
    let pod = rig.pod("around", "is ready", ready).await;
    assert_eq!(rig.exec(&pod, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start").await, "80");
    let groups = rig.exec(&pod, "id -G").await;
    let mut groups: Vec<&str> = groups.split(' ').collect();
    groups.sort_unstable();
    assert_eq!(groups, ["0", "2000", "3000"]);
    assert_eq!(rig.exec(&pod, "echo x > /part/f && stat -c %g /part/f && cat /whole/a/b/f").await, "2000\nx");
    assert_eq!(rig.exec(&pod, "grep Seccomp: /proc/1/status").await, "Seccomp:\t2");
    rig.delete("around").await;
}

/// A resize that fits is carried out, one that does not waits until it does.
async fn resizes(rig: &Rig) {
    let node = rig.client.find::<Node>("", "n1").await.expect("reads").expect("a node");
    let cpus =
        node.status.and_then(|s| s.capacity).and_then(|c| c["cpu"].0.parse::<u32>().ok()).expect("cpus");
    let with = |cpu: &str| {
        let mut c = script("c", SLEEP);
        c["resources"] = json!({ "requests": { "cpu": cpu } });
        quick(json!([c]))
    };
    rig.create("small", with("100m")).await;
    rig.create("large", with(&format!("{}m", cpus * 1000 - 500))).await;
    rig.pod("small", "is ready", ready).await;
    rig.pod("large", "is ready", ready).await;
    let resize = async |cpu: &str| {
        let patch = json!({ "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": cpu } } }] } });
        let options = WriteOptions::default();
        let (resource, patch) = (<Pod as Kind>::resource(), Patch::Strategic(patch));
        let place = ("default", "small");
        let done: Result<Pod, _> =
            rig.client.patch_at(&resource, place, Some("resize"), &patch, &options).await;
        done.expect("patched");
    };
    let asked = |p: &Pod| {
        let s = status(p, "c")?.clone();
        let amount = |list: Option<std::collections::BTreeMap<String, _>>| -> Option<String> {
            let q: k8s_openapi::apimachinery::pkg::api::resource::Quantity = list?.remove("cpu")?;
            Some(q.0)
        };
        Some((amount(s.resources?.requests)?, amount(s.allocated_resources)?))
    };
    let condition = |p: &Pod, kind: &str| {
        let list = p.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        list.into_iter().find(|c| c.type_ == kind)
    };
    let both = |cpu: &str| Some((cpu.to_owned(), cpu.to_owned()));
    resize("300m").await;
    rig.pod("small", "has 300m", |p| {
        asked(p) == both("300m") && condition(p, "PodResizeInProgress").is_none()
    })
    .await;
    rig.event("small", "ResizeCompleted", "Pod resize completed: {").await;
    resize("800m").await;
    let pod = rig.pod("small", "waits for room", |p| condition(p, "PodResizePending").is_some()).await;
    let pending = condition(&pod, "PodResizePending").expect("a condition");
    assert_eq!((pending.status.as_str(), pending.reason.as_deref()), ("True", Some("Deferred")));
    let message = pending.message.expect("a message");
    assert!(
        message.starts_with("Node didn't have enough resource: cpu, requested: 800, used: "),
        "{message}"
    );
    assert_eq!(asked(&pod), both("300m"));
    rig.delete("large").await;
    rig.pod("small", "has 800m", |p| asked(p) == both("800m") && condition(p, "PodResizePending").is_none())
        .await;
    rig.delete("small").await;
}
