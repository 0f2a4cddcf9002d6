//! The registries file: mirrors, credentials and authorities, in the shape that many already have.
//!
//! ```yaml
//! mirrors:
//!   docker.io:
//!     endpoint: ["https://mirror.example.com", "http://10.0.0.5:5000"]
//! configs:
//!   mirror.example.com:
//!     auth: { username: me, password: secret }
//!     tls: { ca_file: /etc/ssl/mirror.pem }
//! ```
//!
//! It is read anew for every pull, so that a change needs no restart.

use super::Fault;
use super::http::Origin;
use crate::config::RegistryAuth;
use crate::images::Reference;
use base64::Engine;
use http::Uri;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A registries file larger than this is refused.
const FILE_MAX: u64 = 1 << 20;
/// Endpoints that are tried for one image.
const ENDPOINTS_MAX: usize = 16;

/// What the registries file says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Registries {
    /// By registry as in an image's name; `*` is for all that have no entry of their own.
    pub mirrors: BTreeMap<String, Mirror>,
    /// By host, or host and port, of an endpoint.
    pub configs: BTreeMap<String, Host>,
}

/// Where the images of a registry are looked for before the registry itself is asked.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mirror {
    /// URLs in the order of trial. `http://` asks for plain HTTP.
    pub endpoint: Vec<String>,
}

/// How to speak to a host.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Host {
    /// Credentials for images whose pods bring none.
    pub auth: Option<Auth>,
    /// Authorities and client certificate.
    pub tls: Option<Tls>,
}

/// Credentials of a host.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// User.
    pub username: String,
    /// Password.
    pub password: String,
    /// Both as in a docker configuration: base64 of `user:password`.
    pub auth: String,
    /// Given to the token service for an access token.
    pub identity_token: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Authorities and client certificate of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// PEM file of authorities, besides the machine's.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the certificate that this machine shows.
    pub cert_file: Option<PathBuf>,
    /// PEM file of its key.
    pub key_file: Option<PathBuf>,
    /// Accept any certificate.
    pub insecure_skip_verify: bool,
}

/// One place to ask for an image.
#[derive(Clone, Debug)]
pub struct Place {
    /// Scheme, host and port.
    pub origin: Origin,
    /// As in `Host`.
    pub authority: String,
    /// What comes before `/v2`; empty for most.
    pub prefix: String,
    /// No scheme was given and plain HTTP is allowed: it is tried, and TLS follows.
    pub perhaps_plain: bool,
    /// The registry whose images a mirror is asked for.
    pub mirror_of: Option<String>,
    /// Credentials.
    pub auth: Option<RegistryAuth>,
}

impl Registries {
    /// Reads the file; none is an empty one.
    pub fn load(path: Option<&Path>) -> Result<Self, Fault> {
        let Some(path) = path else { return Ok(Self::default()) };
        let fail = |why: String| Fault::Setup(format!("registries file {}: {why}", path.display()));
        match std::fs::metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(fail(e.to_string())),
            Ok(meta) if meta.len() > FILE_MAX => return Err(fail(format!("it is over {FILE_MAX} bytes"))),
            Ok(_) => {}
        }
        let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
        Self::parse(&text).map_err(fail)
    }

    /// Parses the file's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
            return Ok(Self::default());
        }
        let parsed: Self = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        for endpoint in parsed.mirrors.values().flat_map(|m| &m.endpoint) {
            place(endpoint).map_err(|e| format!("endpoint {endpoint:?}: {e}"))?;
        }
        Ok(parsed)
    }

    /// Where to ask for an image, in order: mirrors, then the registry. `auth` is for the registry alone.
    pub fn places(&self, image: &Reference, auth: Option<&RegistryAuth>) -> Result<Vec<Place>, Fault> {
        let listed = self.mirrors.get(&image.registry).or_else(|| self.mirrors.get("*"));
        let mut places = Vec::new();
        for endpoint in listed.into_iter().flat_map(|m| &m.endpoint).take(ENDPOINTS_MAX) {
            let mut mirror = place(endpoint)?;
            mirror.mirror_of = Some(image.registry.clone());
            places.push(mirror);
        }
        let host = if image.registry == "docker.io" { "registry-1.docker.io" } else { &image.registry };
        let own = place(host)?;
        // A mirror that is the registry itself says how to reach it.
        match places.iter_mut().find(|p| p.authority == own.authority) {
            Some(same) => {
                same.mirror_of = None;
                same.auth = auth.cloned();
            }
            None => places.push(Place { auth: auth.cloned(), ..own }),
        }
        for place in &mut places {
            if place.auth.is_none() {
                place.auth = self.auth(&place.origin, place.mirror_of.is_none().then_some(&*image.registry));
            }
        }
        Ok(places)
    }

    /// How to speak TLS with a host.
    pub fn tls(&self, origin: &Origin) -> Tls {
        let named = if origin.host == "registry-1.docker.io" { Some("docker.io") } else { None };
        self.host(origin, named, |h| h.tls.as_ref()).cloned().unwrap_or_default()
    }

    fn auth(&self, origin: &Origin, registry: Option<&str>) -> Option<RegistryAuth> {
        let auth = self.host(origin, registry, |h| h.auth.as_ref())?;
        let (username, password) =
            decode(&auth.auth).unwrap_or((auth.username.clone(), auth.password.clone()));
        Some(RegistryAuth {
            username,
            password,
            identity_token: auth.identity_token.clone(),
            ..RegistryAuth::default()
        })
    }

    fn host<T>(
        &self,
        origin: &Origin,
        registry: Option<&str>,
        get: impl Fn(&Host) -> Option<&T>,
    ) -> Option<&T> {
        let with_port = origin.to_string();
        let names = [Some(with_port.as_str()), Some(origin.host.as_str()), registry];
        names.into_iter().flatten().find_map(|n| self.configs.get(n).and_then(&get))
    }
}

/// `user:password` out of base64.
pub fn decode(auth: &str) -> Option<(String, String)> {
    let auth = auth.trim();
    if auth.is_empty() {
        return None;
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(auth).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

fn place(text: &str) -> Result<Place, Fault> {
    let named = text.contains("://");
    let whole = if named { text.to_owned() } else { format!("https://{text}") };
    let url: Uri = whole.parse().map_err(|_| Fault::protocol(format!("{text:?} is no address")))?;
    let origin = Origin::of(&url)?;
    let authority = url.authority().map_or(String::new(), |a| a.to_string());
    if authority.contains('@') {
        return Err(Fault::protocol(format!(
            "{:?}: credentials go to configs, not into an address",
            origin.host
        )));
    }
    let path = url.path().trim_end_matches('/');
    Ok(Place {
        perhaps_plain: !named && origin.is_loopback(),
        prefix: path.strip_suffix("/v2").unwrap_or(path).to_owned(),
        origin,
        authority,
        mirror_of: None,
        auth: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
mirrors:
  docker.io:
    endpoint: [\"https://mirror.example.com\", \"http://10.0.0.5:5000/cache/v2\"]
  \"*\":
    endpoint: [\"https://all.example.com\"]
configs:
  mirror.example.com:
    auth: { auth: bWU6c2VjcmV0 }
  docker.io:
    auth: { username: hub, password: p }
    tls: { insecure_skip_verify: true }
";

    fn shown(image: &str, auth: Option<&RegistryAuth>) -> Vec<String> {
        let registries = Registries::parse(FILE).expect("parse");
        let image = Reference::parse(image).expect("reference");
        let places = registries.places(&image, auth).expect("places");
        places
            .iter()
            .map(|p| {
                let user = p.auth.as_ref().map_or("-", |a| &a.username);
                let scheme = if p.origin.tls { "https" } else { "http" };
                format!("{scheme} {}{} {user} {}", p.origin, p.prefix, p.mirror_of.as_deref().unwrap_or("-"))
            })
            .collect()
    }

    #[test]
    fn mirrors_come_first_and_never_see_the_registrys_credentials() {
        let own = RegistryAuth { username: "pod".into(), ..RegistryAuth::default() };
        assert_eq!(
            shown("nginx", Some(&own)),
            [
                "https mirror.example.com:443 me docker.io",
                "http 10.0.0.5:5000/cache - docker.io",
                "https registry-1.docker.io:443 pod -",
            ]
        );
        assert_eq!(shown("nginx", None)[2], "https registry-1.docker.io:443 hub -");
        assert_eq!(
            shown("quay.io/a/b", None),
            ["https all.example.com:443 - quay.io", "https quay.io:443 - -"]
        );
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, want) in [
            ("mirrors: { a: { rewrite: { x: y } } }", "rewrite"),
            ("mirrors: { a: { endpoint: [\"ftp://x\"] } }", "neither https nor http"),
            ("mirrors: { a: { endpoint: [\"https://u:p@x\"] } }", "credentials"),
            ("other: 1", "other"),
        ] {
            let error = Registries::parse(text).expect_err(text);
            assert!(error.contains(want), "{error}");
        }
        assert!(Registries::parse("# nothing\n").is_ok());
    }

    #[test]
    fn plain_http_only_where_it_cannot_be_overheard() {
        for (host, want) in
            [("localhost:5000", true), ("127.0.0.1:1", true), ("[::1]:5000", true), ("r.io", false)]
        {
            assert_eq!(place(host).expect("place").perhaps_plain, want, "{host}");
        }
        assert!(!place("https://localhost:5000").expect("place").perhaps_plain);
    }
}
