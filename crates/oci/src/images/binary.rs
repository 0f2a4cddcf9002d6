//! Images made from one static binary, with no registry and no archive.

use super::store::{failed, layer_name, remove_dir};
use super::{Images, ProcessConfig, Record, Reference, digest};
use crate::proto::now;
use crate::runtime::Error;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What an image made from a binary consists of.
#[derive(Clone, Debug, Default)]
pub struct Binary {
    /// Name with tag, e.g. `localhost/shop:1`.
    pub name: String,
    /// The binary on this machine.
    pub source: PathBuf,
    /// Where it appears inside, e.g. `/kutter`.
    pub target: PathBuf,
    /// Symbolic links to make, e.g. `/bin/sh` to `/bin/busybox`.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Small files to make; what is a program or library by its content can be executed.
    pub files: Vec<(PathBuf, Vec<u8>)>,
    /// What its processes are like.
    pub config: ProcessConfig,
}

impl Images {
    /// Makes an image from a static binary; answers with its id. The same input gives the same image.
    pub fn from_binary(&self, binary: &Binary) -> Result<String, Error> {
        let reference = Reference::parse(&binary.name)?;
        let hash = hash_file(&binary.source)?;
        // There is no tar: the layer is named after everything that makes it.
        let recipe = serde_json::json!({
            "binary": hash, "target": binary.target, "links": binary.links,
            "files": binary.files.iter().map(|(p, b)| (p, digest(b))).collect::<Vec<_>>(),
        });
        let diff_id = digest(recipe.to_string().as_bytes());
        let config = serde_json::json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": binary.config,
            "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        })
        .to_string();
        let id = digest(config.as_bytes());
        self.put(&id, config.as_bytes())?;
        let layer = layer_name(&diff_id);
        let place = self.layout().layers().join(&layer);
        if !place.exists() {
            self.fill(binary, &place)?;
        }
        let size = std::fs::metadata(&binary.source).map_or(0, |m| m.len());
        self.insert(Record {
            id: id.clone(),
            tags: reference.tagged().into_iter().collect(),
            digests: vec![],
            layers: vec![layer],
            size: size + binary.files.iter().map(|(_, b)| b.len() as u64).sum::<u64>(),
            config: binary.config.clone(),
            pinned: true,
            last_used: now(),
        })?;
        Ok(id)
    }

    fn fill(&self, binary: &Binary, place: &Path) -> Result<(), Error> {
        let new = super::store::beside(place, "new");
        remove_dir(&new)?;
        let inside = |path: &Path| -> Result<PathBuf, Error> {
            let plain = path.components().all(|c| !matches!(c, std::path::Component::ParentDir));
            let relative = path.strip_prefix("/").unwrap_or(path);
            if !plain || relative.as_os_str().is_empty() {
                return Err(Error::Invalid(format!(
                    "path {} in image {} is refused",
                    path.display(),
                    binary.name
                )));
            }
            let whole = new.join(relative);
            let parent = whole.parent().unwrap_or(&new);
            std::fs::create_dir_all(parent)
                .map_err(|e| failed(&format!("create {}", parent.display()), &e))?;
            Ok(whole)
        };
        let step = |what: &Path, result: std::io::Result<()>| {
            result.map_err(|e| failed(&format!("create {} in image {}", what.display(), binary.name), &e))
        };
        let target = inside(&binary.target)?;
        step(&binary.target, std::fs::copy(&binary.source, &target).map(drop))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        step(&binary.target, std::fs::set_permissions(&target, mode))?;
        for (path, to) in &binary.links {
            step(path, std::os::unix::fs::symlink(to, inside(path)?))?;
        }
        for (path, bytes) in &binary.files {
            let place = inside(path)?;
            step(path, std::fs::write(&place, bytes))?;
            if bytes.starts_with(b"\x7fELF") {
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
                step(path, std::fs::set_permissions(&place, mode))?;
            }
        }
        let tmp = inside(Path::new("/tmp"))?;
        step(&tmp, std::fs::create_dir_all(&tmp))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
        step(&tmp, std::fs::set_permissions(&tmp, mode))?;
        match std::fs::rename(&new, place) {
            // Another process was faster with the same content.
            Err(_) if place.exists() => remove_dir(&new),
            other => other.map_err(|e| failed(&format!("rename to {}", place.display()), &e)),
        }
    }
}

fn hash_file(path: &Path) -> Result<String, Error> {
    use sha2::Digest;
    let fail = |e: std::io::Error| failed(&format!("read {}", path.display()), &e);
    let mut file = std::fs::File::open(path).map_err(fail)?;
    let mut hash = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(fail)? {
            0 => return Ok(format!("sha256:{}", hex::encode(hash.finalize()))),
            n => hash.update(&buffer[..n]),
        }
    }
}
