//! Keys and values as they lie in etcd: `PREFIX/RESOURCE/NAMESPACE/NAME`, cluster-scoped without the namespace.

use crate::api::{Draft, Key};
use crate::codec::{self, CodecError, Interner, Value};
use crate::seal::Keyring;

/// Starts every value; says how the rest is encoded.
const VERSION: u8 = 1;

/// Where our keys lie.
#[derive(Debug, Clone)]
pub(super) struct Prefix(String);

impl Prefix {
    /// A prefix without a slash at its end.
    pub fn new(prefix: &str) -> Self {
        Self(prefix.trim_end_matches('/').to_owned())
    }

    /// First key and end of everything.
    pub fn range(&self) -> (Vec<u8>, Vec<u8>) {
        // '0' comes just after '/'.
        (format!("{}/", self.0).into_bytes(), format!("{}0", self.0).into_bytes())
    }

    /// A key whose changes only move the revision.
    pub fn mark(&self) -> Vec<u8> {
        format!("{}/.mark", self.0).into_bytes()
    }

    pub fn path(&self, key: &Key) -> Vec<u8> {
        let Key { resource, namespace, name } = key;
        match &**namespace {
            "" => format!("{}/{resource}/{name}", self.0),
            _ => format!("{}/{resource}/{namespace}/{name}", self.0),
        }
        .into_bytes()
    }

    /// The key of a path, if it is one of ours.
    pub fn key(&self, path: &[u8], interner: &mut Interner) -> Option<Key> {
        let rest = std::str::from_utf8(path).ok()?.strip_prefix(&self.0)?.strip_prefix('/')?;
        let parts: Vec<&str> = rest.split('/').collect();
        let (group, plural, namespace, name) = match parts[..] {
            [group, plural, name] => (group, plural, "", name),
            [group, plural, namespace, name] => (group, plural, namespace, name),
            _ => return None,
        };
        let resource = interner.share(&format!("{group}/{plural}"));
        Some(Key { resource, namespace: interner.share(namespace), name: name.into() })
    }
}

/// The value of a draft.
pub(super) fn encode(
    key: &Key,
    draft: &Draft,
    expires: Option<u64>,
    keys: &Keyring,
) -> Result<Vec<u8>, CodecError> {
    let mut out = vec![VERSION];
    codec::put_value(&mut out, key, &Value::of(draft, expires), keys)?;
    Ok(out)
}

/// The draft of a value.
pub(super) fn decode(
    key: &Key,
    value: &[u8],
    keys: &Keyring,
    interner: &mut Interner,
) -> Result<(Draft, Option<u64>), CodecError> {
    match value.split_first() {
        Some((&VERSION, rest)) => codec::value(rest, key, keys, interner),
        Some((&other, _)) => Err(CodecError::Flags(other)),
        None => Err(CodecError::Short),
    }
}
