//! Subjects of certificates in full. The generator of certificates holds one value for each attribute, but a user
//! of several groups is one of several organizations, and requests may put several attributes into one part. So
//! certificates are generated without a subject, are given one, and are signed again.

use rcgen::{KeyPair, SigningKey};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const BITS: u8 = 0x03;
const TEXT: u8 = 0x0c;
const ID: u8 = 0x06;
const ORGANIZATION: [u8; 3] = [0x55, 4, 10];
const COMMON_NAME: [u8; 3] = [0x55, 4, 3];
/// Where the subject is in the signed part: after version, serial number, algorithm, issuer and validity.
const SUBJECT: usize = 5;

/// One element of DER with this tag.
fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
            out.push(0x80 | bytes.len() as u8);
            out.extend(bytes);
        }
    }
    parts.iter().for_each(|part| out.extend(*part));
    out
}

/// The first element with its head, what is in it, and what follows.
fn split(der: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (first, mut at) = (*der.get(1)? as usize, 2);
    let mut length = first;
    if first >= 0x80 {
        let count = first & 0x7f;
        let bytes = der.get(2..2 + count).filter(|_| count <= 4)?;
        length = bytes.iter().fold(0, |length, byte| length << 8 | *byte as usize);
        at += count;
    }
    let end = at.checked_add(length)?;
    Some((der.get(..end)?, der.get(at..end)?, der.get(end..)?))
}

/// The subject of a user of these groups, as DER.
pub fn encode(name: &str, groups: &[String]) -> Vec<u8> {
    let part = |id: &[u8], text: &str| {
        let pair = element(SEQUENCE, &[&element(ID, &[id]), &element(TEXT, &[text.as_bytes()])]);
        element(SET, &[&pair])
    };
    let mut parts: Vec<Vec<u8>> = groups.iter().map(|group| part(&ORGANIZATION, group)).collect();
    parts.push(part(&COMMON_NAME, name));
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    element(SEQUENCE, &parts)
}

/// The certificate (DER) with this subject (DER), signed with the key again; `None` if it is no certificate or the
/// key does not sign.
pub fn give(certificate: &[u8], subject: &[u8], key: &KeyPair) -> Option<Vec<u8>> {
    replace(certificate, SUBJECT, subject, key)
}

/// As [`give`] for a request, whose subject follows its version.
#[cfg(test)]
pub fn give_request(request: &[u8], subject: &[u8], key: &KeyPair) -> Option<Vec<u8>> {
    replace(request, 1, subject, key)
}

/// As [`encode`] with all groups in one part, as Go does it.
#[cfg(test)]
pub fn encode_together(name: &str, groups: &[String]) -> Vec<u8> {
    let pair =
        |id: &[u8], text: &str| element(SEQUENCE, &[&element(ID, &[id]), &element(TEXT, &[text.as_bytes()])]);
    let groups: Vec<Vec<u8>> = groups.iter().map(|group| pair(&ORGANIZATION, group)).collect();
    let groups: Vec<&[u8]> = groups.iter().map(Vec::as_slice).collect();
    element(SEQUENCE, &[&element(SET, &groups), &element(SET, &[&pair(&COMMON_NAME, name)])])
}

/// Puts `part` in the place of one element of what is signed, and signs again.
fn replace(whole: &[u8], place: usize, part: &[u8], key: &KeyPair) -> Option<Vec<u8>> {
    let (_, content, _) = split(whole)?;
    let (_, signed, rest) = split(content)?;
    let (algorithm, ..) = split(rest)?;
    let (mut left, mut parts) = (signed, Vec::new());
    while !left.is_empty() {
        let (whole, _, after) = split(left)?;
        parts.push(if parts.len() == place { part } else { whole });
        left = after;
    }
    let signed = element(SEQUENCE, &parts);
    let signature = key.sign(&signed).ok()?;
    Some(element(SEQUENCE, &[&signed, algorithm, &element(BITS, &[&[0], &signature])]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_every_length_are_read_back() {
        for length in [0, 1, 127, 128, 255, 256, 70_000] {
            let content = vec![7; length];
            let whole = element(SEQUENCE, &[&content, &[1]]);
            let mut followed = whole.clone();
            followed.push(9);
            let (first, inner, rest) = split(&followed).expect("an element");
            assert_eq!((first, inner.len(), rest), (&*whole, length + 1, &[9][..]));
            assert_eq!(split(&whole[..whole.len() - 1]), None);
        }
        assert_eq!(split(&[]), None);
        assert_eq!(split(&[0x30, 0x85, 1, 1, 1, 1, 1]), None);
    }
}
