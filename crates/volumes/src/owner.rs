//! fsGroup: the group that owns a volume's files and may write them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use crate::Error;

/// Gives every file below `root` the group; directories pass it on. With `only_if_needed`, nothing is done when the
/// root already has the group and its bits.
pub fn apply(root: &Path, gid: u32, read_only: bool, only_if_needed: bool) -> Result<(), Error> {
    if only_if_needed {
        let m = fs::symlink_metadata(root).map_err(Error::io("look at", root))?;
        if m.gid() == gid && m.permissions().mode() & 0o2070 == 0o2070 {
            return Ok(());
        }
    }
    walk(root, gid, read_only)
}

fn walk(path: &Path, gid: u32, read_only: bool) -> Result<(), Error> {
    let m = fs::symlink_metadata(path).map_err(Error::io("look at", path))?;
    if m.gid() != gid {
        lchown(path, None, Some(gid)).map_err(Error::io("change group of", path))?;
    }
    if m.is_symlink() {
        return Ok(());
    }
    let mut add = if read_only { 0o440 } else { 0o660 };
    if m.is_dir() {
        add |= 0o2110;
    }
    let mode = m.permissions().mode() & 0o7777;
    if mode | add != mode {
        let permissions = fs::Permissions::from_mode(mode | add);
        fs::set_permissions(path, permissions).map_err(Error::io("set mode of", path))?;
    }
    if m.is_dir() {
        for entry in fs::read_dir(path).map_err(Error::io("read directory", path))?.flatten() {
            walk(&entry.path(), gid, read_only)?;
        }
    }
    Ok(())
}
