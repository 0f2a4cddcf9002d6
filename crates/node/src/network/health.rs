//! Health check ports of Services with `externalTrafficPolicy: Local`: a load balancer outside asks each node whether
//! it has backends of its own. The small HTTP server of these ports also stands behind the proxy's own (`proxyz`).

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use client::ObjectKey;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use netplan::services::HealthCheck;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinHandle;

/// Connections to one port at once; more wait.
const CONNECTIONS_MAX: usize = 32;
/// A whole exchange takes no longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// One port that is answered on.
struct Port {
    number: u16,
    endpoints: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// The ports of all Services.
#[derive(Default)]
pub struct Checks {
    ports: Mutex<HashMap<ObjectKey, Port>>,
}

impl Checks {
    /// Brings the port of one Service in line; `None` closes it.
    pub async fn set(&self, key: &ObjectKey, check: Option<HealthCheck>, node_ips: &[IpAddr]) {
        let mut ports = self.ports.lock().await;
        let Some(check) = check else {
            ports.remove(key);
            return;
        };
        if let Some(port) = ports.get(key).filter(|p| p.number == check.port) {
            port.endpoints.store(check.local_endpoints, Ordering::Relaxed);
            return;
        }
        ports.remove(key);
        match open(key, &check, node_ips).await {
            Ok(port) => drop(ports.insert(key.clone(), port)),
            // The next change of the Service or its endpoints tries again.
            Err(error) => {
                tracing::warn!(service = %key, port = check.port, %error, "a health check port was not opened");
            }
        }
    }
}

async fn open(key: &ObjectKey, check: &HealthCheck, node_ips: &[IpAddr]) -> std::io::Result<Port> {
    let endpoints = Arc::new(AtomicUsize::new(check.local_endpoints));
    let mut port = Port { number: check.port, endpoints: endpoints.clone(), tasks: vec![] };
    for ip in node_ips {
        let listener = TcpListener::bind((*ip, check.port)).await?;
        let (key, endpoints) = (key.clone(), endpoints.clone());
        let reply = move |_: &str| answer(&key, endpoints.load(Ordering::Relaxed));
        port.tasks.push(tokio::spawn(serve(listener, reply)));
    }
    Ok(port)
}

/// Answers every request on `listener` with what `reply` makes of its path, until dropped.
pub(super) async fn serve(
    listener: TcpListener,
    reply: impl Fn(&str) -> Response<Full<Bytes>> + Clone + Send + 'static,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut open = tokio::task::JoinSet::new();
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        while open.try_join_next().is_some() {}
        let reply = reply.clone();
        open.spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let response = reply(request.uri().path());
                async move { Ok::<_, Infallible>(response) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false);
            // A peer that goes away early is none of our concern.
            let _ =
                tokio::time::timeout(PATIENCE, http.serve_connection(TokioIo::new(stream), service)).await;
            drop(permit);
        });
    }
}

fn answer(key: &ObjectKey, endpoints: usize) -> Response<Full<Bytes>> {
    let text = json!({
        "service": { "namespace": &*key.namespace, "name": &*key.name },
        "localEndpoints": endpoints,
        "serviceProxyHealthy": true,
    });
    let mut response = Response::new(Full::new(Bytes::from(text.to_string())));
    if endpoints == 0 {
        *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = response.headers_mut();
    headers.insert("content-type", http::HeaderValue::from_static("application/json"));
    headers.insert("x-content-type-options", http::HeaderValue::from_static("nosniff"));
    headers.insert("x-load-balancing-endpoint-weight", http::HeaderValue::from(endpoints));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ask(port: u16) -> std::io::Result<String> {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: n\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    #[tokio::test]
    async fn a_port_follows_its_service() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let checks = Checks::default();
        let key = ObjectKey::new("default", "web");
        let ips = ["127.0.0.1".parse().unwrap()];
        let check = |local_endpoints| Some(HealthCheck { port: free, local_endpoints });
        checks.set(&key, check(2), &ips).await;
        let text = ask(free).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.contains("x-load-balancing-endpoint-weight: 2\r\n"), "{text}");
        let body: serde_json::Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(
            body,
            json!({"service": {"namespace": "default", "name": "web"}, "localEndpoints": 2, "serviceProxyHealthy": true})
        );
        checks.set(&key, check(0), &ips).await;
        assert!(ask(free).await.unwrap().starts_with("HTTP/1.1 503 "));
        checks.set(&key, None, &ips).await;
        // The listener goes with its task, a moment later.
        for _ in 0..100 {
            if ask(free).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the port is still open");
    }
}
