//! A store that takes no writes shows, and what can go on does.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use apiserver::ApiServer;

use crate::CM;
use crate::etcd::Member;
use crate::harness::{self, Server};

/// Set for the process whose disk is filled: its directory.
const FULL: &str = "KUTTER_TEST_FULL_CHILD";

/// Waits until the server says that its store is well, or is not, wherever it can.
async fn until_shown(api: &Server, well: bool) {
    for _ in 0..1500 {
        if (api.get("/readyz").await.code == 200) == well {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mark = if well { "[+]etcd ok" } else { "[-]etcd failed: reason withheld" };
    for endpoint in ["healthz", "livez", "readyz"] {
        let answer = api.get(&format!("/{endpoint}?verbose")).await;
        let text = answer.body.as_str().unwrap_or("");
        assert_eq!((answer.code == 200, text.contains(mark)), (well, true), "{endpoint}: {text}");
    }
    let one = api.get("/readyz/etcd-readiness").await;
    assert_eq!(one.code, if well { 200 } else { 500 }, "{}", one.body);
    let status = api.get("/api/v1/componentstatuses/etcd-0").await;
    assert_eq!(status.text("/conditions/0/status"), if well { "True" } else { "False" });
    let metrics = api.get("/metrics").await;
    let line = format!("\nkutter_store_writable {}\n", u8::from(well));
    assert!(metrics.body.as_str().is_some_and(|text| text.contains(&line)), "{line}");
}

/// The process in whose mount namespace the disk is tiny. As a test of its own it does nothing.
#[test]
fn child_that_fills_its_disk() {
    let Ok(dir) = std::env::var(FULL) else { return };
    let dir = Path::new(&dir);
    std::fs::write(dir.join("filler"), vec![1; 4 << 20]).expect("filler");
    harness::runtime().block_on(async {
        let running = harness::start(&dir.join("data")).await;
        let api = Server::of(&running, &dir.join("data"));
        until_shown(&api, true).await;
        let text = "x".repeat(50_000);
        let mut made = 0;
        let refused = loop {
            let body = format!(r#"{{"metadata":{{"name":"n{made}"}},"data":{{"a":"{text}"}}}}"#);
            let answer = api.post(CM, &body).await;
            if answer.code != 201 {
                break answer;
            }
            made += 1;
            assert!(made < 1000, "the disk never was full");
        };
        assert_eq!(refused.code, 500, "{}", refused.body);
        assert!(refused.text("/message").contains("no space"), "{}", refused.body);
        until_shown(&api, false).await;
        assert_eq!(api.get(&format!("{CM}/n0")).await.code, 200, "reads go on");
        for n in 0..made {
            assert_eq!(api.delete(&format!("{CM}/n{n}"), "").await.code, 200, "deletions go on");
        }
        std::fs::remove_file(dir.join("filler")).expect("space");
        until_shown(&api, true).await;
        assert_eq!(api.post(CM, r#"{"metadata":{"name":"after"}}"#).await.code, 201);
        running.shutdown().await;
    });
}

#[test]
fn a_full_disk_shows_and_deletions_go_on() {
    let dir = tempfile::tempdir().expect("directory");
    let child = "failing::child_that_fills_its_disk";
    let script = r#"mount -t tmpfs -o size=9m tmpfs "$0" && exec "$1" --exact "$2" --nocapture"#;
    let mut command = Command::new("unshare");
    command.args(if nix::unistd::geteuid().is_root() { &["-m"][..] } else { &["-Urm"][..] });
    command.args(["sh", "-c", script]).arg(dir.path()).arg(std::env::current_exe().expect("self")).arg(child);
    let output = command.env(FULL, dir.path()).output().expect("unshare");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn an_etcd_that_is_gone_shows() {
    let dir = tempfile::tempdir().expect("directory");
    harness::runtime().block_on(async {
        let mut member = Member::start();
        member.ready().await;
        let running = ApiServer::start(member.config(dir.path())).await.expect("start");
        let api = Server::of(&running, dir.path());
        until_shown(&api, true).await;
        member.stop();
        until_shown(&api, false).await;
        assert_eq!(api.get("/api/v1/namespaces/default").await.code, 200, "reads go on");
        member.restart();
        until_shown(&api, true).await;
        running.shutdown().await;
    });
}
