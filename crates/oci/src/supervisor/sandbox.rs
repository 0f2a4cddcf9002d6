//! Sandboxes: namespaces made by a child and pinned by bind mounts, so that no process has to sit in them.

use super::child::{self, Context};
use super::{Child, Supervisor, Token};
use crate::config::{Filter, NamespaceMode, SandboxConfig};
use crate::proto::{Layout, Reply, write_atomic};
use crate::runtime::Error;
use crate::state::{SandboxState, SandboxStatus};
use crate::sys::{self, Forked};
use nix::mount::{MntFlags, umount2};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, OwnedFd};

/// What is pinned below the directory of a sandbox.
const PINS: &[&str] = &["user", "net", "uts", "ipc", "shm"];

/// One sandbox.
pub(crate) struct Sandbox {
    pub(super) status: SandboxStatus,
    /// First process of the shared PID namespace, when containers asked for one.
    pub(super) pause: Option<(i32, OwnedFd)>,
    maker: Option<Token>,
    stoppers: Vec<Token>,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    status: SandboxStatus,
    pause: Option<(i32, u64)>,
}

impl Supervisor {
    pub(super) fn run_sandbox(
        &mut self,
        conn: Token,
        id: String,
        config: SandboxConfig,
    ) -> Result<Option<Reply>, Error> {
        if self.sandboxes.contains_key(&id) {
            return Err(Error::State(format!("sandbox {id:?} exists already")));
        }
        if config.namespaces.user.is_some() && !self.user_namespaces {
            return Err(Error::Unsupported("a user namespace of the pod (hostUsers: false)".into()));
        }
        let dir = self.layout.sandbox(&id);
        let io = |e: std::io::Error| Error::Failed(format!("create {}: {e}", dir.display()));
        std::fs::create_dir_all(&dir).map_err(io)?;
        write_atomic(&dir.join("config.json"), &serde_json::to_vec(&config).unwrap_or_default())
            .map_err(io)?;
        let network = config.namespaces.network != NamespaceMode::Host;
        let status = SandboxStatus {
            id: id.clone(),
            metadata: config.metadata.clone(),
            state: SandboxState::NotReady,
            created_at: crate::proto::now(),
            netns: network.then(|| self.layout.namespace(&id, "net")),
            ips: vec![],
            namespaces: config.namespaces.clone(),
            cgroup_parent: config.cgroup_parent.clone(),
            log_directory: config.log_directory.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            runtime_handler: config.runtime_handler.clone(),
        };
        let (layout, name) = (self.layout.clone(), id.clone());
        let (pid, pipe, _) = self.spawn(None, 0, |pipe| {
            child::sandbox(&name, &config, &layout)?;
            nix::unistd::write(pipe, b"ok").context("report")?;
            // SAFETY: ends the child at once, without handlers of the parent.
            unsafe { libc::_exit(0) }
        })?;
        self.sandboxes
            .insert(id.clone(), Sandbox { status, pause: None, maker: Some(conn), stoppers: vec![] });
        self.await_status(pid, pipe, Child::Sandbox(id))?;
        Ok(None)
    }

    pub(super) fn sandbox_made(&mut self, id: &str, result: Result<(), Error>) {
        let Some(sandbox) = self.sandboxes.get_mut(id) else { return };
        let maker = sandbox.maker.take();
        let reply = match result {
            Ok(()) => {
                sandbox.status.state = SandboxState::Ready;
                let status = sandbox.status.clone();
                self.save_sandbox(id);
                Reply::Sandboxes(vec![status])
            }
            Err(e) => {
                release(&self.layout, id);
                self.sandboxes.remove(id);
                // The client deletes what it made as well.
                let _ = std::fs::remove_dir_all(self.layout.sandbox(id));
                Reply::Failed(e)
            }
        };
        if let Some(conn) = maker {
            self.reply(conn, &reply, &[]);
        }
    }

    fn save_sandbox(&self, id: &str) {
        let Some(sandbox) = self.sandboxes.get(id) else { return };
        let pause = sandbox.pause.as_ref().map(|(pid, _)| (*pid, super::adopt::start_time(*pid)));
        let saved = Saved { status: sandbox.status.clone(), pause };
        let file = self.layout.sandbox(id).join("state.json");
        // What cannot be saved (a full disk) is still right in memory.
        let _ = write_atomic(&file, &serde_json::to_vec(&saved).unwrap_or_default());
    }

    pub(super) fn stop_sandbox(&mut self, conn: Token, id: &str) -> Result<Option<Reply>, Error> {
        let Some(sandbox) = self.sandboxes.get_mut(id) else { return Ok(Some(Reply::Done)) };
        sandbox.stoppers.push(conn);
        let inside: Vec<String> =
            self.containers_of(id).filter(|c| c.alive()).map(|c| c.status.id.clone()).collect();
        for container in inside {
            self.kill(&container);
        }
        self.sandbox_quiet(id);
        Ok(None)
    }

    /// Finishes a stop that was asked for, once nothing runs inside.
    pub(super) fn sandbox_quiet(&mut self, id: &str) {
        if self.containers_of(id).any(super::container::Container::alive) {
            return;
        }
        let Some(sandbox) = self.sandboxes.get_mut(id).filter(|s| !s.stoppers.is_empty()) else { return };
        let stoppers = std::mem::take(&mut sandbox.stoppers);
        if let Some((_, pidfd)) = sandbox.pause.take() {
            // Gone already is as good.
            let _ = sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
        }
        sandbox.status.state = SandboxState::NotReady;
        sandbox.status.netns = None;
        release(&self.layout, id);
        self.save_sandbox(id);
        for conn in stoppers {
            self.reply(conn, &Reply::Done, &[]);
        }
    }

    pub(super) fn remove_sandbox(&mut self, id: &str) -> Result<Option<Reply>, Error> {
        if self.containers_of(id).next().is_some() {
            return Err(Error::State(format!("sandbox {id:?} still has containers")));
        }
        if self.sandboxes.get(id).is_some_and(|s| s.status.state == SandboxState::Ready || s.maker.is_some())
        {
            return Err(Error::State(format!("sandbox {id:?} is not stopped")));
        }
        self.sandboxes.remove(id);
        // The client deletes the directory; without this file it is nothing to take up.
        let _ = std::fs::remove_file(self.layout.sandbox(id).join("state.json"));
        Ok(Some(Reply::Done))
    }

    pub(super) fn list_sandboxes(&self, filter: &Filter) -> Reply {
        let wanted = |s: &&Sandbox| {
            filter.id.as_ref().is_none_or(|id| *id == s.status.id)
                && labels_match(&filter.labels, &s.status.labels)
        };
        let found: Vec<_> = self
            .sandboxes
            .values()
            .filter(|s| s.maker.is_none())
            .filter(wanted)
            .map(|s| s.status.clone())
            .collect();
        Reply::Sandboxes(found)
    }

    /// Reads what a former supervisor left.
    pub(super) fn adopt_sandboxes(&mut self) {
        let Ok(entries) = std::fs::read_dir(self.layout.sandboxes()) else { return };
        for entry in entries.flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            let bytes = std::fs::read(entry.path().join("state.json")).unwrap_or_default();
            let Ok(mut saved) = serde_json::from_slice::<Saved>(&bytes) else {
                // Half made when the former supervisor ended.
                release(&self.layout, &id);
                continue;
            };
            let pinned = PINS.iter().all(|pin| {
                let path = self.layout.namespace(&id, pin);
                !path.exists() || is_mount(&path)
            });
            if saved.status.state == SandboxState::Ready && !pinned {
                // The machine was started anew: nothing of the sandbox is left.
                release(&self.layout, &id);
                saved.status.state = SandboxState::NotReady;
                saved.status.netns = None;
            }
            let pause = saved
                .pause
                .filter(|(pid, start)| super::adopt::start_time(*pid) == *start)
                .and_then(|(pid, _)| Some((pid, sys::pidfd_open(pid).ok()?)));
            let sandbox = Sandbox { status: saved.status, pause, maker: None, stoppers: vec![] };
            self.sandboxes.insert(id, sandbox);
        }
    }

    /// The PID namespace that the containers of a sandbox share, made on first use.
    pub(super) fn shared_pids(&mut self, id: &str) -> Result<OwnedFd, Error> {
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(|e| Error::Failed(format!("copy pidfd: {e}")));
        if let Some((_, pidfd)) = self.sandboxes.get(id).and_then(|s| s.pause.as_ref()) {
            return copy(pidfd);
        }
        // SAFETY: the supervisor has one thread.
        let forked = unsafe { sys::fork(libc::CLONE_NEWPID) };
        let (pid, pidfd) = match forked.map_err(|e| Error::Failed(format!("clone shared init: {e}")))? {
            Forked::Child => child::pause(),
            Forked::Parent(pid, pidfd) => (pid, pidfd),
        };
        self.children.insert(pid, Child::Pause(id.to_owned()));
        let answer = copy(&pidfd);
        if let Some(sandbox) = self.sandboxes.get_mut(id) {
            sandbox.pause = Some((pid, pidfd));
        }
        self.save_sandbox(id);
        answer
    }

    pub(super) fn pause_ended(&mut self, id: &str) {
        if let Some(sandbox) = self.sandboxes.get_mut(id) {
            sandbox.pause = None;
        }
    }
}

/// Unpins the namespaces.
fn release(layout: &Layout, id: &str) {
    for pin in PINS {
        let path = layout.namespace(id, pin);
        if path.exists() {
            // Not mounted is what we want.
            let _ = umount2(&path, MntFlags::MNT_DETACH);
        }
    }
}

fn is_mount(path: &std::path::Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |p: &std::path::Path| std::fs::metadata(p).map(|m| m.dev()).ok();
    device(path) != path.parent().and_then(device)
}

/// True when `have` holds all of `want`.
pub(super) fn labels_match(want: &crate::config::Map, have: &crate::config::Map) -> bool {
    want.iter().all(|(k, v)| have.get(k) == Some(v))
}
