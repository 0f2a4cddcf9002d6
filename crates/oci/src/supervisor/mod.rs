//! The supervisor: one small process per node that owns containers.
//!
//! One thread, one epoll, no runtime: it can clone children safely at any time and weighs little. Whatever
//! may take long happens in the child (cgroups, mounts) or in the client (images, deleting files). State is
//! on disk, so that a supervisor started anew takes up what still runs: named pipes keep the output, and
//! the kernel tells exit codes of foreign children through pidfds from version 6.15 on; before, and for
//! processes that ended while no supervisor ran, the exit code is lost and the reason is `Unknown`. A
//! container with a terminal loses it with the supervisor.

mod adopt;
mod attach;
mod child;
mod container;
mod exec;
mod log;
mod output;
mod rootfs;
mod sandbox;
mod users;
mod wire;

pub use log::timestamp;

use crate::cgroup::Cgroups;
use crate::proto::{Layout, Reply, Request};
use crate::runtime::Error;
use crate::state::{Event, EventKind};
use container::Container;
use exec::Exec;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use sandbox::Sandbox;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};
use wire::Conn;

/// Number of a thing that epoll watches or a connection.
type Token = u64;

/// What a token stands for.
#[derive(Clone, Debug)]
enum Source {
    Listener,
    Signals,
    Conn,
    /// The status pipe of a child that has not executed yet.
    Status(i32),
    /// An output of a container, or its terminal.
    Output(String, log::Output),
    /// The socket over which a container's terminal comes.
    Console(String),
    /// The pidfd of a process that a former supervisor started.
    Adopted(String),
    /// The reader of an attached output.
    Reader(String),
}

/// What a child of ours is.
enum Child {
    Sandbox(String),
    Pause(String),
    Main(String),
    Exec(Exec),
}

/// A child before its execute.
struct Starting {
    pipe: OwnedFd,
    said: Vec<u8>,
    token: Token,
}

/// Everything the supervisor knows.
pub(crate) struct Supervisor {
    layout: Layout,
    cgroups: Cgroups,
    epoll: Epoll,
    listener: OwnedFd,
    signals: SignalFd,
    sources: HashMap<Token, Source>,
    next: Token,
    conns: HashMap<Token, Conn>,
    subscribers: Vec<Token>,
    sandboxes: BTreeMap<String, Sandbox>,
    containers: BTreeMap<String, Container>,
    children: HashMap<i32, Child>,
    starting: HashMap<i32, Starting>,
    notes: Vec<String>,
    user_namespaces: bool,
}

/// Runs the supervisor of `dir` until SIGTERM; containers go on when it ends. Calls `ready` once it answers.
pub fn run(dir: &Path, ready: impl FnOnce()) -> Result<(), Error> {
    let mut supervisor = Supervisor::new(dir)?;
    supervisor.adopt();
    ready();
    loop {
        let mut events = [EpollEvent::empty(); 64];
        let count = match supervisor.epoll.wait(&mut events, supervisor.patience()) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(e) => return Err(Error::Failed(format!("wait for events: {e}"))),
        };
        for event in &events[..count] {
            if supervisor.handle(event.data(), event.events()) {
                return Ok(());
            }
        }
        supervisor.deadlines();
    }
}

fn failed(what: &str) -> impl Fn(nix::errno::Errno) -> Error {
    move |e| Error::Failed(format!("{what}: {e}"))
}

impl Supervisor {
    fn new(dir: &Path) -> Result<Self, Error> {
        let io = |what: String| move |e: io::Error| Error::Failed(format!("{what}: {e}"));
        let show = dir.display();
        std::fs::create_dir_all(dir).map_err(io(format!("create {show}")))?;
        let dir = dir.canonicalize().map_err(io(format!("resolve {show}")))?;
        if dir.to_string_lossy().contains([':', ',', '\\']) {
            let why = format!("data directory {show} must not hold a colon, comma or backslash");
            return Err(Error::Invalid(why));
        }
        let layout = Layout::new(&dir);
        for dir in [layout.containers(), layout.sandboxes(), layout.layers()] {
            std::fs::create_dir_all(&dir).map_err(io(format!("create {}", dir.display())))?;
        }
        let mut set = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
            set.add(signal);
        }
        set.thread_block().map_err(failed("block signals"))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&set, flags).map_err(failed("watch signals"))?;
        let listener = listen(&layout)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed("create epoll"))?;
        let cgroups = Cgroups::detect().map_err(io("find cgroups".into()))?;
        let mut this = Self {
            layout,
            cgroups,
            epoll,
            listener,
            signals,
            sources: HashMap::new(),
            next: 1,
            conns: HashMap::new(),
            subscribers: vec![],
            sandboxes: BTreeMap::new(),
            containers: BTreeMap::new(),
            children: HashMap::new(),
            starting: HashMap::new(),
            notes: vec![],
            user_namespaces: false,
        };
        this.look_around();
        let listener = this.listener.try_clone().map_err(io("listen".into()))?;
        this.watch(&listener, Source::Listener, EpollFlags::EPOLLIN)?;
        let signals = this.signals.as_fd().try_clone_to_owned().map_err(io("watch signals".into()))?;
        this.watch(&signals, Source::Signals, EpollFlags::EPOLLIN)?;
        // The watched duplicates live as long as the process.
        std::mem::forget((listener, signals));
        Ok(this)
    }

    /// Notes what this machine lacks.
    fn look_around(&mut self) {
        let score = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        let lower = score.trim().parse::<i32>().unwrap_or(0) - 1;
        match std::fs::write("/proc/self/oom_score_adj", lower.to_string()) {
            // A write takes effect at once: take it back.
            Ok(()) => drop(std::fs::write("/proc/self/oom_score_adj", score.trim())),
            Err(_) => self.notes.push("CAP_SYS_RESOURCE is missing: oom_score_adj cannot be lowered".into()),
        }
        match users::probe(&self.layout.dir) {
            Ok(()) => self.user_namespaces = true,
            Err(why) => self.notes.push(format!("no user namespaces for pods: {why}")),
        }
        for controller in ["cpu", "memory", "pids", "cpuset"] {
            let has = if self.cgroups.unified() {
                let file = self.cgroups.v2.as_ref().map(|r| r.join("cgroup.controllers"));
                let text = file.and_then(|f| std::fs::read_to_string(f).ok()).unwrap_or_default();
                text.split_whitespace().any(|c| c == controller)
            } else {
                self.cgroups.dir(controller, "/").is_some()
            };
            if !has {
                self.notes.push(format!("no {controller} controller: containers are not limited by it"));
            }
        }
    }

    fn watch(&mut self, fd: &OwnedFd, source: Source, flags: EpollFlags) -> Result<Token, Error> {
        let token = self.next;
        self.next += 1;
        self.epoll.add(fd, EpollEvent::new(flags, token)).map_err(failed("watch descriptor"))?;
        self.sources.insert(token, source);
        Ok(token)
    }

    fn unwatch(&mut self, token: Token, fd: &OwnedFd) {
        self.sources.remove(&token);
        // Closing the descriptor would do the same, unless a child holds a copy.
        let _ = self.epoll.delete(fd);
    }

    /// Acts on one event; true when the supervisor shall end.
    fn handle(&mut self, token: Token, flags: EpollFlags) -> bool {
        let Some(source) = self.sources.get(&token).cloned() else { return false };
        match source {
            Source::Listener => self.accept(),
            Source::Signals => return self.on_signal(),
            Source::Conn => self.on_conn(token, flags),
            Source::Status(pid) => self.on_status(pid),
            Source::Output(id, output) => self.on_output(&id, output),
            Source::Console(id) => self.on_console(&id),
            Source::Adopted(id) => self.on_adopted_exit(&id),
            Source::Reader(id) => self.on_reader(&id, token),
        }
        false
    }

    fn accept(&mut self) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        while let Ok(fd) = socket::accept4(self.listener.as_raw_fd(), flags) {
            // SAFETY: accept4 just gave us this descriptor.
            let fd: OwnedFd = unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) };
            if let Ok(token) = self.watch(&fd, Source::Conn, EpollFlags::EPOLLIN) {
                self.conns.insert(token, Conn::new(fd));
            }
        }
    }

    fn on_signal(&mut self) -> bool {
        let mut end = false;
        while let Ok(Some(info)) = self.signals.read_signal() {
            end |= info.ssi_signo != libc::SIGCHLD.cast_unsigned();
        }
        self.reap();
        end
    }

    fn reap(&mut self) {
        use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid.as_raw(), code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid.as_raw(), 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            if self.starting.contains_key(&pid) {
                self.on_status(pid);
                self.settle(pid);
            }
            match self.children.remove(&pid) {
                Some(Child::Main(id)) => self.exited(&id, code),
                Some(Child::Exec(exec)) => self.exec_ended(exec, code),
                Some(Child::Pause(id)) => self.pause_ended(&id),
                Some(Child::Sandbox(_)) | None => {}
            }
        }
    }

    /// Reads what a starting child says; its end of the pipe closes when it executes or dies.
    fn on_status(&mut self, pid: i32) {
        let Some(starting) = self.starting.get_mut(&pid) else { return };
        let mut buffer = [0; 512];
        loop {
            match nix::unistd::read(&starting.pipe, &mut buffer) {
                Ok(0) => break,
                Ok(n) if starting.said.len() < 8192 => starting.said.extend_from_slice(&buffer[..n]),
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return,
            }
        }
        self.settle(pid);
    }

    /// Ends the starting phase of a child.
    fn settle(&mut self, pid: i32) {
        let Some(starting) = self.starting.remove(&pid) else { return };
        self.unwatch(starting.token, &starting.pipe);
        let said = String::from_utf8_lossy(&starting.said).into_owned();
        let result = match said.split_once('!') {
            Some((_, why)) => Err(Error::Failed(why.to_owned())),
            None if said == "ok" => Ok(()),
            None => Err(Error::Failed("the new process was killed before it could be executed".into())),
        };
        match self.children.get(&pid) {
            Some(Child::Main(id)) => {
                let id = id.clone();
                self.started(&id, result);
            }
            Some(Child::Sandbox(id)) => {
                let id = id.clone();
                self.sandbox_made(&id, result);
            }
            Some(Child::Exec(_)) => self.exec_started(pid, result),
            Some(Child::Pause(_)) | None => {}
        }
    }

    /// Notes a child whose status pipe must be listened to.
    fn await_status(&mut self, pid: i32, pipe: OwnedFd, child: Child) -> Result<(), Error> {
        let token = self.watch(&pipe, Source::Status(pid), EpollFlags::EPOLLIN)?;
        self.starting.insert(pid, Starting { pipe, said: vec![], token });
        self.children.insert(pid, child);
        Ok(())
    }

    fn request(&mut self, conn: Token, request: Request, fds: Vec<OwnedFd>) {
        let result = match request {
            Request::Hello => Ok(Some(Reply::Hello {
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION").into(),
                notes: self.notes.clone(),
                user_namespaces: self.user_namespaces,
            })),
            Request::RunSandbox { id, config } => self.run_sandbox(conn, id, *config),
            Request::StopSandbox { id } => self.stop_sandbox(conn, &id),
            Request::RemoveSandbox { id } => self.remove_sandbox(&id),
            Request::Sandboxes { filter } => Ok(Some(self.list_sandboxes(&filter))),
            Request::Create { status } => self.create(*status),
            Request::Start { id } => self.start(conn, &id),
            Request::Stop { id, timeout_seconds } => self.stop(conn, &id, timeout_seconds),
            Request::Remove { id } => self.remove(conn, &id),
            Request::Containers { filter } => Ok(Some(self.list_containers(&filter))),
            Request::Update { id, resources } => self.update(&id, &resources),
            Request::Exec { id, args, tty, size, timeout_seconds } => {
                self.exec(conn, &id, &args, (tty, size, timeout_seconds), fds)
            }
            Request::Attach { id, stdin, stdout, stderr } => {
                self.attach(conn, &id, stdin, [stdout, stderr], fds)
            }
            Request::ReopenLog { id } => self.reopen_log(&id),
            Request::Events => {
                self.subscribers.push(conn);
                Ok(Some(Reply::Done))
            }
        };
        match result {
            Ok(Some(reply)) => self.reply(conn, &reply, &[]),
            Ok(None) => {}
            Err(e) => self.reply(conn, &Reply::Failed(e), &[]),
        }
    }

    fn publish(&mut self, kind: EventKind, id: &str, exit_code: i32) {
        let Some(container) = self.containers.get(id) else { return };
        let sandbox = container.status.sandbox.clone();
        let pod_uid = self.sandboxes.get(&sandbox).map(|s| s.status.metadata.uid.clone()).unwrap_or_default();
        let at = crate::proto::now();
        let event = Event { kind, container: id.to_owned(), sandbox, at, pod_uid, exit_code };
        for conn in self.subscribers.clone() {
            self.reply(conn, &Reply::Event(event.clone()), &[]);
        }
    }

    /// How long epoll may sleep.
    fn patience(&self) -> EpollTimeout {
        let stops = self.containers.values().filter_map(|c| c.kill_at);
        let execs = self.children.values().filter_map(|c| match c {
            Child::Exec(e) => e.kill_at,
            _ => None,
        });
        let Some(first) = stops.chain(execs).min() else { return EpollTimeout::NONE };
        let left = first.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        EpollTimeout::try_from(left.min(Duration::from_secs(3600))).unwrap_or(EpollTimeout::ZERO)
    }

    fn deadlines(&mut self) {
        let now = Instant::now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let late: Vec<String> =
            self.containers.iter().filter(|(_, c)| due(c.kill_at)).map(|(id, _)| id.clone()).collect();
        for id in late {
            self.kill(&id);
        }
        for child in self.children.values_mut() {
            if let Child::Exec(exec) = child
                && due(exec.kill_at)
            {
                exec.kill_at = None;
                exec.timed_out = true;
                // It may have ended meanwhile.
                let _ = crate::sys::pidfd_signal(exec.pidfd.as_fd(), libc::SIGKILL);
            }
        }
    }
}

/// Binds the socket; refuses when another supervisor answers on it.
fn listen(layout: &Layout) -> Result<OwnedFd, Error> {
    let path = layout.socket();
    let address = || UnixAddr::new(&path).map_err(failed("name socket"));
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let make =
        || socket::socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(failed("make socket"));
    // A data directory may lie deeper than an address is long: then reach it through the working directory.
    let probe = make()?;
    if socket::connect(probe.as_raw_fd(), &address()?).is_ok() {
        return Err(Error::State(format!("another supervisor answers on {}", path.display())));
    }
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(Error::Failed(format!("remove stale socket {}: {e}", path.display())));
        }
        _ => {}
    }
    let fd = make()?;
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let bound = socket::bind(fd.as_raw_fd(), &address()?);
    nix::sys::stat::umask(before);
    bound.map_err(|e| Error::Failed(format!("bind {}: {e}", path.display())))?;
    socket::listen(&fd, Backlog::new(1024).unwrap_or(Backlog::MAXCONN)).map_err(failed("listen"))?;
    Ok(fd)
}
