//! What every runtime does.

use crate::rig::{Rig, script};
use oci::runtime::Filter;

/// Everything, one after the other.
pub async fn all(rig: &Rig) {
    runs_a_container(rig).await;
}

async fn runs_a_container(rig: &Rig) {
    let sandbox = rig.sandbox("first").await;
    let (code, log) =
        rig.finish(&sandbox, script("hello", "echo hello; hostname; sleep 0.2; echo err >&2; exit 3")).await;
    assert_eq!((code, log.as_str()), (3, "hello\nfirst\nerr\n"));

    let id = rig.runtime.create_container(&sandbox, script("sleeper", "sleep 1000")).await.unwrap();
    rig.runtime.start_container(&id).await.unwrap();
    let got = rig
        .runtime
        .exec_sync(&id, vec!["sh".into(), "-c".into(), "echo out; id -u >&2; ls /; exit 4".into()], 10)
        .await
        .unwrap();
    assert_eq!(got.exit_code, 4);
    assert!(got.stdout.starts_with(b"out\nbin\n"), "{got:?}");
    assert_eq!(got.stderr, b"0\n");
    rig.runtime.stop_container(&id, 0).await.unwrap();
    rig.runtime.remove_sandbox(&sandbox).await.unwrap();
    assert!(rig.runtime.list_sandboxes(Filter::default()).await.unwrap().is_empty());
}
