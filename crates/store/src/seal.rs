//! Encryption at rest: AES-256-GCM under a ring of keys, of which the newest seals and all open.
//!
//! The ring is a text file of mode 0600, one key per line: `ID HEX`. Sealed bytes are the key's id (4 bytes,
//! little endian), the nonce (12 bytes), the ciphertext and its tag.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use parking_lot::RwLock;

const HEADER: &str = "kutter keys v1";
const KEYS_MAX: usize = 1000;

/// Why a value could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The random source or the cipher failed.
    #[error("cipher or random source failed")]
    Cipher,
    /// The value was sealed with a key that the ring lacks.
    #[error(
        "value is sealed with key {0:08x}, which the keys file lacks; put the keys file that belongs to these data in its place"
    )]
    UnknownKey(u32),
    /// The value does not belong here, or is damaged.
    #[error("sealed value is damaged or belongs to another object")]
    Damaged,
    /// The keys file cannot be read or written.
    #[error("keys file {path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

struct SealKey {
    id: u32,
    secret: [u8; 32],
    key: LessSafeKey,
}

impl SealKey {
    fn new(id: u32, secret: [u8; 32]) -> Result<Self, SealError> {
        let key = UnboundKey::new(&AES_256_GCM, &secret).map_err(|_| SealError::Cipher)?;
        Ok(Self { id, secret, key: LessSafeKey::new(key) })
    }

    fn random() -> Result<Self, SealError> {
        let mut bytes = [0; 36];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| SealError::Cipher)?;
        let mut id = [0; 4];
        let mut secret = [0; 32];
        id.copy_from_slice(&bytes[..4]);
        secret.copy_from_slice(&bytes[4..]);
        Self::new(u32::from_le_bytes(id), secret)
    }
}

/// The keys, oldest first, and which resources they seal.
pub struct Keyring {
    secret: HashSet<Arc<str>>,
    keys: RwLock<Vec<SealKey>>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<_> = self.keys.read().iter().map(|key| format!("{:08x}", key.id)).collect();
        f.debug_struct("Keyring").field("secret", &self.secret).field("ids", &ids).finish()
    }
}

fn names<I: IntoIterator<Item = S>, S: Into<Arc<str>>>(resources: I) -> HashSet<Arc<str>> {
    resources.into_iter().map(Into::into).collect()
}

impl Keyring {
    /// A ring without a key: opens nothing, seals nothing.
    pub fn empty<I: IntoIterator<Item = S>, S: Into<Arc<str>>>(resources: I) -> Self {
        Self { secret: names(resources), keys: RwLock::default() }
    }

    /// A ring with one new key.
    #[cfg(test)]
    pub fn generate<I: IntoIterator<Item = S>, S: Into<Arc<str>>>(resources: I) -> Result<Self, SealError> {
        let ring = Self::empty(resources);
        ring.add()?;
        Ok(ring)
    }

    /// Reads a keys file; one that does not exist gives an empty ring.
    pub fn load<I: IntoIterator<Item = S>, S: Into<Arc<str>>>(
        path: &Path,
        resources: I,
    ) -> Result<Self, SealError> {
        let bad = |why: String| SealError::File { path: path.into(), why };
        let ring = Self::empty(resources);
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(ring),
            Err(error) => return Err(bad(error.to_string())),
        };
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return Err(bad(format!("first line is not {HEADER:?}")));
        }
        for (at, line) in lines.enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let key = parse(line).ok_or_else(|| bad(format!("line {} is not an id and a key", at + 2)))?;
            ring.keys.write().push(SealKey::new(key.0, key.1)?);
        }
        Ok(ring)
    }

    /// Adds a new key, which seals from now on.
    pub fn add(&self) -> Result<(), SealError> {
        let mut keys = self.keys.write();
        for _ in 0..8 {
            let new = SealKey::random()?;
            if keys.len() < KEYS_MAX && keys.iter().all(|key| key.id != new.id) {
                keys.push(new);
                return Ok(());
            }
        }
        Err(SealError::Cipher)
    }

    /// Takes over the keys of another ring.
    pub(crate) fn replace(&self, other: Self) {
        *self.keys.write() = other.keys.into_inner();
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.read().is_empty()
    }

    /// Whether values of this resource are sealed.
    pub fn is_secret(&self, resource: &str) -> bool {
        self.secret.contains(resource)
    }

    /// Writes the ring to a file of mode 0600, atomically and durably.
    pub fn save(&self, path: &Path) -> Result<(), SealError> {
        let failed = |error: std::io::Error| SealError::File { path: path.into(), why: error.to_string() };
        let new = path.with_extension("new");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .map_err(failed)?;
        file.write_all(self.text().as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        std::fs::rename(&new, path).map_err(failed)?;
        let parent = path.parent().unwrap_or(Path::new("."));
        std::fs::File::open(parent).and_then(|dir| dir.sync_all()).map_err(failed)
    }

    /// The ring as the text of a keys file.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for key in self.keys.read().iter() {
            let _ = write!(text, "{:08x} ", key.id);
            for byte in key.secret {
                let _ = write!(text, "{byte:02x}");
            }
            text.push('\n');
        }
        text
    }

    /// Appends the sealed form of `text`, bound to `associated`.
    pub(crate) fn seal(
        &self,
        associated: &[u8],
        mut text: Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let keys = self.keys.read();
        let key = keys.last().ok_or(SealError::Cipher)?;
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| SealError::Cipher)?;
        let unique = Nonce::assume_unique_for_key(nonce);
        key.key
            .seal_in_place_append_tag(unique, Aad::from(associated), &mut text)
            .map_err(|_| SealError::Cipher)?;
        out.extend_from_slice(&key.id.to_le_bytes());
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&text);
        Ok(())
    }

    /// Opens what [`Keyring::seal`] made.
    pub(crate) fn open(&self, associated: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (id, rest) = sealed.split_first_chunk::<4>().ok_or(SealError::Damaged)?;
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>().ok_or(SealError::Damaged)?;
        let id = u32::from_le_bytes(*id);
        let keys = self.keys.read();
        let key = keys.iter().find(|key| key.id == id).ok_or(SealError::UnknownKey(id))?;
        let mut text = text.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = key.key.open_in_place(nonce, Aad::from(associated), &mut text);
        let length = opened.map_err(|_| SealError::Damaged)?.len();
        text.truncate(length);
        Ok(text)
    }
}

fn parse(line: &str) -> Option<(u32, [u8; 32])> {
    let (id, hex) = line.trim().split_once(' ')?;
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let mut secret = [0; 32];
    for (at, byte) in secret.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some((u32::from_str_radix(id, 16).ok()?, secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_keys_open_what_they_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let ring = Keyring::generate(["core/secrets"]).unwrap();
        let mut sealed = Vec::new();
        ring.seal(b"a", b"text".to_vec(), &mut sealed).unwrap();
        ring.add().unwrap();
        ring.save(&path).unwrap();
        let back = Keyring::load(&path, ["core/secrets"]).unwrap();
        assert_eq!(back.open(b"a", &sealed).unwrap(), b"text");
        assert!(matches!(back.open(b"b", &sealed), Err(SealError::Damaged)));
        let other = Keyring::generate(["core/secrets"]).unwrap();
        assert!(matches!(other.open(b"a", &sealed), Err(SealError::UnknownKey(_))));
    }
}
