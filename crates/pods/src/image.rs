//! Images: whether to pull, the words for failures, and which to remove when the disk fills.

use jiff::{SignedDuration, Timestamp};

/// What to do before a container can be made from an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is here.
    Use,
    /// Pull it.
    Pull,
    /// It is not here and may not be pulled.
    Never,
}

/// Decides by policy; an absent policy is `Always` for `latest` and no tag, else `IfNotPresent`.
pub fn step(image: &str, policy: Option<&str>, present: bool) -> Step {
    match policy.unwrap_or_else(|| default_policy(image)) {
        "Always" => Step::Pull,
        "Never" if !present => Step::Never,
        _ if present => Step::Use,
        _ => Step::Pull,
    }
}

fn default_policy(image: &str) -> &'static str {
    let tail = image.rsplit('/').next().unwrap_or(image);
    match tail.split_once('@') {
        Some(_) => "IfNotPresent",
        None if tail.split_once(':').is_none_or(|(_, tag)| tag == "latest") => "Always",
        None => "IfNotPresent",
    }
}

/// An image on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its id.
    pub id: String,
    /// Its size in bytes.
    pub size: u64,
    /// When a container last used it, or when it was first seen.
    pub used: Timestamp,
    /// Whether a container needs it, or it is pinned.
    pub busy: bool,
}

/// Ids to remove, least recently used first, when `used` of `capacity` bytes is above `high` per cent, until it
/// would be at `low`. What is younger than two minutes stays.
pub fn collect(
    held: &[Held],
    capacity: u64,
    used: u64,
    [high, low]: [u64; 2],
    now: Timestamp,
) -> Vec<String> {
    if capacity == 0 || used * 100 < capacity * high {
        return Vec::new();
    }
    let mut excess = used.saturating_sub(capacity / 100 * low);
    let mut free: Vec<_> = held
        .iter()
        .filter(|h| !h.busy && now.duration_since(h.used) >= SignedDuration::from_mins(2))
        .collect();
    free.sort_by_key(|h| h.used);
    let mut out = Vec::new();
    for h in free {
        if excess == 0 {
            break;
        }
        excess = excess.saturating_sub(h.size);
        out.push(h.id.clone());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        let table = [
            ("a", None, true, Step::Pull),
            ("a:latest", None, true, Step::Pull),
            ("a:1", None, true, Step::Use),
            ("r:5000/a", None, true, Step::Pull),
            ("r:5000/a@sha256:0", None, true, Step::Use),
            ("a:1", None, false, Step::Pull),
            ("a:1", Some("Never"), false, Step::Never),
            ("a:1", Some("Never"), true, Step::Use),
            ("a", Some("IfNotPresent"), true, Step::Use),
        ];
        for (image, policy, present, want) in table {
            assert_eq!(step(image, policy, present), want, "{image} {policy:?} {present}");
        }
    }
}
