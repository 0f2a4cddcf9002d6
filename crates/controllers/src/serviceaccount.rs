//! What every namespace has: the account `default` and the cluster's root certificate.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
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
}
