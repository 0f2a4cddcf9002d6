//! Pods live and die: containers of every kind, what is wrong with them, and a node process that is killed.

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use serde_json::json;

use crate::rig::{Rig, phase, ready, script, status, until, waits};

/// Everything, one after the other.
pub async fn all(rig: &mut Rig) {
    completes_with_volumes(rig).await;
    reports_what_is_wrong(rig).await;
    bounds_what_misbehaves(rig).await;
    survives_the_node_process(rig).await;
    // A pod without grace leaves the API at once, the node a little later.
    let pods = rig.dir.join("node/pods");
    let empty = || async { (std::fs::read_dir(&pods).ok()?.count() == 0).then_some(()) };
    until("the removal of all files of pods", empty).await;
}

/// Init container, sidecar, volumes, variables, termination message, phase Succeeded.
async fn completes_with_volumes(rig: &Rig) {
    let map = json!({ "metadata": { "name": "m", "namespace": "default" }, "data": { "a": "1" } });
    rig.client.create::<ConfigMap>(&serde_json::from_value(map).expect("map")).await.expect("map");
    let secret = json!({ "metadata": { "name": "s", "namespace": "default" }, "data": { "b": "Mg==" } });
    rig.client.create::<Secret>(&serde_json::from_value(secret).expect("secret")).await.expect("secret");
    let mounts = json!([{ "name": "d", "mountPath": "/d" }, { "name": "p", "mountPath": "/p" }]);
    let mut init = script("init", "echo init > /d/f");
    init["volumeMounts"] = mounts.clone();
    let mut side = script("side", "trap 'exit 0' TERM; while true; do sleep 0.1; done");
    side["restartPolicy"] = json!("Always");
    let mut main = script("main", "cat /d/f /p/a /p/b; echo -n $A$NAME > /dev/termination-log");
    main["volumeMounts"] = mounts;
    main["env"] = json!([
        { "name": "A", "valueFrom": { "configMapKeyRef": { "name": "m", "key": "a" } } },
        { "name": "NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
    ]);
    let volumes = json!([
        { "name": "d", "emptyDir": {} },
        { "name": "p", "projected": { "sources": [{ "configMap": { "name": "m" } }, { "secret": { "name": "s" } }] } },
    ]);
    let spec = json!({ "restartPolicy": "Never", "initContainers": [init, side], "containers": [main], "volumes": volumes });
    rig.create("job", spec).await;
    let pod = rig.pod("job", "succeeds", |p| phase(p) == "Succeeded").await;
    let ended = status(&pod, "main").and_then(|s| s.state.as_ref()?.terminated.clone()).expect("ended");
    assert_eq!(
        (ended.exit_code, ended.reason.as_deref(), ended.message.as_deref()),
        (0, Some("Completed"), Some("1job"))
    );
    let uid = pod.metadata.uid.expect("uid");
    let log = rig.dir.join(format!("node/log/pods/default_job_{uid}/main/0.log"));
    let lines: Vec<String> = std::fs::read_to_string(log)
        .expect("log")
        .lines()
        .filter_map(|l| l.splitn(4, ' ').nth(3).map(str::to_string))
        .collect();
    assert_eq!(lines.concat(), "init12");
    rig.delete("job").await;
}

/// Reasons of containers that cannot run, refusal, deadline.
async fn reports_what_is_wrong(rig: &Rig) {
    rig.create("crash", json!({ "containers": [script("c", "exit 3")] })).await;
    let missing = json!({ "name": "c", "image": "localhost/absent:1", "imagePullPolicy": "Never" });
    let invalid = json!({ "name": "d", "image": "BAD" });
    rig.create("image", json!({ "containers": [missing, invalid] })).await;
    let mut config = script("c", "sleep 100");
    config["env"] =
        json!([{ "name": "A", "valueFrom": { "configMapKeyRef": { "name": "later", "key": "a" } } }]);
    rig.create("config", json!({ "terminationGracePeriodSeconds": 0, "containers": [config] })).await;
    let mut big = script("c", "true");
    big["resources"] = json!({ "requests": { "cpu": "1000" } });
    rig.create("big", json!({ "containers": [big] })).await;
    let late = json!({ "activeDeadlineSeconds": 1, "terminationGracePeriodSeconds": 0, "containers": [script("c", "sleep 100")] });
    rig.create("late", late).await;

    let again =
        |p: &Pod| waits(p, "c", "CrashLoopBackOff") && status(p, "c").is_some_and(|s| s.restart_count > 0);
    let pod = rig.pod("crash", "waits to restart", again).await;
    let s = status(&pod, "c").expect("status");
    let last = s.last_state.as_ref().and_then(|l| l.terminated.as_ref()).expect("last state");
    assert_eq!((s.restart_count, last.exit_code, phase(&pod)), (1, 3, "Running"));
    rig.pod("image", "says why", |p| waits(p, "c", "ErrImageNeverPull") && waits(p, "d", "InvalidImageName"))
        .await;
    rig.pod("config", "says why", |p| waits(p, "c", "CreateContainerConfigError")).await;
    let map = json!({ "metadata": { "name": "later", "namespace": "default" }, "data": { "a": "1" } });
    rig.client.create::<ConfigMap>(&serde_json::from_value(map).expect("map")).await.expect("map");
    rig.pod("config", "runs once the map is there", ready).await;
    let pod = rig.pod("big", "is refused", |p| phase(p) == "Failed").await;
    assert_eq!(pod.status.and_then(|s| s.reason).as_deref(), Some("OutOfcpu"));
    let pod = rig.pod("late", "is ended", |p| phase(p) == "Failed").await;
    assert_eq!(pod.status.and_then(|s| s.reason).as_deref(), Some("DeadlineExceeded"));
    for name in ["crash", "image", "config", "big", "late"] {
        rig.delete(name).await;
    }
}

/// A container that forks without end is kept within its limit and says so; one that ignores SIGTERM is killed.
async fn bounds_what_misbehaves(rig: &Rig) {
    // Bounded here, too: a limit that fails must not take the machine along.
    let forks = "(i=0; while [ $i -lt 500 ]; do sleep 600 & i=$((i+1)); done); exec sleep 600";
    rig.create("forks", json!({ "terminationGracePeriodSeconds": 0, "containers": [script("c", forks)] }))
        .await;
    let deaf = script("c", "trap '' TERM; while true; do sleep 0.1; done");
    rig.create("deaf", json!({ "terminationGracePeriodSeconds": 1, "containers": [deaf] })).await;
    rig.pod("deaf", "runs", ready).await;
    rig.delete("deaf").await;
    rig.event("forks", "PIDLimitReached", "--pod-max-pids").await;
    rig.pod("forks", "runs on", ready).await;
    rig.delete("forks").await;
}

/// A killed node process touches no container; probes and statuses go on with the next one.
async fn survives_the_node_process(rig: &mut Rig) {
    let mut c = script("c", "while true; do sleep 0.1; done");
    c["readinessProbe"] = json!({ "exec": { "command": ["test", "!", "-f", "/off"] }, "periodSeconds": 1, "failureThreshold": 1 });
    rig.create("stays", json!({ "terminationGracePeriodSeconds": 0, "containers": [c] })).await;
    let before = rig.pod("stays", "is ready", ready).await;
    let id = |p: &Pod| status(p, "c").and_then(|s| s.container_id.clone());
    rig.kill_node();
    rig.exec(&before, "echo > /off").await;
    rig.start_node();
    let after = rig.pod("stays", "is probed again", |p| !ready(p)).await;
    assert_eq!((id(&after), status(&after, "c").map(|s| s.restart_count)), (id(&before), Some(0)));
    rig.delete("stays").await;
}
