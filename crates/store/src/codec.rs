//! The compact form of keys, indexes and values that log, checkpoint, backup and etcd share (see FORMAT.md).
//!
//! The index travels beside the JSON, so that opening a store parses none.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::api::{Draft, Index, Key};
use crate::seal::{Keyring, SealError};

/// Body is sealed.
const SEALED: u8 = 1;
/// An expiry follows the index.
const EXPIRES: u8 = 2;

/// What may be wrong with encoded bytes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodecError {
    /// It ends too early.
    #[error("entry ends too early")]
    Short,
    /// A name is not text.
    #[error("name in entry is not utf-8")]
    Text,
    /// A number does not fit.
    #[error("number in entry is too large")]
    Number,
    /// Written by a later version.
    #[error("entry has unknown flags {0:#x}; it was written by a later version")]
    Flags(u8),
    /// It cannot be opened.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// Appends a number, seven bits per byte, least first.
pub(crate) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a text with its length.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_number(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Appends a key.
pub(crate) fn put_key(out: &mut Vec<u8>, key: &Key) {
    put_text(out, &key.resource);
    put_text(out, &key.namespace);
    put_text(out, &key.name);
}

/// Keeps one copy of texts that repeat, such as label keys.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    known: HashSet<Arc<str>>,
}

/// Texts kept for sharing; later ones are not shared.
const INTERNED_MAX: usize = 100_000;

impl Interner {
    pub fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        if self.known.len() < INTERNED_MAX {
            self.known.insert(new.clone());
        }
        new
    }
}

type Pairs = Box<[(Arc<str>, Arc<str>)]>;

/// Reads what the `put_` functions wrote.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], CodecError> {
        let (head, tail) = self.rest.split_at_checked(count).ok_or(CodecError::Short)?;
        self.rest = tail;
        Ok(head)
    }

    pub fn byte(&mut self) -> Result<u8, CodecError> {
        Ok(self.bytes(1)?[0])
    }

    pub fn number(&mut self) -> Result<u64, CodecError> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(CodecError::Number);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(CodecError::Number)
    }

    /// A count or length; never more than the bytes that are left, so it can size an allocation.
    pub fn length(&mut self) -> Result<usize, CodecError> {
        let length = usize::try_from(self.number()?).map_err(|_| CodecError::Number)?;
        if length > self.rest.len() { Err(CodecError::Short) } else { Ok(length) }
    }

    pub fn text(&mut self) -> Result<&'a str, CodecError> {
        let length = self.length()?;
        std::str::from_utf8(self.bytes(length)?).map_err(|_| CodecError::Text)
    }

    pub fn key(&mut self, interner: &mut Interner) -> Result<Key, CodecError> {
        let resource = interner.share(self.text()?);
        let namespace = interner.share(self.text()?);
        Ok(Key { resource, namespace, name: self.text()?.into() })
    }

    fn pairs(&mut self, interner: &mut Interner) -> Result<Pairs, CodecError> {
        let count = self.length()?;
        (0..count).map(|_| Ok((interner.share(self.text()?), interner.share(self.text()?)))).collect()
    }

    fn index(&mut self, interner: &mut Interner) -> Result<Index, CodecError> {
        let uid = self.text()?.into();
        let labels = self.pairs(interner)?;
        let fields = self.pairs(interner)?;
        let count = self.length()?;
        let owners =
            (0..count).map(|_| Ok(interner.share(self.text()?))).collect::<Result<_, CodecError>>()?;
        Ok(Index { uid, labels, fields, owners })
    }
}

fn put_index(out: &mut Vec<u8>, index: &Index) {
    put_text(out, &index.uid);
    for pairs in [&index.labels, &index.fields] {
        put_number(out, pairs.len() as u64);
        for (key, value) in pairs {
            put_text(out, key);
            put_text(out, value);
        }
    }
    put_number(out, index.owners.len() as u64);
    for owner in &index.owners {
        put_text(out, owner);
    }
}

/// A value to encode; the draft's text may come in two parts, around the hole.
pub(crate) struct Value<'a> {
    pub text: (&'a [u8], &'a [u8]),
    pub hole: u32,
    pub index: &'a Index,
    pub expires: Option<u64>,
}

impl<'a> Value<'a> {
    pub fn of(draft: &'a Draft, expires: Option<u64>) -> Self {
        Self { text: (&draft.bytes, &[]), hole: draft.hole, index: &draft.index, expires }
    }

    pub fn of_object(object: &'a crate::api::Object) -> Self {
        let text = crate::splice::parts(object);
        Self { text, hole: object.hole, index: &object.index, expires: object.expires }
    }
}

/// Appends a value, sealed if its resource is secret.
pub(crate) fn put_value(
    out: &mut Vec<u8>,
    key: &Key,
    value: &Value<'_>,
    keys: &Keyring,
) -> Result<(), CodecError> {
    let sealed = keys.is_secret(&key.resource);
    let flags = if sealed { SEALED } else { 0 } | if value.expires.is_some() { EXPIRES } else { 0 };
    out.push(flags);
    put_number(out, value.hole.into());
    put_index(out, value.index);
    if let Some(expires) = value.expires {
        put_number(out, expires);
    }
    if sealed {
        let text = [value.text.0, value.text.1].concat();
        keys.seal(&associated(key), text, out)?;
    } else {
        out.extend_from_slice(value.text.0);
        out.extend_from_slice(value.text.1);
    }
    Ok(())
}

/// What a sealed value is bound to, so that it cannot be moved to another object.
fn associated(key: &Key) -> Vec<u8> {
    let mut bound = Vec::with_capacity(64);
    put_key(&mut bound, key);
    bound
}

/// Reads a value that takes up all of `bytes`.
pub(crate) fn value(
    bytes: &[u8],
    key: &Key,
    keys: &Keyring,
    interner: &mut Interner,
) -> Result<(Draft, Option<u64>), CodecError> {
    let mut reader = Reader::new(bytes);
    let flags = reader.byte()?;
    if flags & !(SEALED | EXPIRES) != 0 {
        return Err(CodecError::Flags(flags));
    }
    let hole = u32::try_from(reader.number()?).map_err(|_| CodecError::Number)?;
    let index = reader.index(interner)?;
    let expires = if flags & EXPIRES != 0 { Some(reader.number()?) } else { None };
    let body = reader.rest();
    let bytes = if flags & SEALED != 0 {
        keys.open(&associated(key), body)?.into()
    } else {
        Bytes::copy_from_slice(body)
    };
    if hole as usize > bytes.len() {
        return Err(CodecError::Short);
    }
    Ok((Draft { bytes, hole, index }, expires))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back(number: u64) {
            let mut out = Vec::new();
            put_number(&mut out, number);
            prop_assert_eq!(Reader::new(&out).number().ok(), Some(number));
        }

        #[test]
        fn values_come_back(
            text in "[ -~]{1,200}", labels in proptest::collection::vec(("[a-z/]{1,9}", "[a-z]{0,9}"), 0..5),
            owner in "[a-f0-9]{8}", expires: Option<u64>, secret: bool,
        ) {
            let resource = if secret { "core/secrets" } else { "core/pods" };
            let key = Key { resource: resource.into(), namespace: "ns".into(), name: "n".into() };
            let pairs = labels.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect();
            let index = Index { uid: "u".into(), labels: pairs, fields: [].into(), owners: [owner.as_str().into()].into() };
            let draft = Draft { bytes: text.clone().into(), hole: 1, index: index.clone() };
            let keys = Keyring::generate(["core/secrets"]).unwrap();
            let mut out = Vec::new();
            put_value(&mut out, &key, &Value::of(&draft, expires), &keys).unwrap();
            let (back, until) = value(&out, &key, &keys, &mut Interner::default()).unwrap();
            prop_assert_eq!(back.bytes, text.as_bytes());
            prop_assert_eq!(back.index, index);
            prop_assert_eq!(until, expires);
        }

        #[test]
        fn noise_never_panics(noise: Vec<u8>) {
            let key = Key { resource: "core/secrets".into(), namespace: "".into(), name: "n".into() };
            let keys = Keyring::generate(["core/secrets"]).unwrap();
            let _ = value(&noise, &key, &keys, &mut Interner::default());
        }
    }
}
