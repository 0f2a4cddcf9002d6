//! Images out of archives: what `docker save` writes, and OCI image layouts in a tar.
//!
//! The archive is indexed once and its blobs are read in place. Every layer is checked against the digest
//! that the image's configuration promises before it gets its final name.

use super::store::{failed, layer_name, remove_dir};
use super::unpack;
use super::{Images, ProcessConfig, Record, Reference, digest};
use crate::proto::now;
use crate::registry::architecture;
use crate::runtime::{Error, ImageError};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Manifests and configurations larger than this are refused.
const DOCUMENT_MAX: u64 = 8 << 20;
/// Entries of an archive.
const ENTRIES_MAX: usize = 100_000;

/// An entry of docker's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    digest: String,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Debug, Deserialize)]
struct IndexDocument {
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Configuration {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub config: Option<ProcessConfig>,
    pub rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RootFs {
    pub diff_ids: Vec<String>,
}

impl Configuration {
    /// What makes it unusable here: another platform, or layers that are not named by digests.
    pub fn check(&self) -> Result<(), String> {
        let own = architecture();
        let (os, made) = (self.os.as_str(), self.architecture.as_str());
        if !matches!(os, "" | "linux") || !(made.is_empty() || made == own) {
            return Err(format!("it is made for {os}/{made}, this machine is linux/{own}"));
        }
        match self.rootfs.diff_ids.iter().find(|d| !super::reference::is_digest(d)) {
            Some(bad) => Err(format!("its configuration names a layer {bad:?}, which is no digest")),
            None => Ok(()),
        }
    }
}

/// One image inside an archive: where its parts are, and what it is called.
struct Found {
    config: String,
    layers: Vec<String>,
    tags: Vec<String>,
    manifest: Option<String>,
}

/// An archive and where its files begin.
struct Archive {
    file: File,
    entries: HashMap<String, (u64, u64)>,
}

impl Images {
    /// Imports every image of an archive; answers with their records. `name` is what an image that brings no
    /// name of its own is called.
    pub fn import(&self, path: &Path, name: Option<&str>) -> Result<Vec<Record>, Error> {
        let mut archive = Archive::open(path, |packed| self.unpacked(packed))?;
        let mut images = archive.images()?;
        if let Some(name) = name {
            let ids: std::collections::BTreeSet<&str> = images.iter().map(|f| f.config.as_str()).collect();
            if ids.len() > 1 {
                let reason = format!("it holds {} images, and one name fits one", ids.len());
                return Err(refused(&path.display().to_string(), &reason));
            }
            images.truncate(1);
            images.iter_mut().for_each(|found| found.tags = vec![name.to_owned()]);
        }
        images.iter().map(|found| self.import_one(&mut archive, found)).collect()
    }

    /// A file without a name that holds what a compressed archive unpacks to.
    fn unpacked(&self, packed: File) -> Result<File, Error> {
        let fail = |e: std::io::Error| failed("unpack the archive", &e);
        let size = packed.metadata().map_err(fail)?.len();
        let bound = self.limits.unpack.bound(size);
        let place = super::store::beside(&self.layout().content().join("import"), "new");
        let mut options = File::options();
        let mut plain = options.read(true).write(true).create_new(true).open(&place).map_err(fail)?;
        std::fs::remove_file(&place).map_err(fail)?;
        let mut reader = unpack::decompressed(std::io::BufReader::new(packed)).map_err(fail)?.take(bound + 1);
        if std::io::copy(&mut reader, &mut plain).map_err(fail)? > bound {
            return Err(refused(
                "the archive",
                &format!("it unpacks to more than {bound} bytes, too many for its size"),
            ));
        }
        plain.rewind().map_err(fail)?;
        Ok(plain)
    }

    fn import_one(&self, archive: &mut Archive, found: &Found) -> Result<Record, Error> {
        let bytes = archive.document(&found.config)?;
        let id = digest(&bytes);
        let parsed: Configuration = parse(&found.config, &bytes)?;
        if parsed.rootfs.diff_ids.len() != found.layers.len() {
            return Err(refused(&found.config, "its layers and their digests differ in number"));
        }
        let references: Vec<Reference> =
            found.tags.iter().map(|t| Reference::parse(t)).collect::<Result<_, _>>()?;
        parsed.check().map_err(|reason| ImageError::Other { reference: found.tags.join(","), reason })?;
        let record = Record {
            id,
            tags: distinct(references.iter().filter_map(Reference::tagged)),
            digests: distinct(
                references.iter().flat_map(|r| found.manifest.iter().map(|d| r.with_digest(d))),
            ),
            layers: parsed.rootfs.diff_ids.iter().rev().map(|d| layer_name(d)).collect(),
            size: 0,
            config: parsed.config.clone().unwrap_or_default(),
            pinned: false,
            last_used: now(),
        };
        // Somebody else may remove a layer before the record names it; then it is unpacked again.
        for _ in 0..3 {
            let done = self.import_layers(archive, found, &parsed);
            if matches!(&done, Err(Error::Image(_))) {
                self.discard(&parsed.rootfs.diff_ids)?;
            }
            let record = Record { size: done?, ..record.clone() };
            if self.commit(&record, &bytes)? {
                return Ok(record);
            }
        }
        Err(refused(&found.config, "its layers are removed as fast as they come"))
    }

    fn import_layers(
        &self,
        archive: &mut Archive,
        found: &Found,
        parsed: &Configuration,
    ) -> Result<u64, Error> {
        let mut size = 0;
        for (entry, diff_id) in found.layers.iter().zip(&parsed.rootfs.diff_ids) {
            let (blob, length) = archive.blob(entry)?;
            self.unpack_layer(diff_id, blob, self.limits.unpack.bound(length))?;
            size += length;
        }
        Ok(size)
    }

    /// Unpacks a layer, compressed or not, unless it is already here; it may unpack to `bytes_max`.
    pub(crate) fn unpack_layer(
        &self,
        diff_id: &str,
        blob: impl Read + Send,
        bytes_max: u64,
    ) -> Result<(), Error> {
        let place = self.layout().layers().join(layer_name(diff_id));
        if place.exists() {
            return Ok(());
        }
        let new = super::store::beside(&place, "new");
        remove_dir(&new)?;
        std::fs::create_dir_all(&new).map_err(|e| failed(&format!("create {}", new.display()), &e))?;
        let held = File::open(&new).and_then(|dir| dir.lock_shared().map(|()| dir));
        let held = held.map_err(|e| failed(&format!("lock {}", new.display()), &e))?;
        let actual = unpack::layer(blob, &new, bytes_max);
        drop(held);
        let result = match actual {
            Ok(actual) if actual == diff_id => Ok(()),
            Ok(actual) => Err(ImageError::Corrupt {
                digest: diff_id.into(),
                reason: format!("the layer hashes to {actual}"),
            }
            .into()),
            Err(e) => Err(refused(diff_id, &e.to_string())),
        };
        if let Err(error) = result {
            remove_dir(&new)?;
            return Err(error);
        }
        match std::fs::rename(&new, &place) {
            // Another process was faster with the same content.
            Err(_) if place.exists() => remove_dir(&new),
            other => other.map_err(|e| failed(&format!("rename to {}", place.display()), &e)),
        }
    }
}

impl Archive {
    fn open(path: &Path, unpacked: impl FnOnce(File) -> Result<File, Error>) -> Result<Self, Error> {
        let fail = |e: std::io::Error| failed(&format!("read archive {}", path.display()), &e);
        let mut file = File::open(path).map_err(fail)?;
        let mut magic = Vec::new();
        (&mut file).take(4).read_to_end(&mut magic).map_err(fail)?;
        file.rewind().map_err(fail)?;
        if unpack::is_compressed(&magic) {
            file = unpacked(file)?;
        }
        let mut entries = HashMap::new();
        let mut links = Vec::new();
        let mut tar = tar::Archive::new(&mut file);
        for entry in tar.entries_with_seek().map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = clean(&entry.path().map_err(fail)?.to_string_lossy());
            if entries.len() + links.len() >= ENTRIES_MAX {
                return Err(refused(&path.display().to_string(), "it has too many entries"));
            }
            match entry.header().entry_type() {
                kind if kind.is_file() => {
                    entries.insert(name, (entry.raw_file_position(), entry.size()));
                }
                // Older `docker save` links equal layers to each other.
                kind if kind.is_symlink() || kind.is_hard_link() => {
                    let to = entry.link_name().map_err(fail)?.unwrap_or_default();
                    let to = to.to_string_lossy().trim_start_matches("../").to_owned();
                    links.push((name, clean(&to)));
                }
                _ => {}
            }
        }
        for (name, to) in links {
            if let Some(at) = entries.get(&to).copied() {
                entries.insert(name, at);
            }
        }
        Ok(Self { file, entries })
    }

    fn images(&mut self) -> Result<Vec<Found>, Error> {
        let by_config = self.oci_images()?;
        if self.entries.contains_key("manifest.json") {
            let saved: Vec<Saved> = self.read("manifest.json")?;
            return Ok(saved
                .into_iter()
                .map(|s| Found {
                    manifest: by_config
                        .iter()
                        .find(|f| f.config == s.config)
                        .and_then(|f| f.manifest.clone()),
                    config: s.config,
                    layers: s.layers,
                    tags: s.repo_tags.unwrap_or_default(),
                })
                .collect());
        }
        if by_config.is_empty() {
            return Err(refused(
                "the archive",
                "it has no image: it is neither what `docker save` writes nor an OCI layout",
            ));
        }
        Ok(by_config)
    }

    fn oci_images(&mut self) -> Result<Vec<Found>, Error> {
        if !self.entries.contains_key("index.json") {
            return Ok(Vec::new());
        }
        let index: IndexDocument = self.read("index.json")?;
        let mut found = Vec::new();
        // What is for other platforms, or no image but a statement about one, is passed over.
        for descriptor in index.manifests.into_iter().filter(suits) {
            let mut chosen = descriptor.digest.clone();
            if descriptor.media_type.contains("index") || descriptor.media_type.contains("manifest.list") {
                let inner: IndexDocument = self.read(&blob_path(&chosen))?;
                let Some(own) = inner.manifests.into_iter().find(suits) else { continue };
                chosen = own.digest;
            }
            if !self.entries.contains_key(&blob_path(&chosen)) {
                continue;
            }
            let manifest: Manifest = self.read(&blob_path(&chosen))?;
            let named = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
            let name = named.iter().find_map(|k| descriptor.annotations.get(*k));
            found.push(Found {
                config: blob_path(&manifest.config.digest),
                layers: manifest.layers.iter().map(|l| blob_path(&l.digest)).collect(),
                // Some tools leave the tag alone, which names nothing.
                tags: name.filter(|n| n.contains(['/', ':'])).into_iter().cloned().collect(),
                manifest: Some(chosen),
            });
        }
        Ok(found)
    }

    fn blob(&mut self, name: &str) -> Result<(impl Read + '_, u64), Error> {
        let (at, length) = self
            .entries
            .get(&clean(name))
            .copied()
            .ok_or_else(|| refused(name, "the archive does not have it"))?;
        self.file.seek(SeekFrom::Start(at)).map_err(|e| failed("seek in archive", &e))?;
        Ok(((&mut self.file).take(length), length))
    }

    fn document(&mut self, name: &str) -> Result<Vec<u8>, Error> {
        let (mut blob, length) = self.blob(name)?;
        if length > DOCUMENT_MAX {
            return Err(refused(name, "the document is too large"));
        }
        let mut bytes = Vec::new();
        blob.read_to_end(&mut bytes).map_err(|e| failed(&format!("read {name} of archive"), &e))?;
        Ok(bytes)
    }

    fn read<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, Error> {
        parse(name, &self.document(name)?)
    }
}

fn suits(descriptor: &Descriptor) -> bool {
    let own = architecture();
    descriptor.platform.as_ref().is_none_or(|p| p.os == "linux" && p.architecture == own)
}

fn parse<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|e| refused(name, &format!("it does not parse: {e}")))
}

/// Each once, in the order of coming.
fn distinct(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for name in names.filter(|n| !n.is_empty()) {
        if !out.contains(&name) {
            out.push(name);
        }
    }
    out
}

fn clean(name: &str) -> String {
    name.trim_start_matches("./").to_owned()
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

fn refused(what: &str, reason: &str) -> Error {
    ImageError::Layer { digest: what.into(), reason: reason.into() }.into()
}
