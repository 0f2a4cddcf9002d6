//! A runtime of its own for each test, with a busybox image, and cleaning up whatever happens.

use crate::busybox::{IMAGE, busybox_image};
use crate::containerd;
use oci::config::*;
use oci::runtime::Runtime;
use oci::{Embedded, cgroup::Cgroups};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;

/// What has to be cleaned up.
pub struct Home {
    pub dir: PathBuf,
    /// The cgroup around everything.
    pub parent: String,
    pub server: Option<Child>,
}

pub struct Rig {
    pub home: Home,
    pub runtime: Arc<dyn Runtime>,
}

pub fn spawn_supervisor(dir: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oci-supervisor"));
    command.arg(dir).spawn().expect("supervisor starts")
}

pub async fn connect(dir: &Path) -> Embedded {
    for _ in 0..500 {
        if let Ok(runtime) = Embedded::connect(dir).await {
            return runtime;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    Embedded::connect(dir).await.expect("supervisor answers")
}

impl Home {
    fn new() -> Self {
        let made = tempfile::Builder::new().prefix("kutter-oci-").tempdir().expect("temp dir");
        let dir = made.keep();
        let parent = format!("/{}", dir.file_name().unwrap().to_string_lossy());
        Self { dir, parent, server: None }
    }
}

impl Rig {
    /// On the embedded runtime.
    pub async fn embedded() -> Self {
        let mut home = Home::new();
        home.server = Some(spawn_supervisor(&home.dir));
        let embedded = connect(&home.dir).await;
        embedded.images().from_binary(&busybox_image(IMAGE)).expect("image");
        Self { home, runtime: Arc::new(embedded) }
    }

    /// On a containerd.
    pub async fn cri() -> Self {
        let mut home = Home::new();
        home.server = Some(containerd::spawn(&home.dir, &home.parent));
        let runtime = Arc::new(containerd::connect(&home.dir).await);
        Self { home, runtime }
    }

    pub fn sandbox_config(&self, name: &str) -> SandboxConfig {
        SandboxConfig {
            metadata: SandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "default".into(),
                attempt: 0,
            },
            hostname: name.into(),
            log_directory: self.home.dir.join("logs"),
            cgroup_parent: format!("{}/pod-{name}", self.home.parent),
            labels: [("app".to_owned(), name.to_owned())].into(),
            ..SandboxConfig::default()
        }
    }

    pub async fn sandbox(&self, name: &str) -> String {
        self.runtime.run_sandbox(self.sandbox_config(name)).await.expect("sandbox").id
    }

    /// Runs a container to its end; answers with exit code and log without times.
    pub async fn finish(&self, sandbox: &str, config: ContainerConfig) -> (i32, String) {
        let mut events = self.runtime.events().await.expect("events");
        let id = self.runtime.create_container(sandbox, config).await.expect("create");
        self.runtime.start_container(&id).await.expect("start");
        loop {
            let event = events.recv().await.expect("event");
            if event.container == id && event.kind == oci::state::EventKind::Exited {
                break;
            }
        }
        let status = self.runtime.container_status(&id).await.expect("status");
        (status.exit_code, self.log(&status.log_path))
    }

    pub fn log(&self, path: &Path) -> String {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().filter_map(|l| l.splitn(4, ' ').nth(3)).map(|l| format!("{l}\n")).collect()
    }
}

/// A shell script in the test image.
pub fn script(name: &str, text: &str) -> ContainerConfig {
    ContainerConfig {
        name: name.into(),
        image: IMAGE.into(),
        command: vec!["/bin/sh".into(), "-c".into(), text.into()],
        log_path: format!("{name}.log"),
        security: SecurityContext {
            masked_paths: DEFAULT_MASKED_PATHS.iter().map(|s| (*s).to_owned()).collect(),
            readonly_paths: DEFAULT_READONLY_PATHS.iter().map(|s| (*s).to_owned()).collect(),
            ..SecurityContext::default()
        },
        ..ContainerConfig::default()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let cgroups = Cgroups::detect().unwrap_or_default();
        // Nothing new starts once the server is gone; what still runs is in the cgroup.
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
        for _ in 0..100 {
            cgroups.kill(&self.parent);
            if cgroups.remove(&self.parent) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let below = mounts
            .lines()
            .filter_map(|l| l.split(' ').nth(4))
            .filter(|p| Path::new(p).starts_with(&self.dir));
        for point in below.collect::<Vec<_>>().into_iter().rev() {
            let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
