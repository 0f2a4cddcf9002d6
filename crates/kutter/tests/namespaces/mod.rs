//! Runs steps as a person would type them, as the first process of new network, mount and PID namespaces, which end
//! everything the steps leave behind.

use std::path::Path;
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

/// Runs a script that says `done` at its end. It has `$KUTTER`, `$TESTS` (the folder of the tests), `$STORAGE`,
/// `$WORK` (a folder of its own) and `$GROUP` (what the names of its nodes' cgroups begin with).
/// `prepare` may put something into it before.
pub fn run(steps: &str, prepare: impl FnOnce(&Path)) {
    let work = tempfile::tempdir().expect("a folder");
    prepare(work.path());
    // The cgroups of nodes are those of the machine: what is left of them goes with this value.
    let groups = Groups(manager::Layout::new(work.path().join("data")).cgroup(""));
    let output = Command::new("unshare")
        .args(["-n", "-m", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"])
        .args(["bash", "-c", &format!("{BEGINNING}{steps}")])
        .env("WORK", work.path())
        .env("GROUP", groups.0.trim_start_matches('/'))
        .env("TESTS", concat!(env!("CARGO_MANIFEST_DIR"), "/tests"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("STORAGE", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/storage.py"))
        .env("KUTTER", env!("CARGO_BIN_EXE_kutter"))
        .output()
        .expect("unshare runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && out.ends_with("--- done\n"), "{out}\n{err}");
}

struct Groups(String);

impl Drop for Groups {
    fn drop(&mut self) {
        let cgroups = oci::cgroup::Cgroups::detect().unwrap_or_default();
        let roots: Vec<&Path> =
            cgroups.v1.iter().map(|(_, p)| p.as_path()).chain(cgroups.v2.as_deref()).collect();
        let entries = roots.iter().filter_map(|r| std::fs::read_dir(r).ok()).flatten().flatten();
        let names = entries.filter_map(|e| e.file_name().into_string().ok());
        let ours: Vec<String> = names.filter(|n| n.starts_with(self.0.trim_start_matches('/'))).collect();
        for name in ours {
            cgroups.kill(&name);
            cgroups.remove(&name);
        }
    }
}
