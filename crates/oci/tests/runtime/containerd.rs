//! A containerd of its own: private mounts, everything else below the test's directory and cgroup.

use crate::busybox::{IMAGE, busybox, busybox_image};
use oci::Cri;
use oci::cgroup::Cgroups;
use sha2::Digest;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PAUSE: &str = "localhost/pause:1";

fn program(variable: &str, name: &str) -> PathBuf {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&path).chain(["/usr/sbin".into()]).map(|d| d.join(name));
    named.or_else(|| found.find(|p| p.exists())).unwrap_or_else(|| {
        panic!("no {name}: install Debian's packages containerd and runc, or name the binary in {variable}")
    })
}

fn config(dir: &Path) -> String {
    let at = |name: &str| dir.join(name).display().to_string();
    format!(
        r#"version = 2
root = "{root}"
state = "{state}"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{opt}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  tolerate_missing_hugetlb_controller = true
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{bin}"
    conf_dir = "{nets}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "{runc}"
      SystemdCgroup = false
"#,
        root = at("root"),
        state = at("state"),
        socket = at("containerd.sock"),
        opt = at("opt"),
        bin = at("cni/bin"),
        nets = at("cni/net.d"),
        runc = program("KUTTER_RUNC", "runc").display(),
    )
}

/// Writes its configuration as `containerd.toml` and the images as `0.tar` and `1.tar`; answers with the program.
pub fn prepare(dir: &Path) -> PathBuf {
    std::fs::write(dir.join("containerd.toml"), config(dir)).expect("config");
    let images = [(IMAGE, ["sh"].as_slice()), (PAUSE, &["/bin/sleep", "1000000"])];
    for (number, (name, cmd)) in images.into_iter().enumerate() {
        std::fs::write(dir.join(format!("{number}.tar")), image(name, cmd)).expect("archive");
    }
    program("KUTTER_CONTAINERD", "containerd")
}

/// Starts it in a cgroup of its own, which its shims inherit.
pub fn spawn(dir: &Path, parent: &str) -> Child {
    let containerd = prepare(dir);
    let log = std::fs::File::create(dir.join("containerd.log")).expect("log");
    let own = format!("{parent}/containerd");
    let cgroups = Cgroups::detect().expect("cgroups");
    cgroups.create(&own).expect("cgroup");
    // It waits for a line, so that it is in its cgroup before it makes anything.
    let script = "read -r go && mount -t tmpfs none /run && exec \"$0\" -c \"$1\"";
    let path = std::env::var("PATH").unwrap_or_default();
    let mut child = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(&containerd)
        .arg(dir.join("containerd.toml"))
        .env("PATH", format!("{}:{path}", containerd.parent().expect("a directory").display()))
        .stdin(Stdio::piped())
        .stdout(log.try_clone().expect("log"))
        .stderr(log)
        .spawn()
        .expect("unshare");
    let roots: Vec<&PathBuf> = cgroups.v1.iter().map(|(_, p)| p).chain(&cgroups.v2).collect();
    for root in roots {
        let file = root.join(own.trim_start_matches('/')).join("cgroup.procs");
        std::fs::write(file, child.id().to_string()).expect("cgroup");
    }
    use std::io::Write;
    child.stdin.take().expect("stdin").write_all(b"go\n").expect("go");
    child
}

/// Connects to one that was connected to before.
pub async fn again(dir: &Path) -> Cri {
    let endpoint = format!("unix://{}", dir.join("containerd.sock").display());
    Cri::connect(&endpoint).await.expect("containerd answers")
}

/// Connects once it answers, with images and network.
pub async fn connect(dir: &Path) -> Cri {
    let socket = dir.join("containerd.sock");
    let endpoint = format!("unix://{}", socket.display());
    let mut last = None;
    for _ in 0..1000 {
        match Cri::connect(&endpoint).await {
            Ok(cri) => {
                import(dir);
                assert_eq!(cri.ensure_network().await.expect("network"), oci::cri::shim::Plugs::Kutter);
                return cri;
            }
            Err(e) => last = Some(e),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let log = std::fs::read_to_string(dir.join("containerd.log")).unwrap_or_default();
    panic!("containerd does not answer: {last:?}\n{log}");
}

/// Runs a command of containerd's own client in CRI's namespace; answers with what it writes.
pub fn ctr(dir: &Path, args: &[&str]) -> String {
    let ctr = program("KUTTER_CONTAINERD", "containerd").with_file_name("ctr");
    let mut command = Command::new(ctr);
    command.arg("-a").arg(dir.join("containerd.sock")).args(["-n", "k8s.io"]).args(args);
    let done = command.output().expect("ctr");
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

fn import(dir: &Path) {
    for archive in ["0.tar", "1.tar"] {
        ctr(dir, &["images", "import", &dir.join(archive).to_string_lossy()]);
    }
}

/// An archive as `docker save` writes it, with the same image as the embedded runtime's.
fn image(name: &str, cmd: &[&str]) -> Vec<u8> {
    let layer = layer();
    let diff = format!("sha256:{}", hex::encode(sha2::Sha256::digest(&layer)));
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Cmd": cmd, "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [diff] },
    });
    let manifest =
        serde_json::json!([{ "Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"] }]);
    let mut tar = tar::Builder::new(vec![]);
    let files = [
        ("config.json", config.to_string().into_bytes()),
        ("manifest.json", manifest.to_string().into_bytes()),
        ("layer.tar", layer),
    ];
    for (path, bytes) in files {
        file(&mut tar, path, &bytes, 0o644);
    }
    tar.into_inner().expect("archive")
}

fn file(tar: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8], mode: u32) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    tar.append_data(&mut header, path, bytes).expect("file");
}

fn layer() -> Vec<u8> {
    let made = busybox_image(IMAGE);
    let mut tar = tar::Builder::new(vec![]);
    for (path, mode) in [("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777)] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_size(0);
        tar.append_data(&mut header, path, &[][..]).expect("directory");
    }
    file(&mut tar, "bin/busybox", &std::fs::read(busybox()).expect("busybox"), 0o755);
    for (path, to) in &made.links {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, path.strip_prefix("/").expect("absolute"), to).expect("link");
    }
    for (path, bytes) in &made.files {
        file(&mut tar, &path.strip_prefix("/").expect("absolute").to_string_lossy(), bytes, 0o644);
    }
    tar.into_inner().expect("layer")
}
