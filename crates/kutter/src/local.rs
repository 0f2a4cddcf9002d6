//! The way to an API server within this process: a call, no socket.

use std::pin::Pin;
use std::sync::Arc;

use apiserver::{ApiServer, Identity};
use bytes::Bytes;
use client::{Body, Transport, TransportError};
use http_body_util::{BodyExt, Full};

/// Calls the server's handler as one user.
pub struct Local {
    server: Arc<ApiServer>,
    identity: Arc<Identity>,
}

impl Local {
    /// As this user.
    pub fn new(server: Arc<ApiServer>, identity: Identity) -> Self {
        Self { server, identity: Arc::new(identity) }
    }
}

impl Transport for Local {
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<http::Response<Body>, TransportError>> + Send + '_>> {
        Box::pin(async move {
            let request = request.map(|body| Full::new(body).map_err(|never| match never {}).boxed_unsync());
            let response = self.server.handle(self.identity.clone(), request).await;
            let failed = |source| TransportError { what: "read answer".into(), source: Some(source) };
            Ok(response.map(|body| body.map_err(failed).boxed_unsync()))
        })
    }
}
