//! Servers that probes and hooks ask, good or bad as the test says.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

/// A server on a port of its own, until it is dropped.
pub struct Peer {
    pub port: u16,
    good: Arc<AtomicBool>,
    asked: Arc<AtomicU32>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Answer = http::Response<BoxBody<Bytes, Infallible>>;

impl Peer {
    /// Says 200 or 500.
    pub async fn http() -> Peer {
        Self::serving(|good, _| {
            let status = if good { 200 } else { 500 };
            http::Response::builder().status(status).body(Empty::new().boxed()).expect("an answer")
        })
        .await
    }

    /// The health service of gRPC: SERVING or NOT_SERVING.
    pub async fn grpc() -> Peer {
        Self::serving(|good, _| {
            let state = if good { 1 } else { 2 };
            let message = Frame::data(Bytes::from(vec![0, 0, 0, 0, 2, 8, state]));
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            let frames = [message, Frame::trailers(trailers)].map(Ok::<_, Infallible>);
            let body = StreamBody::new(futures_util::stream::iter(frames)).boxed();
            http::Response::builder()
                .header("content-type", "application/grpc")
                .body(body)
                .expect("an answer")
        })
        .await
    }

    async fn serving(answer: fn(bool, &str) -> Answer) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        let (good, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU32::new(0)));
        let (g, a) = (good.clone(), asked.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (g, a) = (g.clone(), a.clone());
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    a.fetch_add(1, Ordering::Relaxed);
                    let response = answer(g.load(Ordering::Relaxed), request.uri().path());
                    async move { Ok::<_, Infallible>(response) }
                });
                tokio::spawn(async move {
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Peer { port, good, asked, task }
    }

    /// Takes connections, or leaves the port closed.
    pub async fn tcp() -> Peer {
        let first = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = first.local_addr().expect("address").port();
        let good = Arc::new(AtomicBool::new(true));
        let g = good.clone();
        let task = tokio::spawn(async move {
            let mut listener = Some(first);
            loop {
                let wanted = g.load(Ordering::Relaxed);
                match (&listener, wanted) {
                    (Some(_), false) => listener = None,
                    (None, true) => listener = TcpListener::bind(("127.0.0.1", port)).await.ok(),
                    (Some(open), true) => {
                        let wait = std::time::Duration::from_millis(20);
                        let _ = tokio::time::timeout(wait, open.accept()).await;
                    }
                    (None, false) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                }
            }
        });
        Peer { port, good, asked: Arc::default(), task }
    }

    /// Answers well or badly from now on.
    pub fn set(&self, good: bool) {
        self.good.store(good, Ordering::Relaxed);
    }

    /// How often it was asked.
    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }
}
