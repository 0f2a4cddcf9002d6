//! A transport within one process: requests go to the API server's handler without a socket in between.

use std::pin::Pin;
use std::sync::Arc;

use apiserver::ApiServer;
use apiserver::authenticate::Identity;
use bytes::Bytes;
use client::{Body, Transport, TransportError};
use http_body_util::BodyExt;

/// Calls the API server as one identity.
pub struct LocalTransport {
    server: Arc<ApiServer>,
    identity: Arc<Identity>,
}

impl LocalTransport {
    /// For a component of the control plane.
    pub fn new(server: Arc<ApiServer>, identity: Identity) -> LocalTransport {
        LocalTransport { server, identity: Arc::new(identity) }
    }
}

impl Transport for LocalTransport {
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<http::Response<Body>, TransportError>> + Send + '_>> {
        Box::pin(async move {
            let request = request.map(serve::full);
            let response = self.server.handle(Arc::clone(&self.identity), request).await;
            Ok(response.map(|body| {
                let broken =
                    |source| TransportError { what: "the answer broke off".into(), source: Some(source) };
                body.map_err(broken).boxed_unsync()
            }))
        })
    }
}
