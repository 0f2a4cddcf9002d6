//! What kube-proxy answers on every node: port 10256 says whether traffic may be sent here (load balancers outside
//! ask it for Services with `externalTrafficPolicy: Cluster`), 127.0.0.1:10249 how Services are made.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use base::exposition::Text;
use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::fabric::Fabric;
use super::health;

/// The port of the health of the proxy.
const HEALTH_PORT: u16 = 10256;
/// The port of its mode and numbers, on the loopback address.
const STATUS_PORT: u16 = 10249;
/// A node with this taint is about to be taken away: no new connections.
const LEAVING: &str = "ToBeDeletedByClusterAutoscaler";

/// Whether the kernel has the rules that are wanted.
#[derive(Debug, Default)]
pub(super) struct State {
    behind: AtomicBool,
    /// Seconds since 1970; 0: not yet.
    written: AtomicI64,
    refusals: AtomicU64,
}

impl State {
    /// The rules are in the kernel.
    pub(super) fn written(&self, at: Timestamp) {
        self.written.store(at.as_second(), Ordering::Relaxed);
        self.behind.store(false, Ordering::Relaxed);
    }

    /// The kernel refused them: it goes on with older ones.
    pub(super) fn refused(&self) {
        self.behind.store(true, Ordering::Relaxed);
        self.refusals.fetch_add(1, Ordering::Relaxed);
    }

    /// Under kube-proxy's names.
    pub(super) fn show(&self, out: &mut Text) {
        let name = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";
        out.family(name, "gauge", "The last time proxy rules were successfully synced.");
        out.sample(name, &[], self.written.load(Ordering::Relaxed) as f64);
        let name = "kubeproxy_sync_proxy_rules_nftables_sync_failures_total";
        out.family(name, "counter", "Transactions of rules that the kernel refused.");
        out.sample(name, &[], self.refusals.load(Ordering::Relaxed) as f64);
    }
}

/// Whether new connections may be led to this node. A node that is not known (yet) is no worse for that.
fn eligible(node: Option<&Node>) -> bool {
    let Some(node) = node else { return true };
    let mut taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    node.metadata.deletion_timestamp.is_none() && !taints.any(|t| t.key == LEAVING)
}

/// The answer on the health port. `/livez` leaves out whether the node is about to go.
fn health(path: &str, state: &State, node: Option<&Node>, now: Timestamp) -> Response<Full<Bytes>> {
    let healthy = !state.behind.load(Ordering::Relaxed);
    let asks_node = path == "/healthz";
    if !asks_node && path != "/livez" {
        return text(404, "404 page not found\n".into());
    }
    let eligible = eligible(node);
    let good = healthy && (eligible || !asks_node);
    let updated = match good {
        true => now,
        false => Timestamp::from_second(state.written.load(Ordering::Relaxed)).unwrap_or_default(),
    };
    let mut body =
        json!({"lastUpdated": updated.to_string(), "currentTime": now.to_string(), "healthy": healthy});
    if asks_node {
        body["nodeEligible"] = eligible.into();
    }
    let mut response = text(if good { 200 } else { 503 }, body.to_string());
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

/// The answer on the status port.
fn status(path: &str, state: &State) -> Response<Full<Bytes>> {
    match path {
        "/healthz" | "/livez" | "/readyz" => text(200, "ok".into()),
        "/proxyMode" => text(200, "nftables".into()),
        "/metrics" => {
            let mut out = Text::default();
            state.show(&mut out);
            text(200, out.done())
        }
        _ => text(404, "404 page not found\n".into()),
    }
}

fn text(code: u16, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert("content-type", http::HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert("x-content-type-options", http::HeaderValue::from_static("nosniff"));
    response
}

/// Answers on both ports until dropped. A port that is taken (by a kube-proxy, or another node in these namespaces)
/// is left to its holder.
pub(super) async fn serve(fabric: Weak<Fabric>) {
    let Some(f) = fabric.upgrade() else { return };
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let mut at: Vec<IpAddr> = f.options.node_ips.clone();
    if !at.contains(&local) {
        at.push(local);
    }
    drop(f);
    let mut ports = JoinSet::new();
    for ip in at {
        let Some(listener) = listen(ip, HEALTH_PORT).await else { continue };
        let fabric = fabric.clone();
        ports.spawn(health::serve(listener, move |path| match fabric.upgrade() {
            Some(f) => {
                let node = f.nodes.get("", &f.options.node);
                health(path, &f.state, node.as_deref(), Timestamp::now())
            }
            None => text(503, "the node's network has ended\n".into()),
        }));
    }
    if let Some(listener) = listen(local, STATUS_PORT).await {
        ports.spawn(health::serve(listener, move |path| match fabric.upgrade() {
            Some(f) => status(path, &f.state),
            None => text(503, "the node's network has ended\n".into()),
        }));
    }
    while ports.join_next().await.is_some() {}
}

async fn listen(ip: IpAddr, port: u16) -> Option<TcpListener> {
    let opened = TcpListener::bind((ip, port)).await;
    opened
        .inspect_err(|error| tracing::info!(%ip, port, %error, "a port of the proxy's health is not ours"))
        .ok()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn body(response: Response<Full<Bytes>>) -> String {
        let bytes = futures_util::FutureExt::now_or_never(response.into_body().collect());
        String::from_utf8(bytes.unwrap().unwrap().to_bytes().to_vec()).unwrap()
    }

    fn node(value: serde_json::Value) -> Node {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn health_follows_the_rules_and_the_node() {
        let now = Timestamp::from_second(1000).unwrap();
        let state = State::default();
        let plain = node(json!({"metadata": {"name": "n"}}));
        let leaving = node(
            json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": LEAVING, "effect": "NoSchedule"}]}}),
        );
        let deleted = node(json!({"metadata": {"name": "n", "deletionTimestamp": "2026-01-01T00:00:00Z"}}));
        let code = |path, node| health(path, &state, node, now).status().as_u16();
        assert_eq!(
            (code("/healthz", None), code("/healthz", Some(&plain)), code("/x", None)),
            (200, 200, 404)
        );
        assert_eq!((code("/healthz", Some(&leaving)), code("/livez", Some(&leaving))), (503, 200));
        assert_eq!((code("/healthz", Some(&deleted)), code("/livez", Some(&deleted))), (503, 200));
        let good = body(health("/healthz", &state, Some(&plain), now));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&good).unwrap(),
            json!({"lastUpdated": "1970-01-01T00:16:40Z", "currentTime": "1970-01-01T00:16:40Z",
                "healthy": true, "nodeEligible": true})
        );
        state.written(Timestamp::from_second(60).unwrap());
        state.refused();
        assert_eq!((code("/healthz", Some(&plain)), code("/livez", Some(&plain))), (503, 503));
        let bad = body(health("/livez", &state, None, now));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&bad).unwrap(),
            json!({"lastUpdated": "1970-01-01T00:01:00Z", "currentTime": "1970-01-01T00:16:40Z", "healthy": false})
        );
        assert!(body(status("/metrics", &state)).contains("sync_failures_total 1\n"));
        state.written(now);
        assert_eq!(code("/healthz", Some(&plain)), 200);
        assert_eq!(body(status("/proxyMode", &state)), "nftables");
        assert_eq!(status("/nothing", &state).status(), 404);
    }
}
