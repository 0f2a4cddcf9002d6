//! Mounts of this mount namespace: making them, finding them, undoing them.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::Error;

/// Mount points at or below `root`, deepest first.
pub fn below(root: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(|p| PathBuf::from(unescape(p)))
        .filter(|p| p.starts_with(root))
        .collect();
    found.sort_by_key(|p| std::cmp::Reverse(p.components().count()));
    found
}

/// Whether something is mounted exactly here.
pub fn is_mounted(path: &Path) -> bool {
    below(path).iter().any(|p| p == path)
}

fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let octal = (bytes[i] == b'\\').then(|| text.get(i + 1..i + 4)).flatten();
        if let Some(byte) = octal.and_then(|o| u8::from_str_radix(o, 8).ok()) {
            out.push(byte);
            i += 4;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Mounts a tmpfs of at most `size` bytes (the kernel's default when absent), unless it is there.
pub fn tmpfs(path: &Path, size: Option<u64>, mode: u32) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(Error::io("make directory", path))?;
    if is_mounted(path) {
        return Ok(());
    }
    let mut options = format!("mode={mode:o}");
    if let Some(size) = size {
        options += &format!(",size={size}");
    }
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str()))
        .map_err(|e| Error::io("mount tmpfs on", path)(e.into()))
}

/// Binds `from` (with what is mounted below it) to `to`, which must exist.
pub fn bind(from: &Path, to: &Path) -> Result<(), Error> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|e| Error::io("bind to", to)(e.into()))
}

/// Undoes every mount at or below `root`, lazily where something still uses it.
pub fn undo(root: &Path) -> Result<(), Error> {
    for point in below(root) {
        if umount2(&point, MntFlags::UMOUNT_NOFOLLOW).is_err() {
            umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
                .map_err(|e| Error::io("unmount", &point)(e.into()))?;
        }
    }
    Ok(())
}
