//! Sets up and tears down the volumes of a pod. What needs the API (ConfigMaps, Secrets, tokens) comes resolved.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::atomic::{self, Payload};
use crate::device::{self, Device};
use crate::{Error, mounts, owner};

/// One volume, ready to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An empty directory that lives as long as the pod.
    EmptyDir {
        /// In memory rather than on disk.
        memory: bool,
        /// Bytes, for memory.
        size: Option<u64>,
    },
    /// Files from the API; in memory when secret.
    Files {
        /// The files.
        payload: Payload,
        /// Whether they may not touch the disk.
        secret: bool,
    },
    /// A path of the node.
    HostPath {
        /// The path.
        path: PathBuf,
        /// `DirectoryOrCreate`, `File`, …; empty checks nothing.
        kind: String,
    },
    /// A directory that outlives the pod.
    Directory {
        /// The path.
        path: PathBuf,
    },
    /// A file system on a device.
    Device(Device),
}

/// Ownership of the pod's volumes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ownership {
    /// The fsGroup.
    pub group: Option<u32>,
    /// `OnRootMismatch` rather than `Always`.
    pub on_mismatch: bool,
}

/// The directory of one pod's volumes.
pub fn pod_dir(data: &Path, uid: &str) -> PathBuf {
    data.join("pods").join(uid)
}

/// Where a volume of this name is, or would be.
pub fn volume_dir(pod: &Path, source: &Source, name: &str) -> PathBuf {
    match source {
        Source::EmptyDir { .. } => pod.join("volumes/kubernetes.io~empty-dir").join(name),
        Source::Files { .. } => pod.join("volumes/kubernetes.io~projected").join(name),
        Source::HostPath { path, .. } | Source::Directory { path } => path.clone(),
        Source::Device(d) => d.at.clone(),
    }
}

/// Makes or refreshes one volume and answers where it is. `stamp` names a new set of files.
pub fn set_up(
    pod: &Path,
    name: &str,
    source: &Source,
    own: Ownership,
    stamp: &str,
) -> Result<PathBuf, Error> {
    let dir = volume_dir(pod, source, name);
    match source {
        Source::EmptyDir { memory, size } => empty_dir(&dir, *memory, *size, own)?,
        Source::Files { payload, secret } => {
            if *secret {
                mounts::tmpfs(&dir, None, 0o755)?;
            }
            let changed = atomic::write(&dir, payload, stamp)?;
            if let (true, Some(group)) = (changed, own.group) {
                owner::apply(&dir, group, true, false)?;
            }
        }
        Source::HostPath { path, kind } => host_path(path, kind)?,
        Source::Directory { path } => {
            if !path.exists() {
                return Err(Error::Invalid(format!("path \"{}\" does not exist", path.display())));
            }
            if !path.is_dir() {
                return Err(Error::Invalid(format!("path \"{}\" is no directory", path.display())));
            }
            if let Some(group) = own.group {
                // The path may be a link to the directory, which is what gets the group.
                let real = fs::canonicalize(path).map_err(Error::io("resolve", path))?;
                owner::apply(&real, group, false, own.on_mismatch)?;
            }
        }
        Source::Device(d) => {
            device::set_up(d)?;
            if let Some(group) = own.group {
                owner::apply(&d.at, group, false, own.on_mismatch)?;
            }
        }
    }
    Ok(dir)
}

fn empty_dir(dir: &Path, memory: bool, size: Option<u64>, own: Ownership) -> Result<(), Error> {
    let fresh = !dir.exists();
    fs::create_dir_all(dir).map_err(Error::io("make directory", dir))?;
    if memory {
        mounts::tmpfs(dir, size, 0o777)?;
    }
    if fresh {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).map_err(Error::io("set mode of", dir))?;
    }
    if let (true, Some(group)) = (fresh, own.group) {
        owner::apply(dir, group, false, false)?;
    }
    Ok(())
}

fn host_path(path: &Path, kind: &str) -> Result<(), Error> {
    let bad = |what: &str| {
        Err(Error::Invalid(format!("hostPath type check failed: {} is not a {what}", path.display())))
    };
    let meta = fs::metadata(path).ok();
    let kind_is = |f: fn(&fs::Metadata) -> bool| meta.as_ref().is_some_and(f);
    match kind {
        "DirectoryOrCreate" if meta.is_none() => {
            fs::create_dir_all(path).map_err(Error::io("make directory", path))
        }
        "FileOrCreate" if meta.is_none() => {
            fs::File::create(path).map(drop).map_err(Error::io("make file", path))
        }
        "Directory" | "DirectoryOrCreate" if !kind_is(fs::Metadata::is_dir) => bad("directory"),
        "File" | "FileOrCreate" if !kind_is(fs::Metadata::is_file) => bad("file"),
        "Socket" if !kind_is(|m| m.file_type().is_socket()) => bad("socket file"),
        "CharDevice" if !kind_is(|m| m.file_type().is_char_device()) => bad("character device"),
        "BlockDevice" if !kind_is(|m| m.file_type().is_block_device()) => bad("block device"),
        "" if meta.is_none() => fs::create_dir_all(path).map_err(Error::io("make directory", path)),
        _ => Ok(()),
    }
}

/// Removes everything a pod had under its directory. Persistent data is elsewhere and stays.
pub fn tear_down(pod: &Path) -> Result<(), Error> {
    if !pod.exists() {
        return Ok(());
    }
    mounts::undo(pod)?;
    match fs::remove_dir_all(pod) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", pod)(e)),
        _ => Ok(()),
    }
}

/// Uids of pods that have a directory here: whoever of them is not known any more is an orphan.
pub fn pods_with_data(data: &Path) -> Vec<String> {
    let entries = fs::read_dir(data.join("pods")).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn empty_dir_has_the_group_and_goes() {
        let data = tempfile::tempdir().expect("dir");
        let pod = pod_dir(data.path(), "u");
        let own = Ownership { group: Some(1234), on_mismatch: false };
        let source = Source::EmptyDir { memory: false, size: None };
        let path = set_up(&pod, "v", &source, own, "t").expect("set up");
        let meta = fs::metadata(&path).expect("meta");
        assert_eq!((meta.gid(), meta.mode() & 0o7777), (1234, 0o2777));
        assert_eq!(pods_with_data(data.path()), ["u"]);
        tear_down(&pod).expect("tear down");
        assert!(!pod.exists());
        tear_down(&pod).expect("again");
    }

    #[test]
    fn a_linked_directory_has_the_group() {
        let data = tempfile::tempdir().expect("dir");
        let (real, link) = (data.path().join("real"), data.path().join("link"));
        fs::create_dir(&real).expect("make");
        std::os::unix::fs::symlink(&real, &link).expect("link");
        let own = Ownership { group: Some(1234), on_mismatch: false };
        set_up(data.path(), "v", &Source::Directory { path: link }, own, "t").expect("set up");
        assert_eq!(fs::metadata(&real).expect("meta").gid(), 1234);
    }

    #[test]
    fn host_path_types() {
        let dir = tempfile::tempdir().expect("dir");
        let file = dir.path().join("f");
        fs::write(&file, "").expect("write");
        let table = [
            (dir.path().join("new"), "DirectoryOrCreate", true),
            (file.clone(), "File", true),
            (file.clone(), "Directory", false),
            (dir.path().join("absent"), "File", false),
            (dir.path().join("absent2"), "FileOrCreate", true),
            (file, "Socket", false),
        ];
        for (path, kind, want) in table {
            assert_eq!(host_path(&path, kind).is_ok(), want, "{kind} {}", path.display());
        }
    }
}
