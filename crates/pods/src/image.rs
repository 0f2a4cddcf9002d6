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

/// Whether a reference can name an image: lower-case path components, perhaps a host before them, a tag or digest
/// after.
pub fn valid(image: &str) -> bool {
    let (rest, digest) = image.split_once('@').map_or((image, None), |(r, d)| (r, Some(d)));
    let slash = rest.rfind('/').map_or(0, |i| i + 1);
    let (path, tag) = match rest[slash..].split_once(':') {
        Some((name, tag)) => (&rest[..slash + name.len()], Some(tag)),
        None => (rest, None),
    };
    let word = |w: &str, extra: &str| {
        !w.is_empty() && w.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
    };
    let tag_ok = tag.is_none_or(|t| t.len() <= 128 && word(t, "_.-") && !t.starts_with(['.', '-']));
    let digest_ok =
        digest.is_none_or(|d| d.split_once(':').is_some_and(|(a, h)| word(a, "+._-") && word(h, "")));
    let parts: Vec<&str> = path.split('/').collect();
    let host = parts.len() > 1 && (parts[0].contains(['.', ':']) || parts[0] == "localhost");
    let lower = |p: &&str| {
        word(p, "_.-") && !p.chars().any(|c| c.is_ascii_uppercase()) && !p.starts_with(['.', '-', '_'])
    };
    let host_ok = !host || word(parts[0], ".-:[]");
    tag_ok && digest_ok && host_ok && parts[usize::from(host)..].iter().all(lower)
}

/// A duration the way events print it, to the millisecond: `523ms`, `1.5s`, `2m0.25s`.
pub fn took(duration: std::time::Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 {
        return if millis == 0 { "0s".into() } else { format!("{millis}ms") };
    }
    let (hours, minutes, rest) = (millis / 3_600_000, millis / 60_000 % 60, millis % 60_000);
    let fraction = format!("{:03}", rest % 1000);
    let fraction = fraction.trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    let seconds = format!("{}{dot}{fraction}s", rest / 1000);
    match (hours, minutes) {
        (0, 0) => seconds,
        (0, m) => format!("{m}m{seconds}"),
        (h, m) => format!("{h}h{m}m{seconds}"),
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

/// Bytes of images to remove when `free` bytes of their disk are free and eviction sets in below `threshold`.
/// Room is made before eviction would set in, and a third more than that.
pub fn excess(free: u64, threshold: u64) -> u64 {
    let least = threshold / 2 * 3;
    if free >= least { 0 } else { least + least / 3 - free }
}

/// Ids to remove, least recently used first, until `excess` bytes are free. What was used within `age` stays.
pub fn collect(held: &[Held], excess: u64, age: SignedDuration, now: Timestamp) -> Vec<String> {
    let mut excess = excess;
    let mut free: Vec<_> = held.iter().filter(|h| !h.busy && now.duration_since(h.used) >= age).collect();
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
    fn oldest_images_go_first() {
        let at = |s| Timestamp::from_second(s).expect("in range");
        let image = |id: &str, used, busy| Held { id: id.into(), size: 10, used: at(used), busy };
        let held = [
            image("new", 999, false),
            image("b", 200, false),
            image("a", 100, false),
            image("busy", 1, true),
        ];
        let table: [(u64, &[&str]); 4] = [(0, &[]), (5, &["a"]), (15, &["a", "b"]), (99, &["a", "b"])];
        for (excess, want) in table {
            assert_eq!(collect(&held, excess, SignedDuration::from_mins(2), at(1000)), want, "{excess}");
        }
    }

    #[test]
    fn names() {
        for good in ["a", "a:1", "localhost:5000/a/b:1.0", "a@sha256:00ff", "r.io/a_b/c-d:V1", "sha256:00"] {
            assert!(valid(good), "{good}");
        }
        for bad in ["", "A", "a b", "a:", "a/", "/a", "a:b:c/", "a@x", "a:-1", "r.io/"] {
            assert!(!valid(bad), "{bad}");
        }
    }

    #[test]
    fn room_is_made_before_pods_have_to_go() {
        for (free, want) in [(0, 20), (9, 11), (14, 6), (15, 0), (100, 0)] {
            assert_eq!(excess(free, 10), want, "{free}");
        }
    }

    #[test]
    fn durations() {
        for (millis, want) in [
            (0, "0s"),
            (523, "523ms"),
            (1000, "1s"),
            (1520, "1.52s"),
            (60_000, "1m0s"),
            (3_723_004, "1h2m3.004s"),
        ] {
            assert_eq!(took(std::time::Duration::from_millis(millis)), want);
        }
    }

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
