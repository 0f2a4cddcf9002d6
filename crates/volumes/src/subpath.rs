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

/// Opens `sub` below `root`, making missing directories with `mode`. Links within the volume are followed (the files
/// of a projected volume are such), those that lead out of it are refused.
fn open(root: &Path, sub: &str, mode: u32) -> Result<OwnedFd, Error> {
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
                mkdirat(&at, name, Mode::from_bits_truncate(mode))
                    .map_err(|e| Error::io("make directory", &shown)(e.into()))?;
                openat2(&volume, &path, beneath).map_err(|e| Error::io("open", &shown)(e.into()))?
            }
            Err(e) => return Err(Error::io("open without leaving the volume", &shown)(e.into())),
        };
    }
    Ok(at)
}

/// Binds `sub` of the volume at `root` to `target`, which is made; idempotent.
pub fn bind(root: &Path, sub: &str, target: &Path) -> Result<(), Error> {
    if mounts::is_mounted(target) {
        return Ok(());
    }
    let fd = open(root, sub, 0o750)?;
    let through = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let meta = fs::metadata(&through).map_err(Error::io("look at", root))?;
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(Error::io("make directory", parent))?;
    }
    if meta.is_dir() {
        fs::create_dir_all(target).map_err(Error::io("make directory", target))?;
    } else {
        File::create(target).map_err(Error::io("make file", target))?;
    }
    mounts::bind(Path::new(&through), target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_do_not_lead_out() {
        let dir = tempfile::tempdir().expect("dir");
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).expect("link");
        assert!(open(dir.path(), "out", 0o750).is_err());
        assert!(open(dir.path(), "out/passwd", 0o750).is_err());
        assert!(open(dir.path(), "../x", 0o750).is_err());
        std::fs::create_dir(dir.path().join("..data")).expect("directory");
        std::os::unix::fs::symlink("..data", dir.path().join("in")).expect("link");
        std::os::unix::fs::symlink("..", dir.path().join("..data/up")).expect("link");
        assert!(open(dir.path(), "in/made", 0o750).is_ok());
        assert!(dir.path().join("..data/made").is_dir());
        assert!(open(dir.path(), "in/up/in", 0o750).is_ok());
        assert!(open(dir.path(), "in/up/../..", 0o750).is_err());
        assert!(open(dir.path(), "a/b", 0o750).is_ok());
        assert!(dir.path().join("a/b").is_dir());
    }
}
