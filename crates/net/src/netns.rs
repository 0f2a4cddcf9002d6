//! Network namespaces: entering one on a thread of its own, and making named ones.
//!
//! A namespace belongs to a thread, so work in another namespace runs on a fresh thread that ends with it: no
//! thread of an executor ever changes its namespace. Sockets opened there keep their namespace when handed back.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;

/// Work with a network namespace failed.
#[derive(Debug, thiserror::Error)]
#[error("{what} the network namespace {}", path.display())]
pub struct NetnsError {
    what: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Where named namespaces are bound, as `ip netns` expects.
pub const NAMED: &str = "/run/netns";

/// Runs `work` in the namespace bound at `path` and waits for it.
pub fn run_in<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    let fail = |what| move |source| NetnsError { what, path: path.to_owned(), source };
    let file = File::open(path).map_err(fail("open"))?;
    let done = std::thread::scope(|s| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(s, || {
            nix::sched::setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
            Ok::<T, io::Error>(work())
        });
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(e) => Err(e),
        }
    });
    done.map_err(fail("enter"))
}

/// Makes a namespace bound at `/run/netns/NAME`. One that exists is kept.
pub fn create(name: &str) -> Result<PathBuf, NetnsError> {
    let path = Path::new(NAMED).join(name);
    let fail = |what| {
        let path = path.clone();
        move |source| NetnsError { what, path, source }
    };
    std::fs::create_dir_all(NAMED).map_err(fail("make a place for"))?;
    if is_namespace(&path) {
        return Ok(path);
    }
    File::create(&path).map_err(fail("make a place for"))?;
    let made = std::thread::scope(|s| {
        let work = || {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
            let source = Path::new("/proc/thread-self/ns/net");
            nix::mount::mount(Some(source), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        };
        s.spawn(work).join().unwrap_or(Err(nix::errno::Errno::EIO))
    });
    if let Err(e) = made {
        let _ = std::fs::remove_file(&path);
        return Err(fail("create")(e.into()));
    }
    Ok(path)
}

/// Whether something is bound at `path` that is a namespace.
pub fn is_namespace(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}

/// Unbinds and forgets `/run/netns/NAME`. The kernel ends the namespace when its last process and socket have.
pub fn remove(name: &str) -> Result<(), NetnsError> {
    let path = Path::new(NAMED).join(name);
    let _ = nix::mount::umount2(&path, MntFlags::MNT_DETACH);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(NetnsError { what: "remove", path, source: e }),
        _ => Ok(()),
    }
}
