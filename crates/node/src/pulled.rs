//! With whose credentials images were pulled, so that a pod without them does not get an image that another
//! pod's secret brought here (upstream's `NeverVerifyPreloadedImages`).
//!
//! An image that this kubelet never pulled is everybody's. The notes are kept in a file, because they have to
//! outlive the process as the images do.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use oci::runtime::RegistryAuth;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Notes of one image name that are kept; the oldest by order of name go first.
const SECRETS_MAX: usize = 1000;

/// A Secret with credentials.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin {
    /// Namespace of the Secret.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// Credentials and the Secret they come from.
#[derive(Clone, Debug)]
pub struct Credential {
    /// For the registry.
    pub auth: RegistryAuth,
    /// Where they come from.
    pub origin: Origin,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Access {
    /// Pulled without a pod's credentials.
    everyone: bool,
    secrets: BTreeSet<Origin>,
    /// Hashes of credentials, so that the same ones in another Secret count.
    hashes: BTreeSet<String>,
}

/// By image id, then by name without tag and digest.
type Notes = BTreeMap<String, BTreeMap<String, Access>>;

/// What is known of pulled images.
pub struct Pulled {
    path: PathBuf,
    notes: Mutex<Notes>,
}

impl Pulled {
    /// Reads the notes below a node's directory. Notes that cannot be read are none.
    pub fn open(dir: &Path) -> Self {
        let path = dir.join("pulled-images.json");
        let read = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(%error, path = %path.display(), "notes of pulled images are lost");
                Notes::default()
            }),
            Err(_) => Notes::default(),
        };
        Self { path, notes: Mutex::new(read) }
    }

    /// Whether a pod with these credentials may use an image that is here.
    pub fn allows(&self, id: &str, image: &str, credentials: &[Credential]) -> bool {
        let notes = self.notes.lock();
        let Some(names) = notes.get(id) else { return true };
        let Some(access) = names.get(repository(image)) else { return false };
        let known =
            |c: &Credential| access.secrets.contains(&c.origin) || access.hashes.contains(&hash(&c.auth));
        access.everyone || credentials.iter().any(known)
    }

    /// Notes a pull; `credential` is the pod's that the registry accepted, if it was one of a pod.
    pub fn note(&self, id: &str, image: &str, credential: Option<&Credential>) {
        let mut notes = self.notes.lock();
        let access = notes.entry(id.to_owned()).or_default().entry(repository(image).to_owned()).or_default();
        let before = access.clone();
        match credential {
            None => access.everyone = true,
            Some(c) => {
                access.secrets.insert(c.origin.clone());
                access.hashes.insert(hash(&c.auth));
                while access.secrets.len() > SECRETS_MAX {
                    access.secrets.pop_first();
                }
                while access.hashes.len() > SECRETS_MAX {
                    access.hashes.pop_first();
                }
            }
        }
        if *access != before {
            self.write(&notes);
        }
    }

    /// Forgets images that are gone.
    pub fn keep(&self, ids: &BTreeSet<String>) {
        let mut notes = self.notes.lock();
        let before = notes.len();
        notes.retain(|id, _| ids.contains(id));
        if notes.len() != before {
            self.write(&notes);
        }
    }

    fn write(&self, notes: &Notes) {
        let new = self.path.with_extension("new");
        let written = serde_json::to_vec(notes).map_err(std::io::Error::other).and_then(|bytes| {
            std::fs::write(&new, bytes)?;
            std::fs::rename(&new, &self.path)
        });
        if let Err(error) = written {
            tracing::warn!(%error, path = %self.path.display(), "notes of pulled images were not written");
        }
    }
}

/// A name without tag and digest.
fn repository(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => image,
    }
}

fn hash(auth: &RegistryAuth) -> String {
    let parts = [&auth.username, &auth.password, &auth.identity_token, &auth.registry_token];
    oci::images::digest(&serde_json::to_vec(&parts).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(secret: &str, password: &str) -> Credential {
        let origin = Origin { namespace: "n".into(), name: secret.into(), uid: format!("uid-{secret}") };
        let auth = RegistryAuth { password: password.into(), ..RegistryAuth::default() };
        Credential { auth, origin }
    }

    #[test]
    fn only_who_could_pull_it_may_use_it() {
        let dir = tempfile::tempdir().expect("dir");
        let pulled = Pulled::open(dir.path());
        pulled.note("private", "r.io/a:1", Some(&credential("s", "p")));
        pulled.note("public", "r.io/b@sha256:0", None);
        // The notes survive the process.
        for pulled in [&pulled, &Pulled::open(dir.path())] {
            for (id, image, credentials, want) in [
                ("preloaded", "r.io/c:1", vec![], true),
                ("public", "r.io/b:2", vec![], true),
                ("private", "r.io/a:1", vec![], false),
                ("private", "r.io/a:1", vec![credential("other", "x")], false),
                ("private", "r.io/a:1", vec![credential("s", "changed")], true),
                ("private", "r.io/a:1", vec![credential("copy", "p")], true),
                ("private", "mirror.io/a:1", vec![credential("s", "p")], false),
            ] {
                assert_eq!(pulled.allows(id, image, &credentials), want, "{id} {image} {credentials:?}");
            }
        }
        pulled.keep(&BTreeSet::from(["public".to_owned()]));
        assert!(pulled.allows("private", "r.io/a:1", &[]));
    }

    #[test]
    fn names_without_tags() {
        for (image, want) in [("a:1", "a"), ("r:5000/a", "r:5000/a"), ("r:5000/a:1@sha256:0", "r:5000/a")] {
            assert_eq!(repository(image), want);
        }
    }
}
