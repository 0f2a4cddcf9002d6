//! What a new process does between clone and execute.
//!
//! The supervisor has one thread, so its child may allocate and use the library. Every step either works or
//! ends in a message that goes back over the status pipe: `!` and the message; `ok` before the last step.

use super::rootfs;
use super::users::{self, Users};
use crate::cgroup::Cgroups;
use crate::config::{NamespaceMode, SandboxConfig};
use crate::proto::{Layout, Spec};
use crate::runtime::TerminalSize;
use crate::sys;
use nix::sched::CloneFlags;
use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Why a child gave up.
pub type Failure = String;

/// Adds what was tried to a failure.
pub trait Context<T> {
    /// `what: error`.
    fn context(self, what: impl std::fmt::Display) -> Result<T, Failure>;
}

impl<T, E: std::fmt::Display> Context<T> for Result<T, E> {
    fn context(self, what: impl std::fmt::Display) -> Result<T, Failure> {
        self.map_err(|e| format!("{what}: {e}"))
    }
}

/// Standard streams of a new process.
pub struct Stdio {
    /// Input, output, error; `None`: `/dev/null`. Unused with a terminal.
    pub streams: [Option<OwnedFd>; 3],
    /// Socket that the terminal's other end is sent over.
    pub console: Option<OwnedFd>,
    /// Size of the terminal.
    pub size: Option<TerminalSize>,
}

/// Everything a new container process needs.
pub struct Container<'a> {
    /// What to run.
    pub spec: &'a Spec,
    /// Its sandbox.
    pub sandbox: &'a SandboxConfig,
    /// Where things are.
    pub layout: &'a Layout,
    /// The machine's hierarchies.
    pub cgroups: &'a Cgroups,
}

/// Runs `steps` and reports on `status`; never returns.
pub fn run(status: &OwnedFd, steps: impl FnOnce() -> Result<Infallible, Failure>) -> ! {
    reset_signals();
    let Err(message) = steps();
    // Nobody is left to tell when the supervisor is gone.
    let _ = nix::unistd::write(status, format!("!{message}").as_bytes());
    // SAFETY: ends this process at once, without handlers of the parent.
    unsafe { libc::_exit(127) }
}

fn reset_signals() {
    use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
    for one in Signal::iterator() {
        // SAFETY: the default action runs no code of ours. KILL and STOP refuse, which is right.
        let _ = unsafe { signal(one, SigHandler::SigDfl) };
    }
    // Cannot fail for a valid set.
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// First process of a container; it is in new mount (and perhaps PID) namespaces already.
pub fn container(c: &Container<'_>, stdio: Stdio, status: &OwnedFd) -> Result<Infallible, Failure> {
    let spec = c.spec;
    c.cgroups.create(&spec.cgroup).map_err(|e| e.to_string())?;
    c.cgroups.apply(&spec.cgroup, &spec.resources).map_err(|e| e.to_string())?;
    if !spec.privileged {
        let extra = rootfs::device_rules(&spec.devices)?;
        c.cgroups.limit_devices(&spec.cgroup, &extra).context("limit devices")?;
    }
    c.cgroups.enter(&spec.cgroup).map_err(|e| e.to_string())?;
    if let Some(score) = spec.resources.oom_score_adj {
        // Lowering it takes CAP_SYS_RESOURCE; the supervisor notes once that it is missing.
        let _ = std::fs::write("/proc/self/oom_score_adj", score.to_string());
    }
    let enter = |kind: &str, flag| {
        let path = c.layout.namespace(&spec.sandbox, kind);
        let file = std::fs::File::open(&path).context(format!("open namespace {}", path.display()))?;
        sys::setns(file.as_fd(), flag).context(format!("enter {kind} namespace"))
    };
    let options = &c.sandbox.namespaces;
    if options.network != NamespaceMode::Host {
        enter("net", libc::CLONE_NEWNET)?;
        enter("uts", libc::CLONE_NEWUTS)?;
    }
    if options.ipc != NamespaceMode::Host {
        enter("ipc", libc::CLONE_NEWIPC)?;
    }
    nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP).context("unshare cgroup namespace")?;
    let users = match &options.user {
        Some(map) => Some(Users::open(&c.layout.namespace(&spec.sandbox, "user"), map)?),
        None => None,
    };
    rootfs::enter(c, users.as_ref())?;
    if let Some(users) = &users {
        users::enter(users.namespace.as_fd())?;
    }
    if !spec.cwd.is_empty() && !Path::new(&spec.cwd).is_dir() {
        std::fs::create_dir_all(&spec.cwd).context(format!("create working directory {:?}", spec.cwd))?;
    }
    let mut stdio = stdio;
    if spec.tty {
        terminal(&mut stdio, spec, true)?;
    } else {
        nix::unistd::setsid().context("new session")?;
    }
    become_user(spec, &stdio)?;
    execute(&spec.args, spec, status)
}

/// One more process of a running container; it is in its PID namespace already.
pub fn exec(
    spec: &Spec,
    cgroups: &Cgroups,
    target: BorrowedFd<'_>,
    args: &[String],
    mut stdio: Stdio,
    status: &OwnedFd,
) -> Result<Infallible, Failure> {
    cgroups.enter(&spec.cgroup).map_err(|e| e.to_string())?;
    if let Some(score) = spec.resources.oom_score_adj {
        // As above.
        let _ = std::fs::write("/proc/self/oom_score_adj", score.to_string());
    }
    let kinds = libc::CLONE_NEWNS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    let users = if spec.namespaces.user.is_some() { libc::CLONE_NEWUSER } else { 0 };
    sys::setns(target, kinds | users).context("enter namespaces of the container")?;
    if users != 0 {
        users::become_root()?;
    }
    if stdio.console.is_some() {
        terminal(&mut stdio, spec, false)?;
    } else {
        nix::unistd::setsid().context("new session")?;
    }
    become_user(spec, &stdio)?;
    execute(args, spec, status)
}

/// Opens a terminal inside, makes it the controlling one and sends its other end away.
fn terminal(stdio: &mut Stdio, spec: &Spec, console: bool) -> Result<(), Failure> {
    use nix::fcntl::{OFlag, open};
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = open("/dev/ptmx", flags, nix::sys::stat::Mode::empty()).context("open /dev/ptmx")?;
    let unlock: libc::c_int = 0;
    // SAFETY: the integer lives through the call.
    nix::errno::Errno::result(unsafe {
        libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock)
    })
    .context("unlock terminal")?;
    // SAFETY: takes plain flags and answers with a descriptor.
    let slave = nix::errno::Errno::result(unsafe {
        libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC)
    })
    .context("open terminal")?;
    // SAFETY: the kernel just gave us this descriptor.
    let slave: OwnedFd = unsafe { std::os::fd::FromRawFd::from_raw_fd(slave) };
    if let Some(size) = stdio.size {
        sys::set_terminal_size(master.as_fd(), size.width, size.height).context("size terminal")?;
    }
    if console && let Ok(name) = nix::unistd::ttyname(slave.as_fd()) {
        // Programs that want /dev/console are rare; one without it still runs.
        let _ = std::fs::File::create("/dev/console");
        let flags = nix::mount::MsFlags::MS_BIND;
        let _ = nix::mount::mount(Some(&name), "/dev/console", None::<&str>, flags, None::<&str>);
    }
    nix::unistd::setsid().context("new session")?;
    // SAFETY: plain numbers.
    nix::errno::Errno::result(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) })
        .context("take terminal")?;
    let uid = nix::unistd::Uid::from_raw(spec.user.uid);
    nix::unistd::fchown(&slave, Some(uid), None).context("own terminal")?;
    if let Some(socket) = stdio.console.take() {
        sys::send_with_fds(socket.as_fd(), b"t", &[master.as_raw_fd()]).context("send terminal")?;
    }
    stdio.streams = [
        Some(slave.try_clone().context("terminal")?),
        Some(slave.try_clone().context("terminal")?),
        Some(slave),
    ];
    Ok(())
}

/// Working directory, streams, user, capabilities, seccomp: all that cannot be taken back.
fn become_user(spec: &Spec, stdio: &Stdio) -> Result<(), Failure> {
    use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
    let null =
        || std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").context("open /dev/null");
    for (number, stream) in stdio.streams.iter().enumerate() {
        let null = if stream.is_none() { Some(OwnedFd::from(null()?)) } else { None };
        let Some(from) = stream.as_ref().or(null.as_ref()) else { continue };
        let number = i32::try_from(number).context("stream")?;
        // SAFETY: 0, 1 and 2 are ours to replace.
        nix::errno::Errno::result(unsafe { libc::dup2(from.as_raw_fd(), number) }).context("set stream")?;
    }
    // SAFETY: marks every other descriptor close-on-exec, whoever opened it.
    unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) };
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let entered = std::env::set_current_dir(&spec.cwd);
    let groups: Vec<Gid> = spec.user.supplemental_groups.iter().map(|g| Gid::from_raw(*g)).collect();
    setgroups(&groups).context("set groups")?;
    let gid = Gid::from_raw(spec.user.gid);
    setresgid(gid, gid, gid).context("set group")?;
    crate::caps::bound(spec.capabilities).context("drop capabilities")?;
    crate::caps::keep(true).context("keep capabilities")?;
    let uid = Uid::from_raw(spec.user.uid);
    setresuid(uid, uid, uid).context("set user")?;
    crate::caps::regain().context("regain capabilities")?;
    if entered.is_err() {
        // A directory that only its owner may enter.
        std::env::set_current_dir(&spec.cwd).context(format!("chdir to {:?}", spec.cwd))?;
    }
    if spec.no_new_privs {
        nix::sys::prctl::set_no_new_privs().context("set no_new_privs")?;
    }
    crate::seccomp::install(&spec.seccomp).context("install seccomp filter")?;
    crate::caps::set(spec.capabilities).context("set capabilities")?;
    Ok(())
}

/// Executes; returns only why it could not.
fn execute(args: &[String], spec: &Spec, status: &OwnedFd) -> Result<Infallible, Failure> {
    let c = |s: &String| CString::new(s.as_bytes()).context("argument holds a zero byte");
    let name = args.first().context_none("no command given")?;
    let argv = args.iter().map(c).collect::<Result<Vec<_>, _>>()?;
    let env = spec.env.iter().map(c).collect::<Result<Vec<_>, _>>()?;
    nix::unistd::write(status, b"ok").context("report")?;
    if name.contains('/') {
        let Err(e) = nix::unistd::execve(&argv[0], &argv, &env);
        return Err(format!("exec {name:?}: {}", e.desc().to_lowercase()));
    }
    let path = spec.env.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or_default();
    let mut worst = None;
    for dir in path.split(':') {
        let whole = Path::new(if dir.is_empty() { "." } else { dir }).join(name);
        let Err(e) = nix::unistd::execve(&sys::cstr(&whole).context("path")?, &argv, &env);
        if !matches!(e, nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) {
            worst = Some(e);
        }
    }
    Err(match worst {
        Some(e) => format!("exec {name:?}: {}", e.desc().to_lowercase()),
        None => format!("exec {name:?}: executable file not found in $PATH"),
    })
}

trait ContextNone<T> {
    fn context_none(self, what: &str) -> Result<T, Failure>;
}

impl<T> ContextNone<T> for Option<T> {
    fn context_none(self, what: &str) -> Result<T, Failure> {
        self.ok_or_else(|| what.to_owned())
    }
}

/// Makes the namespaces of a sandbox and pins them by bind mounts; runs in a child that ends afterwards.
pub fn sandbox(id: &str, config: &SandboxConfig, layout: &Layout) -> Result<(), Failure> {
    let options = &config.namespaces;
    let mut flags = CloneFlags::empty();
    let mut kinds = vec![];
    if options.network != NamespaceMode::Host {
        flags |= CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS;
        kinds.extend(["net", "uts"]);
    }
    if options.ipc != NamespaceMode::Host {
        flags |= CloneFlags::CLONE_NEWIPC;
        kinds.push("ipc");
    }
    // What pins, and sets up, is always the node's root.
    let holder = match &options.user {
        None => {
            nix::sched::unshare(flags).context("unshare namespaces")?;
            None
        }
        Some(map) => {
            let holder = users::hold(map, flags)?;
            if !flags.is_empty() {
                sys::setns(holder.pidfd.as_fd(), flags.bits()).context("enter namespaces")?;
            }
            kinds.push("user");
            Some(holder)
        }
    };
    if options.network != NamespaceMode::Host {
        nix::unistd::sethostname(&config.hostname).context(format!("set hostname {:?}", config.hostname))?;
        sys::loopback_up().context("bring up lo")?;
        for (key, value) in
            [("net/ipv4/ip_unprivileged_port_start", "0"), ("net/ipv4/ping_group_range", "0 2147483647")]
        {
            // Comforts; a kernel without them is no reason to fail.
            let _ = std::fs::write(Path::new("/proc/sys").join(key), value);
        }
    }
    for (key, value) in &config.sysctls {
        let file = Path::new("/proc/sys").join(key.replace('.', "/"));
        std::fs::write(&file, value).context(format!("set sysctl {key}={value}"))?;
    }
    let bind = nix::mount::MsFlags::MS_BIND;
    for kind in kinds {
        let target = layout.namespace(id, kind);
        std::fs::File::create(&target).context(format!("create {}", target.display()))?;
        let own = || format!("/proc/self/ns/{kind}");
        let source = holder.as_ref().map_or_else(own, |h| h.namespace(kind));
        nix::mount::mount(Some(source.as_str()), &target, None::<&str>, bind, None::<&str>)
            .context(format!("pin {kind} namespace"))?;
    }
    if options.ipc != NamespaceMode::Host {
        let shm = layout.namespace(id, "shm");
        std::fs::create_dir_all(&shm).context("create shm")?;
        let flags =
            nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV | nix::mount::MsFlags::MS_NOEXEC;
        let root = options.user.as_ref().map_or((0, 0), |u| (u.uid(0), u.gid(0)));
        let text = format!("mode=1777,size=65536k,uid={},gid={}", root.0, root.1);
        nix::mount::mount(Some("shm"), &shm, Some("tmpfs"), flags, Some(text.as_str()))
            .context("mount shm")?;
    }
    Ok(())
}

/// First process of a shared PID namespace: waits for orphans until it is killed.
pub fn pause() -> ! {
    reset_signals();
    let name = c"pause";
    // SAFETY: the name is a constant; every descriptor but those of the streams is closed, since this
    // process outlives every one of them; waiting needs no memory.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, name.as_ptr());
        libc::close_range(0, u32::MAX, 0);
        // With SIGCHLD ignored the kernel reaps by itself.
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        loop {
            libc::pause();
        }
    }
}
