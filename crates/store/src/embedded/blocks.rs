//! The file format of checkpoints and backups: a header, blocks of objects, an end. See FORMAT.md.
//!
//! Written once from front to back, so it costs what its bytes cost. Blocks are checked and decoded one by one,
//! so that several threads load a file.

use std::fmt::Display;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::api::{Object, Range, Snapshot, StoreError};
use crate::codec::{self, Interner, Reader, Value};
use crate::memory::{View, realize};
use crate::seal::Keyring;

const MAGIC: &[u8; 8] = b"KUTTRSNP";
const VERSION: u32 = 1;
/// Magic, version, reserved, salt, revision, crc.
const HEADER: usize = 36;
/// Kind, payload length, count, crc.
const BLOCK_HEADER: usize = 16;
/// A block is closed when it has this many bytes.
const BLOCK: usize = 1 << 20;
/// One block's length at most, in bytes.
const BLOCK_MAX: u32 = 64 << 20;
/// How often written bytes are pushed to the disk, so that the log's syncs never wait for all of them.
const SYNC_EVERY: u64 = 2 << 20;
const THREADS_MAX: usize = 8;

const OBJECTS: u32 = 1;
const KEYS: u32 = 2;
const END: u32 = 3;

/// What such a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupInfo {
    /// The revision of the state.
    pub revision: u64,
    /// How many objects.
    pub objects: u64,
    /// Whether the keys that open sealed values are in the file.
    pub with_keys: bool,
}

/// All tables at one revision.
pub(super) struct Moment {
    pub tables: Vec<(Arc<str>, View)>,
    pub revision: u64,
}

fn checksum(salt: u64, number: u32, kind: u32, count: u32, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    for word in [number, kind, count] {
        hasher.update(&word.to_le_bytes());
    }
    hasher.update(payload);
    hasher.finalize()
}

fn refused(path: &Path, error: &std::io::Error) -> StoreError {
    let text = format!("{}: {error}", path.display());
    if super::is_full(error) { StoreError::NoSpace(text) } else { StoreError::Unavailable(text) }
}

struct Out {
    file: File,
    salt: u64,
    number: u32,
    at: u64,
    synced: u64,
}

impl Out {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        if self.at - self.synced > SYNC_EVERY {
            self.file.sync_data()?;
            self.synced = self.at;
        }
        Ok(())
    }

    /// Writes a block whose first bytes are room for its header.
    fn block(&mut self, kind: u32, count: u32, block: &mut Vec<u8>) -> std::io::Result<()> {
        let length = u32::try_from(block.len() - BLOCK_HEADER).map_err(std::io::Error::other)?;
        let crc = checksum(self.salt, self.number, kind, count, &block[BLOCK_HEADER..]);
        for (at, word) in [kind, length, count, crc].into_iter().enumerate() {
            block[4 * at..4 * at + 4].copy_from_slice(&word.to_le_bytes());
        }
        self.write(block)?;
        self.number += 1;
        block.truncate(BLOCK_HEADER);
        Ok(())
    }
}

/// Writes a moment to `path`, durably; gives the file's length in bytes.
pub(super) fn write(
    path: &Path,
    moment: &Moment,
    keys: &Keyring,
    with_keys: bool,
) -> Result<u64, StoreError> {
    let io = |error: std::io::Error| refused(path, &error);
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path).map_err(io)?;
    let mut out = Out { file, salt: rand::random(), number: 0, at: 0, synced: 0 };
    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    header.extend_from_slice(&out.salt.to_le_bytes());
    header.extend_from_slice(&moment.revision.to_le_bytes());
    header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
    out.write(&header).map_err(io)?;
    let mut block = vec![0; BLOCK_HEADER];
    let (mut total, mut count, mut value) = (0u64, 0u32, Vec::new());
    for object in moment.tables.iter().flat_map(|(_, table)| table.iter(&Range::default())) {
        codec::put_key(&mut block, &object.key);
        codec::put_number(&mut block, object.created);
        codec::put_number(&mut block, object.modified);
        value.clear();
        codec::put_value(&mut value, &object.key, &Value::of_object(object), keys)
            .map_err(|error| StoreError::Unavailable(format!("{:?}: {error}", object.key)))?;
        codec::put_number(&mut block, value.len() as u64);
        block.extend_from_slice(&value);
        count += 1;
        total += 1;
        if block.len() >= BLOCK {
            out.block(OBJECTS, std::mem::take(&mut count), &mut block).map_err(io)?;
        }
    }
    if count > 0 {
        out.block(OBJECTS, count, &mut block).map_err(io)?;
    }
    if with_keys {
        block.extend_from_slice(keys.text().as_bytes());
        out.block(KEYS, 0, &mut block).map_err(io)?;
    }
    block.extend_from_slice(&total.to_le_bytes());
    out.block(END, 0, &mut block).map_err(io)?;
    out.file.sync_all().map_err(io)?;
    Ok(out.at)
}

/// Where a block lies.
struct Place {
    number: u32,
    kind: u32,
    offset: u64,
    length: usize,
    count: u32,
    crc: u32,
}

/// A file that has been looked through, but not yet checked block by block.
pub(super) struct Blocks {
    file: File,
    salt: u64,
    places: Vec<Place>,
    pub info: BackupInfo,
    /// Length in bytes.
    pub length: u64,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn at(offset: u64, why: impl Display) -> String {
    format!("at offset {offset}: {why}")
}

/// Finds the blocks of a file. Errors say offset and cause.
pub(super) fn open(path: &Path) -> Result<Blocks, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let size = file.metadata().map_err(|error| error.to_string())?.len();
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0).map_err(|_| at(0, "header is missing"))?;
    if &header[..8] != MAGIC || crc32fast::hash(&header[..32]) != word(&header, 32) {
        return Err(at(0, "header is damaged, or this is another kind of file"));
    }
    let version = word(&header, 8);
    if version != VERSION {
        return Err(format!("format version {version} is not known; it was written by a later version"));
    }
    let (salt, revision) = (long(&header, 16), long(&header, 24));
    let mut places: Vec<Place> = Vec::new();
    let mut offset = HEADER as u64;
    let mut objects = 0;
    loop {
        let mut head = [0; BLOCK_HEADER];
        file.read_exact_at(&mut head, offset).map_err(|_| at(offset, "file ends too early"))?;
        let [kind, length, count, crc] = [0, 4, 8, 12].map(|at| word(&head, at));
        let end = offset + BLOCK_HEADER as u64 + u64::from(length);
        if length > BLOCK_MAX || end > size || !(OBJECTS..=END).contains(&kind) {
            return Err(at(offset, "block is damaged"));
        }
        let number = places.len() as u32;
        objects += u64::from(count);
        places.push(Place { number, kind, offset, length: length as usize, count, crc });
        offset = end;
        if kind == END {
            break;
        }
    }
    if offset != size {
        return Err(at(offset, "bytes follow the end"));
    }
    let with_keys = places.iter().any(|place| place.kind == KEYS);
    let blocks =
        Blocks { file, salt, places, info: BackupInfo { revision, objects, with_keys }, length: size };
    let Some(end) = blocks.places.last() else { return Err(at(0, "no end")) };
    match long(&blocks.read(end)?, 0) {
        written if written == objects => Ok(blocks),
        written => Err(at(end.offset, format!("{objects} objects found, {written} were written"))),
    }
}

impl Blocks {
    fn read(&self, place: &Place) -> Result<Vec<u8>, String> {
        let mut payload = vec![0; place.length];
        let from = place.offset + BLOCK_HEADER as u64;
        self.file.read_exact_at(&mut payload, from).map_err(|error| at(place.offset, error))?;
        match checksum(self.salt, place.number, place.kind, place.count, &payload) {
            crc if crc == place.crc => Ok(payload),
            _ => Err(at(place.offset, "block is damaged")),
        }
    }

    /// Checks every block without decoding.
    pub fn check(&self) -> Result<(), String> {
        self.places.iter().try_for_each(|place| self.read(place).map(drop))
    }

    /// The text of the keys file, if it is in there.
    pub fn keys(&self) -> Result<Option<Vec<u8>>, String> {
        self.places.iter().find(|place| place.kind == KEYS).map(|place| self.read(place)).transpose()
    }

    /// Decodes all objects, in any order, on as many threads as there are processors.
    pub fn objects(&self, keys: &Keyring) -> Result<Vec<Arc<Object>>, String> {
        let next = AtomicUsize::new(0);
        let work = || -> Result<Vec<Arc<Object>>, String> {
            let mut interner = Interner::default();
            let mut objects = Vec::new();
            while let Some(place) = self.places.get(next.fetch_add(1, Ordering::Relaxed)) {
                let payload = self.read(place)?;
                if place.kind == OBJECTS {
                    decode(&payload, place.count, keys, &mut interner, &mut objects)
                        .map_err(|why| at(place.offset, why))?;
                }
            }
            Ok(objects)
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = cores.min(THREADS_MAX).min(self.places.len());
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut objects = work()?;
            for other in others {
                objects.append(&mut other.join().map_err(|_| "loading failed".to_string())??);
            }
            Ok(objects)
        })
    }
}

pub(super) fn decode(
    payload: &[u8],
    count: u32,
    keys: &Keyring,
    interner: &mut Interner,
    objects: &mut Vec<Arc<Object>>,
) -> Result<(), String> {
    let mut reader = Reader::new(payload);
    for _ in 0..count {
        let mut head =
            || Ok::<_, codec::CodecError>((reader.key(interner)?, reader.number()?, reader.number()?));
        let (key, created, modified) = head().map_err(|error| error.to_string())?;
        let length = reader.length().and_then(|length| reader.bytes(length));
        let value = length.and_then(|value| codec::value(value, &key, keys, interner));
        let (draft, expires) =
            value.map_err(|error| format!("{}/{}/{}: {error}", key.resource, key.namespace, key.name))?;
        objects.push(Arc::new(realize(key, draft, created, modified, expires)));
    }
    if reader.is_empty() { Ok(()) } else { Err("bytes follow the last object".into()) }
}
