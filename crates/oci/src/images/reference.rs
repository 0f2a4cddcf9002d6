//! Names of images: `[registry/]path[:tag][@digest]`, with the defaults every tool has.

use crate::runtime::ImageError;

/// A parsed name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Host and port, e.g. `docker.io`.
    pub registry: String,
    /// Path of the repository, e.g. `library/nginx`.
    pub repository: String,
    /// Tag; `latest` when neither tag nor digest is given.
    pub tag: Option<String>,
    /// `sha256:…`.
    pub digest: Option<String>,
}

impl Reference {
    /// Parses a name and fills in the defaults.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let fail = |reason: &str| ImageError::InvalidName { reference: text.into(), reason: reason.into() };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_owned())),
            Some(_) => return Err(fail("the digest is not sha256: and 64 hexadecimal digits")),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.to_owned())),
            _ => (rest, None),
        };
        if tag.as_ref().is_some_and(|t| !is_tag(t)) {
            return Err(fail("the tag holds characters that are not allowed"));
        }
        let (registry, path) = match name.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path.to_owned()),
            Some(_) => ("docker.io", name.to_owned()),
            None => ("docker.io", format!("library/{name}")),
        };
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        if name.is_empty() || path.len() > 255 || !path.split('/').all(is_part) {
            return Err(fail("the name must be lowercase letters, digits and separators"));
        }
        if !registry.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b)) {
            return Err(fail("the registry is no host name"));
        }
        let tag = if tag.is_none() && digest.is_none() { Some("latest".to_owned()) } else { tag };
        Ok(Self { registry: registry.to_owned(), repository: path, tag, digest })
    }

    /// Registry and repository.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Name with tag; `None` without one.
    pub fn tagged(&self) -> Option<String> {
        self.tag.as_ref().map(|t| format!("{}:{t}", self.name()))
    }

    /// Name with a digest.
    pub fn with_digest(&self, digest: &str) -> String {
        format!("{}@{digest}", self.name())
    }
}

/// True for `sha256:` and 64 lowercase hexadecimal digits.
pub fn is_digest(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or_default();
    hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_tag(tag: &str) -> bool {
    let mut bytes = tag.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    first && tag.len() <= 128 && bytes.all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn is_part(part: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = part.bytes().next().is_some_and(plain) && part.bytes().next_back().is_some_and(plain);
    ends && part.bytes().all(|b| plain(b) || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let hex = "a".repeat(64);
        for (text, want) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("me/app", "docker.io/me/app:latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
            ("localhost/x", "localhost/x:latest"),
            (&format!("q.io/x@sha256:{hex}"), &format!("q.io/x@sha256:{hex}")),
            (&format!("q.io/x:t@sha256:{hex}"), "q.io/x:t"),
        ] {
            let got = Reference::parse(text).unwrap();
            let shown = got.tagged().or_else(|| got.digest.as_ref().map(|d| got.with_digest(d)));
            assert_eq!(shown.unwrap(), want, "{text}");
        }
        for bad in ["", "UPPER", "a//b", "a:", "a:-t", "a@sha256:12", "/a", "a/", "a b", "-a", "é"] {
            assert!(Reference::parse(bad).is_err(), "{bad:?}");
        }
    }
}
