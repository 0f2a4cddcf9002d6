//! The kubelet's HTTPS server: who may ask, and for what.
//!
//! Clients show a certificate of the cluster's authority or a bearer token, which a TokenReview turns into a user.
//! Members of `system:masters` and the API server's own client may do everything; for all others a
//! SubjectAccessReview on the node decides.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use serve::{Body, Handler, Limits, Peer, Running, ServerTls, full};

use crate::kubelet::Kubelet;
use crate::{files, forward, logs, pool, stats, streams, summary};

/// The server could not start.
#[derive(Debug, thiserror::Error)]
#[error("serve the kubelet's API on {address}: {why}")]
pub struct ServeError {
    /// Where.
    pub address: std::net::SocketAddr,
    /// Why not.
    pub why: String,
}

/// A user as the API knows one.
#[derive(Debug, Clone, Default)]
struct User {
    name: String,
    groups: Vec<String>,
}

/// The server of one kubelet.
pub struct Server {
    k: Arc<Kubelet>,
    tls: ServerTls,
}

/// Starts the server with a certificate of its own making, kept under `pki/` in the data directory.
pub async fn start(k: Arc<Kubelet>) -> Result<Running, ServeError> {
    let address = k.options.listen;
    let fail = |why: String| ServeError { address, why };
    let roots = match &k.options.client_ca {
        Some(path) => {
            std::fs::read_to_string(path).map_err(|e| fail(format!("read {}: {e}", path.display())))?
        }
        None => String::new(),
    };
    let pki = k.options.data_dir.join("pki");
    std::fs::create_dir_all(&pki).map_err(|e| fail(format!("make directory {}: {e}", pki.display())))?;
    let authority = serve::pki::Authority::load_or_generate(&pki, "kubelet-ca", "kutter-kubelet-ca")
        .map_err(|e| fail(e.to_string()))?;
    let name = format!("system:node:{}", k.options.name);
    let mut ips = k.options.ips.clone();
    ips.push([127, 0, 0, 1].into());
    let names = vec![k.options.name.clone(), "localhost".into()];
    let subject = serve::pki::Subject::server(name, names, ips);
    let pair = authority.maintain(&pki, "kubelet", &subject).map_err(|e| fail(e.to_string()))?;
    let tls = ServerTls::new(&pair.certificate, &pair.key, &roots).map_err(|e| fail(e.to_string()))?;
    if k.options.signed_serving {
        tokio::spawn(crate::certificates::serving(k.clone(), tls.clone()));
    }
    let listener = tokio::net::TcpListener::bind(address).await.map_err(|e| fail(e.to_string()))?;
    let server = Arc::new(Server { k: k.clone(), tls: tls.clone() });
    let running =
        serve::serve(listener, Some(tls), Limits::default(), server).map_err(|e| fail(e.to_string()))?;
    *k.port.lock() = running.address.port();
    Ok(running)
}

/// A plain answer.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A JSON answer.
pub fn json_answer(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => {
            let mut response = Response::new(full(bytes));
            let kind = header::HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    }
}

/// The values of a query, decoded.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string.
    pub fn parse(text: &str) -> Query {
        let pairs = text.split('&').filter(|p| !p.is_empty());
        Query(
            pairs
                .map(|p| p.split_once('=').unwrap_or((p, "")))
                .map(|(k, v)| (decode(k), decode(v)))
                .collect(),
        )
    }

    /// The first value of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// Every value of this name.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(k, _)| k == name).map(|(_, v)| v.clone()).collect()
    }

    /// Whether the value says yes.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| matches!(v, "1" | "true" | "True"))
    }
}

fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'+' => out.push(b' '),
            b'%' => match text.get(i + 1..i + 3).and_then(|h| u8::from_str_radix(h, 16).ok()) {
                Some(byte) => {
                    out.push(byte);
                    i += 2;
                }
                None => out.push(b'%'),
            },
            b => out.push(b),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Handler for Server {
    type Session = Option<Arc<(String, Vec<String>)>>;

    fn open(&self, peer: Peer) -> Self::Session {
        let leaf = peer.certificates.first()?;
        self.tls.verify_client(&peer.certificates).ok()?;
        let (_, cert) = x509_parser::parse_x509_certificate(leaf).ok()?;
        let name = cert.subject().iter_common_name().next()?.as_str().ok()?.to_string();
        let groups = cert.subject().iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_string);
        Some(Arc::new((name, groups.collect())))
    }

    async fn handle(self: Arc<Self>, session: Arc<Self::Session>, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path().to_string();
        let user = match &*session {
            Some(known) => Some(User { name: known.0.clone(), groups: known.1.clone() }),
            None => match bearer(request.headers()) {
                Some(token) => self.review_token(token).await,
                None => None,
            },
        };
        let Some(user) = user else { return text(StatusCode::UNAUTHORIZED, "Unauthorized") };
        let resources = resources(&path);
        if !self.allowed(&user, request.method(), &resources).await {
            let verb = verb(request.method());
            let message = format!(
                "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])",
                user.name,
                resources.join(" ")
            );
            return text(StatusCode::FORBIDDEN, message);
        }
        self.route(&path, request).await
    }
}

fn verb(method: &http::Method) -> &'static str {
    match method.as_str() {
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "get",
    }
}

fn bearer(headers: &http::HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    Some(value.strip_prefix("Bearer ")?.trim().to_string())
}

/// The subresources of `nodes` any of which allows this path.
fn resources(path: &str) -> Vec<&'static str> {
    let first = path.split('/').nth(1).unwrap_or("");
    match first {
        "stats" => vec!["stats"],
        "metrics" => vec!["metrics"],
        "logs" => vec!["log"],
        "pods" | "runningpods" => vec!["pods", "proxy"],
        "configz" => vec!["configz", "proxy"],
        "healthz" => vec!["healthz", "proxy"],
        _ => vec!["proxy"],
    }
}

impl Server {
    async fn review_token(&self, token: String) -> Option<User> {
        let review = TokenReview {
            spec: TokenReviewSpec { token, ..TokenReviewSpec::default() },
            ..TokenReview::default()
        };
        let answer: TokenReview = self.k.client.create(&review).await.ok()?;
        let status = answer.status.filter(|s| s.authenticated == Some(true))?;
        let user = status.user?;
        Some(User { name: user.username.unwrap_or_default(), groups: user.groups.unwrap_or_default() })
    }

    async fn allowed(&self, user: &User, method: &http::Method, resources: &[&str]) -> bool {
        if user.groups.iter().any(|g| g == "system:masters") || user.name == "kube-apiserver-kubelet-client" {
            return true;
        }
        for resource in resources {
            let review = SubjectAccessReview {
                spec: SubjectAccessReviewSpec {
                    user: Some(user.name.clone()),
                    groups: Some(user.groups.clone()),
                    resource_attributes: Some(ResourceAttributes {
                        verb: Some(verb(method).into()),
                        version: Some("v1".into()),
                        resource: Some("nodes".into()),
                        subresource: Some((*resource).into()),
                        name: Some(self.k.options.name.clone()),
                        ..ResourceAttributes::default()
                    }),
                    ..SubjectAccessReviewSpec::default()
                },
                ..SubjectAccessReview::default()
            };
            let answer: Result<SubjectAccessReview, _> = self.k.client.create(&review).await;
            if answer.is_ok_and(|a| a.status.is_some_and(|s| s.allowed)) {
                return true;
            }
        }
        false
    }

    async fn route(&self, path: &str, request: Request<Body>) -> Response<Body> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let query = Query::parse(request.uri().query().unwrap_or(""));
        let k = &self.k;
        match parts.as_slice() {
            ["pods"] => json_answer(&pod_list(k.all_pods())),
            ["runningpods"] => {
                let running = |p: &Pod| p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
                json_answer(&pod_list(k.all_pods().into_iter().filter(running).collect()))
            }
            ["containerLogs", namespace, pod, container] => {
                let answer = logs::answer(k, (namespace, pod, container), &query).await;
                streams::framed(request, answer)
            }
            ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
                streams::exec(k, (namespace, pod, container), &query, request).await
            }
            ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
                streams::attach(k, (namespace, pod, container), &query, request).await
            }
            ["run", namespace, pod, container] | ["run", namespace, pod, _, container] => {
                streams::run(k, (namespace, pod, container), &query).await
            }
            ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
                forward::port_forward(k, (namespace, pod), &query, request).await
            }
            ["logs", rest @ ..] => {
                files::answer(k.options.log_dir.parent().unwrap_or(&k.options.log_dir), rest).await
            }
            ["stats", "summary"] => json_answer(&summary::summary(k).await),
            ["metrics"] => text(StatusCode::OK, stats::own(k).await),
            ["metrics", "resource"] => text(StatusCode::OK, stats::resource(k).await),
            ["metrics", "cadvisor"] => text(StatusCode::OK, stats::cadvisor(k).await),
            ["metrics", "probes"] => text(StatusCode::OK, ""),
            ["healthz"] => text(StatusCode::OK, "ok"),
            ["configz"] => json_answer(&config(k)),
            ["kutter", "volumes", name] => pool::answer(k, request.method(), name).await,
            ["checkpoint", ..] => text(StatusCode::NOT_FOUND, "checkpoints are not supported"),
            _ => text(StatusCode::NOT_FOUND, "404 page not found"),
        }
    }
}

fn pod_list(items: Vec<Pod>) -> k8s_openapi::List<Pod> {
    k8s_openapi::List { items, ..Default::default() }
}

fn config(k: &Kubelet) -> serde_json::Value {
    json!({ "kubeletconfig": {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "clusterDomain": k.options.cluster_domain,
        "clusterDNS": k.options.cluster_dns,
        "maxPods": k.options.max_pods,
        "port": *k.port.lock(),
        "evictionHard": {
            "memory.available": "100Mi", "nodefs.available": "2Gi",
            "nodefs.inodesFree": "5%", "imagefs.available": "2Gi",
        },
    } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let q = Query::parse("command=sh&command=-c&command=echo+a%26b&tty=1&stdin=false");
        assert_eq!(q.all("command"), ["sh", "-c", "echo a&b"]);
        assert!(q.flag("tty") && !q.flag("stdin") && !q.flag("absent"));
    }
}
