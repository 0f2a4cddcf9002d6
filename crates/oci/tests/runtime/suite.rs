//! What every runtime does.

use crate::rig::{Rig, script};
use oci::config::SeccompProfile;
use oci::runtime::Filter;

/// Everything, one after the other.
pub async fn all(rig: &Rig) {
    runs_a_container(rig).await;
    filters_system_calls(rig).await;
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

/// The default profile lets ordinary programs be and nothing be mounted; a profile from a file does as it says.
async fn filters_system_calls(rig: &Rig) {
    let sandbox = rig.sandbox("filtered").await;
    let text = "grep Seccomp: /proc/self/status; mount -t tmpfs none /mnt 2>/dev/null || echo not mounted; \
        mkdir /tmp/d 2>/dev/null || echo not made";
    let with = |name: &str, seccomp: SeccompProfile| {
        let mut config = script(name, text);
        config.security.seccomp = seccomp;
        config.security.add_capabilities = vec!["DAC_OVERRIDE".into()];
        config
    };
    let file = rig.home.dir.join("nodirs.json");
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#;
    std::fs::write(&file, profile).unwrap();
    for (name, seccomp, want) in [
        ("open", SeccompProfile::Unconfined, "Seccomp:\t0\nnot mounted\n"),
        ("default", SeccompProfile::RuntimeDefault, "Seccomp:\t2\nnot mounted\n"),
        ("nodirs", SeccompProfile::Localhost(file), "Seccomp:\t2\nnot mounted\nnot made\n"),
    ] {
        let (code, log) = rig.finish(&sandbox, with(name, seccomp)).await;
        assert_eq!(log, want, "{name}");
        assert_eq!(code, 0, "{name}");
    }
    rig.runtime.stop_sandbox(&sandbox).await.unwrap();
    rig.runtime.remove_sandbox(&sandbox).await.unwrap();
}
