//! A typed Kubernetes client, its watches and the shared cache.

pub mod transport;

pub use transport::{Body, Transport, TransportError};
