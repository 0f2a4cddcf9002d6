//! User namespaces of pods.
//!
//! A process that only waits sits in new namespaces until they are pinned; network, host name and IPC belong to the
//! user namespace, so that a pod's root is root over them. Files stay owned on disk as if there were no user
//! namespace: layers of images and volumes are mounted with their ids mapped, only the writable layer holds ids of
//! the node. A container's tree is built by the node's root; it enters the user namespace last, with a mount
//! namespace of its own, in which its root may mount.

use super::child::{Context, Failure};
use crate::config::{IdMapping, UserNamespace};
use crate::sys::{self, Forked};
use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Who a user namespace's processes are on the node.
pub struct Users {
    /// The namespace.
    pub namespace: OwnedFd,
    map: UserNamespace,
}

impl Users {
    /// Opens a pinned namespace.
    pub fn open(path: &Path, map: &UserNamespace) -> Result<Self, Failure> {
        let file = std::fs::File::open(path).context(format!("open namespace {}", path.display()))?;
        Ok(Self { namespace: file.into(), map: map.clone() })
    }

    /// The node's number of a user inside.
    pub fn uid(&self, inside: u32) -> Uid {
        Uid::from_raw(self.map.uid(inside))
    }

    /// The node's number of a group inside.
    pub fn gid(&self, inside: u32) -> Gid {
        Gid::from_raw(self.map.gid(inside))
    }
}

/// A process that sits in new namespaces; it ends with this value.
pub struct Holder {
    pid: i32,
    /// Of the process.
    pub pidfd: OwnedFd,
}

impl Holder {
    /// Path of one of its namespaces.
    pub fn namespace(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.pid)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It does nothing else than wait for this.
        let _ = sys::pidfd_signal(self.pidfd.as_fd(), libc::SIGKILL);
        let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(self.pid), None);
    }
}

/// Makes a user namespace with these ids, and those of `kinds`, which belong to it.
pub fn hold(map: &UserNamespace, kinds: CloneFlags) -> Result<Holder, Failure> {
    let flags = libc::CLONE_NEWUSER | kinds.bits();
    // SAFETY: the supervisor and its children have one thread.
    let forked = unsafe { sys::fork(flags) }.context("make user namespace")?;
    let (pid, pidfd) = match forked {
        Forked::Child => super::child::pause(),
        Forked::Parent(pid, pidfd) => (pid, pidfd),
    };
    let holder = Holder { pid, pidfd };
    for (file, ranges) in [("uid_map", &map.uids), ("gid_map", &map.gids)] {
        let path = format!("/proc/{pid}/{file}");
        std::fs::write(&path, lines(ranges)).context(format!("write {path}"))?;
    }
    Ok(holder)
}

fn lines(ranges: &[IdMapping]) -> String {
    ranges.iter().map(|r| format!("{} {} {}\n", r.container_id, r.host_id, r.length)).collect()
}

/// Becomes root of the user namespace.
pub fn become_root() -> Result<(), Failure> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    nix::unistd::setgroups(&[]).context("leave groups")?;
    nix::unistd::setresgid(gid, gid, gid).context("become root's group")?;
    nix::unistd::setresuid(uid, uid, uid).context("become root of the pod")
}

/// Enters the user namespace, with a mount namespace that belongs to it.
pub fn enter(namespace: BorrowedFd<'_>) -> Result<(), Failure> {
    sys::setns(namespace, libc::CLONE_NEWUSER).context("enter user namespace")?;
    become_root()?;
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).context("unshare mount namespace")
}

/// Whether pods can have user namespaces here, with their files in `dir`; else why not.
pub fn probe(dir: &Path) -> Result<(), Failure> {
    let range = || vec![IdMapping { host_id: 65_536, container_id: 0, length: 65_536 }];
    let holder = hold(&UserNamespace { uids: range(), gids: range() }, CloneFlags::empty())?;
    let namespace = std::fs::File::open(holder.namespace("user")).context("open user namespace")?;
    let tree = sys::open_tree(dir, false).context(format!("open {}", dir.display()))?;
    sys::map_ids(tree.as_fd(), namespace.as_fd()).context(format!("map ids of a mount of {}", dir.display()))
}
