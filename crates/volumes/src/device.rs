//! File systems on devices of the node: mounted once, for all pods that use them.
//!
//! A device that holds nothing gets a file system first, as upstream does; one that holds something unknown is left
//! alone and refused.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};

use crate::{Error, mounts};

/// What is looked at before a device counts as empty. File systems and partition tables begin within it.
const LOOK_BYTES: u64 = 1 << 20;

/// A device, where it is mounted, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The device, or a link to it.
    pub device: PathBuf,
    /// Where it is mounted.
    pub at: PathBuf,
    /// The file system.
    pub kind: String,
    /// As `mount -o` takes them.
    pub options: Vec<String>,
}

/// Mounts the device, unless it is mounted.
pub fn set_up(d: &Device) -> Result<(), Error> {
    fs::create_dir_all(&d.at).map_err(Error::io("make directory", &d.at))?;
    if mounts::is_mounted(&d.at) {
        return Ok(());
    }
    let device = fs::canonicalize(&d.device).map_err(Error::io("resolve", &d.device))?;
    let Err(first) = try_mount(d, &device) else { return Ok(()) };
    if !is_blank(&device).map_err(Error::io("read", &device))? {
        return Err(first);
    }
    format(&device, &d.kind)?;
    try_mount(d, &device)
}

/// Undoes the mount.
pub fn tear_down(at: &Path) -> Result<(), Error> {
    mounts::undo(at)?;
    match fs::remove_dir(at) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", at)(e)),
        _ => Ok(()),
    }
}

fn try_mount(d: &Device, device: &Path) -> Result<(), Error> {
    let (flags, data) = options(&d.options);
    let data = Some(data.as_str()).filter(|d| !d.is_empty());
    mount(Some(device), &d.at, Some(d.kind.as_str()), flags, data)
        .map_err(|e| Error::io("mount the file system of the volume on", &d.at)(e.into()))
}

/// Options that the kernel takes as flags, and the rest as text for the file system.
fn options(given: &[String]) -> (MsFlags, String) {
    let mut flags = MsFlags::empty();
    let mut rest = Vec::new();
    for option in given {
        flags |= match option.as_str() {
            "ro" => MsFlags::MS_RDONLY,
            "noatime" => MsFlags::MS_NOATIME,
            "nodiratime" => MsFlags::MS_NODIRATIME,
            "relatime" => MsFlags::MS_RELATIME,
            "strictatime" => MsFlags::MS_STRICTATIME,
            "nosuid" => MsFlags::MS_NOSUID,
            "nodev" => MsFlags::MS_NODEV,
            "noexec" => MsFlags::MS_NOEXEC,
            "sync" => MsFlags::MS_SYNCHRONOUS,
            "dirsync" => MsFlags::MS_DIRSYNC,
            "rw" | "defaults" => MsFlags::empty(),
            other => {
                rest.push(other);
                MsFlags::empty()
            }
        };
    }
    (flags, rest.join(","))
}

fn is_blank(device: &Path) -> std::io::Result<bool> {
    let mut start = Vec::new();
    File::open(device)?.take(LOOK_BYTES).read_to_end(&mut start)?;
    Ok(start.iter().all(|b| *b == 0))
}

fn format(device: &Path, kind: &str) -> Result<(), Error> {
    let program = format!("mkfs.{kind}");
    let arguments: &[&str] = if kind.starts_with("ext") { &["-F", "-m0"] } else { &[] };
    let ran = Command::new(&program).args(arguments).arg(device).output();
    let ran = ran.map_err(|e| {
        Error::Invalid(format!("{} is empty and {program} cannot be run: {e}", device.display()))
    })?;
    if ran.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ran.stderr);
    Err(Error::Invalid(format!("{program} {}: {}: {}", device.display(), ran.status, said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_flags_or_text() {
        let given = ["ro", "noatime", "data=ordered", "defaults", "discard"].map(str::to_owned);
        let (flags, rest) = options(&given);
        assert_eq!(flags, MsFlags::MS_RDONLY | MsFlags::MS_NOATIME);
        assert_eq!(rest, "data=ordered,discard");
    }

    #[test]
    fn what_holds_something_is_not_blank() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("disk");
        fs::write(&path, vec![0; 4096]).expect("zeroes");
        assert!(is_blank(&path).expect("read"));
        fs::write(&path, [vec![0; 1080], vec![0x53, 0xef]].concat()).expect("a mark");
        assert!(!is_blank(&path).expect("read"));
    }
}
