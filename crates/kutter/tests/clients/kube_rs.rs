//! kube-rs: typed and dynamic objects, watch, patches and server-side apply.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::TryStreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
    PostParams, WatchEvent, WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;

use crate::{Cluster, Outcome};

async fn connect(cluster: &Cluster) -> Result<Client, Box<dyn std::error::Error>> {
    let file = Kubeconfig::read_from(cluster.kubeconfig())?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

fn map(name: &str, value: &str) -> ConfigMap {
    let mut map =
        ConfigMap { data: Some(BTreeMap::from([("k".into(), value.into())])), ..Default::default() };
    map.metadata.name = Some(name.to_owned());
    map
}

fn value(map: &ConfigMap) -> Option<&str> {
    map.data.as_ref()?.get("k").map(String::as_str)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kube_rs_works_with_typed_objects() -> Outcome {
    let cluster = Cluster::start().await?;
    let client = connect(&cluster).await?;
    assert_eq!(client.apiserver_version().await?.minor, "36");

    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let made = maps.create(&PostParams::default(), &map("a", "1")).await?;
    let exists = maps.create(&PostParams::default(), &map("a", "1")).await.expect_err("it exists");
    assert!(
        matches!(&exists, kube::Error::Api(s) if s.code == 409 && s.reason == "AlreadyExists"),
        "{exists}"
    );

    let merge = Patch::Merge(json!({"data": {"k": "2"}}));
    assert_eq!(value(&maps.patch("a", &PatchParams::default(), &merge).await?), Some("2"));
    let stale = maps.replace("a", &PostParams::default(), &made).await.expect_err("made is stale");
    assert!(matches!(&stale, kube::Error::Api(s) if s.code == 409 && s.reason == "Conflict"), "{stale}");

    let apply = |manager: &str| PatchParams::apply(manager);
    let wanted = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "3"}});
    let conflict = maps.patch("a", &apply("me"), &Patch::Apply(&wanted)).await.expect_err("another owns k");
    assert!(conflict.to_string().contains(".data.k"), "{conflict}");
    let forced = maps.patch("a", &apply("me").force(), &Patch::Apply(&wanted)).await?;
    assert_eq!(value(&forced), Some("3"));

    let dry = PostParams { dry_run: true, ..PostParams::default() };
    maps.create(&dry, &map("dry", "1")).await?;
    assert!(maps.get_opt("dry").await?.is_none(), "a dry run stores nothing");

    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let web = serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}}))?;
    deployments.create(&PostParams::default(), &web).await?;
    let replicas = Patch::Merge(json!({"spec": {"replicas": 4}}));
    let scale = deployments.patch_scale("web", &PatchParams::default(), &replicas).await?;
    assert_eq!(scale.spec.and_then(|s| s.replicas), Some(4));

    let secrets: Api<Secret> = Api::namespaced(client, "default");
    for name in ["s1", "s2", "s3"] {
        let mut secret = Secret::default();
        secret.metadata.name = Some(name.to_owned());
        secret.metadata.labels = Some(BTreeMap::from([("of".into(), "test".into())]));
        secrets.create(&PostParams::default(), &secret).await?;
    }
    let page = secrets.list(&ListParams::default().labels("of=test").limit(2)).await?;
    assert_eq!(page.items.len(), 2);
    let next = page.metadata.continue_.unwrap_or_default();
    let rest = secrets.list(&ListParams::default().labels("of=test").limit(2).continue_token(&next)).await?;
    assert_eq!(rest.items.len(), 1);
    secrets.delete_collection(&DeleteParams::default(), &ListParams::default().labels("of=test")).await?;
    assert!(secrets.list(&ListParams::default().labels("of=test")).await?.items.is_empty());
    cluster.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kube_rs_watches_and_uses_kinds_it_does_not_know() -> Outcome {
    let cluster = Cluster::start().await?;
    let client = connect(&cluster).await?;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let crontabs = serde_json::from_value(json!({
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {"group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "properties": {
                    "replicas": {"type": "integer", "default": 1, "minimum": 1}}}}}}}]}}))?;
    definitions.create(&PostParams::default(), &crontabs).await?;
    let kind = GroupVersionKind::gvk("stable.example.com", "v1", "CronTab");
    let resource = ApiResource::from_gvk(&kind);
    let objects: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &resource);
    let served = async {
        while objects.list(&ListParams::default()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), served).await?;

    let from = objects.list(&ListParams::default()).await?.metadata.resource_version.unwrap_or_default();
    let mut events = Box::pin(objects.watch(&WatchParams::default().timeout(60), &from).await?);
    let tab = DynamicObject::new("t", &resource).data(json!({"spec": {}}));
    let made = objects.create(&PostParams::default(), &tab).await?;
    assert_eq!(made.data["spec"]["replicas"], 1, "the schema's default");
    let zero = Patch::Merge(json!({"spec": {"replicas": 0}}));
    let refused = objects.patch("t", &PatchParams::default(), &zero).await.expect_err("the minimum is 1");
    assert!(matches!(&refused, kube::Error::Api(s) if s.code == 422), "{refused}");
    objects.patch("t", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 2}}))).await?;
    objects.delete("t", &DeleteParams::default()).await?;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let next = tokio::time::timeout(Duration::from_secs(20), events.try_next()).await??;
        match next.ok_or("the watch ended")? {
            WatchEvent::Added(o) => seen.push(("added", o.data["spec"]["replicas"].clone())),
            WatchEvent::Modified(o) => seen.push(("modified", o.data["spec"]["replicas"].clone())),
            WatchEvent::Deleted(o) => seen.push(("deleted", o.data["spec"]["replicas"].clone())),
            other => return Err(format!("{other:?}").into()),
        }
    }
    assert_eq!(seen, [("added", json!(1)), ("modified", json!(2)), ("deleted", json!(2))]);

    let found = kube::discovery::pinned_kind(&client, &kind).await?;
    assert_eq!(found.0.plural, "crontabs");
    cluster.end().await;
    Ok(())
}
