//! Starting a process in namespaces: `kutter launch`, a short-lived, single-threaded step between the manager and
//! the process.
//!
//! Namespaces other than the current ones cannot be entered by a multithreaded process, and a new PID namespace
//! takes effect for children only. So the manager runs `kutter launch`, which enters or makes the namespaces,
//! forks, prints the child's pid (as seen on the machine) on standard output, and ends. The manager is the
//! subreaper and inherits the child.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{ForkResult, Pid, execv, fork, setsid};

/// In which namespaces the process shall run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Those of this machine.
    Machine,
    /// New ones (mount, PID, UTS, IPC, cgroup), with the network namespace at this path or that of this machine. The
    /// hostname is set.
    New {
        /// Path of the network namespace; none for this machine's.
        network: Option<PathBuf>,
        /// The node's hostname.
        hostname: String,
    },
    /// Those of the running process with this pid.
    Of(i32),
}

/// Why a launch failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {what}")]
pub struct LaunchError {
    what: String,
    #[source]
    source: nix::Error,
}

fn failed(what: impl Into<String>) -> impl FnOnce(nix::Error) -> LaunchError {
    let what = what.into();
    move |source| LaunchError { what, source }
}

/// Enters `place`, starts `program` there in a session of its own and returns its pid. Must be called from a
/// single-threaded process.
pub fn launch(place: &Place, program: &Path, arguments: &[String]) -> Result<Pid, LaunchError> {
    let c_string = |bytes: &[u8]| CString::new(bytes).map_err(|_| nix::Error::EINVAL);
    let program = c_string(program.as_os_str().as_bytes()).map_err(failed("read the program's name"))?;
    let mut argv = vec![c"kutter".to_owned()];
    for argument in arguments {
        argv.push(c_string(argument.as_bytes()).map_err(failed("read the arguments"))?);
    }
    enter(place)?;
    // SAFETY: the process is single-threaded, so the child may do anything the parent may.
    match unsafe { fork() }.map_err(failed("fork"))? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let error = start(place, &program, &argv);
            eprintln!("kutter launch: {error}: {}", error.source);
            std::process::exit(127);
        }
    }
}

fn enter(place: &Place) -> Result<(), LaunchError> {
    match place {
        Place::Machine => Ok(()),
        Place::New { network, hostname } => {
            if let Some(network) = network {
                let file = File::open(network)
                    .map_err(|e| nix::Error::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))
                    .map_err(failed(format!("open the network namespace {}", network.display())))?;
                setns(file.as_fd(), CloneFlags::CLONE_NEWNET)
                    .map_err(failed("enter the network namespace"))?;
            }
            unshare(
                CloneFlags::CLONE_NEWNS
                    | CloneFlags::CLONE_NEWPID
                    | CloneFlags::CLONE_NEWUTS
                    | CloneFlags::CLONE_NEWIPC
                    | CloneFlags::CLONE_NEWCGROUP,
            )
            .map_err(failed("make namespaces"))?;
            nix::unistd::sethostname(hostname).map_err(failed("set the hostname"))
        }
        Place::Of(pid) => {
            let namespaces = CloneFlags::CLONE_NEWNET
                | CloneFlags::CLONE_NEWNS
                | CloneFlags::CLONE_NEWPID
                | CloneFlags::CLONE_NEWUTS
                | CloneFlags::CLONE_NEWIPC
                | CloneFlags::CLONE_NEWCGROUP;
            setns(pid_fd(*pid)?, namespaces).map_err(failed(format!("enter the namespaces of process {pid}")))
        }
    }
}

/// In the child: what a new node needs before its first program, then that program.
fn start(place: &Place, program: &CString, argv: &[CString]) -> LaunchError {
    // Standard output carries the pid to the manager and must not stay open; all words go to the log.
    let quiet = nix::unistd::dup2_stdout(std::io::stderr()).map_err(failed("join the outputs"));
    let session = quiet.and_then(|()| setsid().map(drop).map_err(failed("start a session")));
    let prepared = session.and_then(|()| match place {
        Place::New { .. } => prepare_mounts(),
        _ => Ok(()),
    });
    match prepared.and_then(|()| execv(program, argv).map_err(failed("execute the program"))) {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

/// Mounts made in the node stay there, those of the machine still arrive, and within the node they reach whoever asks
/// for them (mount propagation of pods); /proc shows the node's processes.
fn prepare_mounts() -> Result<(), LaunchError> {
    const NONE: Option<&str> = None;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE).map_err(failed("part the mounts"))?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SHARED, NONE).map_err(failed("share the mounts"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, NONE).map_err(failed("mount /proc"))
}

/// A handle on a process that stays the same process even when its pid is used again.
pub(crate) fn pid_fd(pid: i32) -> Result<std::os::fd::OwnedFd, LaunchError> {
    // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(failed(format!("open process {pid}"))(nix::Error::last()));
    }
    // SAFETY: the call above returned a descriptor that nothing else owns.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(fd as i32) })
}
