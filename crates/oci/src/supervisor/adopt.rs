//! What is saved of containers, and taking them up again when a supervisor follows another.

use super::container::{Container, fresh};
use super::log::Log;
use super::{Source, Supervisor};
use crate::proto::write_atomic;
use crate::state::{ContainerState, ContainerStatus};
use crate::sys;
use nix::sys::epoll::EpollFlags;
use serde::{Deserialize, Serialize};
use std::os::fd::AsFd;

#[derive(Serialize, Deserialize)]
struct Saved {
    status: ContainerStatus,
    cgroup: String,
    stop_signal: i32,
    start_time: u64,
    stdin_open: bool,
    stdin_once: bool,
    tty: bool,
}

impl Supervisor {
    pub(super) fn save(&self, id: &str) {
        let Some(c) = self.containers.get(id) else { return };
        let saved = Saved {
            status: c.status.clone(),
            cgroup: c.cgroup.clone(),
            stop_signal: c.stop_signal,
            start_time: if c.status.pid == 0 { 0 } else { start_time(c.status.pid.cast_signed()) },
            stdin_open: c.stdin.is_some(),
            stdin_once: c.stdin_once,
            tty: c.tty,
        };
        // What cannot be saved (a full disk) is still right in memory.
        let file = self.layout.container(id).join("state.json");
        let _ = write_atomic(&file, &serde_json::to_vec(&saved).unwrap_or_default());
    }

    /// Takes up what a former supervisor left.
    pub(super) fn adopt(&mut self) {
        self.adopt_sandboxes();
        let Ok(entries) = std::fs::read_dir(self.layout.containers()) else { return };
        for entry in entries.flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            let bytes = std::fs::read(entry.path().join("state.json")).unwrap_or_default();
            let Ok(saved) = serde_json::from_slice::<Saved>(&bytes) else { continue };
            self.adopt_one(&id, saved);
        }
    }

    fn adopt_one(&mut self, id: &str, saved: Saved) {
        let pid = saved.status.pid.cast_signed();
        let ran = matches!(saved.status.state, ContainerState::Running);
        let pidfd = (ran && start_time(pid) == saved.start_time).then(|| sys::pidfd_open(pid).ok()).flatten();
        let mut c = Container {
            cgroup: saved.cgroup,
            stop_signal: saved.stop_signal,
            stdin_once: saved.stdin_once,
            tty: saved.tty,
            ..fresh(saved.status)
        };
        let Some(pidfd) = pidfd else {
            self.containers.insert(id.to_owned(), c);
            if ran {
                self.lost(id);
            }
            return;
        };
        c.log = Log::open(c.status.log_path.clone());
        self.containers.insert(id.to_owned(), c);
        if !saved.tty {
            // Without its pipes it goes on, unheard.
            let _ = self.open_outputs(id, saved.stdin_open);
        }
        let token = self.watch(&pidfd, Source::Adopted(id.to_owned()), EpollFlags::EPOLLIN).ok();
        if let Some(c) = self.containers.get_mut(id) {
            c.adopted = token;
            c.pidfd = Some(pidfd);
        }
    }

    fn lost(&mut self, id: &str) {
        if let Some(c) = self.containers.get_mut(id) {
            c.status.reason = "Unknown".into();
            c.status.message = "ended while no supervisor ran; its exit code is lost".into();
        }
        self.exited(id, 255);
    }

    /// A process that is no child of ours ended.
    pub(super) fn on_adopted_exit(&mut self, id: &str) {
        let status = self.containers.get(id).and_then(|c| c.pidfd.as_ref());
        match status.and_then(|p| sys::pidfd_exit_status(p.as_fd())) {
            Some(raw) if libc::WIFSIGNALED(raw) => self.exited(id, 128 + libc::WTERMSIG(raw)),
            Some(raw) => self.exited(id, libc::WEXITSTATUS(raw)),
            None => self.lost(id),
        }
    }
}

/// When a process was started, in ticks since boot: tells it from a later one of the same number.
pub(super) fn start_time(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    after.split_whitespace().nth(19).and_then(|t| t.parse().ok()).unwrap_or(0)
}
