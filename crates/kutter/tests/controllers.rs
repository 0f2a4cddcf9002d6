//! Controllers against a real API server; a hollow kubelet stands in for nodes.

#[path = "../src/roles/authority.rs"]
mod authority;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiServer, Config as ServerConfig};
use client::{Cache, Client, Config, DeleteOptions, Kind, ListOptions, Patch, WriteOptions};
use drive::controllers::Options;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

type Outcome = Result<(), Box<dyn Error>>;

struct Cluster {
    client: Client,
    server: apiserver::Running,
    controllers: drive::Shell,
    kubelet: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Result<Self, Box<dyn Error>> {
        let dir = tempfile::tempdir()?;
        let server = ApiServer::start(ServerConfig::new(dir.path(), "127.0.0.1:0".parse()?)).await?;
        let client = Client::from_config(Config::from_kubeconfig(&server.admin_kubeconfig, None)?)?;
        let authority = serve::pki::Authority::load_or_generate(&dir.path().join("pki"), "ca", "ca")?;
        let settings = drive::Settings {
            root_ca: Some("CA".to_owned()),
            authority: Some(Arc::new(authority::Signer(authority))),
            ..drive::Settings::default()
        };
        let controllers =
            drive::controllers::start(client.clone(), &Options { settings, ..Options::default() });
        let kubelet = tokio::spawn(hollow(client.clone()));
        let cluster = Self { client, server, controllers, kubelet, _dir: dir };
        cluster.create::<Namespace>("t", json!({})).await?;
        Ok(cluster)
    }

    /// Creates an object with this spec.
    async fn create<K: Kind>(&self, name: &str, spec: Value) -> Result<K, Box<dyn Error>> {
        let mut object = json!({"metadata": {"name": name}, "spec": spec});
        if K::resource().namespaced {
            object["metadata"]["namespace"] = json!("t");
        }
        Ok(self.client.create(&serde_json::from_value::<K>(object)?).await?)
    }

    /// Waits until an object is as it should be.
    async fn until<K: Kind>(&self, name: &str, holds: impl Fn(Option<&K>) -> bool) -> Outcome {
        let cache = Cache::<K>::builder(self.client.clone()).start();
        let space = if K::resource().namespaced { "t" } else { "" };
        let wait = async {
            cache.synced().await;
            cache.wait_until(|c| holds(c.get(space, name).as_deref())).await;
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
        waited.map_err(|_| format!("{} {name} does not become as it should", K::resource().kind).into())
    }

    async fn end(self) {
        self.kubelet.abort();
        drop(self.controllers);
        self.server.shutdown().await;
    }
}

/// Makes pods run, or end when they are meant to, and lets them go when they are deleted.
async fn hollow(client: Client) {
    let pods = Cache::<Pod>::builder(client.clone()).start();
    let mut changes = pods.subscribe();
    loop {
        for key in changes.next().await {
            let Some(pod) = pods.get_key(&key) else { continue };
            // What fails here is tried again when the pod changes.
            if pod.metadata.deletion_timestamp.is_some() {
                let options = DeleteOptions::uid(controllers::pod::uid(&*pod)).grace(0);
                let _ = client.delete::<Pod>(&key.namespace, &key.name, &options).await;
            } else if controllers::pod::phase(&pod) == "Pending" {
                let patch = Patch::Merge(json!({"status": status_of(&pod)}));
                let _ = client.patch_status::<Pod>(&key.namespace, &key.name, &patch).await;
            }
        }
    }
}

fn status_of(pod: &Pod) -> Value {
    let ends = pod.spec.as_ref().is_some_and(|s| s.restart_policy.as_deref() == Some("Never"));
    let (phase, ready) = if ends { ("Succeeded", "False") } else { ("Running", "True") };
    json!({"phase": phase, "podIP": "10.9.9.9", "podIPs": [{"ip": "10.9.9.9"}],
        "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": Timestamp::now().to_string()}]})
}

fn template(app: &str, image: &str, restart: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}},
        "spec": {"restartPolicy": restart, "containers": [{"name": "c", "image": image}]}})
}

fn is_rolled_out(d: Option<&Deployment>, pods: i32) -> bool {
    let generation = d.and_then(|d| d.metadata.generation);
    d.and_then(|d| d.status.as_ref()).is_some_and(|s| {
        let counts = [s.updated_replicas, s.available_replicas, s.replicas];
        s.observed_generation == generation && counts.iter().all(|n| *n == Some(pods))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workloads_live_and_namespaces_end() -> Outcome {
    let cluster = Cluster::start().await?;
    cluster.until::<ServiceAccount>("default", |a| a.is_some()).await?;
    cluster.until::<ConfigMap>("kube-root-ca.crt", |c| c.is_some()).await?;

    let selector = json!({"matchLabels": {"app": "web"}});
    let spec = json!({"replicas": 3, "selector": selector, "template": template("web", "v1", "Always")});
    cluster.create::<Deployment>("web", spec).await?;
    let ports = json!({"selector": {"app": "web"}, "ports": [{"port": 80}]});
    cluster.create::<Service>("web", ports).await?;
    let selector = json!({"matchLabels": {"app": "db"}});
    let pods = template("db", "v1", "Always");
    let spec = json!({"replicas": 2, "serviceName": "db", "selector": selector, "template": pods});
    cluster.create::<StatefulSet>("db", spec).await?;
    let (selector, pods) = (json!({"matchLabels": {"app": "job"}}), template("job", "v1", "Never"));
    let spec = json!({"completions": 3, "parallelism": 2, "manualSelector": true, "selector": selector, "template": pods});
    cluster.create::<Job>("job", spec).await?;

    cluster.until("web", |d| is_rolled_out(d, 3)).await?;
    let available = |s: Option<&StatefulSet>| s?.status.as_ref()?.available_replicas;
    cluster.until("db", |s| available(s) == Some(2)).await?;
    let ended = |j: Option<&Job>| j?.status.as_ref()?.completion_time.clone();
    cluster.until("job", |j| ended(j).is_some()).await?;

    let update = Patch::Merge(json!({"spec": {"template": template("web", "v2", "Always")}}));
    cluster.client.patch::<Deployment>("t", "web", &update, &WriteOptions::default()).await?;
    cluster.until("web", |d| is_rolled_out(d, 3)).await?;
    let of_web = ListOptions::default().label("kubernetes.io/service-name", "web");
    let slices = cluster.client.list::<EndpointSlice>("t", &of_web).await?;
    assert_eq!(slices.items.len(), 1, "a service of three pods has one slice");
    let sets = cluster.client.list::<ReplicaSet>("t", &ListOptions::default()).await?;
    assert_eq!(sets.items.len(), 2, "both versions are kept");

    cluster.client.delete::<Namespace>("", "t", &DeleteOptions::default()).await?;
    cluster.until::<Namespace>("t", |n| n.is_none()).await?;
    cluster.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_sign_where_the_cluster_is_and_go_when_they_are_over() -> Outcome {
    let cluster = Cluster::start().await?;
    let token = |id: &str, more: Value| {
        let mut data = json!({"token-id": id, "token-secret": "0123456789abcdef",
            "usage-bootstrap-signing": "true"});
        data.as_object_mut()
            .into_iter()
            .for_each(|d| d.extend(more.as_object().cloned().unwrap_or_default()));
        let secret = json!({"metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"},
            "type": "bootstrap.kubernetes.io/token", "stringData": data});
        serde_json::from_value::<Secret>(secret)
    };
    cluster.client.create(&token("abcdef", json!({}))?).await?;
    cluster.client.create(&token("ended0", json!({"expiration": "2020-01-01T00:00:00Z"}))?).await?;
    let maps = Cache::<ConfigMap>::builder(cluster.client.clone()).namespace("kube-public").start();
    let secrets = Cache::<Secret>::builder(cluster.client.clone()).namespace("kube-system").start();
    let key = "jws-kubeconfig-abcdef";
    let signed = |maps: &Cache<ConfigMap>| {
        let map = maps.get("kube-public", "cluster-info")?;
        let data = map.data.as_ref()?;
        Some((data.get("kubeconfig")?.clone(), data.get(key)?.clone()))
    };
    let wait = async {
        maps.wait_until(|maps| signed(maps).is_some()).await;
        secrets.synced().await;
        secrets.wait_until(|secrets| secrets.keys().len() == 1).await;
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await?;
    let (config, signature) = signed(&maps).ok_or("no signature")?;
    let config: Value = serde_json::from_str(&config)?;
    let server = format!("https://{}", cluster.server.address);
    assert_eq!(config["clusters"][0]["cluster"]["server"], json!(server));
    let header = "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..";
    assert!(signature.starts_with(header) && signature.len() == header.len() + 43, "{signature}");
    cluster.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_get_the_tokens_of_their_accounts_and_ranges_become_ready() -> Outcome {
    let cluster = Cluster::start().await?;
    let secret = |name: &str, account: &str| {
        let annotations = json!({"kubernetes.io/service-account.name": account});
        serde_json::from_value::<Secret>(json!({"type": "kubernetes.io/service-account-token",
            "metadata": {"name": name, "namespace": "t", "annotations": annotations}}))
    };
    cluster.until::<ServiceAccount>("default", |account| account.is_some()).await?;
    cluster.client.create(&secret("s", "default")?).await?;
    cluster.client.create(&secret("of-nobody", "gone")?).await?;
    let has = |secret: Option<&Secret>, key: &str| {
        secret.and_then(|s| s.data.as_ref()).and_then(|d| d.get(key)).is_some_and(|v| !v.0.is_empty())
    };
    let filled =
        |secret: Option<&Secret>| ["token", "namespace", "ca.crt"].iter().all(|key| has(secret, key));
    cluster.until::<Secret>("s", filled).await?;
    cluster.until::<Secret>("of-nobody", |secret| secret.is_none()).await?;
    let held: Secret = cluster.client.get("t", "s").await?;
    let token = held.data.as_ref().and_then(|d| d.get("token")).ok_or("no token")?;
    let review = json!({"spec": {"token": String::from_utf8(token.0.clone())?}});
    let review: TokenReview = cluster.client.create(&serde_json::from_value(review)?).await?;
    let user = review.status.and_then(|s| s.user).and_then(|u| u.username);
    assert_eq!(user.as_deref(), Some("system:serviceaccount:t:default"));
    let range = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.200.0.0/24"]}});
    cluster.client.create(&serde_json::from_value::<ServiceCIDR>(range)?).await?;
    let ready = |range: Option<&ServiceCIDR>| {
        let conditions = range.and_then(|r| r.status.as_ref()).and_then(|s| s.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
            && range.is_some_and(|r| r.metadata.finalizers.is_some())
    };
    cluster.until::<ServiceCIDR>("more", ready).await?;
    cluster.end().await;
    Ok(())
}

/// A request for a certificate, PEM, as JSON holds bytes.
fn request(name: &str, group: &str) -> Result<Value, Box<dyn Error>> {
    let mut params = rcgen::CertificateParams::new(Vec::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let pem = params.serialize_request(&rcgen::KeyPair::generate()?)?.pem()?;
    Ok(serde_json::to_value(k8s_openapi::ByteString(pem.into_bytes()))?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_approved_signed_and_refused() -> Outcome {
    let cluster = Cluster::start().await?;
    let usages = json!(["digital signature", "client auth"]);
    let spec = |signer: &str, request: Value| {
        json!({"request": request, "signerName": format!("kubernetes.io/{signer}"), "usages": usages,
            "expirationSeconds": 3600})
    };
    let is_issued = |r: Option<&CertificateSigningRequest>| {
        let status = r.and_then(|r| r.status.as_ref());
        let pem = status.and_then(|s| s.certificate.as_ref());
        pem.is_some_and(|pem| serve::pki::expiry(&pem.0).is_ok())
    };

    // A node's own certificate is approved for whoever may have it approved.
    let node = spec("kube-apiserver-client-kubelet", request("system:node:a", "system:nodes")?);
    cluster.create::<CertificateSigningRequest>("node", node).await?;
    cluster.until("node", is_issued).await?;

    // Anybody else's waits for a decision, which is dated.
    let user = spec("kube-apiserver-client", request("jane", "developers")?);
    cluster.create::<CertificateSigningRequest>("user", user).await?;
    let approved =
        json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "Test"}]}});
    let (kind, patch) = (CertificateSigningRequest::resource(), Patch::Merge(approved));
    let options = WriteOptions::default();
    let _: Value = cluster.client.patch_at(&kind, ("", "user"), Some("approval"), &patch, &options).await?;
    cluster.until("user", is_issued).await?;
    cluster
        .until::<CertificateSigningRequest>("user", |r| {
            let conditions = r.and_then(|r| r.status.as_ref()?.conditions.as_ref());
            conditions.is_some_and(|all| all.len() == 1 && all[0].last_update_time.is_some())
        })
        .await?;

    let masters = spec("kube-apiserver-client", request("jane", "system:masters")?);
    let refused = cluster.create::<CertificateSigningRequest>("masters", masters).await;
    let message = refused.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(message.contains("with system:masters group is not allowed"), "{message}");
    cluster.end().await;
    Ok(())
}
