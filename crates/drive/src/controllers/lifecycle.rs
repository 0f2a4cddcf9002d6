//! Namespaces and what they all have; garbage collection.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Client, Error, ListOptions, ObjectKey, PartialObject};
use controllers::gc::{self, Owner};
use controllers::namespace::{self, Remaining};
use controllers::{Plan, Resource, aggregation, pod, protection, serviceaccount};
use futures_util::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, PersistentVolume, PersistentVolumeClaim, Pod, Secret, ServiceAccount,
};
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::discovery::Served;
use crate::graph::Graph;
use crate::shell::{Pass, Planner, Wiring};

/// The longest life the API gives: such a token ends with its secret.
const TOKEN_LIFE_S: i64 = 1 << 32;
const TOKENS: &str = "type=kubernetes.io/service-account-token";
/// Resources of an ending namespace that are asked about at once.
const ASKED_AT_ONCE: usize = 16;
/// Objects of one resource that are looked at in one pass.
const SAMPLE: u32 = 500;

pub(super) fn service_account(wiring: &mut Wiring) -> Planner {
    let namespaces = wiring.own::<Namespace>();
    let accounts = wiring.on::<ServiceAccount>(|account, wake| {
        if pod::name(account) == serviceaccount::DEFAULT {
            wake(ObjectKey::new("", account.metadata.namespace.as_deref().unwrap_or("")));
        }
    });
    Planner::local(move |pass: &Pass<'_>| {
        let Some(namespace) = namespaces.get_key(pass.key) else {
            return Plan::idle("the namespace is gone");
        };
        let account = accounts.get(&pass.key.name, serviceaccount::DEFAULT);
        serviceaccount::plan_account(&namespace, account.as_deref())
    })
}

pub(super) fn root_ca(wiring: &mut Wiring) -> Planner {
    let namespaces = wiring.own::<Namespace>();
    let published = wiring.on::<ConfigMap>(|map, wake| {
        if pod::name(map) == serviceaccount::ROOT_CA {
            wake(ObjectKey::new("", map.metadata.namespace.as_deref().unwrap_or("")));
        }
    });
    let settings = wiring.settings().clone();
    Planner::local(move |pass: &Pass<'_>| {
        let Some(ca) = &settings.root_ca else { return Plan::idle("no root certificate is configured") };
        let Some(namespace) = namespaces.get_key(pass.key) else {
            return Plan::idle("the namespace is gone");
        };
        let published = published.get(&pass.key.name, serviceaccount::ROOT_CA);
        serviceaccount::plan_root_ca(&namespace, published.as_deref(), ca)
    })
}

pub(super) fn tokens(wiring: &mut Wiring) -> Planner {
    let secrets = wiring.on_where::<Secret>(TOKENS, |secret, wake| wake(ObjectKey::of(secret)));
    let known = secrets.clone();
    wiring.on_change::<ServiceAccount>(move |change, wake| {
        for secret in known.list(&change.key.namespace) {
            if serviceaccount::account_of(&secret) == Some(&*change.key.name) {
                wake(ObjectKey::of(&*secret));
            }
        }
    });
    let (client, settings) = (wiring.client().clone(), wiring.settings().clone());
    Planner::asking(move |key, _| {
        let (found, client, settings) = (secrets.get_key(&key), client.clone(), settings.clone());
        async move {
            let Some(secret) = found else { return Ok(Plan::idle("the secret is gone")) };
            let Some(name) = serviceaccount::account_of(&secret) else {
                return Ok(Plan::idle("it is to hold no token"));
            };
            // A secret that is deleted for want of an account does not come back: the API is asked.
            let account = match client.get::<ServiceAccount>(&key.namespace, name).await {
                Ok(account) => Some(account),
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error),
            };
            let fits = account.as_ref().is_some_and(|account| serviceaccount::fits(&secret, account));
            let token = match fits && serviceaccount::needs_token(&secret) && !pod::is_deleting(&*secret) {
                true => Some(request(&client, &secret, &key.namespace, name).await?),
                false => None,
            };
            let ca = settings.root_ca.as_deref();
            Ok(serviceaccount::plan_token(&secret, account.as_ref(), ca, token))
        }
    })
}

/// A token that is known for as long as the secret exists.
async fn request(client: &Client, secret: &Secret, namespace: &str, account: &str) -> Result<String, Error> {
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            expiration_seconds: Some(TOKEN_LIFE_S),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Secret".to_owned()),
                name: secret.metadata.name.clone(),
                uid: secret.metadata.uid.clone(),
            }),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let made: TokenRequest =
        client.create_subresource::<ServiceAccount, _, _>(namespace, account, "token", &request).await?;
    Ok(made.status.and_then(|status| status.token).unwrap_or_default())
}

pub(super) fn garbage_collector(wiring: &mut Wiring) -> Planner {
    let (graph, client) = (wiring.graph(), wiring.client().clone());
    graph.feed_collector(wiring.queue().clone());
    Planner::asking(move |key, _| collect(graph.clone(), client.clone(), key))
}

async fn collect(graph: Arc<Graph>, client: Client, key: ObjectKey) -> Result<Plan, Error> {
    graph.filled().await;
    let Some(item) = graph.node(&key.name) else { return Ok(Plan::idle("the object is gone")) };
    let mut states = Vec::new();
    for owner in item.owners() {
        let elsewhere = graph.node(&owner.uid).is_some_and(|node| gc::is_elsewhere(&item, &node));
        states.push(match elsewhere {
            true => Owner::Elsewhere,
            false => state_of(&graph, &client, item.meta.namespace.as_deref(), owner).await?,
        });
    }
    let dependents = graph.dependents(&key.name);
    let owners = item.owners().zip(states).collect();
    Ok(gc::plan(&gc::View { item: &item, owners, dependents: dependents.iter().collect() }))
}

/// What an owner is: by the graph, or else by asking for it, because the graph may lag behind.
async fn state_of(
    graph: &Graph,
    client: &Client,
    namespace: Option<&str>,
    owner: &OwnerReference,
) -> Result<Owner, Error> {
    if let Some(node) = graph.node(&owner.uid) {
        return Ok(if node.is_waiting() { Owner::Waiting } else { Owner::Solid });
    }
    if graph.is_absent(&owner.uid) {
        return Ok(Owner::Absent);
    }
    // What cannot be looked up is not known to be gone.
    let Some(resource) = graph.resource_of(owner) else { return Ok(Owner::Solid) };
    if resource.namespaced && namespace.is_none() {
        return Ok(Owner::Solid);
    }
    let place = if resource.namespaced { namespace.unwrap_or("") } else { "" };
    match client.get_at::<PartialObject>(&resource, place, &owner.name).await {
        Ok(found) if found.metadata.uid.as_deref() == Some(&owner.uid) => Ok(Owner::Solid),
        Ok(_) => {
            graph.mark_absent(&owner.uid);
            Ok(Owner::Absent)
        }
        Err(error) if error.is_not_found() => {
            graph.mark_absent(&owner.uid);
            Ok(Owner::Absent)
        }
        Err(error) => Err(error),
    }
}

pub(super) fn namespace(wiring: &mut Wiring) -> Planner {
    let namespaces = wiring.on_change::<Namespace>(|change, wake| {
        if change.new.is_some_and(|n| namespace::is_unfinished(n)) {
            wake(change.key.clone());
        }
    });
    let (graph, client) = (wiring.graph(), wiring.client().clone());
    graph.feed_namespaces(wiring.queue().clone());
    Planner::asking(move |key, now| {
        let known = namespaces.get_key(&key).filter(|n| namespace::is_unfinished(n));
        empty(graph.clone(), client.clone(), known, now)
    })
}

async fn empty(
    graph: Arc<Graph>,
    client: Client,
    known: Option<Arc<Namespace>>,
    now: Timestamp,
) -> Result<Plan, Error> {
    let Some(known) = known else { return Ok(Plan::idle("the namespace is not ending")) };
    graph.filled().await;
    let served = graph.served();
    let name = pod::name(&*known);
    let deletable = served.resources.iter().filter(|s| s.resource.namespaced && s.can(&["list", "delete"]));
    // The same events are served by two groups.
    let deletable = deletable.filter(|s| s.resource.group != "events.k8s.io");
    let asked: Vec<_> = deletable.map(|s| left_of(&client, s, name)).collect();
    let answers: Vec<_> = futures_util::stream::iter(asked).buffer_unordered(ASKED_AT_ONCE).collect().await;
    let (mut remaining, mut failures) = (Vec::new(), Vec::new());
    for answer in answers {
        match answer {
            Ok(Some(left)) => remaining.push(left),
            Ok(None) => {}
            Err(error) => failures.push(error.chain()),
        }
    }
    remaining.sort_by(|a: &Remaining, b| a.resource.cmp(&b.resource));
    failures.sort();
    let failures = (!failures.is_empty()).then(|| failures.join(", "));
    Ok(namespace::plan(
        &namespace::View {
            namespace: &known,
            remaining: &remaining,
            discovery_failure: served.failure.as_deref(),
            content_failure: failures.as_deref(),
        },
        now,
    ))
}

/// What is left of a resource in a namespace.
async fn left_of(client: &Client, served: &Served, namespace: &str) -> Result<Option<Remaining>, Error> {
    let options = ListOptions { limit: SAMPLE, ..ListOptions::default() };
    let list = match client.list_partial::<PartialObject>(&served.resource, namespace, &options).await {
        Ok(list) => list,
        Err(error) if error.is_not_found() || error.api().is_some_and(|e| e.code() == 405) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    if list.items.is_empty() {
        return Ok(None);
    }
    let mut finalizers = BTreeMap::new();
    for name in list.items.iter().flat_map(|o| o.metadata.finalizers.iter().flatten()) {
        *finalizers.entry(name.clone()).or_default() += 1;
    }
    let more = list.metadata.remaining_item_count.and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let r = &served.resource;
    Ok(Some(Remaining {
        resource: Resource {
            group: r.group.clone(),
            version: r.version.clone(),
            kind: r.kind.clone(),
            plural: r.plural.clone(),
            namespaced: true,
        },
        count: list.items.len() + more,
        untouched: list.items.iter().filter(|o| o.metadata.deletion_timestamp.is_none()).count() + more,
        finalizers,
    }))
}

pub(super) fn claim_protection(wiring: &mut Wiring) -> Planner {
    let claims = wiring.own::<PersistentVolumeClaim>();
    let pods = wiring.on_change::<Pod>(|change, wake| {
        // Only the end of a pod can set a claim free.
        let ended = change.new.is_none_or(|p| pod::is_finished(p));
        let volumes =
            change.old.filter(|_| ended).and_then(|p| p.spec.as_ref()).and_then(|s| s.volumes.as_ref());
        for volume in volumes.into_iter().flatten() {
            let named = volume.persistent_volume_claim.as_ref().map(|c| c.claim_name.clone());
            let own = volume.ephemeral.as_ref().map(|_| format!("{}-{}", change.key.name, volume.name));
            if let Some(name) = named.or(own) {
                wake(ObjectKey::new(&change.key.namespace, &name));
            }
        }
    });
    let client = wiring.client().clone();
    Planner::asking(move |key, _| {
        let (known, cached) = (claims.get_key(&key), pods.list(&key.namespace));
        let client = client.clone();
        async move {
            let Some(claim) = known else { return Ok(Plan::idle("the claim is gone")) };
            let plan = protection::plan_claim(&claim, cached.iter().map(|p| &**p));
            if !pod::is_deleting(&*claim) || plan.actions.is_empty() {
                return Ok(plan);
            }
            // The cache may not show yet that a pod has come to use it.
            let pods = client.list::<Pod>(&key.namespace, &ListOptions::default()).await?;
            Ok(protection::plan_claim(&claim, &pods.items))
        }
    })
}

pub(super) fn volume_protection(wiring: &mut Wiring) -> Planner {
    let volumes = wiring.own::<PersistentVolume>();
    Planner::local(move |pass: &Pass<'_>| match volumes.get_key(pass.key) {
        Some(volume) => protection::plan_volume(&volume),
        None => Plan::idle("the volume is gone"),
    })
}

pub(super) fn aggregation(wiring: &mut Wiring) -> Planner {
    // Any role may be a part of any aggregated one.
    let known = wiring.cache::<ClusterRole>();
    let roles = wiring.on_change::<ClusterRole>(move |change, wake| {
        wake(change.key.clone());
        known
            .list("")
            .iter()
            .filter(|r| r.aggregation_rule.is_some())
            .for_each(|r| wake(ObjectKey::of(&**r)));
    });
    Planner::local(move |pass: &Pass<'_>| {
        let Some(role) = roles.get_key(pass.key) else { return Plan::idle("the role is gone") };
        let all = roles.list("");
        aggregation::plan(&role, all.iter().map(|r| &**r))
    })
}
