//! A node that is short of something, and pods that come from files.

use k8s_openapi::api::core::v1::{Node, Pod};
use oci::runtime::PullRequest;
use serde_json::json;

use crate::busybox::busybox;
use crate::registry::Registry;
use crate::rig::{Rig, Sort, phase, ready, script, until};

const SLEEP: &str = "trap 'exit 0' TERM; while true; do sleep 0.1; done";

async fn node(rig: &Rig, what: &str, done: impl Fn(&Node) -> bool) -> Node {
    until(&format!("node: {what}"), || async { rig.client.find::<Node>("", "n1").await.ok()?.filter(&done) })
        .await
}

fn holds(node: &Node, kind: &str, reason: &str) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == kind && c.status == "True" && c.reason.as_deref() == Some(reason))
}

/// Memory below its threshold: condition, taint, eviction of who asked for least, refusal of who asks for nothing.
pub async fn memory(sort: Sort) {
    // More than any machine has.
    let mut rig = Rig::new(sort, &["--eviction-hard", "memory.available<100Ti"]).await;
    let short =
        node(&rig, "is short of memory", |n| holds(n, "MemoryPressure", "KubeletHasInsufficientMemory"))
            .await;
    assert!(!holds(&short, "DiskPressure", "KubeletHasDiskPressure"));
    let taint = "node.kubernetes.io/memory-pressure";
    node(&rig, "is tainted", |n| {
        n.spec
            .iter()
            .flat_map(|s| s.taints.iter().flatten())
            .any(|t| t.key == taint && t.effect == "NoSchedule")
    })
    .await;
    let with = |request: &str, priority: bool| {
        let mut c = script("c", SLEEP);
        c["resources"] = json!({ "requests": { "memory": request } });
        let mut spec = json!({ "containers": [c] });
        if priority {
            spec["priorityClassName"] = json!("system-node-critical");
        }
        spec
    };
    rig.create("nothing", json!({ "containers": [script("c", SLEEP)] })).await;
    rig.create("tiny", with("1Ki", false)).await;
    rig.create("ample", with("64Mi", false)).await;
    let refused = rig.pod("nothing", "is refused", |p| phase(p) == "Failed").await.status.expect("status");
    assert_eq!(
        (refused.reason.as_deref(), refused.message.as_deref()),
        (Some("Evicted"), Some("Pod was rejected: The node had condition: [MemoryPressure]. "))
    );
    let evicted = rig.pod("tiny", "is evicted", |p| phase(p) == "Failed").await.status.expect("status");
    assert_eq!(evicted.reason.as_deref(), Some("Evicted"));
    let message = evicted.message.expect("a message");
    assert!(
        message.starts_with("The node was low on resource: memory. Threshold quantity: 100Ti, available: "),
        "{message}"
    );
    assert!(
        message.contains("Container c was using ") && message.contains(", request is 1Ki, has larger"),
        "{message}"
    );
    let target =
        evicted.conditions.iter().flatten().find(|c| c.type_ == "DisruptionTarget").expect("a condition");
    assert_eq!((target.status.as_str(), target.reason.as_deref()), ("True", Some("TerminationByKubelet")));
    rig.event("tiny", "Evicted", "The node was low on resource: memory").await;
    let later = rig.pod("ample", "is still there", |_| true).await;
    assert_ne!(phase(&later), "Failed", "who uses no more than it asked for goes last");

    // With room again the condition goes, once it was held long enough.
    rig.kill_node();
    rig.flags = ["--eviction-hard", "memory.available<1Mi"].map(String::from).to_vec();
    rig.start_node();
    node(&rig, "has memory", |n| !holds(n, "MemoryPressure", "KubeletHasInsufficientMemory")).await;
    rig.create("after", json!({ "containers": [script("c", SLEEP)] })).await;
    rig.pod("after", "runs", ready).await;

    // What should be free may lack for a second.
    rig.kill_node();
    rig.flags = [
        "--eviction-hard=memory.available<1Mi",
        "--eviction-soft=memory.available<100Ti",
        "--eviction-soft-grace-period=memory.available=1s",
        "--eviction-max-pod-grace-period=2",
    ]
    .map(String::from)
    .to_vec();
    rig.start_node();
    let ended = rig.pod("after", "is evicted", |p| phase(p) == "Failed").await;
    let state = crate::rig::status(&ended, "c").and_then(|s| s.state.clone()?.terminated).expect("ended");
    assert_eq!(state.exit_code, 0, "it had time to end");
    let message = ended.status.and_then(|s| s.message).expect("a message");
    assert!(message.contains("Threshold quantity: 100Ti"), "{message}");
}

/// A node with a grace period for its shutdown ends its pods, critical ones last, and says why.
pub async fn shutdown(sort: Sort) {
    let flags = ["--shutdown-grace-period=20", "--shutdown-grace-period-critical-pods=10"];
    let mut rig = Rig::new(sort, &flags).await;
    rig.create("plain", json!({ "containers": [script("c", SLEEP)] })).await;
    let critical = json!({ "priorityClassName": "system-node-critical", "containers": [script("c", SLEEP)] });
    rig.create("critical", critical).await;
    rig.create("done", json!({ "restartPolicy": "Never", "containers": [script("c", "true")] })).await;
    for name in ["plain", "critical"] {
        rig.pod(name, "is ready", ready).await;
    }
    rig.pod("done", "succeeds", |p| phase(p) == "Succeeded").await;
    rig.terminate_node().await;
    let mut ends = Vec::new();
    for name in ["plain", "critical"] {
        let pod = rig.pod(name, "is terminated", |p| phase(p) == "Failed").await;
        let state = crate::rig::status(&pod, "c").and_then(|s| s.state.clone()?.terminated).expect("ended");
        assert_eq!(state.exit_code, 0, "{name}");
        ends.push(state.finished_at.map(|t| t.0));
        let s = pod.status.expect("status");
        let message = "Pod was terminated in response to imminent node shutdown.";
        assert_eq!((s.reason.as_deref(), s.message.as_deref()), (Some("Terminated"), Some(message)));
        let target = s.conditions.iter().flatten().find(|c| c.type_ == "DisruptionTarget");
        assert_eq!(target.and_then(|c| c.reason.as_deref()), Some("TerminationByKubelet"));
    }
    assert!(ends[0] <= ends[1], "{ends:?}");
    assert_eq!(phase(&rig.pod("done", "stays", |_| true).await), "Succeeded");
    node(&rig, "says that it is shutting down", |n| {
        let conditions = n.status.iter().flat_map(|s| s.conditions.iter().flatten());
        conditions
            .filter(|c| c.type_ == "Ready")
            .any(|c| c.message.as_deref() == Some("node is shutting down"))
    })
    .await;
}

/// The disk of the images below its threshold: unused images go.
pub async fn images(sort: Sort) {
    let flags = ["--eviction-hard", "imagefs.available<100%", "--image-minimum-gc-age", "3"];
    let rig = Rig::new(sort, &flags).await;
    let runtime = rig.runtime().await;
    // What was built in has no registry to come from again, and stays.
    let registry = Registry::start(&busybox()).await;
    let image = registry.name("app:1");
    let request = PullRequest { reference: image.clone(), auth: None };
    runtime.pull_image(request, None).await.expect("pulled");
    node(&rig, "is short of disk", |n| holds(n, "DiskPressure", "KubeletHasDiskPressure")).await;
    until("the removal of the image", || async {
        let left = runtime.list_images().await.ok()?;
        left.iter().all(|i| i.tags.iter().all(|t| *t != image)).then_some(())
    })
    .await;
}

/// Pods from files: mirrored, changed with the file, gone with it, and never deleted by way of the API.
pub async fn statics(sort: Sort) {
    let rig = Rig::new(sort, &["--static-pods", "DIR/manifests"]).await;
    let file = rig.dir.join("manifests/web.yaml");
    let manifest = |text: &str| {
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web" }, "spec": {
            "terminationGracePeriodSeconds": 1, "containers": [script("c", text)] } })
        .to_string()
    };
    let version = |p: &Pod| p.spec.as_ref().and_then(|s| s.containers[0].command.clone()).unwrap_or_default();
    std::fs::write(&file, manifest(SLEEP)).expect("manifest");
    let mirror = rig.pod("web-n1", "is mirrored and ready", ready).await;
    let annotations = mirror.metadata.annotations.clone().unwrap_or_default();
    assert_eq!(annotations.get("kubernetes.io/config.source").map(String::as_str), Some("file"));
    assert_eq!(annotations.get("kubernetes.io/config.hash"), annotations.get("kubernetes.io/config.mirror"));
    let owner =
        mirror.metadata.owner_references.iter().flatten().next().map(|o| (o.kind.clone(), o.name.clone()));
    assert_eq!(owner, Some(("Node".into(), "n1".into())));

    let container = |p: &Pod| crate::rig::status(p, "c").and_then(|s| s.container_id.clone());
    let options = client::DeleteOptions::default().grace(0);
    rig.client.delete::<Pod>("default", "web-n1", &options).await.expect("deleted");
    let back = rig.pod("web-n1", "comes back", |p| p.metadata.uid != mirror.metadata.uid && ready(p)).await;
    assert_eq!(container(&back), container(&mirror), "the container goes on");

    let other = format!("true; {SLEEP}");
    std::fs::write(&file, manifest(&other)).expect("manifest");
    let changed = rig.pod("web-n1", "changes", |p| version(p).contains(&other) && ready(p)).await;
    assert_ne!(container(&changed), container(&mirror));
    std::fs::remove_file(&file).expect("removed");
    until("the end of the mirror", || async {
        rig.client.find::<Pod>("default", "web-n1").await.ok()?.is_none().then_some(())
    })
    .await;
}
