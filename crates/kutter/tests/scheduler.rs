//! The scheduler against a real API server: what wakes refused pods, and places that are made for others.

use std::error::Error;
use std::time::Duration;

use apiserver::{ApiServer, Config as ServerConfig};
use client::{Cache, Client, Config, DeleteOptions, Kind, Patch, WriteOptions};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ServiceAccount};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::{Value, json};

type Outcome = Result<(), Box<dyn Error>>;

struct Cluster {
    client: Client,
    server: apiserver::Running,
    scheduler: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

fn schedule(client: &Client) -> tokio::task::JoinHandle<()> {
    let client = client.clone();
    tokio::spawn(async move { drive::scheduler::run(client, drive::scheduler::Options::default()).await })
}

impl Cluster {
    /// A cluster with these nodes of one CPU each, and the scheduler.
    async fn start(nodes: &[&str]) -> Result<Self, Box<dyn Error>> {
        let dir = tempfile::tempdir()?;
        let server = ApiServer::start(ServerConfig::new(dir.path(), "127.0.0.1:0".parse()?)).await?;
        let client = Client::from_config(Config::from_kubeconfig(&server.admin_kubeconfig, None)?)?;
        let cluster = Self { scheduler: schedule(&client), client, server, _dir: dir };
        cluster.create::<Namespace>(json!({"metadata": {"name": "t"}})).await?;
        cluster.create::<ServiceAccount>(json!({"metadata": {"name": "default", "namespace": "t"}})).await?;
        for name in nodes {
            let room = json!({"cpu": "1", "memory": "1Gi", "pods": "10"});
            let ready = json!([{"type": "Ready", "status": "True"}]);
            let status = json!({"allocatable": room, "capacity": room, "conditions": ready});
            let labels = json!({"kubernetes.io/hostname": name});
            cluster
                .create::<Node>(json!({"metadata": {"name": name, "labels": labels}, "status": status}))
                .await?;
            let untaint = Patch::Merge(json!({"spec": {"taints": null}}));
            cluster.client.patch::<Node>("", name, &untaint, &WriteOptions::default()).await?;
        }
        Ok(cluster)
    }

    async fn create<K: Kind>(&self, object: Value) -> Result<K, Box<dyn Error>> {
        Ok(self.client.create(&serde_json::from_value::<K>(object)?).await?)
    }

    /// A pod of an app that asks for this much CPU, with more of a spec.
    async fn pod(&self, name: &str, app: &str, cpu: &str, more: Value) -> Outcome {
        let mut spec = more;
        let requests = json!({"requests": {"cpu": cpu}});
        spec["containers"] = json!([{"name": "c", "image": "i", "resources": requests}]);
        let meta = json!({"name": name, "namespace": "t", "labels": {"app": app}});
        self.create::<Pod>(json!({"metadata": meta, "spec": spec})).await.map(drop)
    }

    async fn patch(&self, name: &str, patch: Value) -> Outcome {
        let options = WriteOptions::default();
        Ok(self.client.patch::<Pod>("t", name, &Patch::Merge(patch), &options).await.map(drop)?)
    }

    /// Waits until a pod is as it should be.
    async fn until(&self, name: &str, what: &str, holds: impl Fn(&Pod) -> bool) -> Outcome {
        let cache = Cache::<Pod>::builder(self.client.clone()).start();
        let wait = async {
            cache.synced().await;
            cache.wait_until(|c| c.get("t", name).is_some_and(|p| holds(&p))).await;
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
        waited.map_err(|_| format!("{name} is not {what}: {:?}", cache.get("t", name)).into())
    }

    async fn placed(&self, name: &str, node: &str) -> Outcome {
        self.until(name, &format!("on {node}"), |p| {
            p.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node)
        })
        .await
    }

    async fn refused(&self, name: &str, reason: &str) -> Outcome {
        self.until(name, "refused", |p| {
            let conditions = p.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
            conditions.iter().any(|c| c.status == "False" && c.reason.as_deref() == Some(reason))
        })
        .await
    }

    async fn force_away(&self, name: &str) -> Outcome {
        let options = DeleteOptions::default().grace(0);
        Ok(self.client.delete::<Pod>("t", name, &options).await.map(drop)?)
    }

    async fn end(self) {
        self.scheduler.abort();
        self.server.shutdown().await;
    }
}

fn near(app: &str) -> Value {
    json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": app}}}]}}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_help_wakes_a_refused_pod() -> Outcome {
    let cluster = Cluster::start(&["a"]).await?;
    cluster.pod("first", "other", "800m", json!({})).await?;
    cluster.placed("first", "a").await?;

    // Another label of a placed pod.
    cluster.pod("friend", "friend", "100m", near("web")).await?;
    cluster.refused("friend", "Unschedulable").await?;
    cluster.patch("first", json!({"metadata": {"labels": {"app": "web"}}})).await?;
    cluster.placed("friend", "a").await?;

    // Less asked for by a placed pod.
    cluster.pod("large", "large", "300m", json!({})).await?;
    cluster.refused("large", "Unschedulable").await?;
    let less =
        json!([{"op": "replace", "path": "/spec/containers/0/resources/requests/cpu", "value": "500m"}]);
    let less = serde_json::from_value(less)?;
    let resource = Pod::resource();
    let options = WriteOptions::default();
    let _: Value = cluster
        .client
        .patch_at(&resource, ("t", "first"), Some("resize"), &Patch::Json(less), &options)
        .await?;
    cluster.placed("large", "a").await?;

    // The end of gates.
    cluster.pod("gated", "gated", "1m", json!({"schedulingGates": [{"name": "example.com/gate"}]})).await?;
    cluster.refused("gated", "SchedulingGated").await?;
    cluster.patch("gated", json!({"spec": {"schedulingGates": null}})).await?;
    cluster.placed("gated", "a").await?;
    cluster.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_is_made_is_kept_over_a_restart() -> Outcome {
    let mut cluster = Cluster::start(&["a"]).await?;
    for (name, value) in [("high", 100), ("higher", 200)] {
        cluster.create::<PriorityClass>(json!({"metadata": {"name": name}, "value": value})).await?;
    }
    cluster.pod("low", "low", "1", json!({})).await?;
    cluster.placed("low", "a").await?;
    // Nobody is there to end the pod that must go, so its place is being made for as long as it is let.
    cluster.pod("high", "high", "1", json!({"priorityClassName": "high"})).await?;
    let nominated = |p: &Pod| p.status.as_ref().and_then(|s| s.nominated_node_name.clone());
    cluster.until("high", "nominated", |p| nominated(p).as_deref() == Some("a")).await?;
    cluster.until("low", "told to go", |p| p.metadata.deletion_timestamp.is_some()).await?;

    cluster.scheduler.abort();
    cluster.scheduler = schedule(&cluster.client);
    // A more important pod takes the place that was being made, and the other is told.
    cluster.pod("higher", "higher", "1", json!({"priorityClassName": "higher"})).await?;
    cluster.until("higher", "nominated", |p| nominated(p).as_deref() == Some("a")).await?;
    cluster.until("high", "told that it has no place", |p| nominated(p).is_none()).await?;
    cluster.force_away("low").await?;
    cluster.placed("higher", "a").await?;
    cluster.end().await;
    Ok(())
}
