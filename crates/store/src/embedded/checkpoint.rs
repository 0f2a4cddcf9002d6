//! Checkpoints: the whole state at one revision in one file, so that older log segments can go.
//!
//! A checkpoint is written from snapshots while writes go on, beside the old one, which it then replaces.

use std::fmt::Display;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::blocks::{self, Moment};
use crate::api::{Object, StoreError};
use crate::seal::Keyring;

/// The checkpoint file; it appears with the first checkpoint.
#[derive(Debug)]
pub(super) struct Checkpoint {
    path: PathBuf,
    revision: u64,
    bytes: u64,
}

/// The path of the checkpoint in a data directory.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("checkpoint")
}

fn damaged(path: &Path, why: impl Display) -> StoreError {
    StoreError::Unavailable(format!("{} {why}; {}", path.display(), super::recover::ADVICE))
}

impl Checkpoint {
    /// Reads the checkpoint of a directory; without one, gives no objects at revision 0.
    pub fn load(dir: &Path, keys: &Keyring) -> Result<(Self, Vec<Arc<Object>>), StoreError> {
        let path = path(dir);
        let _ = std::fs::remove_file(path.with_extension("new"));
        if !path.exists() {
            return Ok((Self { path, revision: 0, bytes: 0 }, Vec::new()));
        }
        let blocks = blocks::open(&path).map_err(|why| damaged(&path, why))?;
        let objects = blocks.objects(keys).map_err(|why| damaged(&path, why))?;
        Ok((Self { path, revision: blocks.info.revision, bytes: blocks.length }, objects))
    }

    /// The revision of the state it holds.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Replaces it by a newer state. On failure the old one stays.
    pub fn write(&mut self, moment: &Moment, keys: &Keyring) -> Result<(), StoreError> {
        let new = self.path.with_extension("new");
        let replaced = blocks::write(&new, moment, keys, false).and_then(|bytes| {
            replace(&new, &self.path).map_err(|error| {
                StoreError::Unavailable(format!("{}: not replaced: {error}", self.path.display()))
            })?;
            Ok(bytes)
        });
        match replaced {
            Ok(bytes) => {
                self.bytes = bytes;
                self.revision = moment.revision;
                Ok(())
            }
            Err(error) => {
                // Half a checkpoint would keep space that a full disk needs.
                let _ = std::fs::remove_file(&new);
                Err(error)
            }
        }
    }
}

/// Renames a file over another, durably.
pub(super) fn replace(new: &Path, path: &Path) -> std::io::Result<()> {
    std::fs::rename(new, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
