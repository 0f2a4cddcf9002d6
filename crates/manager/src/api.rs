//! The manager's own API: JSON over HTTP/1.1 on a unix socket that only its owner can open.
//!
//! ```text
//! GET    /v1/clusters                        every cluster
//! GET    /v1/clusters/C                      one
//! PUT    /v1/clusters/C                      create or change: {"desired", "listen", "pools": [{"name", "count", …}]}
//! DELETE /v1/clusters/C                      stop it and remove all it has
//! GET    /v1/clusters/C/watch                a line of JSON at every change, until the cluster is gone
//! PUT    /v1/clusters/C/pools/P              create or change a node pool
//! DELETE /v1/clusters/C/pools/P              remove it
//! POST   /v1/clusters/C/nodes/N/stop|start   stop or start one local node
//! POST   /v1/shutdown                        end the manager; clusters go on
//! ```

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use bytes::Bytes;
use fleet::{Cluster, ClusterView, Desired, Host, NodePool, Remote, SpecError, address_plan};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use serve::pki::Pair;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use crate::ManagerError;
use crate::engine::{Manager, chain};
use crate::network;

/// Clients at a time.
const CONNECTIONS_MAX: usize = 256;
const BODY_BYTES_MAX: usize = 1 << 20;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A change of a cluster; what is absent stays as it is.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ClusterChange {
    desired: Option<Desired>,
    pools: Option<Vec<PoolChange>>,
    /// Where the API server listens for other machines, `address` or `address:port`, or `off`.
    listen: Option<String>,
    /// Makes this machine a member of a cluster elsewhere; only together with its creation.
    remote: Option<Remote>,
    /// What the member shows and trusts, kept with its node; only together with `remote`.
    credentials: Option<Credentials>,
}

/// The credentials of a member. They are secret: not to be printed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Credentials {
    authority: String,
    certificate: String,
    key: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// A change of a node pool; what is absent stays as it is.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PoolChange {
    name: Option<String>,
    count: Option<u32>,
    cpus: Option<u32>,
    memory_mib: Option<u64>,
    max_pods: Option<u32>,
    labels: Option<std::collections::BTreeMap<String, String>>,
    taints: Option<Vec<String>>,
    /// This machine itself as the pool's one node; only together with its creation.
    host: Option<Host>,
}

impl PoolChange {
    fn apply(self, pool: &mut NodePool) {
        pool.count = self.count.unwrap_or(pool.count);
        pool.cpus = self.cpus.unwrap_or(pool.cpus);
        pool.memory_mib = self.memory_mib.unwrap_or(pool.memory_mib);
        pool.max_pods = self.max_pods.unwrap_or(pool.max_pods);
        pool.labels = self.labels.unwrap_or_else(|| std::mem::take(&mut pool.labels));
        pool.host = self.host.or(pool.host.take());
        pool.taints = self.taints.unwrap_or_else(|| std::mem::take(&mut pool.taints));
    }
}

/// Serves until the manager ends.
pub(crate) async fn serve(manager: Arc<Manager>) {
    let path = manager.layout.socket();
    std::fs::remove_file(&path).ok();
    let listener = match UnixListener::bind(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, path = %path.display(), "failed to listen; the manager ends");
            return manager.stop();
        }
    };
    if let Err(error) = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)) {
        tracing::warn!(%error, "the socket's mode could not be set");
    }
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let manager = Arc::clone(&manager);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(|request| {
                let manager = Arc::clone(&manager);
                async move { Ok::<_, Infallible>(answer(manager, request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new();
            if let Err(error) = connection.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "an API connection broke");
            }
            drop(slot);
        });
    }
}

async fn answer(manager: Arc<Manager>, request: Request<Incoming>) -> Response<Body> {
    match route(manager, request).await {
        Ok(response) => response,
        Err(error) => {
            let status = match &error {
                ManagerError::NotFound { .. } => StatusCode::NOT_FOUND,
                ManagerError::BadRequest(_) | ManagerError::Spec(_) => StatusCode::BAD_REQUEST,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            json_response(status, &json!({ "error": chain(&error) }))
        }
    }
}

async fn route(manager: Arc<Manager>, request: Request<Incoming>) -> Result<Response<Body>, ManagerError> {
    let (parts, body) = request.into_parts();
    let path: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
    let ok = |view: &ClusterView| json_response(StatusCode::OK, view);
    match (parts.method, path.as_slice()) {
        (Method::GET, ["v1", "clusters"]) => Ok(json_response(StatusCode::OK, &manager.views().await)),
        (Method::GET, ["v1", "clusters", name]) => Ok(ok(&manager.view(name).await?)),
        (Method::GET, ["v1", "clusters", name, "watch"]) => watch(manager, name).await,
        (Method::PUT, ["v1", "clusters", name]) => {
            let change = read(body).await?;
            change_cluster(&manager, name, change).await?;
            Ok(ok(&manager.view(name).await?))
        }
        (Method::DELETE, ["v1", "clusters", name]) => {
            let mut cluster = manager.cluster(name)?;
            cluster.desired = Desired::Deleted;
            cluster.generation += 1;
            manager.put(&cluster, &[]).await?;
            Ok(json_response(StatusCode::ACCEPTED, &json!({})))
        }
        (Method::PUT, ["v1", "clusters", name, "pools", pool]) => {
            let mut change: PoolChange = read(body).await?;
            change.name = Some((*pool).to_owned());
            change_cluster(
                &manager,
                name,
                ClusterChange { pools: Some(vec![change]), ..ClusterChange::default() },
            )
            .await?;
            Ok(ok(&manager.view(name).await?))
        }
        (Method::DELETE, ["v1", "clusters", name, "pools", pool]) => {
            manager.cluster(name)?;
            find_pool(&manager, name, pool)?;
            manager.records.delete_pool(name, pool).await?;
            manager.look();
            Ok(ok(&manager.view(name).await?))
        }
        (Method::POST, ["v1", "clusters", name, "nodes", node, verb @ ("stop" | "start")]) => {
            stop_or_start(&manager, name, node, *verb == "stop").await?;
            Ok(ok(&manager.view(name).await?))
        }
        (Method::POST, ["v1", "shutdown"]) => {
            manager.stop();
            Ok(json_response(StatusCode::ACCEPTED, &json!({})))
        }
        (_, _) => Err(ManagerError::NotFound { kind: "path", name: parts.uri.path().to_owned() }),
    }
}

async fn change_cluster(manager: &Manager, name: &str, change: ClusterChange) -> Result<(), ManagerError> {
    let existing = manager.records.clusters();
    let mut cluster = match existing.iter().find(|c| c.name == name) {
        Some(cluster) => cluster.clone(),
        None => {
            let reached = network::reached().await?;
            Cluster { remote: change.remote.clone(), ..Cluster::new(name, &existing, &reached)? }
        }
    };
    if change.remote.is_some() && change.remote != cluster.remote {
        return Err(ManagerError::BadRequest(format!("a cluster {name:?} is on this machine already")));
    }
    if let Some(remote) = &change.remote {
        check_ranges(remote, &existing)?;
    }
    let listened = cluster.listen;
    if let Some(text) = &change.listen {
        cluster.listen = read_listen(text, address_plan(cluster.index).api.port())?;
    }
    if cluster.desired == Desired::Deleted {
        return Err(ManagerError::BadRequest(format!("cluster {name:?} is being deleted")));
    }
    if let Some(desired) = change.desired {
        cluster.desired = desired;
    }
    cluster.generation += 1;
    let mut pools = Vec::new();
    let mut renewed = Vec::new();
    for change in change.pools.into_iter().flatten() {
        let Some(pool_name) = change.name.clone() else {
            return Err(ManagerError::BadRequest("a node pool needs a name".into()));
        };
        let mut pool = match find_pool(manager, name, &pool_name) {
            Ok(pool) => pool,
            Err(_) => NodePool::new(name, &pool_name, 1, &[manager.records.pools(), pools.clone()].concat())?,
        };
        let before = pool.clone();
        if change.host.is_some() && change.host != pool.host && manager.has_pool(name, &pool_name) {
            let what = format!("node pool {pool_name:?} has other nodes already: delete it first");
            return Err(ManagerError::BadRequest(what));
        }
        change.apply(&mut pool);
        if pool.differs_inside(&before) {
            renewed.extend(before.node_names());
        }
        pools.push(pool);
    }
    let mut all = manager.records.pools();
    all.retain(|p| p.cluster == name && !pools.iter().any(|n| n.name == p.name));
    all.extend(pools.clone());
    let of_sort = |host: bool| all.iter().any(|p| p.host.is_some() == host && p.count > 0);
    if of_sort(true) && of_sort(false) || all.iter().filter(|p| p.host.is_some()).count() > 1 {
        return Err(SpecError::HostAndLocal.into());
    }
    if let (Some(kept), Some(node)) = (
        &change.credentials,
        all.iter().flat_map(NodePool::node_names).next().filter(|_| cluster.remote.is_some()),
    ) {
        let pair = Pair { certificate: kept.certificate.clone(), key: kept.key.clone() };
        let server = cluster.remote.as_ref().map(|r| r.server.clone()).unwrap_or_default();
        manager.provision.keep_member(name, &node, &server, &kept.authority, &pair)?;
    }
    if change.desired == Some(Desired::Running) {
        manager.forgive(name).await;
    }
    manager.put(&cluster, &pools).await?;
    if cluster.listen != listened {
        renewed = all.iter().flat_map(NodePool::node_names).collect();
        manager.renew_control_plane(name).await;
    }
    manager.renew(name, &renewed).await;
    Ok(())
}

/// `off`, or an address for other machines, with the port on loopback unless another is named.
fn read_listen(text: &str, port: u16) -> Result<Option<SocketAddr>, ManagerError> {
    if text == "off" {
        return Ok(None);
    }
    let alone = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port));
    let address: SocketAddr = text.parse().or(alone).map_err(|_| {
        ManagerError::BadRequest(format!("{text:?} is no address to listen on: write ADDR, ADDR:PORT or off"))
    })?;
    if address.ip().is_unspecified() || address.ip().is_loopback() || address.port() == 0 {
        return Err(ManagerError::BadRequest(format!(
            "{address} is no address that other machines can reach: write one of this machine's own"
        )));
    }
    Ok(Some(address))
}

/// Pods of a cluster elsewhere must not have the addresses of pods on this machine.
fn check_ranges(remote: &Remote, existing: &[Cluster]) -> Result<(), ManagerError> {
    let same = |c: &&Cluster| {
        let (address, bits) = address_plan(c.index).pod_network;
        c.remote.is_none() && remote.pod_cidr == format!("{address}/{bits}")
    };
    match existing.iter().find(same) {
        Some(cluster) => Err(ManagerError::BadRequest(format!(
            "cluster {:?} of this machine has the same pod addresses ({}): remove it with `kutter delete {}`",
            cluster.name, remote.pod_cidr, cluster.name
        ))),
        None => Ok(()),
    }
}

fn find_pool(manager: &Manager, cluster: &str, name: &str) -> Result<NodePool, ManagerError> {
    let found = manager.records.pools().into_iter().find(|p| p.cluster == cluster && p.name == name);
    found.ok_or_else(|| ManagerError::NotFound { kind: "node pool", name: name.to_owned() })
}

async fn stop_or_start(manager: &Manager, cluster: &str, node: &str, stop: bool) -> Result<(), ManagerError> {
    let record = manager.cluster(cluster)?;
    let owns = |p: &NodePool| p.cluster == cluster && p.ordinal_of(node).is_some();
    let Some(mut pool) = manager.records.pools().into_iter().find(owns) else {
        return Err(ManagerError::NotFound { kind: "node", name: node.to_owned() });
    };
    pool.stopped.retain(|n| n != node);
    if stop {
        pool.stopped.push(node.to_owned());
    }
    manager.put(&record, &[pool]).await
}

/// A line of JSON at once and after every change; ends when the cluster is gone.
async fn watch(manager: Arc<Manager>, name: &str) -> Result<Response<Body>, ManagerError> {
    let changes = manager.subscribe();
    let first = manager.view(name).await?;
    let start = (manager, changes, name.to_owned(), Some(first), None::<ClusterView>);
    let stream = futures_util::stream::unfold(start, |(manager, mut changes, name, next, last)| async move {
        let mut next = next;
        loop {
            let view = match next.take() {
                Some(view) => view,
                None => {
                    changes.changed().await.ok()?;
                    manager.view(&name).await.ok()?
                }
            };
            if last.as_ref() != Some(&view) {
                let mut line = serde_json::to_vec(&view).ok()?;
                line.push(b'\n');
                let frame = Ok::<_, Infallible>(Frame::data(Bytes::from(line)));
                return Some((frame, (manager, changes, name, None, Some(view))));
            }
        }
    });
    let mut response = Response::new(StreamBody::new(stream).boxed_unsync());
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/x-ndjson"));
    Ok(response)
}

async fn read<T: for<'de> Deserialize<'de> + Default>(body: Incoming) -> Result<T, ManagerError> {
    let bytes = Limited::new(body, BODY_BYTES_MAX)
        .collect()
        .await
        .map_err(|e| ManagerError::BadRequest(e.to_string()))?
        .to_bytes();
    if bytes.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&bytes).map_err(|e| ManagerError::BadRequest(e.to_string()))
}

fn json_response(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    let text = serde_json::to_vec(value).unwrap_or_else(|e| format!("{{\"error\":\"{e}\"}}").into_bytes());
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}
