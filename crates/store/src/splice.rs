//! Puts a revision into the hole of a draft, takes it out again, or replaces it.

use bytes::Bytes;

use crate::api::Object;

/// The decimal digits of a revision, without an allocation.
struct Digits {
    buffer: [u8; 20],
    start: usize,
}

impl Digits {
    fn of(mut revision: u64) -> Self {
        let mut digits = Self { buffer: [0; 20], start: 20 };
        loop {
            digits.start -= 1;
            digits.buffer[digits.start] = b'0' + (revision % 10) as u8;
            revision /= 10;
            if revision == 0 {
                return digits;
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }
}

/// The text with `revision` at `hole`. A hole beyond the text counts as its end.
pub(crate) fn fill(draft: &[u8], hole: u32, revision: u64) -> Bytes {
    let (head, tail) = draft.split_at((hole as usize).min(draft.len()));
    join(head, revision, tail)
}

fn join(head: &[u8], revision: u64, tail: &[u8]) -> Bytes {
    let digits = Digits::of(revision);
    let mut json = Vec::with_capacity(head.len() + digits.bytes().len() + tail.len());
    json.extend_from_slice(head);
    json.extend_from_slice(digits.bytes());
    json.extend_from_slice(tail);
    json.into()
}

/// The two parts of an object's draft, before and after the hole.
pub(crate) fn parts(object: &Object) -> (&[u8], &[u8]) {
    let hole = (object.hole as usize).min(object.json.len());
    let end = (hole + Digits::of(object.modified).bytes().len()).min(object.json.len());
    (&object.json[..hole], &object.json[end..])
}

/// The object's text with another revision.
pub(crate) fn refill(object: &Object, revision: u64) -> Bytes {
    let (head, tail) = parts(object);
    join(head, revision, tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_every_length_of_revision() {
        for revision in [0, 9, 10, 12_345, u64::MAX] {
            let text = fill(br#"{"v":"","x":1}"#, 6, revision);
            assert_eq!(text, format!(r#"{{"v":"{revision}","x":1}}"#));
        }
    }
}
