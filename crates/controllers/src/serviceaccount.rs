//! What every namespace has: the account `default` and the cluster's root certificate. Secrets that hold tokens of
//! accounts.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{Action, Plan, pod};

/// The name of the account pods get that name none.
pub const DEFAULT: &str = "default";
/// The name of the ConfigMap with the root certificate.
pub const ROOT_CA: &str = "kube-root-ca.crt";
const CA_KEY: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const DESCRIPTION_TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|s| s.phase.as_deref());
    !pod::is_deleting(namespace) && phase != Some("Terminating")
}

fn meta_in(namespace: &Namespace, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: namespace.metadata.name.clone(),
        ..ObjectMeta::default()
    }
}

/// Creates the account `default` where it is missing.
#[must_use]
pub fn plan_account(namespace: &Namespace, account: Option<&ServiceAccount>) -> Plan {
    if account.is_some() {
        return Plan::idle("the account exists");
    }
    if !is_active(namespace) {
        return Plan::idle("the namespace is being deleted");
    }
    let new = ServiceAccount { metadata: meta_in(namespace, DEFAULT), ..ServiceAccount::default() };
    Plan { actions: vec![Action::create(&new)], ..Plan::idle("the account is missing") }
}

/// Keeps the root certificate in the namespace as it is in the cluster.
#[must_use]
pub fn plan_root_ca(namespace: &Namespace, published: Option<&ConfigMap>, root_ca: &str) -> Plan {
    if !is_active(namespace) {
        return Plan::idle("the namespace is being deleted");
    }
    let data = BTreeMap::from([(CA_KEY.to_owned(), root_ca.to_owned())]);
    let description = (DESCRIPTION.to_owned(), DESCRIPTION_TEXT.to_owned());
    let Some(old) = published else {
        let annotations = Some(BTreeMap::from([description]));
        let metadata = ObjectMeta { annotations, ..meta_in(namespace, ROOT_CA) };
        let new = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
        return Plan { actions: vec![Action::create(&new)], ..Plan::idle("the root certificate is missing") };
    };
    let mut new = old.clone();
    new.data = Some(data);
    new.binary_data = None;
    new.metadata.annotations.get_or_insert_default().extend([description]);
    let actions: Vec<Action> = Action::patch(old, &new).into_iter().collect();
    let why =
        if actions.is_empty() { "the root certificate is published" } else { "the root certificate differs" };
    Plan { actions, ..Plan::idle(why) }
}

/// The type of secrets that hold a token of an account.
pub const TOKEN_TYPE: &str = "kubernetes.io/service-account-token";
const OF_NAME: &str = "kubernetes.io/service-account.name";
const OF_UID: &str = "kubernetes.io/service-account.uid";
const NAMESPACE_KEY: &str = "namespace";
const TOKEN_KEY: &str = "token";

fn annotation<'a>(secret: &'a Secret, key: &str) -> &'a str {
    let found = secret.metadata.annotations.as_ref().and_then(|all| all.get(key));
    found.map_or("", String::as_str)
}

/// The name of the account whose token a secret is to hold, if it is of this kind.
#[must_use]
pub fn account_of(secret: &Secret) -> Option<&str> {
    let name = annotation(secret, OF_NAME);
    (secret.type_.as_deref() == Some(TOKEN_TYPE) && !name.is_empty()).then_some(name)
}

fn is_empty(secret: &Secret, key: &str) -> bool {
    secret.data.as_ref().and_then(|data| data.get(key)).is_none_or(|value| value.0.is_empty())
}

/// Whether the account is the one the secret is for.
#[must_use]
pub fn fits(secret: &Secret, account: &ServiceAccount) -> bool {
    let uid = annotation(secret, OF_UID);
    account_of(secret) == account.metadata.name.as_deref()
        && (uid.is_empty() || Some(uid) == account.metadata.uid.as_deref())
}

/// Whether a token is to be made for the secret.
#[must_use]
pub fn needs_token(secret: &Secret) -> bool {
    is_empty(secret, TOKEN_KEY)
}

/// Fills a secret for an account's token, or deletes it when there is no such account. `token` is a new one, for
/// secrets that need it.
#[must_use]
pub fn plan_token(
    secret: &Secret,
    account: Option<&ServiceAccount>,
    root_ca: Option<&str>,
    token: Option<String>,
) -> Plan {
    if pod::is_deleting(secret) || account_of(secret).is_none() {
        return Plan::idle("it is to hold no token");
    }
    let Some(account) = account.filter(|account| fits(secret, account)) else {
        return Plan { actions: vec![Action::delete(secret)], ..Plan::idle("the account does not exist") };
    };
    let mut new = secret.clone();
    let data = new.data.get_or_insert_default();
    let mut put = |key: &str, value: &str| data.insert(key.to_owned(), ByteString(value.as_bytes().to_vec()));
    if let Some(ca) = root_ca {
        put(CA_KEY, ca);
    }
    if is_empty(secret, NAMESPACE_KEY) {
        put(NAMESPACE_KEY, secret.metadata.namespace.as_deref().unwrap_or(""));
    }
    if let Some(token) = token.filter(|_| needs_token(secret)) {
        put(TOKEN_KEY, &token);
    }
    let annotations = new.metadata.annotations.get_or_insert_default();
    annotations.insert(OF_UID.to_owned(), account.metadata.uid.clone().unwrap_or_default());
    let actions: Vec<Action> = Action::patch(secret, &new).into_iter().collect();
    let why = if actions.is_empty() { "the secret is filled" } else { "the secret lacks something" };
    Plan { actions, ..Plan::idle(why) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishes_once_and_repairs() {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some("n".to_owned());
        assert_eq!(plan_account(&namespace, None).actions.len(), 1);
        assert_eq!(plan_root_ca(&namespace, None, "CA").actions.len(), 1);
        let data = Some(BTreeMap::from([(CA_KEY.to_owned(), "old".to_owned())]));
        let stale = ConfigMap { metadata: meta_in(&namespace, ROOT_CA), data, ..ConfigMap::default() };
        assert_eq!(plan_root_ca(&namespace, Some(&stale), "CA").actions.len(), 1);
        let mut good = stale;
        good.data = Some(BTreeMap::from([(CA_KEY.to_owned(), "CA".to_owned())]));
        good.metadata.annotations =
            Some(BTreeMap::from([(DESCRIPTION.to_owned(), DESCRIPTION_TEXT.to_owned())]));
        assert_eq!(plan_root_ca(&namespace, Some(&good), "CA").actions, []);
    }

    #[test]
    fn secrets_are_filled_for_their_account() {
        let secret: Secret = serde_json::from_value(serde_json::json!({"type": TOKEN_TYPE,
            "metadata": {"name": "s", "namespace": "n", "annotations": {OF_NAME: "a"}}}))
        .expect("a secret");
        let mut account = ServiceAccount::default();
        account.metadata.name = Some("a".to_owned());
        account.metadata.uid = Some("u".to_owned());
        assert_eq!(plan_token(&secret, None, None, None).actions, [Action::delete(&secret)]);
        let plan = plan_token(&secret, Some(&account), Some("CA"), Some("t".to_owned()));
        let [Action::Patch { patch, .. }] = plan.actions.as_slice() else { panic!("{plan:?}") };
        assert_eq!(
            patch["data"],
            serde_json::json!({"ca.crt": "Q0E=", "namespace": "bg==", "token": "dA=="})
        );
        assert_eq!(patch["metadata"]["annotations"], serde_json::json!({OF_UID: "u"}));
        let mut of_another = secret.clone();
        of_another.metadata.annotations.get_or_insert_default().insert(OF_UID.to_owned(), "v".to_owned());
        assert_eq!(
            plan_token(&of_another, Some(&account), None, None).actions,
            [Action::delete(&of_another)]
        );
        let plain = Secret { type_: Some("Opaque".to_owned()), ..secret };
        assert_eq!(plan_token(&plain, None, None, None).actions, []);
    }
}
