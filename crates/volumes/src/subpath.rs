//! subPath: a part of a volume, opened so that no link inside the volume can lead out of it.
//!
//! Each component is opened relative to the one before without following links; what is mounted is
//! `/proc/self/fd/N`, bound to a place of its own, so that a later exchange of a component changes nothing.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};

use crate::{Error, mounts};

/// Opens `sub` below `root`, making missing directories with `mode`.
fn open(root: &Path, sub: &str, mode: u32) -> Result<OwnedFd, Error> {
    let parts: Vec<_> = Path::new(sub).components().collect();
    if parts.iter().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(Error::Invalid(format!("subPath {sub:?} must be relative and must not contain '..'")));
    }
    let mut at: OwnedFd = File::open(root).map_err(Error::io("open", root))?.into();
    for part in parts {
        let Component::Normal(name) = part else { continue };
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let beneath = how.resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        let shown = root.join(sub);
        at = match openat2(&at, name, beneath) {
            Ok(fd) => fd,
            Err(nix::errno::Errno::ENOENT) => {
                mkdirat(&at, name, Mode::from_bits_truncate(mode))
                    .map_err(|e| Error::io("make directory", &shown)(e.into()))?;
                openat2(&at, name, beneath).map_err(|e| Error::io("open", &shown)(e.into()))?
            }
            Err(e) => return Err(Error::io("open without following links", &shown)(e.into())),
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
        assert!(open(dir.path(), "a/b", 0o750).is_ok());
        assert!(dir.path().join("a/b").is_dir());
    }
}
