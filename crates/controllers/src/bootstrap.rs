//! Bootstrap tokens: those that are over go, and the others sign what tells newcomers of the cluster.

use std::collections::BTreeMap;

use base::bootstrap::{Facts, KUBECONFIG, Life, SECRET_TYPE, SIGNATURE_PREFIX, Token, keys, life, signature};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use crate::{Action, Plan, Wake, pod};

fn get<'a>(secret: &'a Secret) -> impl Fn(&str) -> String + 'a {
    move |key| {
        let value = secret.data.as_ref().and_then(|data| data.get(key));
        value.and_then(|value| String::from_utf8(value.0.clone()).ok()).unwrap_or_default()
    }
}

fn end(secret: &Secret, now: Timestamp) -> Option<Timestamp> {
    match life(&get(secret)(keys::EXPIRATION), now) {
        Life::For(left) => now.checked_add(left).ok(),
        Life::Endless | Life::Over => None,
    }
}

/// Deletes the secret of a token that is over.
#[must_use]
pub fn plan_clean(secret: &Secret, now: Timestamp) -> Plan {
    if secret.type_.as_deref() != Some(SECRET_TYPE) {
        return Plan::idle("it holds no bootstrap token");
    }
    match life(&get(secret)(keys::EXPIRATION), now) {
        Life::Endless => Plan::idle("the token does not end"),
        Life::For(_) => {
            Plan { wake: Wake::OnChange.or_at(end(secret, now)), ..Plan::idle("the token still lives") }
        }
        Life::Over => Plan { actions: vec![Action::delete(secret)], ..Plan::idle("the token is over") },
    }
}

/// Keeps exactly one signature for every token that may sign. `hmac` is HMAC-SHA256 of a key and a message.
#[must_use]
pub fn plan_sign<'a>(
    map: &ConfigMap,
    secrets: impl Iterator<Item = &'a Secret>,
    now: Timestamp,
    hmac: impl Fn(&[u8], &[u8]) -> Vec<u8>,
) -> Plan {
    let Some(content) = map.data.as_ref().and_then(|data| data.get(KUBECONFIG)) else {
        return Plan::idle("there is nothing to sign");
    };
    let (mut signatures, mut wake) = (BTreeMap::new(), Wake::OnChange);
    for secret in secrets {
        let get = get(secret);
        let kind = secret.type_.as_deref().unwrap_or("");
        let facts = Facts { kind, deleting: pod::is_deleting(secret), get: &get };
        if let Some((id, half)) = facts.signs(pod::name(secret), now) {
            wake = wake.or_at(end(secret, now));
            let token = Token { id: &id, secret: &half };
            signatures.insert(format!("{SIGNATURE_PREFIX}{id}"), signature(content, token, &hmac));
        }
    }
    let mut new = map.clone();
    if let Some(data) = &mut new.data {
        data.retain(|key, _| !key.starts_with(SIGNATURE_PREFIX));
        data.extend(signatures);
    }
    let actions: Vec<Action> = Action::patch(map, &new).into_iter().collect();
    let why = if actions.is_empty() { "the signatures are right" } else { "tokens came or went" };
    Plan { actions, wake, ..Plan::idle(why) }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;

    fn secret(id: &str, change: &[(&str, &str)]) -> Secret {
        let mut data =
            BTreeMap::from([(keys::ID, id), (keys::SECRET, "0123456789abcdef"), (keys::SIGNING, "true")]);
        data.extend(change.iter().copied());
        let mut secret = Secret { type_: Some(SECRET_TYPE.to_owned()), ..Secret::default() };
        secret.metadata.name = Some(format!("bootstrap-token-{id}"));
        let own = |(key, value): (&str, &str)| (key.to_owned(), ByteString(value.as_bytes().to_vec()));
        secret.data = Some(data.into_iter().map(own).collect());
        secret
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().expect("time")
    }

    #[test]
    fn tokens_go_when_they_are_over() {
        assert_eq!(plan_clean(&secret("abcdef", &[]), now()).wake, Wake::OnChange);
        let later = secret("abcdef", &[(keys::EXPIRATION, "2026-01-01T00:01:00Z")]);
        let plan = plan_clean(&later, now());
        assert_eq!(
            (plan.actions.len(), plan.wake),
            (0, Wake::At("2026-01-01T00:01:00Z".parse().expect("time")))
        );
        let over = secret("abcdef", &[(keys::EXPIRATION, "2025-01-01T00:01:00Z")]);
        assert_eq!(plan_clean(&over, now()).actions, [Action::delete(&over)]);
    }

    #[test]
    fn living_tokens_sign() {
        let data = BTreeMap::from([
            (KUBECONFIG.to_owned(), "content".to_owned()),
            ("jws-kubeconfig-gone00".to_owned(), "old".to_owned()),
        ]);
        let map = ConfigMap { data: Some(data), ..ConfigMap::default() };
        let secrets = [
            secret("abcdef", &[]),
            secret("ended0", &[(keys::EXPIRATION, "2025-01-01T00:01:00Z")]),
            secret("silent", &[(keys::SIGNING, "false")]),
        ];
        // The secret and the length stand for the real function.
        let hmac =
            |key: &[u8], message: &[u8]| [key, &[u8::try_from(message.len()).expect("short")]].concat();
        let plan = plan_sign(&map, secrets.iter(), now(), hmac);
        let [Action::Patch { patch, .. }] = plan.actions.as_slice() else { panic!("{plan:?}") };
        let signature = "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..MDEyMzQ1Njc4OWFiY2RlZjM";
        let expected = json!({"jws-kubeconfig-abcdef": signature, "jws-kubeconfig-gone00": null});
        assert_eq!(patch["data"], expected);
    }
}
