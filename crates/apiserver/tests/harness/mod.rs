//! A real server on a free port with a store of its own, and a small client. Everything is gone when it ends.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;

use apiserver::{ApiServer, Config, Running};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::Value;
use serve::outbound::{self, ClientTls};

/// A server and the administrator's access to it.
pub struct Server {
    pub address: SocketAddr,
    pub server: std::sync::Arc<ApiServer>,
    tls: ClientTls,
    stranger: ClientTls,
    /// Access as a server that passes requests on.
    pub front: ClientTls,
}

/// A status code, the body as JSON (or text), and the headers.
pub struct Answer {
    pub code: u16,
    pub body: Value,
    pub headers: http::HeaderMap,
}

impl Answer {
    /// A text of the body by JSON pointer.
    pub fn text(&self, pointer: &str) -> &str {
        self.body.pointer(pointer).and_then(Value::as_str).unwrap_or("")
    }
}

/// Runs a test against a server of its own.
pub fn with_server<F: Future<Output = ()>>(test: impl FnOnce(Server) -> F) {
    let directory = tempfile::tempdir().expect("temporary directory");
    runtime().block_on(async {
        let running = start(directory.path()).await;
        test(Server::of(&running, directory.path())).await;
        running.shutdown().await;
    });
}

/// Where a test runs.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime")
}

/// How a server in a directory is started.
pub fn config(directory: &Path) -> Config {
    Config::new(directory, "127.0.0.1:0".parse().expect("address"))
}

/// Starts a server in a directory.
pub async fn start(directory: &Path) -> Running {
    ApiServer::start(config(directory)).await.expect("start")
}

impl Server {
    /// The administrator's access to a server that was started in this directory.
    pub fn of(running: &Running, directory: &Path) -> Self {
        let pki = |name: &str| std::fs::read_to_string(directory.join("pki").join(name)).expect("read pki");
        let tls = ClientTls::new(&pki("ca.crt"), &pki("admin.crt"), &pki("admin.key")).expect("client");
        let stranger = ClientTls::new(&pki("ca.crt"), "", "").expect("client");
        let (chain, key) = (pki("front-proxy-client.crt"), pki("front-proxy-client.key"));
        let front = ClientTls::new(&pki("ca.crt"), &chain, &key).expect("client");
        Self { address: running.address, server: running.server.clone(), tls, stranger, front }
    }

    /// Sends a request; `body` empty for none.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.send_as(&self.tls, method, path, headers, body).await
    }

    /// Sends a request without a certificate.
    pub async fn send_anonymous(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send_as(&self.stranger, method, path, headers, "").await
    }

    /// Sends a request with another certificate, or none.
    pub async fn send_as(
        &self,
        tls: &ClientTls,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut request =
            Request::builder().method(Method::from_bytes(method.as_bytes()).expect("method")).uri(path);
        request = request.header("host", self.address.to_string());
        for (key, value) in headers {
            request = request.header(*key, *value);
        }
        if !body.is_empty() && !headers.iter().any(|(key, _)| *key == "content-type") {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(serve::full(body.to_string())).expect("request");
        let host = self.address.ip().to_string();
        let response = outbound::send(&host, self.address.port(), Some(tls), request).await.expect("answer");
        let (head, body) = response.into_parts();
        let bytes: Bytes = body.collect().await.expect("body").to_bytes();
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| text());
        Answer { code: head.status.as_u16(), body, headers: head.headers }
    }

    /// Begins a POST whose body does not end, until the task is aborted.
    pub fn hang(&self, path: &str, headers: &[(&str, &str)]) -> tokio::task::JoinHandle<()> {
        let mut request = Request::post(path).header("host", self.address.to_string());
        for (key, value) in headers {
            request = request.header(*key, *value);
        }
        let endless = futures_util::stream::pending::<Result<Bytes, serve::BoxError>>();
        let request = request.header("content-type", "application/json");
        let request = request.body(serve::streamed(endless)).expect("request");
        let (address, tls) = (self.address, self.tls.clone());
        tokio::spawn(async move {
            let host = address.ip().to_string();
            outbound::send(&host, address.port(), Some(&tls), request).await.expect("answer");
        })
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: &str) -> Answer {
        self.send("POST", path, &[], body).await
    }

    pub async fn put(&self, path: &str, body: &str) -> Answer {
        self.send("PUT", path, &[], body).await
    }

    pub async fn delete(&self, path: &str, body: &str) -> Answer {
        self.send("DELETE", path, &[], body).await
    }

    /// PATCH of type `merge`, `json`, `strategic` or `apply`.
    pub async fn patch(&self, kind: &str, path: &str, body: &str) -> Answer {
        let media = match kind {
            "json" => "application/json-patch+json",
            "merge" => "application/merge-patch+json",
            "strategic" => "application/strategic-merge-patch+json",
            _ => "application/apply-patch+yaml",
        };
        self.send("PATCH", path, &[("content-type", media)], body).await
    }

    /// The events of a watch that ends after `seconds`.
    pub async fn watch(&self, path: &str, seconds: u32) -> Vec<Value> {
        let mark = if path.contains('?') { '&' } else { '?' };
        let answer = self.get(&format!("{path}{mark}watch=1&timeoutSeconds={seconds}")).await;
        match answer.body {
            Value::String(text) => {
                text.lines().map(|line| serde_json::from_str(line).expect("event")).collect()
            }
            Value::Null => Vec::new(),
            one => vec![one],
        }
    }
}
