//! Runs steps as a person would type them, as the first process of new network, mount and PID namespaces, which end
//! everything the steps leave behind.

use std::process::Command;

/// What every script begins with.
const BEGINNING: &str = r#"
set -eu
ip link set lo up
mkdir -p /run/netns
mount -t tmpfs none /run/netns
export HOME="$WORK/home" KUBECONFIG="$WORK/home/config" KUTTER_DATA_DIR="$WORK/data"
mkdir -p "$HOME"
say() { echo "--- $1"; }
"#;

/// Runs a script that says `done` at its end. It has `$KUTTER`, `$STORAGE` and `$WORK`, a folder of its own.
pub fn run(steps: &str) {
    let work = tempfile::tempdir().expect("a folder");
    let output = Command::new("unshare")
        .args(["-n", "-m", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"])
        .args(["bash", "-c", &format!("{BEGINNING}{steps}")])
        .env("WORK", work.path())
        .env("STORAGE", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/storage.py"))
        .env("KUTTER", env!("CARGO_BIN_EXE_kutter"))
        .output()
        .expect("unshare runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && out.ends_with("--- done\n"), "{out}\n{err}");
}
