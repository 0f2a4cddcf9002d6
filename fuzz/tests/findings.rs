//! Every seed and everything that ever broke a target goes through, also without counters.

use std::path::Path;
use std::process::Command;

#[test]
fn seeds_and_findings_pass() {
    let program = env!("CARGO_BIN_EXE_fuzz");
    let findings = Path::new(env!("CARGO_MANIFEST_DIR")).join("findings");
    let output = Command::new(program).arg("list").output().expect("list targets");
    let list = String::from_utf8(output.stdout).expect("text");
    let mut broken = Vec::new();
    let new = tempfile::tempdir().expect("directory");
    for name in list.lines().filter_map(|line| line.split_whitespace().next()) {
        let known: Vec<_> = std::fs::read_dir(findings.join(name))
            .into_iter()
            .flatten()
            .map(|e| e.expect("entry").path())
            .collect();
        let replay = Command::new(program)
            .args(["replay", name])
            .args(known)
            .env("TMPDIR", new.path())
            .output()
            .expect("replay");
        if !replay.status.success() {
            broken.push(format!("{name}: {}", String::from_utf8_lossy(&replay.stderr)));
        }
    }
    // No time at all: only the seeds are run.
    let arguments = ["run", "--seconds", "0", "--findings"];
    let run = Command::new(program).args(arguments).arg(new.path()).output().expect("run the seeds");
    let told = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(run.status.success(), "{told}");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
