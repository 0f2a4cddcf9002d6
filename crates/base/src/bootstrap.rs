//! Bootstrap tokens: the secret a new node or administrator shows before it has a certificate. A token is
//! `id.secret`; what it may do is in the Secret `bootstrap-token-<id>` of the namespace `kube-system`.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;

/// The namespace of the secrets that hold tokens.
pub const NAMESPACE: &str = "kube-system";
/// The type of these secrets.
pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// What their names start with; the token's id follows.
pub const NAME_PREFIX: &str = "bootstrap-token-";
/// What user names of tokens start with; the id follows.
pub const USER_PREFIX: &str = "system:bootstrap:";
/// The group of all tokens.
pub const GROUP: &str = "system:bootstrappers";
/// The group of tokens that nodes join with; it may have client certificates of nodes.
pub const NODE_GROUP: &str = "system:bootstrappers:kubeadm:default-node-token";
/// The ConfigMap of the namespace `kube-public` that tells whoever has a token where and what the cluster is.
pub const CLUSTER_INFO: &str = "cluster-info";
/// The key of that ConfigMap whose text is signed: a kubeconfig with the cluster alone.
pub const KUBECONFIG: &str = "kubeconfig";
/// What keys of signatures in that ConfigMap start with; the id follows.
pub const SIGNATURE_PREFIX: &str = "jws-kubeconfig-";

/// Keys of a secret that holds a token.
pub mod keys {
    /// The id.
    pub const ID: &str = "token-id";
    /// The secret half.
    pub const SECRET: &str = "token-secret";
    /// The time it ends, RFC 3339; absent for never.
    pub const EXPIRATION: &str = "expiration";
    /// Words for people.
    pub const DESCRIPTION: &str = "description";
    /// Groups besides [`super::GROUP`], separated by commas.
    pub const GROUPS: &str = "auth-extra-groups";
    /// `true` lets it sign the ConfigMap `cluster-info`.
    pub const SIGNING: &str = "usage-bootstrap-signing";
    /// `true` lets it be shown as a bearer token.
    pub const AUTHENTICATION: &str = "usage-bootstrap-authentication";
}

const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
/// Longest name of a group after its prefix, in bytes.
const GROUP_MAX: usize = 256;

/// A token as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    /// The half that may be seen.
    pub id: &'a str,
    /// The half that may not.
    pub secret: &'a str,
}

fn is_word(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

impl<'a> Token<'a> {
    /// Reads `id.secret`; `None` when it is not of this form.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (id, secret) = text.split_once('.')?;
        (is_word(id, ID_LENGTH) && is_word(secret, SECRET_LENGTH)).then_some(Self { id, secret })
    }

    /// The name of the secret that holds it.
    pub fn secret_name(&self) -> String {
        format!("{NAME_PREFIX}{}", self.id)
    }

    /// Its user name.
    pub fn user(&self) -> String {
        format!("{USER_PREFIX}{}", self.id)
    }
}

/// The id in the name of a secret, if it is the name of a token's.
pub fn id_of_name(name: &str) -> Option<&str> {
    name.strip_prefix(NAME_PREFIX).filter(|id| is_word(id, ID_LENGTH))
}

/// The signature of `content` with a token: a JWS (RFC 7515, appendix F) whose content is left out. `hmac` is
/// HMAC-SHA256 of a key and a message.
pub fn signature(content: &str, token: Token<'_>, hmac: impl Fn(&[u8], &[u8]) -> Vec<u8>) -> String {
    let head = URL_SAFE_NO_PAD.encode(format!("{{\"alg\":\"HS256\",\"kid\":\"{}\"}}", token.id));
    let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(content));
    let mark = hmac(token.secret.as_bytes(), signed.as_bytes());
    format!("{head}..{}", URL_SAFE_NO_PAD.encode(mark))
}

/// How much longer a token lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It does not end.
    Endless,
    /// It ends after this.
    For(Duration),
    /// It is over, or its end is not a time.
    Over,
}

/// How much longer a token with this value of [`keys::EXPIRATION`] lives; empty for none.
pub fn life(expiration: &str, now: Timestamp) -> Life {
    if expiration.is_empty() {
        return Life::Endless;
    }
    let left = expiration.parse::<Timestamp>().ok().map(|end| end.duration_since(now));
    match left.and_then(|left| Duration::try_from(left).ok()) {
        Some(left) if !left.is_zero() => Life::For(left),
        _ => Life::Over,
    }
}

/// The groups of a token with this value of [`keys::GROUPS`], sorted; or the group that cannot be given.
pub fn groups(extra: &str) -> Result<Vec<String>, String> {
    let mut groups = vec![GROUP.to_owned()];
    for group in extra.split(',').filter(|_| !extra.is_empty()) {
        if !is_group(group) {
            return Err(format!(
                "bootstrap group {group:?} is invalid (must match \\Asystem:bootstrappers:[a-z0-9:-]{{0,255}}[a-z0-9]\\z)"
            ));
        }
        groups.push(group.to_owned());
    }
    groups.sort();
    groups.dedup();
    Ok(groups)
}

fn is_group(group: &str) -> bool {
    let Some(name) = group.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix(':')) else { return false };
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= GROUP_MAX
        && name.bytes().all(|byte| letter(byte) || matches!(byte, b':' | b'-'))
        && name.bytes().last().is_some_and(letter)
}

/// A secret as far as tokens are concerned.
pub struct Facts<'a> {
    /// Its type.
    pub kind: &'a str,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// The decoded text under a key of `data`, empty for none.
    pub get: &'a dyn Fn(&str) -> String,
}

impl Facts<'_> {
    /// The groups of whoever shows `token` while this is the secret of its name; or why it is not let in.
    pub fn admit(&self, token: &Token<'_>, now: Timestamp) -> Result<Vec<String>, String> {
        let get = |key| (self.get)(key);
        if self.deleting {
            return Err("is deleted and awaits removal".into());
        }
        if self.kind != SECRET_TYPE {
            return Err(format!("has another type than {SECRET_TYPE}"));
        }
        if !same(get(keys::SECRET).as_bytes(), token.secret.as_bytes()) {
            return Err(format!("has another value under {}", keys::SECRET));
        }
        if get(keys::ID) != token.id {
            return Err(format!("has another value under {}", keys::ID));
        }
        if life(&get(keys::EXPIRATION), now) == Life::Over {
            return Err("has expired".into());
        }
        if get(keys::AUTHENTICATION) != "true" {
            return Err(format!("is not marked {}=true", keys::AUTHENTICATION));
        }
        groups(&get(keys::GROUPS))
    }

    /// The id and the secret that sign for others, if this secret of this name may.
    pub fn signs(&self, name: &str, now: Timestamp) -> Option<(String, String)> {
        let get = |key| (self.get)(key);
        let (id, secret) = (get(keys::ID), get(keys::SECRET));
        let may = self.kind == SECRET_TYPE
            && id_of_name(name) == Some(id.as_str())
            && !secret.is_empty()
            && life(&get(keys::EXPIRATION), now) != Life::Over
            && get(keys::SIGNING) == "true";
        may.then_some((id, secret))
    }
}

/// Compares without telling by the time taken where the two differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "abcdef.0123456789abcdef";

    type Change<'a> = &'a [(&'a str, &'a str)];

    fn admit(token: &str, change: Change<'_>) -> Result<Vec<String>, String> {
        let base = [
            (keys::ID, "abcdef"),
            (keys::SECRET, "0123456789abcdef"),
            (keys::AUTHENTICATION, "true"),
            (keys::EXPIRATION, "2030-01-01T00:00:00Z"),
        ];
        let get = |key: &str| {
            let found = change.iter().chain(&base).find(|(own, _)| *own == key);
            found.map_or_else(String::new, |(_, value)| (*value).to_owned())
        };
        let kind = change.iter().find(|(key, _)| *key == "type").map_or(SECRET_TYPE, |(_, kind)| kind);
        let now = "2026-01-01T00:00:00Z".parse().expect("time");
        Facts { kind, deleting: false, get: &get }.admit(&Token::parse(token).ok_or("form")?, now)
    }

    #[test]
    fn a_token_is_admitted_by_its_secret() {
        assert_eq!(admit(TOKEN, &[]), Ok(vec![GROUP.to_owned()]));
        let groups = "system:bootstrappers:b,system:bootstrappers:a:c";
        let all = ["system:bootstrappers", "system:bootstrappers:a:c", "system:bootstrappers:b"];
        assert_eq!(admit(TOKEN, &[(keys::GROUPS, groups)]).expect("admitted"), all);
        let refused: &[(&str, Change<'_>, &str)] = &[
            ("abcdef.0123456789abcde", &[], "form"),
            ("abcdeF.0123456789abcdef", &[], "form"),
            ("abcdef.0123456789abcdeg", &[], "has another value under token-secret"),
            (TOKEN, &[("type", "Opaque")], "has another type than bootstrap.kubernetes.io/token"),
            (TOKEN, &[(keys::ID, "abcdeg")], "has another value under token-id"),
            (TOKEN, &[(keys::EXPIRATION, "2025-12-31T23:59:59Z")], "has expired"),
            (TOKEN, &[(keys::EXPIRATION, "soon")], "has expired"),
            (TOKEN, &[(keys::AUTHENTICATION, "yes")], "is not marked usage-bootstrap-authentication=true"),
            (
                TOKEN,
                &[(keys::GROUPS, "system:masters")],
                "bootstrap group \"system:masters\" is invalid (must match \\Asystem:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\\z)",
            ),
        ];
        for (token, change, why) in refused {
            assert_eq!(admit(token, change), Err((*why).to_owned()), "{token} {change:?}");
        }
    }

    #[test]
    fn lives_and_names() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("time");
        assert_eq!(life("", now), Life::Endless);
        assert_eq!(life("2026-01-01T01:00:01+01:00", now), Life::For(Duration::from_secs(1)));
        assert_eq!(life("2026-01-01T00:00:00Z", now), Life::Over);
        assert_eq!(id_of_name("bootstrap-token-abcdef"), Some("abcdef"));
        assert_eq!(id_of_name("bootstrap-token-abc"), None);
    }
}
