//! A node process that is killed at any moment: what it had begun is finished by the next one.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use oci::runtime::Filter;
use serde_json::json;

use crate::rig::{Rig, Sort, phase, ready, script, status, until};

const SLEEP: &str = "trap 'exit 0' TERM; while true; do sleep 0.1; done";

/// Kills at different moments of starts and stops, then compares with what was asked for.
pub async fn at_any_moment(sort: Sort) {
    let rig = &mut Rig::new(sort, &[]).await;
    for round in 0..6u64 {
        let name = |what: &str| format!("{what}{round}");
        let mut keep = script("c", SLEEP);
        keep["lifecycle"] =
            json!({ "postStart": { "exec": { "command": ["sh", "-c", "echo x >> /hooked"] } } });
        rig.create(&name("keep"), json!({ "terminationGracePeriodSeconds": 1, "containers": [keep] })).await;
        let done = json!({ "restartPolicy": "Never", "containers": [script("c", "sleep 0.3; exit 5")] });
        rig.create(&name("done"), done).await;
        if round > 0 {
            let gone = format!("keep{}", round - 1);
            let options = client::DeleteOptions::default();
            rig.client.delete::<Pod>("default", &gone, &options).await.expect("deleted");
        }
        tokio::time::sleep(Duration::from_millis(60 * round)).await;
        rig.kill_node();
        // Whatever ends now ends unseen.
        tokio::time::sleep(Duration::from_millis(400)).await;
        rig.start_node();
        rig.pod(&name("keep"), "is ready", ready).await;
        let ended = rig.pod(&name("done"), "has failed", |p| phase(p) == "Failed").await;
        let state = status(&ended, "c").and_then(|s| s.state.as_ref()?.terminated.clone()).expect("ended");
        assert_eq!((state.exit_code, state.reason.as_deref()), (5, Some("Error")), "round {round}");
        rig.delete(&name("done")).await;
        if round > 0 {
            let gone = format!("keep{}", round - 1);
            until(&format!("the end of pod {gone}"), || async {
                rig.client.find::<Pod>("default", &gone).await.ok()?.is_none().then_some(())
            })
            .await;
        }
    }
    exits_unseen(rig).await;
    rig.delete("keep5").await;
    let runtime = rig.runtime().await;
    until("an empty runtime", || async {
        let containers = runtime.list_containers(Filter::default()).await.ok()?;
        let sandboxes = runtime.list_sandboxes(Filter::default()).await.ok()?;
        (containers.is_empty() && sandboxes.is_empty()).then_some(())
    })
    .await;
    let left = || async {
        let text = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        (!text.contains(&*rig.dir.join("node/pods").to_string_lossy())).then_some(())
    };
    until("no mounts of pods", left).await;
    let pods = rig.dir.join("node/pods");
    until("no files of pods", || async { (std::fs::read_dir(&pods).ok()?.count() == 0).then_some(()) }).await;
}

/// A container that runs when the node process dies and ends before the next one: its end is told and counted.
async fn exits_unseen(rig: &mut Rig) {
    let waits = "while ! test -f /go; do sleep 0.05; done; exit 7";
    rig.create("unseen", json!({ "terminationGracePeriodSeconds": 0, "containers": [script("c", waits)] }))
        .await;
    let before = rig.pod("unseen", "is ready", ready).await;
    let id = status(&before, "c").and_then(|s| s.container_id.clone()).expect("an id");
    let bare = id.rsplit('/').next().expect("an id").to_owned();
    let runtime = rig.runtime().await;
    rig.kill_node();
    let go = ["sh", "-c", "echo > /go"].map(String::from).to_vec();
    runtime.exec_sync(&bare, go, 10).await.expect("runs");
    until("its end", || async {
        let status = runtime.container_status(&bare).await.ok()?;
        (status.state == oci::runtime::ContainerState::Exited).then_some(())
    })
    .await;
    rig.start_node();
    let after =
        rig.pod("unseen", "is restarted", |p| status(p, "c").is_some_and(|s| s.restart_count == 1)).await;
    let last =
        status(&after, "c").and_then(|s| s.last_state.as_ref()?.terminated.clone()).expect("last state");
    assert_eq!((last.exit_code, last.container_id), (7, Some(id)));
    rig.delete("unseen").await;
}
