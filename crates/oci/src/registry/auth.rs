//! Authentication at a registry: the challenge of a 401, Basic, and Bearer tokens from a token service.

use super::Fault;
use super::http::{Ask, Http, Origin, escape};
use crate::config::RegistryAuth;
use base64::Engine;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, Uri};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;

/// Bytes of a token service's answer.
const ANSWER_MAX: usize = 1 << 20;

/// What a registry wants before it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token from a service.
    Bearer {
        /// Address of the token service.
        realm: String,
        /// Which registry the token is for.
        service: Option<String>,
        /// What it allows.
        scope: Option<String>,
    },
}

/// The challenge in the headers of a 401; Bearer is preferred.
pub fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let all: Vec<Challenge> =
        headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok()).filter_map(parse).collect();
    let bearer = all.iter().find(|c| matches!(c, Challenge::Bearer { .. }));
    bearer.or(all.first()).cloned()
}

fn parse(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut found: [Option<String>; 3] = Default::default();
    let mut rest = rest.trim_start();
    while let Some((name, after)) = rest.split_once('=') {
        let (value, after) = value(after.trim_start());
        let place = ["realm", "service", "scope"].iter().position(|n| name.trim().eq_ignore_ascii_case(n));
        if let Some(place) = place {
            found[place] = Some(value);
        }
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    let [realm, service, scope] = found;
    Some(Challenge::Bearer { realm: realm?, service, scope })
}

/// A quoted or bare value, and what follows it.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(',').unwrap_or(text.len());
        return (text[..end].trim().to_owned(), &text[end..]);
    };
    let mut out = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (out, &quoted[at + 1..]),
            '\\' => out.extend(chars.next().map(|(_, c)| c)),
            c => out.push(c),
        }
    }
    (out, "")
}

/// The `Authorization` header that answers a challenge.
pub async fn answer(
    http: &Http,
    registry: &Origin,
    challenge: &Challenge,
    auth: Option<&RegistryAuth>,
    scope: &str,
) -> Result<HeaderValue, Fault> {
    match (challenge, auth) {
        (Challenge::Basic, Some(auth)) if !auth.username.is_empty() => basic(auth),
        (Challenge::Basic, _) => Err(Fault::Unauthorized(format!(
            "{registry} wants a user and password, and none is known for it"
        ))),
        (Challenge::Bearer { .. }, Some(auth)) if !auth.registry_token.is_empty() => {
            bearer(&auth.registry_token)
        }
        (Challenge::Bearer { realm, service, scope: wanted }, auth) => {
            let scope = wanted.as_deref().unwrap_or(scope);
            let token = token(http, registry, realm, service.as_deref(), scope, auth).await?;
            bearer(&token)
        }
    }
}

fn basic(auth: &RegistryAuth) -> Result<HeaderValue, Fault> {
    let pair = format!("{}:{}", auth.username, auth.password);
    header(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
}

fn bearer(token: &str) -> Result<HeaderValue, Fault> {
    header(format!("Bearer {token}"))
}

fn header(text: String) -> Result<HeaderValue, Fault> {
    let mut value = HeaderValue::try_from(text)
        .map_err(|_| Fault::protocol("the credentials have characters that no header can carry".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

async fn token(
    http: &Http,
    registry: &Origin,
    realm: &str,
    service: Option<&str>,
    scope: &str,
    auth: Option<&RegistryAuth>,
) -> Result<String, Fault> {
    let url: Uri = realm
        .parse()
        .map_err(|_| Fault::protocol(format!("{registry} names {realm:?} as its token service")))?;
    let origin = Origin::of(&url)?;
    if registry.tls && !origin.tls {
        return Err(Fault::protocol(format!("{registry} wants credentials sent to {origin} in the clear")));
    }
    let ask = match auth {
        Some(auth) if !auth.identity_token.is_empty() => refresh(url, service, scope, auth)?,
        _ => query(url, service, scope, auth)?,
    };
    let response = http.send(ask).await.map_err(|fault| match fault {
        Fault::Status { code: 400 | 401 | 403, text, .. } => Fault::Unauthorized(text),
        other => other,
    })?;
    let broken = |why: String| Fault::Broken(format!("the token service {origin}: {why}"));
    let body = tokio::time::timeout(http.stall(), Limited::new(response.into_body(), ANSWER_MAX).collect());
    let body = body.await.map_err(|_| broken("its answer stalled".into()))?;
    let body = body.map_err(|e| broken(e.to_string()))?.to_bytes();
    let answer: Answer = serde_json::from_slice(&body).map_err(|e| {
        Fault::protocol(format!("the answer of the token service {origin} does not parse: {e}"))
    })?;
    let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
    if token.is_empty() {
        return Err(Fault::protocol(format!("the token service {origin} gave no token")));
    }
    Ok(token)
}

/// The GET form, with user and password where there are any.
fn query(url: Uri, service: Option<&str>, scope: &str, auth: Option<&RegistryAuth>) -> Result<Ask, Fault> {
    let auth = auth.filter(|a| !a.username.is_empty());
    let mut pairs = Vec::new();
    pairs.extend(service.map(|s| format!("service={}", escape(s))));
    // One parameter for each scope.
    pairs.extend(scope.split_whitespace().map(|s| format!("scope={}", escape(s))));
    pairs.extend(auth.map(|a| format!("account={}", escape(&a.username))));
    let text = url.to_string();
    let join = if text.contains('?') { '&' } else { '?' };
    let url = format!("{text}{join}{}", pairs.join("&"));
    let url = url.parse().map_err(|_| Fault::protocol(format!("token service {text:?} is no address")))?;
    let mut ask = Ask::get(url);
    if let Some(auth) = auth {
        ask.headers.insert(AUTHORIZATION, basic(auth)?);
    }
    Ok(ask)
}

/// The OAuth2 form, for identity tokens.
fn refresh(url: Uri, service: Option<&str>, scope: &str, auth: &RegistryAuth) -> Result<Ask, Fault> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    let body = format!(
        "grant_type=refresh_token&client_id=kutter&service={}&scope={}&refresh_token={}",
        escape(service.unwrap_or_default()),
        escape(scope),
        escape(&auth.identity_token),
    );
    Ok(Ask { method: Method::POST, url, headers, body: Bytes::from(body) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let own = |t: Option<&str>| t.map(str::to_owned);
        Some(Challenge::Bearer { realm: realm.into(), service: own(service), scope: own(scope) })
    }

    #[test]
    fn challenges() {
        let table = [
            (
                r#"Bearer realm="https://a/t",service="r.io",scope="repository:x/y:pull,push""#,
                bearer("https://a/t", Some("r.io"), Some("repository:x/y:pull,push")),
            ),
            (r#"bearer Realm = "https://a/t" , service=r.io"#, bearer("https://a/t", Some("r.io"), None)),
            (r#"Bearer error="x\"y", realm="https://a""#, bearer("https://a", None, None)),
            (r#"Basic realm="x""#, Some(Challenge::Basic)),
            ("Bearer service=x", None),
            ("Bearer realm=\"unfinished", bearer("unfinished", None, None)),
            ("Negotiate", None),
            ("", None),
        ];
        for (text, want) in table {
            assert_eq!(parse(text), want, "{text}");
        }
    }

    #[test]
    fn token_addresses() {
        let auth = RegistryAuth { username: "a b".into(), password: "p".into(), ..RegistryAuth::default() };
        let ask = query("https://a/t?x=1".parse().unwrap(), Some("r"), "s1 s2", Some(&auth)).unwrap();
        assert_eq!(ask.url.to_string(), "https://a/t?x=1&service=r&scope=s1&scope=s2&account=a%20b");
        assert!(ask.headers.contains_key(AUTHORIZATION));
    }
}
