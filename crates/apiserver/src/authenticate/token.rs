//! Service-account tokens: made for pods and people on request, and known again as long as what they are bound to
//! exists.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use parking_lot::Mutex;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Identity, Verdict};
use crate::object::{self, at, meta_text};
use crate::server::ApiServer;

/// Who the tokens are from, and whom they are for unless they say otherwise.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// How many verified tokens are remembered.
const KNOWN_MAX: usize = 8192;
/// How long after a deletion a token still counts, in seconds.
const LEEWAY_SECONDS: i64 = 60;

/// Why the signing key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file.
    #[error("read or write {path}")]
    File {
        /// Which.
        path: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Its content.
    #[error("use the service-account key: {0}")]
    Key(String),
}

/// What a token is bound to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bound {
    /// The object's name.
    #[serde(default)]
    pub name: String,
    /// Its uid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

impl Bound {
    /// A reference to this object.
    pub fn of(value: &Value) -> Self {
        Self { name: object::name(value).into(), uid: meta_text(value, "uid").into() }
    }
}

/// The claims about Kubernetes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Private {
    /// The account's namespace.
    pub namespace: String,
    /// The node, of pod-bound and node-bound tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Bound>,
    /// The pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Bound>,
    /// The secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Bound>,
    /// The account.
    pub serviceaccount: Bound,
    /// When clients should have renewed it, seconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// Everything a token says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Claims {
    /// Audiences.
    pub aud: Vec<String>,
    /// Expiry, seconds since the epoch.
    pub exp: i64,
    /// Time of issue, seconds since the epoch.
    pub iat: i64,
    /// Issuer.
    pub iss: String,
    /// The token's own id.
    pub jti: String,
    /// The claims about Kubernetes.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Private,
    /// Start, seconds since the epoch.
    pub nbf: i64,
    /// The account's user name.
    pub sub: String,
}

/// Signs and knows tokens.
pub struct Tokens {
    signing: EncodingKey,
    verifying: DecodingKey,
    id: String,
    point: (String, String),
    known: Mutex<HashMap<Vec<u8>, Arc<Claims>>>,
}

impl Tokens {
    /// Reads the key `sa.key` of the directory, or makes it.
    pub fn load_or_generate(directory: &Path) -> Result<Self, KeyError> {
        let path = directory.join("sa.key");
        let file = |source| KeyError::File { path: path.display().to_string(), source };
        let bad = |cause: &dyn std::fmt::Display| KeyError::Key(cause.to_string());
        let key = match std::fs::read_to_string(&path) {
            Ok(pem) => KeyPair::from_pem(&pem).map_err(|cause| bad(&cause))?,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|cause| bad(&cause))?;
                serve::pki::replace_file(&path, key.serialize_pem().as_bytes(), 0o600)
                    .map_err(|cause| bad(&cause))?;
                key
            }
            Err(cause) => return Err(file(cause)),
        };
        let raw = key.der_bytes();
        if raw.len() != 65 {
            return Err(KeyError::Key("it is not of the curve P-256".into()));
        }
        let point = (URL_SAFE_NO_PAD.encode(&raw[1..33]), URL_SAFE_NO_PAD.encode(&raw[33..]));
        let signing =
            EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).map_err(|cause| bad(&cause))?;
        let verifying = DecodingKey::from_ec_components(&point.0, &point.1).map_err(|cause| bad(&cause))?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &key.subject_public_key_info());
        let id = URL_SAFE_NO_PAD.encode(digest.as_ref());
        Ok(Self { signing, verifying, id, point, known: Mutex::default() })
    }

    /// Signs the claims.
    pub fn sign(&self, claims: &Claims) -> Result<String, KeyError> {
        let header = Header { typ: None, kid: Some(self.id.clone()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, &self.signing).map_err(|cause| KeyError::Key(cause.to_string()))
    }

    /// The claims of a token with our signature; times and audiences are not yet judged.
    fn verified(&self, token: &str) -> Result<Arc<Claims>, String> {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
        if let Some(claims) = self.known.lock().get(digest.as_ref()) {
            return Ok(claims.clone());
        }
        let mut rules = Validation::new(Algorithm::ES256);
        rules.validate_exp = false;
        rules.validate_aud = false;
        rules.set_issuer(&[ISSUER]);
        let data = jsonwebtoken::decode::<Claims>(token, &self.verifying, &rules);
        let claims = Arc::new(data.map_err(|cause| cause.to_string())?.claims);
        let mut known = self.known.lock();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(digest.as_ref().to_vec(), claims.clone());
        Ok(claims)
    }

    /// The key set that others verify tokens with.
    pub fn key_set(&self) -> Value {
        json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256",
            "x": self.point.0, "y": self.point.1}]})
    }

    /// The discovery document of the issuer.
    pub fn discovery(&self, address: std::net::SocketAddr) -> Value {
        json!({"issuer": ISSUER, "jwks_uri": format!("https://{address}/openid/v1/jwks"),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"]})
    }
}

/// The user a token stands for, and those of the wanted audiences it is for.
pub fn identify(
    server: &ApiServer,
    token: &str,
    audiences: &[String],
) -> Result<(Identity, Vec<String>), String> {
    let tokens = server.tokens.get().ok_or("no tokens are issued by this server")?;
    let claims = tokens.verified(token)?;
    let now = jiff::Timestamp::now().as_second();
    if claims.exp < now - LEEWAY_SECONDS {
        return Err("service account token has expired".into());
    }
    if claims.nbf > now + LEEWAY_SECONDS {
        return Err("service account token is not valid yet".into());
    }
    let fitting: Vec<String> = claims.aud.iter().filter(|own| audiences.contains(own)).cloned().collect();
    if fitting.is_empty() {
        return Err(format!(
            "token audiences {:?} is invalid for the target audiences {audiences:?}",
            claims.aud
        ));
    }
    check_bound(server, &claims.kubernetes, token, now)?;
    Ok((identity(&claims), fitting))
}

fn find(server: &ApiServer, plural: &str, namespace: &str, bound: &Bound, now: i64) -> Result<Value, String> {
    let invalid = || "service account token has been invalidated".to_string();
    let catalog = server.catalog();
    let resource = catalog.stored("", plural).ok_or_else(invalid)?;
    let found = server.store.get(&resource.key(namespace, &bound.name)).ok_or_else(invalid)?;
    let value: Value = serde_json::from_slice(&found.json).map_err(|_| invalid())?;
    if meta_text(&value, "uid") != bound.uid {
        return Err(format!(
            "{plural} UID ({}) does not match claim ({})",
            meta_text(&value, "uid"),
            bound.uid
        ));
    }
    match object::seconds(meta_text(&value, "deletionTimestamp")) {
        Some(deleted) if deleted < now - LEEWAY_SECONDS => Err(invalid()),
        _ => Ok(value),
    }
}

fn check_bound(server: &ApiServer, private: &Private, token: &str, now: i64) -> Result<(), String> {
    let namespace = private.namespace.as_str();
    find(server, "serviceaccounts", namespace, &private.serviceaccount, now)?;
    if let Some(secret) = &private.secret {
        check_secret(&find(server, "secrets", namespace, secret, now)?, token)?;
    }
    match (&private.pod, &private.node) {
        (Some(pod), _) => find(server, "pods", namespace, pod, now).map(drop),
        (None, Some(node)) => find(server, "nodes", "", node, now).map(drop),
        (None, None) => Ok(()),
    }
}

/// A secret that holds a token of an account is good for the one it holds, and only while nothing marks it.
fn check_secret(secret: &Value, token: &str) -> Result<(), String> {
    if at(secret, "type").and_then(Value::as_str) != Some("kubernetes.io/service-account-token") {
        return Ok(());
    }
    let held = at(secret, "data.token").and_then(Value::as_str).unwrap_or("");
    if STANDARD.decode(held).unwrap_or_default() != token.as_bytes() {
        return Err("token does not match server's copy".into());
    }
    let labels = secret.get("metadata").and_then(|metadata| metadata.get("labels"));
    match labels.and_then(|labels| labels.get("kubernetes.io/legacy-token-invalid-since")) {
        Some(Value::String(since)) if !since.is_empty() => {
            Err(format!("the token in secret {} has been marked invalid", object::name(secret)))
        }
        _ => Ok(()),
    }
}

fn identity(claims: &Claims) -> Identity {
    let private = &claims.kubernetes;
    let mut extra = BTreeMap::new();
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_string()]);
        }
    };
    add("credential-id", &format!("JTI={}", claims.jti));
    for (kind, bound) in [("node", &private.node), ("pod", &private.pod)] {
        if let Some(bound) = bound {
            add(&format!("{kind}-name"), &bound.name);
            add(&format!("{kind}-uid"), &bound.uid);
        }
    }
    let groups =
        ["system:serviceaccounts".to_string(), format!("system:serviceaccounts:{}", private.namespace)];
    let name = format!("system:serviceaccount:{}:{}", private.namespace, private.serviceaccount.name);
    Identity { uid: private.serviceaccount.uid.clone(), extra, ..Identity::user(name, groups) }
}

/// The bearer token of a request.
pub fn bearer(head: &http::request::Parts) -> Option<&str> {
    let header = head.headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = header.trim().split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()).then(|| token.trim())
}

/// Judges a request by its bearer token.
pub fn authenticate(server: &ApiServer, head: &http::request::Parts) -> Verdict {
    let Some(token) = bearer(head) else { return Verdict::Unknown };
    if let Some(identity) = super::bootstrap::identify(server, token) {
        return Verdict::Known(Arc::new(identity));
    }
    if token.bytes().filter(|byte| *byte == b'.').count() != 2 {
        return Verdict::Unknown;
    }
    match identify(server, token, &[ISSUER.to_string()]) {
        Ok((identity, _)) => Verdict::Known(Arc::new(identity)),
        Err(reason) => Verdict::Refused(reason),
    }
}

/// The claims of a new token for an account, bound to nothing yet.
pub fn claims(account: &Value, audiences: Vec<String>, now: i64, seconds: i64) -> Claims {
    let namespace = meta_text(account, "namespace").to_string();
    Claims {
        aud: audiences,
        exp: now + seconds,
        iat: now,
        iss: ISSUER.into(),
        jti: uuid::Uuid::new_v4().to_string(),
        sub: format!("system:serviceaccount:{namespace}:{}", object::name(account)),
        nbf: now,
        kubernetes: Private {
            namespace,
            serviceaccount: Bound::of(account),
            node: None,
            pod: None,
            secret: None,
            warnafter: None,
        },
    }
}

/// TokenReview: who a token stands for.
pub fn review(server: &ApiServer, review: &mut Value) {
    let asked = at(review, "spec.audiences").and_then(Value::as_array).into_iter().flatten();
    let asked: Vec<String> = asked.filter_map(Value::as_str).map(str::to_string).collect();
    let audiences = if asked.is_empty() { vec![ISSUER.to_string()] } else { asked };
    let token = at(review, "spec.token").and_then(Value::as_str).unwrap_or("");
    let bootstrap = || {
        let ours = audiences.iter().any(|wanted| wanted == ISSUER);
        let identity = super::bootstrap::identify(server, token).filter(|_| ours)?;
        Some((identity, vec![ISSUER.to_string()]))
    };
    let found = bootstrap().map_or_else(|| identify(server, token, &audiences), Ok);
    let status = match found {
        Ok((identity, fitting)) => json!({"authenticated": true, "audiences": fitting,
            "user": crate::review::user_info(&identity)}),
        Err(error) => json!({"user": {}, "error": format!("[invalid bearer token, {error}]")}),
    };
    object::set_at(review, "status", status);
}
