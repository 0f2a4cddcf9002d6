//! subPath: a part of a volume, opened so that no link inside the volume can lead out of it.
//!
//! The kernel resolves each component beneath the volume's root; what is mounted is
//! `/proc/self/fd/N`, bound to a place of its own, so that a later exchange of a component changes nothing.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};

use crate::{Error, mounts};

/// Opens `sub` below `root`, making missing directories as open as the root is. Links within the volume are followed (the files
/// of a projected volume are such), those that lead out of it are refused.
fn open(root: &Path, sub: &str) -> Result<OwnedFd, Error> {
    let parts: Vec<_> = Path::new(sub).components().collect();
    if parts.iter().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(Error::Invalid(format!("subPath {sub:?} must be relative and must not contain '..'")));
    }
    let volume: OwnedFd = File::open(root).map_err(Error::io("open", root))?.into();
    let beneath = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let mut path = PathBuf::from(".");
    let mut at = openat2(&volume, &path, beneath).map_err(|e| Error::io("open", root)(e.into()))?;
    for part in parts {
        let Component::Normal(name) = part else { continue };
        path.push(name);
        let shown = root.join(sub);
        at = match openat2(&volume, &path, beneath) {
            Ok(fd) => fd,
            Err(nix::errno::Errno::ENOENT) => {
                mkdirat(&at, name, Mode::S_IRWXU)
                    .map_err(|e| Error::io("make directory", &shown)(e.into()))?;
                let made =
                    openat2(&volume, &path, beneath).map_err(|e| Error::io("open", &shown)(e.into()))?;
                let as_root = fs::metadata(root).map_err(Error::io("look at", root))?.permissions();
                fs::set_permissions(through(&made), as_root).map_err(Error::io("set mode of", &shown))?;
                made
            }
            Err(e) => return Err(Error::io("open without leaving the volume", &shown)(e.into())),
        };
    }
    Ok(at)
}

/// A path to what is open, whatever its name is by now.
fn through(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Binds `sub` of the volume at `root` to `target`, which is made; idempotent.
pub fn bind(root: &Path, sub: &str, target: &Path) -> Result<(), Error> {
    if mounts::is_mounted(target) {
        return Ok(());
    }
    let fd = open(root, sub)?;
    let through = through(&fd);
    let meta = fs::metadata(&through).map_err(Error::io("look at", root))?;
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(Error::io("make directory", parent))?;
    }
    if meta.is_dir() {
        fs::create_dir_all(target).map_err(Error::io("make directory", target))?;
    } else {
        File::create(target).map_err(Error::io("make file", target))?;
    }
    mounts::bind(&through, target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn links_do_not_lead_out() {
        let dir = tempfile::tempdir().expect("dir");
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).expect("link");
        assert!(open(dir.path(), "out").is_err());
        assert!(open(dir.path(), "out/passwd").is_err());
        assert!(open(dir.path(), "../x").is_err());
        std::fs::create_dir(dir.path().join("..data")).expect("directory");
        std::os::unix::fs::symlink("..data", dir.path().join("in")).expect("link");
        std::os::unix::fs::symlink("..", dir.path().join("..data/up")).expect("link");
        assert!(open(dir.path(), "in/made").is_ok());
        assert!(dir.path().join("..data/made").is_dir());
        assert!(open(dir.path(), "in/up/in").is_ok());
        assert!(open(dir.path(), "in/up/../..").is_err());
        assert!(open(dir.path(), "a/b").is_ok());
        assert!(dir.path().join("a/b").is_dir());
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o2777)).expect("mode");
        assert!(open(dir.path(), "c/d").is_ok());
        let mode = |at: &str| fs::metadata(dir.path().join(at)).expect("made").permissions().mode() & 0o7777;
        assert_eq!((mode("c"), mode("c/d")), (0o2777, 0o2777));
    }
}
