//! Bootstrap tokens: the cleaner, and the signer of `cluster-info`.

use aws_lc_rs::hmac;
use base::bootstrap::{CLUSTER_INFO, NAMESPACE};
use client::ObjectKey;
use controllers::{Plan, bootstrap, pod};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use crate::shell::{Pass, Planner, Wiring};

const TOKENS: &str = "type=bootstrap.kubernetes.io/token";
const PUBLIC: &str = "kube-public";

fn is_of_tokens(secret: &Secret) -> bool {
    secret.metadata.namespace.as_deref() == Some(NAMESPACE)
}

pub(super) fn cleaner(wiring: &mut Wiring) -> Planner {
    let secrets = wiring.on_where::<Secret>(TOKENS, |secret, wake| {
        if is_of_tokens(secret) {
            wake(ObjectKey::of(secret));
        }
    });
    Planner::local(move |pass: &Pass<'_>| match secrets.get_key(pass.key) {
        Some(secret) => bootstrap::plan_clean(&secret, pass.now),
        None => Plan::idle("the secret is gone"),
    })
}

pub(super) fn signer(wiring: &mut Wiring) -> Planner {
    let maps = wiring.on::<ConfigMap>(|map, wake| {
        if pod::name(map) == CLUSTER_INFO && map.metadata.namespace.as_deref() == Some(PUBLIC) {
            wake(ObjectKey::of(map));
        }
    });
    let secrets = wiring.on_where::<Secret>(TOKENS, |secret, wake| {
        if is_of_tokens(secret) {
            wake(ObjectKey::new(PUBLIC, CLUSTER_INFO));
        }
    });
    Planner::local(move |pass: &Pass<'_>| {
        let Some(map) = maps.get_key(pass.key) else {
            return Plan::idle("the cluster tells nothing of itself");
        };
        let secrets = secrets.list(NAMESPACE);
        bootstrap::plan_sign(&map, secrets.iter().map(|secret| &**secret), pass.now, |key, message| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
        })
    })
}
