//! Records: what one write is in the log. A frame's payload is its records one after the other.

use super::super::codec::{self, CodecError, Interner, Reader, Value};
use crate::api::{Key, Write};
use crate::memory::{Change, To};
use crate::seal::Keyring;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const DELETE_SHOWING: u8 = 3;

/// Encodes a write, without the revision, which its place in the frame says.
pub(super) fn encode(write: &Write, expires: Option<u64>, keys: &Keyring) -> Result<Vec<u8>, CodecError> {
    let draft = write.value.as_ref().or(write.last.as_ref());
    let mut body = Vec::with_capacity(draft.map_or(0, |draft| draft.bytes.len()) + 512);
    let op = match (&write.value, &write.last) {
        (Some(_), _) => PUT,
        (None, None) => DELETE,
        (None, Some(_)) => DELETE_SHOWING,
    };
    body.push(op);
    codec::put_key(&mut body, &write.key);
    if let Some(draft) = draft {
        codec::put_value(&mut body, &write.key, &Value::of(draft, expires), keys)?;
    }
    let mut record = Vec::with_capacity(body.len() + 4);
    codec::put_number(&mut record, body.len() as u64);
    record.append(&mut body);
    Ok(record)
}

/// Decodes a frame's records; the first has the revision `first`.
pub(super) fn decode(
    payload: &[u8],
    first: u64,
    keys: &Keyring,
    interner: &mut Interner,
) -> Result<Vec<Change>, CodecError> {
    let mut reader = Reader::new(payload);
    let mut changes = Vec::new();
    while !reader.is_empty() {
        let length = reader.length()?;
        let mut body = Reader::new(reader.bytes(length)?);
        let op = body.byte()?;
        let key: Key = body.key(interner)?;
        let to = match op {
            DELETE => To::Delete { last: None },
            PUT | DELETE_SHOWING => {
                let (draft, expires) = codec::value(body.rest(), &key, keys, interner)?;
                match op {
                    PUT => To::Put { draft, expires, created: None },
                    _ => To::Delete { last: Some(draft) },
                }
            }
            other => return Err(CodecError::Flags(other)),
        };
        changes.push(Change { key, revision: first + changes.len() as u64, to });
    }
    Ok(changes)
}
