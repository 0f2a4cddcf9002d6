//! Backups: one checksummed file with the whole state at one revision, in the format of checkpoints.

use std::fmt::Display;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::blocks::{self, BackupInfo};
use super::log::{Log, Sizes};
use super::segment::{self, Segment};
use super::{Embedded, Options, checkpoint};
use crate::api::StoreError;
use crate::seal::Keyring;

fn failed(path: &Path, why: impl Display) -> StoreError {
    StoreError::Unavailable(format!("backup {}: {why}", path.display()))
}

impl Embedded {
    /// Writes the state at one revision to a new file, while the store goes on. Sealed values stay sealed; the
    /// keys go into the file only `with_keys`. The file appears whole or not at all.
    pub async fn backup(&self, path: &Path, with_keys: bool) -> Result<BackupInfo, StoreError> {
        let moment = self.moment().await?;
        let (path, keys) = (path.to_owned(), self.keys.clone());
        let write = move || {
            if path.exists() {
                return Err(failed(&path, "file exists; choose another name"));
            }
            let new = path.with_extension("incomplete");
            let written = blocks::write(&new, &moment, &keys, with_keys)
                .and_then(|_| checkpoint::replace(&new, &path).map_err(|error| failed(&path, error)));
            if let Err(error) = written {
                let _ = std::fs::remove_file(&new);
                return Err(error);
            }
            let objects =
                moment.tables.iter().map(|(_, table)| crate::api::Snapshot::len(table) as u64).sum();
            Ok(BackupInfo { revision: moment.revision, objects, with_keys })
        };
        tokio::task::spawn_blocking(write).await.map_err(|_| StoreError::Closed)?
    }
}

/// Reads a whole backup and checks every checksum. Blocks.
pub fn verify(path: &Path) -> Result<BackupInfo, StoreError> {
    let blocks = blocks::open(path).map_err(|why| failed(path, why))?;
    blocks.check().map_err(|why| failed(path, why))?;
    Ok(blocks.info)
}

/// Makes the store of a backup in `dir`, which must be empty or absent. If the backup is without keys and has
/// sealed values, `keys` names the keys file that opens them. Blocks. On failure nothing stays in `dir`.
pub fn restore(path: &Path, dir: &Path, keys: Option<&Path>) -> Result<BackupInfo, StoreError> {
    let info = verify(path)?;
    if dir.exists() {
        let mut entries = std::fs::read_dir(dir).map_err(|error| super::unavailable(dir, error))?;
        if entries.next().is_some() {
            let why = "directory is not empty; choose another, or move its files away";
            return Err(super::unavailable(dir, why));
        }
    }
    // Everything is made beside the place and then put there at once.
    let name =
        dir.file_name().ok_or_else(|| super::unavailable(dir, "is not a directory that can be made"))?;
    let building = dir.with_file_name(format!("{}.restoring", name.to_string_lossy()));
    let mut builder = std::fs::DirBuilder::new();
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        super::make_dir(parent)?;
    }
    builder.mode(0o700).create(&building).map_err(|error| super::unavailable(&building, error))?;
    let made = fill(path, &building, keys)
        .and_then(|()| checkpoint::replace(&building, dir).map_err(|error| super::unavailable(dir, error)));
    if let Err(error) = made {
        let _ = std::fs::remove_dir_all(&building);
        return Err(error);
    }
    Ok(info)
}

fn fill(path: &Path, dir: &Path, keys: Option<&Path>) -> Result<(), StoreError> {
    let bad = |why: String| failed(path, why);
    let blocks = blocks::open(path).map_err(bad)?;
    let text = match keys {
        Some(keys) => Some(std::fs::read(keys).map_err(|error| failed(keys, error))?),
        None => blocks.keys().map_err(bad)?,
    };
    let keys_path = super::keys_path(dir);
    if let Some(text) = text {
        let file = File::options().write(true).create_new(true).mode(0o600).open(&keys_path);
        let written = file.and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()));
        written.map_err(|error| super::unavailable(&keys_path, error))?;
    }
    let ring = Keyring::load(&keys_path, ["-"]).map_err(|error| failed(path, error))?;
    // Shows that the keys open everything.
    blocks.objects(&ring).map_err(bad)?;
    let target = checkpoint::path(dir);
    std::fs::copy(path, &target)
        .and_then(|_| File::options().write(true).open(&target)?.sync_all())
        .map_err(|error| super::unavailable(&target, error))?;
    let log = dir.join("log");
    super::make_dir(&log)?;
    let size = Options::default().segment_bytes_first;
    let io = |error: std::io::Error| super::unavailable(&log, error);
    let active = Segment::create(&log, 1, size, None).map_err(io)?;
    let mut writer = Log::new(&log, Sizes { first: size, most: size, reserve: 0 }, active, Vec::new(), None);
    let mut frame = Vec::new();
    segment::begin_frame(&mut frame);
    writer.append(&mut frame, 0, blocks.info.revision + 1).map_err(io)
}
