//! PodSecurity: the Pod Security Standards of a namespace, chosen by its labels. Levels and versions are read here;
//! what each forbids is in `checks`; what follows for a request is in `review`.
//!
//! No namespace is held to anything unless it says so, and nobody is exempt: upstream's defaults.

mod baseline;
mod checks;
mod pod;
mod restricted;
mod review;

use std::fmt;

pub use checks::{Violation, evaluate};
pub use pod::Pod;
pub use review::{
    Answer, NamespaceAnswer, controller, existing, is_looked_at, is_significant, namespace,
    pod as review_pod, template,
};

/// How much pods may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Anything.
    Privileged,
    /// Nothing that is known to lead out of the container.
    Baseline,
    /// What hardened pods need, and nothing else.
    Restricted,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        })
    }
}

/// The Kubernetes version whose standard is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// `v1.` and this.
    Minor(u32),
    /// The newest that is known.
    Latest,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Minor(minor) => write!(f, "v1.{minor}"),
            Self::Latest => f.write_str("latest"),
        }
    }
}

/// A standard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standard {
    /// Its level.
    pub level: Level,
    /// Its version.
    pub version: Version,
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.level, self.version)
    }
}

const OPEN: Standard = Standard { level: Level::Privileged, version: Version::Latest };

/// What a namespace holds its pods to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Pods against this are refused.
    pub enforce: Standard,
    /// Pods against this are noted.
    pub audit: Standard,
    /// Who makes pods against this is warned.
    pub warn: Standard,
}

/// A label that says nothing known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLabel {
    /// Its key.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// What it should be.
    pub why: &'static str,
}

impl BadLabel {
    /// The path of the field.
    pub fn field(&self) -> String {
        format!("metadata.labels[{}]", self.key)
    }

    /// The message of the field error.
    pub fn message(&self) -> String {
        format!("Invalid value: {:?}: {}", self.value, self.why)
    }
}

const LEVELS: &str = "must be one of privileged, baseline, restricted";
const VERSIONS: &str = "must be \"latest\" or \"v1.x\"";

fn level(text: &str) -> Option<Level> {
    [Level::Privileged, Level::Baseline, Level::Restricted].into_iter().find(|l| l.to_string() == text)
}

fn version(text: &str) -> Option<Version> {
    if text == "latest" {
        return Some(Version::Latest);
    }
    let digits = text.strip_prefix("v1.")?;
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    digits.parse().ok().filter(|_| plain).map(Version::Minor)
}

impl Policy {
    /// What the labels say beyond these defaults, and which of them say nothing known. Enforcing fails closed, the
    /// rest fails open.
    pub fn of<'a>(defaults: &Self, get: impl Fn(&str) -> Option<&'a str>) -> (Self, Vec<BadLabel>) {
        let mut bad = Vec::new();
        let mut read = |keys: [&'static str; 2], default: Standard, on_bad: Level| {
            let mut standard = default;
            let mut known = None;
            if let Some(text) = get(keys[0]) {
                known = level(text);
                standard.level = known.unwrap_or(on_bad);
                if known.is_none() {
                    bad.push(BadLabel { key: keys[0], value: text.to_owned(), why: LEVELS });
                }
            }
            if let Some(text) = get(keys[1]) {
                let found = version(text);
                standard.version = found.unwrap_or(Version::Latest);
                if found.is_none() {
                    bad.push(BadLabel { key: keys[1], value: text.to_owned(), why: VERSIONS });
                }
            }
            (standard, known)
        };
        let enforced = ["pod-security.kubernetes.io/enforce", "pod-security.kubernetes.io/enforce-version"];
        let (enforce, said) = read(enforced, defaults.enforce, Level::Restricted);
        let audited = ["pod-security.kubernetes.io/audit", "pod-security.kubernetes.io/audit-version"];
        let (audit, _) = read(audited, defaults.audit, Level::Privileged);
        let warned = ["pod-security.kubernetes.io/warn", "pod-security.kubernetes.io/warn-version"];
        let (mut warn, _) = read(warned, defaults.warn, Level::Privileged);
        // Whoever enforces without a word about warnings is warned of what will be refused.
        if get(warned[0]).is_none() && said.is_some_and(|level| level > warn.level) {
            warn.level = enforce.level;
            if get(warned[1]).is_none() {
                warn.version = enforce.version;
            }
        }
        (Self { enforce, audit, warn }, bad)
    }

    /// Nothing is asked for.
    pub const OPEN: Self = Self { enforce: OPEN, audit: OPEN, warn: OPEN };

    /// Whether nothing is forbidden, noted or warned of.
    pub fn is_open(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|standard| standard.level == Level::Privileged)
    }
}

mod settings;
#[cfg(test)]
mod tests;

pub use settings::{BadSettings, Settings};
