//! A server of HTTPS with an authority of its own, as webhooks and aggregated servers are.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use serde_json::Value;
use serve::pki::{Authority, Subject};
use serve::{Body, Handler, Limits, Peer, ServerTls};

/// What answers: a request with its body.
pub type Answers = dyn Fn(&Request<Bytes>) -> (u16, Value) + Send + Sync;

/// A server at work.
pub struct Hook {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its authority in base64, as `caBundle` wants it.
    pub bundle: String,
    served: Arc<Served>,
    running: serve::Running,
}

struct Served {
    answers: Box<Answers>,
    connections: AtomicUsize,
}

impl Handler for Served {
    type Session = ();

    fn open(&self, _: Peer) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    async fn handle(self: Arc<Self>, _: Arc<()>, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = serve::limited(body, 64 << 20).await.expect("body").expect("size");
        let (code, value) = (self.answers)(&Request::from_parts(head, body));
        let text = match value {
            Value::String(text) => text,
            value => value.to_string(),
        };
        let mut response = Response::new(serve::full(text));
        *response.status_mut() = http::StatusCode::from_u16(code).expect("code");
        response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
        response
    }
}

impl Hook {
    /// Starts it on a free port of this machine; `names` are those of its certificate. Clients need none unless
    /// `roots` (PEM) are given.
    pub async fn start(
        names: &[&str],
        answers: impl Fn(&Request<Bytes>) -> (u16, Value) + Send + Sync + 'static,
    ) -> Self {
        let authority = Authority::generate("hooks").expect("authority");
        let names = names.iter().map(|name| name.to_string()).collect();
        let subject = Subject::server("hook", names, vec!["127.0.0.1".parse().expect("address")]);
        let pair = authority.issue(&subject, Duration::from_secs(3600)).expect("certificate");
        let tls = ServerTls::new(&pair.certificate, &pair.key, authority.certificate()).expect("tls");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("address");
        let served = Arc::new(Served { answers: Box::new(answers), connections: AtomicUsize::new(0) });
        let running = serve::serve(listener, Some(tls), Limits::default(), served.clone()).expect("serve");
        Self { address, bundle: STANDARD.encode(authority.certificate()), served, running }
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.served.connections.load(Ordering::Relaxed)
    }

    /// Ends it.
    pub async fn stop(self) {
        self.running.shutdown(Duration::from_secs(1)).await;
    }
}

/// Waits until something holds, for at most ten seconds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    for _ in 0..1000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("in vain: {what}");
}
