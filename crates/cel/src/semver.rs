//! Semantic versions, version 2.0.0 of their specification.

use std::cmp::Ordering;

/// A version.
#[derive(Clone, Debug)]
pub struct Semver {
    /// First number.
    pub major: u64,
    /// Second number.
    pub minor: u64,
    /// Third number.
    pub patch: u64,
    before: Vec<Part>,
    build: Vec<String>,
}

/// A part of what comes before a release.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Number(u64),
    Text(String),
}

impl PartialEq for Semver {
    fn eq(&self, other: &Semver) -> bool {
        self.order(other) == Ordering::Equal
    }
}

impl Semver {
    /// Reads a version; with `normalize`, one with a `v`, with parts missing or with zeros in front too.
    pub fn parse(text: &str, normalize: bool) -> Result<Semver, String> {
        if normalize { strict(&normalized(text)?) } else { strict(text) }
    }

    /// Which comes first; builds do not count.
    pub fn order(&self, other: &Semver) -> Ordering {
        let numbers = |v: &Semver| (v.major, v.minor, v.patch);
        numbers(self).cmp(&numbers(other)).then_with(|| {
            match (self.before.is_empty(), other.before.is_empty()) {
                (true, true) => Ordering::Equal,
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                (false, false) => order_parts(&self.before, &other.before),
            }
        })
    }
}

fn order_parts(one: &[Part], other: &[Part]) -> Ordering {
    for (a, b) in one.iter().zip(other) {
        let order = match (a, b) {
            (Part::Number(a), Part::Number(b)) => a.cmp(b),
            (Part::Number(_), Part::Text(_)) => Ordering::Less,
            (Part::Text(_), Part::Number(_)) => Ordering::Greater,
            (Part::Text(a), Part::Text(b)) => a.cmp(b),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    one.len().cmp(&other.len())
}

fn normalized(text: &str) -> Result<String, String> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let mut parts: Vec<String> = text
        .splitn(3, '.')
        .map(|part| {
            let rest = part.trim_start_matches('0');
            if part.len() <= 1 {
                part.to_string()
            } else if rest.starts_with(|c: char| c.is_ascii_digit()) {
                rest.to_string()
            } else {
                format!("0{rest}")
            }
        })
        .collect();
    // The first part may have lost nothing and still be text; what is wrong with it the strict reading says.
    if parts.len() < 3 {
        if parts.last().is_some_and(|last| last.contains(['+', '-'])) {
            return Err("short version cannot contain PreRelease/Build meta data".into());
        }
        parts.resize(3, "0".into());
    }
    Ok(parts.join("."))
}

fn strict(text: &str) -> Result<Semver, String> {
    if text.is_empty() {
        return Err("Version string empty".into());
    }
    let parts: Vec<&str> = text.splitn(3, '.').collect();
    let [major, minor, rest] = parts[..] else {
        return Err("No Major.Minor.Patch elements found".into());
    };
    let major = number(major, "major")?;
    let minor = number(minor, "minor")?;
    let (rest, build) = match rest.split_once('+') {
        Some((rest, build)) => (rest, Some(build)),
        None => (rest, None),
    };
    let (patch, before) = match rest.split_once('-') {
        Some((patch, before)) => (patch, Some(before)),
        None => (rest, None),
    };
    let patch = number(patch, "patch")?;
    let before = before.into_iter().flat_map(|b| b.split('.')).map(before_part).collect::<Result<_, _>>()?;
    let build = build
        .into_iter()
        .flat_map(|b| b.split('.'))
        .map(|part| match part {
            "" => Err("Build meta data is empty".to_string()),
            part if !letters(part) => Err(format!("Invalid character(s) found in build meta data {part:?}")),
            part => Ok(part.to_string()),
        })
        .collect::<Result<_, _>>()?;
    Ok(Semver { major, minor, patch, before, build })
}

fn letters(part: &str) -> bool {
    part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn number(text: &str, which: &str) -> Result<u64, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("Invalid character(s) found in {which} number {text:?}"));
    }
    if text.len() > 1 && text.starts_with('0') {
        let mut which = which.to_string();
        which[..1].make_ascii_uppercase();
        return Err(format!("{which} number must not contain leading zeroes {text:?}"));
    }
    text.parse().map_err(|_| format!("strconv.ParseUint: parsing {text:?}: value out of range"))
}

fn before_part(part: &str) -> Result<Part, String> {
    if part.is_empty() {
        return Err("Prerelease is empty".into());
    }
    if part.bytes().all(|b| b.is_ascii_digit()) {
        if part.len() > 1 && part.starts_with('0') {
            return Err(format!("Numeric PreRelease version must not contain leading zeroes {part:?}"));
        }
        return part.parse().map(Part::Number).map_err(|_| "Prerelease number is too large".into());
    }
    if letters(part) {
        return Ok(Part::Text(part.into()));
    }
    Err(format!("Invalid character(s) found in prerelease {part:?}"))
}

impl std::fmt::Display for Semver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)?;
        for (i, part) in self.before.iter().enumerate() {
            f.write_str(if i == 0 { "-" } else { "." })?;
            match part {
                Part::Number(n) => write!(f, "{n}")?,
                Part::Text(text) => f.write_str(text)?,
            }
        }
        for (i, part) in self.build.iter().enumerate() {
            write!(f, "{}{part}", if i == 0 { "+" } else { "." })?;
        }
        Ok(())
    }
}
