//! Files that change all at once: readers see either the old or the new set, never a mixture.
//!
//! The files live in a directory with a time in its name; `..data` is a link to it, and the visible names are links
//! through `..data`. An update writes a new directory and renames a new `..data` over the old one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path};

use crate::Error;

/// One file to project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Contents.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner, when it is not root.
    pub uid: Option<u32>,
}

/// Relative path to file.
pub type Payload = BTreeMap<String, File>;

const DATA: &str = "..data";

/// Brings `dir` to hold exactly `payload`. Answers whether anything changed.
pub fn write(dir: &Path, payload: &Payload, stamp: &str) -> Result<bool, Error> {
    for path in payload.keys() {
        check(path)?;
    }
    fs::create_dir_all(dir).map_err(Error::io("make directory", dir))?;
    let link = dir.join(DATA);
    let old = fs::read_link(&link).ok().map(|t| dir.join(t));
    if old.as_deref().is_some_and(|old| same(old, payload)) {
        return Ok(false);
    }
    let mut name = format!("..{stamp}");
    let mut n = 0;
    while dir.join(&name).exists() {
        n += 1;
        name = format!("..{stamp}.{n}");
    }
    let fresh = dir.join(&name);
    fs::create_dir(&fresh).map_err(Error::io("make directory", &fresh))?;
    mode(&fresh, 0o755)?;
    for (path, file) in payload {
        put(&fresh, path, file)?;
    }
    let tmp = dir.join("..data_tmp");
    let _ = fs::remove_file(&tmp);
    symlink(&name, &tmp).map_err(Error::io("link", &tmp))?;
    fs::rename(&tmp, &link).map_err(Error::io("rename", &link))?;
    let tops: BTreeSet<&str> = payload.keys().map(|p| p.split('/').next().unwrap_or(p)).collect();
    for top in &tops {
        let visible = dir.join(top);
        if fs::symlink_metadata(&visible).is_err() {
            symlink(Path::new(DATA).join(top), &visible).map_err(Error::io("link", &visible))?;
        }
    }
    tidy(dir, &name, &tops)?;
    Ok(true)
}

/// Removes visible links that have no file any more, and older directories.
fn tidy(dir: &Path, current: &str, tops: &BTreeSet<&str>) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(Error::io("read directory", dir))?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name == DATA || name == current || tops.contains(&*name) {
            continue;
        }
        let path = entry.path();
        let done = if entry.file_type().is_ok_and(|t| t.is_dir()) {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        done.map_err(Error::io("remove", &path))?;
    }
    Ok(())
}

fn check(path: &str) -> Result<(), Error> {
    let plain = Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    if path.is_empty() || !plain || path.starts_with("..") {
        return Err(Error::Invalid(format!("path {path:?} must be relative and stay inside the volume")));
    }
    Ok(())
}

fn mode(path: &Path, bits: u32) -> Result<(), Error> {
    fs::set_permissions(path, fs::Permissions::from_mode(bits)).map_err(Error::io("set mode of", path))
}

fn put(dir: &Path, path: &str, file: &File) -> Result<(), Error> {
    let target = dir.join(path);
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(Error::io("make directory", parent))?;
    }
    fs::write(&target, &file.data).map_err(Error::io("write", &target))?;
    mode(&target, file.mode)?;
    if let Some(uid) = file.uid {
        std::os::unix::fs::chown(&target, Some(uid), None).map_err(Error::io("change owner of", &target))?;
    }
    Ok(())
}

/// Whether the directory holds exactly this payload.
fn same(dir: &Path, payload: &Payload) -> bool {
    let mut count = 0;
    let all = payload.iter().all(|(path, file)| {
        count += 1;
        let target = dir.join(path);
        fs::read(&target).is_ok_and(|d| d == file.data)
            && fs::metadata(&target)
                .is_ok_and(|m| m.permissions().mode() & 0o777 & !0o060 == file.mode & 0o777 & !0o060)
    });
    all && files(dir) == count
}

fn files(dir: &Path) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|e| if e.file_type().is_ok_and(|t| t.is_dir()) { files(&e.path()) } else { 1 })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let each = files
            .iter()
            .map(|(p, d)| ((*p).to_string(), File { data: d.as_bytes().to_vec(), mode: 0o644, uid: None }));
        each.collect()
    }

    #[test]
    fn replaces_everything_at_once() {
        let dir = tempfile::tempdir().expect("dir");
        let d = dir.path();
        let first = payload(&[("a", "1"), ("sub/b", "2")]);
        assert!(write(d, &first, "t1").expect("write"));
        assert!(!write(d, &first, "t2").expect("write"), "unchanged");
        assert_eq!(fs::read_to_string(d.join("sub/b")).expect("read"), "2");
        assert!(write(d, &payload(&[("a", "3")]), "t3").expect("write"));
        assert_eq!(fs::read_to_string(d.join("a")).expect("read"), "3");
        assert!(!d.join("sub").exists());
        let mut left: Vec<_> = fs::read_dir(d)
            .expect("dir")
            .flatten()
            .map(|e| e.file_name().into_string().expect("name"))
            .collect();
        left.sort();
        assert_eq!(left, ["..data", "..t3", "a"]);
    }

    #[test]
    fn refuses_to_leave_the_volume() {
        let dir = tempfile::tempdir().expect("dir");
        for path in ["../x", "/x", "a/../../x", "", "..x"] {
            assert!(write(dir.path(), &payload(&[(path, "")]), "t").is_err(), "{path}");
        }
    }
}
