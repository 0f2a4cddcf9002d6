//! Checkpoints: the whole state at one revision in a redb file, brought up to date in one transaction.
//!
//! A checkpoint is made from snapshots while writes go on. Only what changed since the last one is written.

use std::fmt::Display;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::api::{Key, Object, Range, Snapshot, StoreError};
use crate::codec::{self, Interner, Reader, Value};
use crate::memory::{View, realize};
use crate::seal::Keyring;

const OBJECTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("objects");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Keys that cut the objects into parts of about equal size, for parallel loading.
const CUTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("cuts");
const VERSION: u64 = 1;
const PARTS: usize = 8;
/// Page cache while loading and writing, in bytes.
const CACHE: usize = 8 << 20;

/// The state to write.
pub(super) struct Work {
    /// All tables at `revision`.
    pub tables: Vec<(Arc<str>, View)>,
    /// Keys deleted since the last checkpoint; some may exist again.
    pub removed: Vec<Key>,
    pub revision: u64,
}

/// The checkpoint file; it appears with the first checkpoint.
#[derive(Debug)]
pub(super) struct Checkpoint {
    path: PathBuf,
    revision: u64,
}

/// The path of the checkpoint in a data directory.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("checkpoint.redb")
}

fn failed(path: &Path, why: impl Display) -> StoreError {
    StoreError::Unavailable(format!(
        "{}: {why}; put the file back from a copy, or move the data directory away and run `kutter restore` with \
         a backup",
        path.display()
    ))
}

/// Appends an object as checkpoint and backup keep it: value, then a CRC of key and value.
pub(super) fn encode(
    object: &Object,
    key: &[u8],
    keys: &Keyring,
    out: &mut Vec<u8>,
) -> Result<(), StoreError> {
    codec::put_number(out, object.created);
    codec::put_number(out, object.modified);
    codec::put_value(out, &object.key, &Value::of_object(object), keys)
        .map_err(|error| StoreError::Unavailable(error.to_string()))?;
    let crc = checksum(key, out);
    out.extend_from_slice(&crc.to_le_bytes());
    Ok(())
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

/// Decodes what [`encode`] made.
pub(super) fn decode(
    key: &[u8],
    value: &[u8],
    keys: &Keyring,
    interner: &mut Interner,
) -> Result<Arc<Object>, String> {
    let name = Reader::new(key).key(interner).map_err(|error| format!("object key: {error}"))?;
    let bad = |why: &dyn Display| format!("object {}/{}/{}: {why}", name.resource, name.namespace, name.name);
    let (value, crc) = value.split_last_chunk::<4>().ok_or_else(|| bad(&"entry ends too early"))?;
    if checksum(key, value) != u32::from_le_bytes(*crc) {
        return Err(bad(&"checksum does not match"));
    }
    let mut reader = Reader::new(value);
    let created = reader.number().map_err(|error| bad(&error))?;
    let modified = reader.number().map_err(|error| bad(&error))?;
    let (draft, expires) = codec::value(reader.rest(), &name, keys, interner).map_err(|error| bad(&error))?;
    Ok(Arc::new(realize(name, draft, created, modified, expires)))
}

/// The bytes of a key in checkpoint and backup.
pub(super) fn key_bytes(key: &Key) -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    codec::put_key(&mut out, key);
    out
}

impl Checkpoint {
    /// Reads the checkpoint of a directory; without one, gives no objects at revision 0.
    pub fn load(dir: &Path, keys: &Keyring) -> Result<(Self, Vec<Arc<Object>>), StoreError> {
        let path = path(dir);
        let _ = std::fs::remove_file(path.with_extension("new"));
        if !path.exists() {
            return Ok((Self { path, revision: 0 }, Vec::new()));
        }
        // A damaged file may trip the library's own assertions.
        let loaded = catch_unwind(AssertUnwindSafe(|| load(&path, keys)));
        let (revision, objects) = match loaded {
            Ok(loaded) => loaded.map_err(|why| failed(&path, why))?,
            Err(_) => return Err(failed(&path, "file is damaged")),
        };
        Ok((Self { path, revision }, objects))
    }

    /// The revision of the state it holds.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Brings it up to date. On failure the old state stays.
    pub fn write(&mut self, work: &Work, keys: &Keyring) -> Result<(), StoreError> {
        let first = !self.path.exists();
        let path = if first { self.path.with_extension("new") } else { self.path.clone() };
        if first {
            let _ = std::fs::remove_file(&path);
        }
        let written = catch_unwind(AssertUnwindSafe(|| update(&path, self.revision, work, keys)));
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(failed(&path, "file is damaged")),
        }
        if first {
            let io = |error: std::io::Error| refused(&path, &error);
            std::fs::rename(&path, &self.path).map_err(io)?;
            let dir = self.path.parent().unwrap_or(Path::new("."));
            std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?;
        }
        self.revision = work.revision;
        Ok(())
    }
}

fn refused(path: &Path, error: &std::io::Error) -> StoreError {
    let text = format!("{}: {error}", path.display());
    if super::is_full(error) { StoreError::NoSpace(text) } else { StoreError::Unavailable(text) }
}

fn database(path: &Path) -> Result<Database, redb::Error> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE);
    Ok(builder.create_file(file)?)
}

fn update(path: &Path, since: u64, work: &Work, keys: &Keyring) -> Result<(), StoreError> {
    let redb = |error: redb::Error| match &error {
        redb::Error::Io(io) => refused(path, io),
        _ => StoreError::Unavailable(format!("{}: {error}", path.display())),
    };
    let database = database(path).map_err(redb)?;
    let mut transaction = database.begin_write().map_err(|error| redb(error.into()))?;
    // Opening after a crash must not scan the file.
    transaction.set_quick_repair(true);
    {
        let mut objects = transaction.open_table(OBJECTS).map_err(|error| redb(error.into()))?;
        for key in &work.removed {
            objects.remove(&*key_bytes(key)).map_err(|error| redb(error.into()))?;
        }
        let total: usize = work.tables.iter().map(|(_, table)| table.len()).sum();
        let mut cuts = Vec::new();
        let mut value = Vec::new();
        let all = work.tables.iter().flat_map(|(_, table)| table.iter(&Range::default()));
        for (at, object) in all.enumerate() {
            if object.modified > since {
                value.clear();
                let key = key_bytes(&object.key);
                encode(object, &key, keys, &mut value)?;
                objects.insert(&*key, &*value).map_err(|error| redb(error.into()))?;
            }
            if at % total.div_ceil(PARTS).max(1000) == 0 {
                cuts.push(key_bytes(&object.key));
            }
        }
        cuts.sort();
        let mut table = transaction.open_table(CUTS).map_err(|error| redb(error.into()))?;
        table.retain(|_, _| false).map_err(|error| redb(error.into()))?;
        for (at, cut) in cuts.iter().enumerate() {
            table.insert(at as u64, &**cut).map_err(|error| redb(error.into()))?;
        }
        let mut meta = transaction.open_table(META).map_err(|error| redb(error.into()))?;
        for (name, number) in [("version", VERSION), ("revision", work.revision), ("count", total as u64)] {
            meta.insert(name, number).map_err(|error| redb(error.into()))?;
        }
    }
    transaction.commit().map_err(|error| redb(error.into()))
}

/// Takes one encoded key and value.
pub(super) type Insert<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), String> + 'a;

/// Makes the checkpoint of a restored store from entries as [`encode`] made them, which stay as they are.
pub(super) fn import(
    dir: &Path,
    revision: u64,
    entries: impl FnOnce(&mut Insert<'_>) -> Result<(), String>,
) -> Result<(), StoreError> {
    let path = path(dir);
    let redb = |error: redb::Error| match &error {
        redb::Error::Io(io) => refused(&path, io),
        _ => StoreError::Unavailable(format!("{}: {error}", path.display())),
    };
    let database = database(&path).map_err(redb)?;
    let mut transaction = database.begin_write().map_err(|error| redb(error.into()))?;
    transaction.set_quick_repair(true);
    {
        let mut objects = transaction.open_table(OBJECTS).map_err(|error| redb(error.into()))?;
        let mut count = 0;
        let mut insert = |key: &[u8], value: &[u8]| {
            count += 1;
            objects.insert(key, value).map(drop).map_err(|error| error.to_string())
        };
        entries(&mut insert).map_err(|why| failed(&path, why))?;
        transaction.open_table(CUTS).map_err(|error| redb(error.into()))?;
        let mut meta = transaction.open_table(META).map_err(|error| redb(error.into()))?;
        for (name, number) in [("version", VERSION), ("revision", revision), ("count", count)] {
            meta.insert(name, number).map_err(|error| redb(error.into()))?;
        }
    }
    transaction.commit().map_err(|error| redb(error.into()))
}

fn load(path: &Path, keys: &Keyring) -> Result<(u64, Vec<Arc<Object>>), String> {
    let text = |error: &dyn Display| error.to_string();
    let database = database(path).map_err(|error| text(&error))?;
    let read = database.begin_read().map_err(|error| text(&error))?;
    let meta = read.open_table(META).map_err(|error| text(&error))?;
    let number = |name: &str| match meta.get(name) {
        Ok(Some(number)) => Ok(number.value()),
        Ok(None) => Err(format!("{name} is missing")),
        Err(error) => Err(error.to_string()),
    };
    let version = number("version")?;
    if version != VERSION {
        return Err(format!("format version {version} is not known; it was written by a later version"));
    }
    let cuts = read.open_table(CUTS).map_err(|error| text(&error))?;
    let cuts: Vec<Vec<u8>> = cuts
        .iter()
        .map_err(|error| text(&error))?
        .map(|cut| cut.map(|(_, key)| key.value().to_vec()).map_err(|error| text(&error)))
        .collect::<Result<_, _>>()?;
    let mut bounds = vec![None];
    bounds.extend(cuts.into_iter().skip(1).map(Some));
    let part = |at: usize| {
        let (from, to) = (bounds[at].as_deref(), bounds.get(at + 1).and_then(Option::as_deref));
        load_part(&database, from, to, keys)
    };
    let parts: Vec<_> = std::thread::scope(|scope| {
        let part = &part;
        let threads: Vec<_> = (1..bounds.len()).map(|at| scope.spawn(move || part(at))).collect();
        let first = part(0);
        let rest =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("file is damaged".into())));
        std::iter::once(first).chain(rest).collect()
    });
    let mut objects = Vec::new();
    for part in parts {
        objects.append(&mut part?);
    }
    let count = number("count")?;
    if objects.len() as u64 != count {
        return Err(format!("{} objects found, {count} were written", objects.len()));
    }
    Ok((number("revision")?, objects))
}

fn load_part(
    database: &Database,
    from: Option<&[u8]>,
    to: Option<&[u8]>,
    keys: &Keyring,
) -> Result<Vec<Arc<Object>>, String> {
    let text = |error: &dyn Display| error.to_string();
    let read = database.begin_read().map_err(|error| text(&error))?;
    let table = read.open_table(OBJECTS).map_err(|error| text(&error))?;
    let range = match (from, to) {
        (None, None) => table.iter(),
        (Some(from), None) => table.range(from..),
        (None, Some(to)) => table.range(..to),
        (Some(from), Some(to)) => table.range(from..to),
    };
    let mut interner = Interner::default();
    let mut objects = Vec::new();
    for entry in range.map_err(|error| text(&error))? {
        let (key, value) = entry.map_err(|error| text(&error))?;
        objects.push(decode(key.value(), value.value(), keys, &mut interner)?);
    }
    Ok(objects)
}
