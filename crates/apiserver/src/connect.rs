//! Streams to kubelets, pods and services: log, exec, attach, port-forward and proxy are passed through.

use http::Response;
use serve::Body;

use crate::server::Call;
use crate::status::Status;

/// How the server reaches kubelets.
#[derive(Debug, Clone, Default)]
pub struct KubeletAccess {
    /// Certificate authorities of the kubelets' serving certificates, PEM; empty to accept any.
    pub authorities: String,
    /// The certificate chain to show, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: String,
}

/// Whether a subresource is a stream.
pub fn is_connect(subresource: &str) -> bool {
    matches!(subresource, "log" | "exec" | "attach" | "portforward" | "proxy")
}

/// Connects the client with the other end.
pub async fn connect(call: &mut Call, subresource: &str) -> Result<Response<Body>, Status> {
    let _ = call;
    Err(Status::new(501, "NotImplemented", format!("{subresource} is not served yet")))
}
