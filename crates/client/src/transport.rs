//! How a request reaches an API server: over the network, or by a direct call within one process.

use std::pin::Pin;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;

/// A response body: bytes as they arrive. Watches and logs are long-lived bodies.
pub type Body = UnsyncBoxBody<Bytes, TransportError>;

/// The request did not get an answer.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct TransportError {
    /// What failed, on what.
    pub what: String,
    /// The cause.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Carries one HTTP request to an API server and its answer back. The URI of the request has only path and
/// query; the transport knows the server and the identity.
pub trait Transport: Send + Sync + 'static {
    /// Sends the request. The answer's status may be any; only a missing answer is an error.
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<http::Response<Body>, TransportError>> + Send + '_>>;
}
