//! The life of containers: create, start, stop, remove, and how they end.

use super::attach::Reader;
use super::child::{self, Failure};
use super::log::{Log, Output};
use super::sandbox::labels_match;
use super::{Child, Supervisor, Token, failed};
use crate::config::{Filter, NamespaceMode, Resources, SandboxConfig};
use crate::proto::{Reply, Spec, now};
use crate::runtime::Error;
use crate::state::{ContainerState, ContainerStatus, EventKind, SandboxState};
use crate::sys::{self, Forked};
use nix::fcntl::OFlag;
use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// One container.
pub(crate) struct Container {
    pub(super) status: ContainerStatus,
    pub(super) cgroup: String,
    pub(super) stop_signal: i32,
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) adopted: Option<Token>,
    pub(super) starter: Option<Token>,
    /// When it is killed for not having stopped.
    pub(super) kill_at: Option<Instant>,
    /// Who waits for its end.
    pub(super) waiters: Vec<Token>,
    pub(super) removers: Vec<Token>,
    pub(super) outputs: [Option<(OwnedFd, Token)>; 2],
    pub(super) console: Option<(OwnedFd, Token)>,
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdin_once: bool,
    pub(super) tty: bool,
    pub(super) log: Log,
    pub(super) readers: Vec<Reader>,
    /// Attached clients that wait for the exit code.
    pub(super) attached: Vec<Token>,
}

impl Container {
    /// True from clone to exit.
    pub(super) fn alive(&self) -> bool {
        self.pidfd.is_some()
    }
}

impl Supervisor {
    pub(super) fn find(&mut self, id: &str) -> Result<&mut Container, Error> {
        self.containers.get_mut(id).ok_or_else(|| Error::not_found("container", id))
    }

    pub(super) fn containers_of(&self, sandbox: &str) -> impl Iterator<Item = &Container> {
        self.containers.values().filter(move |c| c.status.sandbox == sandbox)
    }

    pub(super) fn spec(&self, id: &str) -> Result<Spec, Error> {
        let bytes = std::fs::read(self.layout.spec(id))
            .map_err(|e| Error::Failed(format!("read spec of container {id:?}: {e}")))?;
        serde_json::from_slice(&bytes)
            .map_err(|e| Error::Failed(format!("parse spec of container {id:?}: {e}")))
    }

    pub(super) fn create(&mut self, status: ContainerStatus) -> Result<Option<Reply>, Error> {
        let id = status.id.clone();
        if self.containers.contains_key(&id) {
            return Err(Error::State(format!("container {id:?} exists already")));
        }
        let ready =
            self.sandboxes.get(&status.sandbox).is_some_and(|s| s.status.state == SandboxState::Ready);
        if !ready {
            return Err(Error::State(format!("sandbox {:?} is not ready", status.sandbox)));
        }
        let spec = self.spec(&id)?;
        self.containers.insert(
            id.clone(),
            Container {
                cgroup: spec.cgroup,
                stop_signal: spec.stop_signal,
                stdin_once: spec.stdin_once,
                tty: spec.tty,
                ..fresh(status)
            },
        );
        self.save(&id);
        self.publish(EventKind::Created, &id, 0);
        Ok(Some(Reply::Done))
    }

    /// Clones a child, in the PID namespace of `pids` when given, that runs `steps`.
    pub(super) fn spawn(
        &self,
        pids: Option<&OwnedFd>,
        flags: i32,
        steps: impl FnOnce(&OwnedFd) -> Result<Infallible, Failure>,
    ) -> Result<(i32, OwnedFd, OwnedFd), Error> {
        let flags_of_pipe = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let (ours, theirs) = nix::unistd::pipe2(flags_of_pipe).map_err(failed("make pipe"))?;
        let io = |what: &'static str| move |e: std::io::Error| Error::Failed(format!("{what}: {e}"));
        let home = match pids {
            None => None,
            Some(pids) => {
                let home = std::fs::File::open("/proc/self/ns/pid").map_err(io("open own PID namespace"))?;
                sys::setns(pids.as_fd(), libc::CLONE_NEWPID).map_err(io("enter PID namespace"))?;
                Some(home)
            }
        };
        // SAFETY: the supervisor has one thread.
        let forked = unsafe { sys::fork(flags) };
        if let Ok(Forked::Child) = forked {
            child::run(&theirs, || steps(&theirs));
        }
        if let Some(home) = home {
            sys::setns(home.as_fd(), libc::CLONE_NEWPID).map_err(io("return to own PID namespace"))?;
        }
        match forked.map_err(io("clone process"))? {
            Forked::Parent(pid, pidfd) => Ok((pid, ours, pidfd)),
            Forked::Child => Err(Error::Failed("child came back".into())),
        }
    }

    pub(super) fn start(&mut self, conn: Token, id: &str) -> Result<Option<Reply>, Error> {
        let c = self.find(id)?;
        if c.status.state != ContainerState::Created || c.alive() {
            return Err(Error::State(format!("container {id:?} is not in state Created")));
        }
        let sandbox_id = c.status.sandbox.clone();
        let ready = self.sandboxes.get(&sandbox_id).is_some_and(|s| s.status.state == SandboxState::Ready);
        if !ready {
            return Err(Error::State(format!("sandbox {sandbox_id:?} is not ready")));
        }
        let result = self.spec(id).and_then(|spec| self.launch(id, &sandbox_id, &spec));
        match result {
            Ok(()) => {
                self.find(id)?.starter = Some(conn);
                Ok(None)
            }
            Err(e) => {
                self.start_failed(id, &e);
                Err(e)
            }
        }
    }

    fn launch(&mut self, id: &str, sandbox_id: &str, spec: &Spec) -> Result<(), Error> {
        let config = std::fs::read(self.layout.sandbox(sandbox_id).join("config.json")).unwrap_or_default();
        let config: SandboxConfig = serde_json::from_slice(&config)
            .map_err(|e| Error::Failed(format!("parse config of sandbox {sandbox_id:?}: {e}")))?;
        let (flags, pids) = match spec.namespaces.pid {
            NamespaceMode::Container => (libc::CLONE_NEWPID, None),
            NamespaceMode::Host => (0, None),
            NamespaceMode::Pod => (0, Some(self.shared_pids(sandbox_id)?)),
            NamespaceMode::Target => {
                let target = self.find(&spec.namespaces.target)?;
                let gone =
                    || Error::State(format!("target container {:?} does not run", spec.namespaces.target));
                (0, target.pidfd.as_ref().and_then(|p| p.try_clone().ok()).ok_or_else(gone).map(Some)?)
            }
        };
        let users = config.namespaces.user.as_ref();
        let stdio = self.make_streams(id, spec, users.map_or(spec.user.uid, |u| u.uid(spec.user.uid)))?;
        let (layout, cgroups) = (self.layout.clone(), self.cgroups.clone());
        let (pid, pipe, pidfd) = self.spawn(pids.as_ref(), flags | libc::CLONE_NEWNS, |status| {
            let c = child::Container { spec, sandbox: &config, layout: &layout, cgroups: &cgroups };
            child::container(&c, stdio, status)
        })?;
        let c = self.find(id)?;
        c.pidfd = Some(pidfd);
        c.status.pid = pid.cast_unsigned();
        self.await_status(pid, pipe, Child::Main(id.to_owned()))
    }

    /// The child has executed, or says why not.
    pub(super) fn started(&mut self, id: &str, result: Result<(), Error>) {
        let Some(c) = self.containers.get_mut(id) else { return };
        let starter = c.starter.take();
        let reply = match result {
            Ok(()) => {
                c.status.state = ContainerState::Running;
                c.status.started_at = now();
                self.save(id);
                self.publish(EventKind::Started, id, 0);
                Reply::Done
            }
            Err(e) => {
                self.start_failed(id, &e);
                Reply::Failed(e)
            }
        };
        if let Some(conn) = starter {
            self.reply(conn, &reply, &[]);
        }
    }

    fn start_failed(&mut self, id: &str, why: &Error) {
        let Some(c) = self.containers.get_mut(id) else { return };
        c.status.state = ContainerState::Exited;
        c.status.reason = "StartError".into();
        c.status.message = why.to_string();
        c.status.exit_code = 128;
        c.status.finished_at = now();
        self.save(id);
    }

    /// Its first process ended.
    pub(super) fn exited(&mut self, id: &str, code: i32) {
        for output in [Output::Stdout, Output::Stderr] {
            for _ in 0..64 {
                self.on_output(id, output);
            }
        }
        self.on_console(id);
        let Some(c) = self.containers.get_mut(id) else { return };
        let (cgroup, outputs) = (c.cgroup.clone(), std::mem::take(&mut c.outputs));
        (c.pidfd, c.kill_at, c.stdin, c.status.pid) = (None, None, None, 0);
        c.log.finish();
        let adopted = c.adopted.take();
        for (fd, token) in outputs.into_iter().flatten() {
            self.unwatch(token, &fd);
        }
        if let Some(token) = adopted {
            self.sources.remove(&token);
        }
        let oom = self.cgroups.oom_kills(&cgroup) > 0;
        self.cgroups.kill(&cgroup);
        self.cgroups.remove(&cgroup);
        let Some(c) = self.containers.get_mut(id) else { return };
        if c.status.state == ContainerState::Running || c.status.state == ContainerState::Unknown {
            c.status.state = ContainerState::Exited;
            c.status.exit_code = code;
            c.status.finished_at = now();
            if c.status.reason.is_empty() {
                c.status.reason = match (oom, code) {
                    (true, _) => "OOMKilled".into(),
                    (false, 0) => "Completed".into(),
                    (false, _) => "Error".into(),
                };
            }
        }
        let (waiters, removers) = (std::mem::take(&mut c.waiters), std::mem::take(&mut c.removers));
        let (attached, sandbox) = (std::mem::take(&mut c.attached), c.status.sandbox.clone());
        let code = c.status.exit_code;
        self.save(id);
        self.end_readers(id);
        if oom {
            self.publish(EventKind::Oom, id, code);
        }
        self.publish(EventKind::Exited, id, code);
        for conn in attached {
            self.reply(conn, &Reply::Exit { code }, &[]);
        }
        for conn in waiters {
            self.reply(conn, &Reply::Done, &[]);
        }
        if !removers.is_empty() {
            self.forget(id);
        }
        for conn in removers {
            self.reply(conn, &Reply::Done, &[]);
        }
        self.sandbox_quiet(&sandbox);
    }

    pub(super) fn stop(&mut self, conn: Token, id: &str, seconds: u32) -> Result<Option<Reply>, Error> {
        let Some(c) = self.containers.get_mut(id) else { return Ok(Some(Reply::Done)) };
        let Some(pidfd) = &c.pidfd else { return Ok(Some(Reply::Done)) };
        c.waiters.push(conn);
        if seconds == 0 {
            self.kill(id);
            return Ok(None);
        }
        // Gone already: its exit is about to be seen.
        let _ = sys::pidfd_signal(pidfd.as_fd(), c.stop_signal);
        let at = Instant::now() + Duration::from_secs(u64::from(seconds));
        c.kill_at = Some(c.kill_at.map_or(at, |before| before.min(at)));
        Ok(None)
    }

    /// Kills everything in it; its exit follows.
    pub(super) fn kill(&mut self, id: &str) {
        let Some(c) = self.containers.get_mut(id) else { return };
        c.kill_at = None;
        let Some(pidfd) = &c.pidfd else { return };
        // Gone already: its exit is about to be seen.
        let _ = sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
        self.cgroups.kill(&c.cgroup);
    }

    pub(super) fn remove(&mut self, conn: Token, id: &str) -> Result<Option<Reply>, Error> {
        let Some(c) = self.containers.get_mut(id) else { return Ok(Some(Reply::Done)) };
        if c.alive() {
            c.removers.push(conn);
            self.kill(id);
            return Ok(None);
        }
        self.forget(id);
        Ok(Some(Reply::Done))
    }

    fn forget(&mut self, id: &str) {
        self.publish(EventKind::Deleted, id, 0);
        self.end_readers(id);
        let Some(c) = self.containers.remove(id) else { return };
        self.cgroups.remove(&c.cgroup);
        // The client deletes the directory; without this file it is nothing to take up.
        let _ = std::fs::remove_file(self.layout.container(id).join("state.json"));
    }

    pub(super) fn list_containers(&self, filter: &Filter) -> Reply {
        let wanted = |c: &&Container| {
            filter.id.as_ref().is_none_or(|id| *id == c.status.id)
                && filter.sandbox.as_ref().is_none_or(|id| *id == c.status.sandbox)
                && labels_match(&filter.labels, &c.status.labels)
        };
        Reply::Containers(self.containers.values().filter(wanted).map(|c| c.status.clone()).collect())
    }

    pub(super) fn update(&mut self, id: &str, resources: &Resources) -> Result<Option<Reply>, Error> {
        let c = self.find(id)?;
        if c.alive() {
            let cgroup = c.cgroup.clone();
            self.cgroups.apply(&cgroup, resources).map_err(|e| Error::Failed(e.to_string()))?;
        }
        Ok(Some(Reply::Done))
    }

    pub(super) fn reopen_log(&mut self, id: &str) -> Result<Option<Reply>, Error> {
        let c = self.find(id)?;
        if !c.alive() {
            return Err(Error::State(format!("container {id:?} does not run")));
        }
        c.log.reopen().map_err(|e| Error::Failed(format!("open {}: {e}", c.status.log_path.display())))?;
        Ok(Some(Reply::Done))
    }
}

/// A container of which no more is known than its status.
pub(super) fn fresh(status: ContainerStatus) -> Container {
    Container {
        status,
        cgroup: String::new(),
        stop_signal: libc::SIGTERM,
        pidfd: None,
        adopted: None,
        starter: None,
        kill_at: None,
        waiters: vec![],
        removers: vec![],
        outputs: [None, None],
        console: None,
        stdin: None,
        stdin_once: false,
        tty: false,
        log: Log::open(std::path::PathBuf::new()),
        readers: vec![],
        attached: vec![],
    }
}
