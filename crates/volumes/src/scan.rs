//! How much a directory holds.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes on disk and inodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes, hard links once.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// Scans `root` on its own file system.
pub fn usage(root: &Path) -> Usage {
    let mut total = Usage::default();
    let Ok(m) = fs::symlink_metadata(root) else { return total };
    let mut links = BTreeSet::new();
    add(root, &m, m.dev(), &mut total, &mut links);
    total
}

fn add(path: &Path, m: &fs::Metadata, dev: u64, total: &mut Usage, links: &mut BTreeSet<u64>) {
    if m.dev() != dev || (m.nlink() > 1 && !m.is_dir() && !links.insert(m.ino())) {
        return;
    }
    total.bytes += m.blocks() * 512;
    total.inodes += 1;
    if m.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if let Ok(m) = entry.metadata() {
                add(&entry.path(), &m, dev, total, links);
            }
        }
    }
}

/// Free and whole bytes, free and whole inodes of the file system that holds `path`.
pub fn file_system(path: &Path) -> Option<[u64; 4]> {
    let s = nix::sys::statvfs::statvfs(path).ok()?;
    let block = s.fragment_size();
    Some([s.blocks_available() * block, s.blocks() * block, s.files_available(), s.files()])
}
