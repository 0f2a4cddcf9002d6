//! The index of images and the content beside it.

use super::reference::{Reference, is_digest};
use super::{ProcessConfig, digest};
use crate::proto::{Layout, now, write_atomic};
use crate::registry::Limits;
use crate::runtime::{Error, ImageError};
use crate::state::Image;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// One image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `sha256:…` of its configuration.
    pub id: String,
    /// Names with tags.
    pub tags: Vec<String>,
    /// Names with digests.
    pub digests: Vec<String>,
    /// Layer directories, topmost first.
    pub layers: Vec<String>,
    /// Bytes of all layers.
    pub size: u64,
    /// What its processes are like.
    pub config: ProcessConfig,
    /// Never garbage-collected.
    pub pinned: bool,
    /// When a container was last made from it, or when it came here.
    pub last_used: i64,
}

impl Record {
    /// As the runtime shows it.
    pub fn show(&self) -> Image {
        let user = self.config.user.split(':').next().unwrap_or_default();
        let uid = user.parse().ok();
        Image {
            id: self.id.clone(),
            tags: self.tags.clone(),
            digests: self.digests.clone(),
            size: self.size,
            uid,
            username: if uid.is_some() { String::new() } else { user.to_owned() },
            pinned: self.pinned,
            last_used: self.last_used,
        }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Index {
    images: BTreeMap<String, Record>,
}

/// Age at which what no image has is swept away. A pull that is tried again finds the layers that came.
pub const LEFT_AGE_SECONDS: i64 = 6 * 3600;

/// Which version of the index file was read: inode and time of change.
type Stamp = (u64, i64, i64);

/// Layers that are being unpacked, by digest.
type Claims = HashMap<String, Weak<tokio::sync::Mutex<()>>>;

/// The images below one directory. Several processes may work on it at once.
#[derive(Clone)]
pub struct Images {
    layout: Layout,
    read: Arc<Mutex<(Option<Stamp>, Index)>>,
    claims: Arc<Mutex<Claims>>,
    /// What bounds pulls and imports.
    pub limits: Limits,
    /// The file that says how to reach registries; see [`crate::registry::config`].
    pub registries: Option<PathBuf>,
}

impl Images {
    /// Opens or begins the images below `dir`.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let layout = Layout::new(dir);
        for dir in [layout.content(), layout.layers()] {
            std::fs::create_dir_all(&dir).map_err(|e| failed(&format!("create {}", dir.display()), &e))?;
        }
        let (read, claims) = Default::default();
        Ok(Self { layout, read, claims, limits: Limits::default(), registries: None })
    }

    /// The lock of one layer: whoever brings it holds it, others of this process wait.
    pub(crate) fn claim(&self, diff_id: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut claims = self.claims.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        claims.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = claims.get(diff_id).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        claims.insert(diff_id.to_owned(), Arc::downgrade(&lock));
        lock
    }

    /// Whether a layer is here.
    pub(crate) fn has_layer(&self, diff_id: &str) -> bool {
        self.layout.layers().join(layer_name(diff_id)).exists()
    }

    /// Whether all layers of an image are here.
    pub(crate) fn complete(&self, record: &Record) -> bool {
        record.layers.iter().all(|l| self.layout.layers().join(l).exists())
    }

    /// Adds a pulled image; false when a layer is gone, which another may have removed before it was named.
    pub(crate) fn commit(&self, record: &Record, configuration: &[u8]) -> Result<bool, Error> {
        self.change(|index| {
            if !self.complete(record) {
                return Ok(false);
            }
            self.put(&record.id, configuration)?;
            index.insert(record.clone());
            Ok(true)
        })?
    }

    /// Removes layers of a pull that failed, unless an image has them.
    pub(crate) fn discard(&self, diff_ids: &[String]) -> Result<(), Error> {
        let gone = self.change(|index| {
            let names = diff_ids.iter().map(|d| layer_name(d)).collect();
            self.set_aside(names, &index.layers())
        })?;
        gone.iter().try_for_each(|dir| remove_dir(dir))
    }

    /// Renames layers that nobody needs, so that whoever looks for them next does not find them.
    fn set_aside(&self, layers: Vec<String>, kept: &HashSet<String>) -> Vec<PathBuf> {
        let mut gone = Vec::new();
        for layer in layers.into_iter().filter(|l| !kept.contains(l)) {
            let place = self.layout.layers().join(layer);
            let aside = beside(&place, "gone");
            if std::fs::rename(&place, &aside).is_ok() {
                gone.push(aside);
            }
        }
        gone
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Every image.
    pub fn list(&self) -> Result<Vec<Record>, Error> {
        self.with(|index| index.images.values().cloned().collect())
    }

    /// The image that a name or id means.
    pub fn find(&self, reference: &str) -> Result<Option<Record>, Error> {
        self.with(|index| index.find(reference).cloned())
    }

    /// Adds an image; names move to it from whichever image had them.
    pub fn insert(&self, record: Record) -> Result<(), Error> {
        self.change(|index| index.insert(record))
    }

    /// Notes that a container was made from it.
    pub fn touch(&self, id: &str) -> Result<(), Error> {
        // Once a minute is enough for deciding what to collect.
        let recent = now() - 60_000_000_000;
        if self.with(|index| index.images.get(id).is_some_and(|r| r.last_used > recent))? {
            return Ok(());
        }
        self.change(|index| {
            if let Some(record) = index.images.get_mut(id) {
                record.last_used = now();
            }
        })
    }

    /// Removes an image with all its names, and layers that neither another image nor `used` names.
    pub fn remove(&self, reference: &str, used: &[String]) -> Result<(), Error> {
        let gone = self.change(|index| {
            let id = index.find(reference).map(|r| r.id.clone());
            let gone = id.and_then(|id| index.images.remove(&id))?;
            let mut kept = index.layers();
            kept.extend(used.iter().cloned());
            let dirs = self.set_aside(gone.layers.clone(), &kept);
            Some((gone, dirs))
        })?;
        let Some((gone, dirs)) = gone else { return Ok(()) };
        dirs.iter().try_for_each(|dir| remove_dir(dir))?;
        for digest in gone.digests.iter().filter_map(|d| d.split_once('@')).map(|(_, d)| d).chain([&*gone.id])
        {
            // Content may be shared or absent.
            let _ = std::fs::remove_file(self.blob(digest));
        }
        Ok(())
    }

    /// Layers no image has and `used` does not name, left by a pull that broke off: removes them once they
    /// are older than [`LEFT_AGE_SECONDS`].
    pub fn sweep(&self, used: &[String]) -> Result<(), Error> {
        let (gone, halves) = self.change(|index| {
            let mut kept = index.layers();
            kept.extend(used.iter().cloned().chain(["empty".to_owned()]));
            let entries = std::fs::read_dir(self.layout.layers()).map_err(|e| failed("list layers", &e))?;
            let old = |e: &std::fs::DirEntry| {
                e.metadata().is_ok_and(|m| m.ctime() < now() / 1_000_000_000 - LEFT_AGE_SECONDS)
            };
            let names = entries.flatten().filter(old).map(|e| e.file_name().to_string_lossy().into_owned());
            // A name with a dot is half a layer, on its way in or out.
            let (halves, whole): (Vec<String>, Vec<String>) = names.partition(|n| n.contains('.'));
            Ok::<_, Error>((self.set_aside(whole, &kept), halves))
        })??;
        for dir in gone.into_iter().chain(halves.iter().map(|n| self.layout.layers().join(n))) {
            // Who unpacks into it holds it.
            let free = std::fs::File::open(&dir).is_ok_and(|f| f.try_lock().is_ok());
            if free {
                remove_dir(&dir)?;
            }
        }
        Ok(())
    }

    /// File of a blob.
    pub fn blob(&self, digest: &str) -> PathBuf {
        self.layout.content().join(digest.replace(':', "-"))
    }

    /// Stores small content after checking it against its digest.
    pub fn put(&self, expected: &str, bytes: &[u8]) -> Result<(), ImageError> {
        let actual = digest(bytes);
        if actual != expected {
            let reason = format!("its {} bytes hash to {actual}", bytes.len());
            return Err(ImageError::Corrupt { digest: expected.into(), reason });
        }
        write_atomic(&self.blob(expected), bytes).map_err(|e| ImageError::Other {
            reference: expected.into(),
            reason: format!("store content: {e}"),
        })
    }

    fn stamp(&self) -> Option<Stamp> {
        let meta = std::fs::metadata(self.layout.images()).ok()?;
        Some((meta.ino(), meta.mtime(), meta.mtime_nsec()))
    }

    fn with<T>(&self, use_it: impl FnOnce(&Index) -> T) -> Result<T, Error> {
        let mut read = self.read.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let stamp = self.stamp();
        if stamp != read.0 || stamp.is_none() {
            *read = (stamp, self.load()?);
        }
        Ok(use_it(&read.1))
    }

    fn load(&self) -> Result<Index, Error> {
        let path = self.layout.images();
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                let path = path.display();
                Error::Failed(format!(
                    "index of images {path} does not parse ({e}): delete it and pull again"
                ))
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Index::default()),
            Err(e) => Err(failed(&format!("read {}", path.display()), &e)),
        }
    }

    /// Changes the index under a lock that other processes respect.
    fn change<T>(&self, change: impl FnOnce(&mut Index) -> T) -> Result<T, Error> {
        let path = self.layout.dir.join("images.lock");
        let file =
            std::fs::File::create(&path).map_err(|e| failed(&format!("open {}", path.display()), &e))?;
        file.lock().map_err(|e| failed("lock index of images", &e))?;
        let mut read = self.read.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut index = self.load()?;
        let answer = change(&mut index);
        let bytes = serde_json::to_vec(&index).map_err(|e| Error::Failed(format!("encode index: {e}")))?;
        write_atomic(&self.layout.images(), &bytes).map_err(|e| failed("write index of images", &e))?;
        *read = (self.stamp(), index);
        Ok(answer)
    }
}

impl Index {
    /// Adds an image; names move to it from whichever image had them.
    fn insert(&mut self, mut record: Record) {
        for other in self.images.values_mut() {
            other.tags.retain(|t| !record.tags.contains(t));
        }
        if let Some(old) = self.images.remove(&record.id) {
            merge(&mut record.tags, old.tags);
            merge(&mut record.digests, old.digests);
            record.pinned |= old.pinned;
        }
        self.images.insert(record.id.clone(), record);
    }

    fn layers(&self) -> HashSet<String> {
        self.images.values().flat_map(|r| r.layers.iter().cloned()).collect()
    }

    fn find(&self, reference: &str) -> Option<&Record> {
        if let Some(record) = self.images.get(reference) {
            return Some(record);
        }
        let bare = format!("sha256:{reference}");
        if is_digest(&bare) && self.images.contains_key(&bare) {
            return self.images.get(&bare);
        }
        let parsed = Reference::parse(reference).ok()?;
        if let Some(digest) = &parsed.digest {
            let name = parsed.with_digest(digest);
            return self.images.values().find(|r| r.digests.contains(&name));
        }
        let name = parsed.tagged()?;
        self.images.values().find(|r| r.tags.contains(&name))
    }
}

fn merge(into: &mut Vec<String>, from: Vec<String>) {
    for one in from {
        if !into.contains(&one) {
            into.push(one);
        }
    }
}

pub(crate) fn remove_dir(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(failed(&format!("remove {}", path.display()), &e))
        }
        _ => Ok(()),
    }
}

/// A name beside `place` that no one else uses: of this process, and new each time.
pub(super) fn beside(place: &Path, what: &str) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    place.with_extension(format!("{what}-{}-{count}", std::process::id()))
}

pub(crate) fn failed(what: &str, e: &std::io::Error) -> Error {
    Error::Failed(format!("{what}: {e}"))
}

/// Name of the directory of a layer: long enough to be unique, short enough for many in one mount.
pub(crate) fn layer_name(diff_id: &str) -> String {
    diff_id.trim_start_matches("sha256:").chars().take(24).collect()
}
