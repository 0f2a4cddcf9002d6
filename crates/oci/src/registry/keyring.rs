//! Credentials as docker keeps them (`.dockerconfigjson`, `.dockercfg`, `~/.docker/config.json`), and which
//! of them are for an image.

use super::config::decode;
use crate::config::RegistryAuth;
use crate::images::Reference;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Credentials by registry, perhaps with a path, perhaps with `*` in a part of the host.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    entries: Vec<(String, RegistryAuth)>,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    #[serde(rename = "identitytoken")]
    identity_token: String,
    #[serde(rename = "registrytoken")]
    registry_token: String,
}

impl Keyring {
    /// Adds the entries of a `.dockerconfigjson`.
    pub fn add_config(&mut self, bytes: &[u8]) -> Result<(), serde_json::Error> {
        let document: Document = serde_json::from_slice(bytes)?;
        self.add(document.auths);
        Ok(())
    }

    /// Adds the entries of a `.dockercfg`, the older form.
    pub fn add_legacy(&mut self, bytes: &[u8]) -> Result<(), serde_json::Error> {
        self.add(serde_json::from_slice(bytes)?);
        Ok(())
    }

    fn add(&mut self, entries: BTreeMap<String, Entry>) {
        for (name, entry) in entries {
            let (username, password) = decode(&entry.auth).unwrap_or((entry.username, entry.password));
            let auth = RegistryAuth {
                username,
                password,
                identity_token: entry.identity_token,
                registry_token: entry.registry_token,
            };
            if auth != RegistryAuth::default() {
                self.entries.push((plain(&name), auth));
            }
        }
    }

    /// Credentials for an image, the most specific first, each once.
    pub fn lookup(&self, image: &str) -> Vec<RegistryAuth> {
        let Ok(image) = Reference::parse(image) else { return vec![] };
        let mut found: Vec<_> = self.entries.iter().filter(|(name, _)| serves(name, &image)).collect();
        found.sort_by(|(a, _), (b, _)| b.cmp(a));
        let mut out: Vec<RegistryAuth> = Vec::new();
        for (_, auth) in found {
            if !out.contains(auth) {
                out.push(auth.clone());
            }
        }
        out
    }
}

/// Host and path without scheme and API version.
fn plain(name: &str) -> String {
    let name = name.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let name = name.strip_suffix("/v1").or(name.strip_suffix("/v2")).unwrap_or(name);
    let (host, path) = name.split_once('/').map_or((name, None), |(h, p)| (h, Some(p)));
    let host = if matches!(host, "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { host };
    path.map_or(host.to_owned(), |p| format!("{host}/{p}"))
}

fn serves(name: &str, image: &Reference) -> bool {
    let (host, path) = name.split_once('/').unwrap_or((name, ""));
    let below = image.repository.strip_prefix(path);
    host_matches(host, &image.registry)
        && below.is_some_and(|rest| path.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

/// Part by part between dots; ports must be equal.
fn host_matches(pattern: &str, host: &str) -> bool {
    let split = |text: &str| {
        let (name, port) = text.rsplit_once(':').map_or((text, ""), |(n, p)| (n, p));
        (name.to_ascii_lowercase(), port.to_owned())
    };
    let ((pattern, wanted), (host, port)) = (split(pattern), split(host));
    let parts = (pattern.split('.'), host.split('.'));
    let equal = parts.0.clone().count() == parts.1.clone().count();
    wanted == port && equal && parts.0.zip(parts.1).all(|(p, h)| glob(p.as_bytes(), h.as_bytes()))
}

/// `*` stands for any number of characters. Takes time in proportion to both lengths multiplied, no more.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star is, and how much of the text it stands for.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            (p, t) = (at + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_match_registries() {
        let table = [
            ("https://index.docker.io/v1/", "nginx", true),
            ("docker.io", "library/nginx:1", true),
            ("quay.io", "quay.io/a/b", true),
            ("quay.io/a", "quay.io/a/b", true),
            ("quay.io/x", "quay.io/a/b", false),
            ("quay.io/a", "quay.io/ab", false),
            ("quay.io", "quay.io.evil.com/a", false),
            ("quay.io", "nginx", false),
            ("localhost:5000", "localhost:5000/a", true),
            ("localhost:5000", "localhost:5001/a", false),
            ("*.dkr.ecr.*.amazonaws.com", "12.dkr.ecr.eu-1.amazonaws.com/a", true),
            ("*.io", "a.b.io/x", false),
        ];
        for (name, image, want) in table {
            let image = Reference::parse(image).expect(image);
            assert_eq!(serves(&plain(name), &image), want, "{name} {image:?}");
        }
    }

    #[test]
    fn the_most_specific_comes_first_and_none_twice() {
        let mut ring = Keyring::default();
        let text = br#"{"auths":{"r.io":{"auth":"YTox"},"r.io/team":{"username":"b","password":"2"},
            "https://r.io/v2/":{"auth":"YTox"},"r.io/none":{}},"credsStore":"x"}"#;
        ring.add_config(text).expect("config");
        ring.add_legacy(br#"{"r.io/team/app":{"username":"c","password":"3","email":"e"}}"#).expect("legacy");
        let users: Vec<_> = ring.lookup("r.io/team/app:1").into_iter().map(|a| a.username).collect();
        assert_eq!(users, ["c", "b", "a"]);
        assert!(ring.add_config(b"nonsense").is_err());
    }
}
