//! Names and hashes that come out the same every time they are worked out.
//!
//! A creation that is repeated because its outcome is unknown then meets the object it made before, rather
//! than making a second one.

use serde::Serialize;
use serde_json::Value;

/// Letters and digits that form no words: the alphabet of generated names.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// The longest a name may be if it is to be a label value too.
const NAME_MAX: usize = 63;

/// FNV-1a over the parts, in 64 bits.
#[must_use]
pub fn fnv64(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for part in parts {
        // A separator that UTF-8 does not have keeps ("a", "bc") and ("ab", "c") apart.
        for byte in part.iter().chain(std::iter::once(&0xff)) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash
}

/// FNV-1a in 32 bits.
#[must_use]
pub fn fnv32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5u32, |hash, b| (hash ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}

/// A number in the alphabet of generated names, one character for each of its decimal digits.
#[must_use]
pub fn safe_encode(number: u32) -> String {
    number.to_string().bytes().map(|d| ALPHABET[usize::from(d) % ALPHABET.len()] as char).collect()
}

/// The hash of an object's canonical JSON (keys sorted) and of a collision count, in the alphabet of
/// generated names.
#[must_use]
pub fn hash_of<T: Serialize>(object: &T, collisions: Option<i32>) -> String {
    let mut text = String::new();
    canonical(&crate::diff::value(object), &mut text);
    if let Some(count) = collisions {
        text.push_str(&count.to_string());
    }
    safe_encode(fnv32(text.as_bytes()))
}

fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            out.push('{');
            for key in keys {
                out.push_str(key);
                out.push(':');
                canonical(&map[key], out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

/// Five characters that depend on nothing but the seed.
#[must_use]
pub fn suffix(seed: &[&[u8]]) -> String {
    let mut number = fnv64(seed);
    // The low bits of FNV are weak; fold the high ones in.
    number ^= number >> 32;
    number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..5)
        .map(|_| {
            let at = (number % ALPHABET.len() as u64) as usize;
            number /= ALPHABET.len() as u64;
            ALPHABET[at] as char
        })
        .collect()
}

/// `base-suffix`, cut so that it fits; names of the owner's `count` next children that are not `taken`.
///
/// `epoch` is the owner's revision: a plan made twice from the same view gives the same names, and a child
/// that takes the place of one that is gone gets another.
#[must_use]
pub fn children(
    base: &str,
    uid: &str,
    epoch: &str,
    count: usize,
    taken: impl Fn(&str) -> bool,
) -> Vec<String> {
    let base = &base[..base.len().min(NAME_MAX - 6)];
    let named =
        (0u32..).map(|i| format!("{base}-{}", suffix(&[uid.as_bytes(), epoch.as_bytes(), &i.to_le_bytes()])));
    let mut found = std::collections::BTreeSet::new();
    named.filter(|n| !taken(n) && found.insert(n.clone())).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_stable_and_distinct() {
        let some = children("web", "uid", "7", 600, |_| false);
        assert_eq!(some, children("web", "uid", "7", 600, |_| false));
        assert_eq!(some.iter().collect::<std::collections::BTreeSet<_>>().len(), 600);
        let first = some[0].clone();
        assert!(!children("web", "uid", "7", 600, |n| n == first).contains(&first));
        assert_ne!(children("web", "uid", "8", 1, |_| false), some[..1]);
        assert_eq!(safe_encode(1234567890).len(), 10);
    }
}
