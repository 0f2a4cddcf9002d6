//! Backups: one checksummed file with the whole state at one revision. See FORMAT.md.

use std::fmt::Display;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::checkpoint;
use super::log::{Log, Sizes};
use super::segment::{self, Segment};
use super::{Embedded, Options};
use crate::api::{Range, Snapshot, StoreError};
use crate::codec::Interner;
use crate::seal::Keyring;

const MAGIC: &[u8; 8] = b"KUTTRBAK";
const VERSION: u32 = 1;
/// One entry's length at most, in bytes.
const ENTRY_MAX: u32 = 64 << 20;
const OBJECT: u8 = 1;
const KEYS: u8 = 2;
const END: u8 = 3;

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupInfo {
    /// The revision of the state.
    pub revision: u64,
    /// How many objects.
    pub objects: u64,
    /// Whether the keys that open sealed values are in the file.
    pub with_keys: bool,
}

fn failed(path: &Path, why: impl Display) -> StoreError {
    StoreError::Unavailable(format!("backup {}: {why}", path.display()))
}

fn refused(path: &Path, error: &std::io::Error) -> StoreError {
    if super::is_full(error) {
        StoreError::NoSpace(format!("backup {}: {error}", path.display()))
    } else {
        failed(path, error)
    }
}

/// Writes entries of kind, length, bytes, and a CRC of everything so far.
struct Out<W> {
    out: W,
    hasher: crc32fast::Hasher,
}

impl<W: Write> Out<W> {
    fn raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hasher.update(bytes);
        self.out.write_all(bytes)
    }

    fn entry(&mut self, kind: u8, parts: [&[u8]; 2]) -> std::io::Result<()> {
        let length = parts.iter().map(|part| part.len() as u32).sum::<u32>();
        self.raw(&[kind])?;
        self.raw(&length.to_le_bytes())?;
        self.raw(&(parts[0].len() as u32).to_le_bytes())?;
        parts.iter().try_for_each(|part| self.raw(part))?;
        let crc = self.hasher.clone().finalize();
        self.out.write_all(&crc.to_le_bytes())
    }
}

impl Embedded {
    /// Writes the state at one revision to a new file, while the store goes on. Sealed values stay sealed; the
    /// keys go into the file only `with_keys`. The file appears whole or not at all.
    pub async fn backup(&self, path: &Path, with_keys: bool) -> Result<BackupInfo, StoreError> {
        let moment = self.moment().await?;
        let (path, keys) = (path.to_owned(), self.keys.clone());
        let write = move || {
            let info = BackupInfo {
                revision: moment.revision,
                objects: moment.tables.iter().map(|(_, table)| table.len() as u64).sum(),
                with_keys,
            };
            if path.exists() {
                return Err(failed(&path, "file exists; choose another name"));
            }
            let new = path.with_extension("incomplete");
            let written = write_file(&new, &moment.tables, &info, &keys);
            let written =
                written.and_then(|()| std::fs::rename(&new, &path).map_err(|error| refused(&path, &error)));
            if written.is_err() {
                let _ = std::fs::remove_file(&new);
            }
            written.map(|()| info)
        };
        tokio::task::spawn_blocking(write).await.map_err(|_| StoreError::Closed)?
    }
}

fn write_file(
    path: &Path,
    tables: &[(std::sync::Arc<str>, crate::memory::View)],
    info: &BackupInfo,
    keys: &Keyring,
) -> Result<(), StoreError> {
    let io = |error: std::io::Error| refused(path, &error);
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path).map_err(io)?;
    let mut out = Out { out: BufWriter::with_capacity(1 << 20, file), hasher: crc32fast::Hasher::new() };
    out.raw(MAGIC).and_then(|()| out.raw(&VERSION.to_le_bytes())).map_err(io)?;
    out.raw(&info.revision.to_le_bytes()).map_err(io)?;
    let mut value = Vec::new();
    for object in tables.iter().flat_map(|(_, table)| table.iter(&Range::default())) {
        value.clear();
        let key = checkpoint::key_bytes(&object.key);
        checkpoint::encode(object, &key, keys, &mut value)?;
        out.entry(OBJECT, [&key, &value]).map_err(io)?;
    }
    if info.with_keys {
        out.entry(KEYS, [keys.text().as_bytes(), &[]]).map_err(io)?;
    }
    out.entry(END, [&info.objects.to_le_bytes(), &[]]).map_err(io)?;
    out.out.flush().map_err(io)?;
    out.out.get_ref().sync_all().map_err(io)
}

/// Reads entries back, checking each.
struct In<R> {
    input: R,
    hasher: crc32fast::Hasher,
    offset: u64,
}

impl<R: Read> In<R> {
    fn raw(&mut self, count: usize) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let read = self.input.by_ref().take(count as u64).read_to_end(&mut bytes);
        match read {
            Ok(read) if read == count => {}
            Ok(_) => return Err(format!("ends too early, at offset {}", self.offset)),
            Err(error) => return Err(error.to_string()),
        }
        self.offset += count as u64;
        Ok(bytes)
    }

    fn hashed(&mut self, count: usize) -> Result<Vec<u8>, String> {
        let bytes = self.raw(count)?;
        self.hasher.update(&bytes);
        Ok(bytes)
    }

    fn number(&mut self) -> Result<u32, String> {
        let bytes = self.hashed(4)?;
        Ok(bytes.try_into().map_or(0, u32::from_le_bytes))
    }

    fn entry(&mut self) -> Result<(u8, Vec<u8>, Vec<u8>), String> {
        let start = self.offset;
        let kind = self.hashed(1)?[0];
        let (length, key) = (self.number()?, self.number()?);
        if length > ENTRY_MAX || key > length {
            return Err(format!("entry at offset {start} is damaged"));
        }
        let key = self.hashed(key as usize)?;
        let value = self.hashed(length as usize - key.len())?;
        let crc = self.hasher.clone().finalize().to_le_bytes();
        if self.raw(4)? != crc {
            return Err(format!("entry at offset {start} is damaged"));
        }
        Ok((kind, key, value))
    }
}

/// Reads a whole backup, calling `object` for every object and `keys` for the keys file.
fn read_file(
    path: &Path,
    mut object: impl FnMut(&[u8], &[u8]) -> Result<(), String>,
    mut keys: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<BackupInfo, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let input = BufReader::with_capacity(1 << 20, file);
    let mut input = In { input, hasher: crc32fast::Hasher::new(), offset: 0 };
    if input.hashed(8)? != MAGIC {
        return Err("is not a backup".into());
    }
    let version = input.number()?;
    if version != VERSION {
        return Err(format!("format version {version} is not known; it was written by a later version"));
    }
    let revision = input.hashed(8)?.try_into().map_or(0, u64::from_le_bytes);
    let mut info = BackupInfo { revision, objects: 0, with_keys: false };
    loop {
        let start = input.offset;
        let (kind, key, value) = input.entry()?;
        match kind {
            OBJECT => {
                info.objects += 1;
                object(&key, &value)?;
            }
            KEYS => {
                info.with_keys = true;
                keys(&key)?;
            }
            END if key == info.objects.to_le_bytes() => break,
            END => return Err("count of objects does not match".into()),
            other => return Err(format!("entry at offset {start} is of unknown kind {other}")),
        }
    }
    match input.raw(1) {
        Ok(_) => Err("has bytes after its end".into()),
        Err(_) => Ok(info),
    }
}

/// Reads a whole backup and checks every checksum. Blocks.
pub fn verify(path: &Path) -> Result<BackupInfo, StoreError> {
    read_file(path, |_, _| Ok(()), |_| Ok(())).map_err(|why| failed(path, why))
}

/// Makes the store of a backup in `dir`, which must be empty or absent. If the backup is without keys and has
/// sealed values, `keys` names the keys file that opens them. Blocks.
pub fn restore(path: &Path, dir: &Path, keys: Option<&Path>) -> Result<BackupInfo, StoreError> {
    let info = verify(path)?;
    super::make_dir(dir)?;
    let full = std::fs::read_dir(dir).map_err(|error| failed(dir, error))?.next().is_some();
    if full {
        let why = "directory is not empty; choose another, or move its files away";
        return Err(super::unavailable(dir, why));
    }
    let _lock = super::lock(dir)?;
    let keys_path = super::keys_path(dir);
    if let Some(keys) = keys {
        std::fs::copy(keys, &keys_path).map_err(|error| failed(keys, error))?;
    } else {
        let keep = |text: &[u8]| {
            let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&keys_path);
            let written = file.and_then(|mut file| file.write_all(text).and_then(|()| file.sync_all()));
            written.map_err(|error| format!("keys not written: {error}"))
        };
        read_file(path, |_, _| Ok(()), keep).map_err(|why| failed(path, why))?;
    }
    let text = |error: crate::seal::SealError| failed(path, error);
    let ring = Keyring::load(&keys_path, ["-"]).map_err(text)?;
    if keys.is_some() {
        ring.save(&keys_path).map_err(text)?;
    }
    fill(path, dir, &ring, &info)?;
    Ok(info)
}

/// Writes checkpoint and log of a restored store.
fn fill(path: &Path, dir: &Path, keys: &Keyring, info: &BackupInfo) -> Result<(), StoreError> {
    let mut interner = Interner::default();
    let entries = |insert: &mut checkpoint::Insert<'_>| {
        let object = |key: &[u8], value: &[u8]| {
            checkpoint::decode(key, value, keys, &mut interner)?;
            insert(key, value)
        };
        read_file(path, object, |_| Ok(())).map(drop)
    };
    checkpoint::import(dir, info.revision, entries)?;
    let log = dir.join("log");
    super::make_dir(&log)?;
    let io = |error: std::io::Error| refused(&log, &error);
    let size = Options::default().segment_bytes_first;
    let active = Segment::create(&log, 1, size, None).map_err(io)?;
    let mut log = Log::new(&log, Sizes { first: size, most: size }, active, Vec::new(), None);
    let mut frame = Vec::new();
    segment::begin_frame(&mut frame);
    log.append(&mut frame, 0, info.revision + 1).map_err(|error| refused(dir, &error))
}
