//! TLS, HTTP/1.1 and HTTP/2, websockets and SPDY streams.
//!
//! The crate knows nothing of Kubernetes objects: it accepts connections, proves who the peer is as far as a
//! certificate can, and hands requests to a [`Handler`]. [`pki`] makes the certificates.

mod body;
mod listener;
pub mod outbound;
pub mod pki;
pub mod pool;
pub mod spdy;
mod tls;

pub use body::{Body, BoxError, empty, full, limited, streamed};
pub use listener::{Handler, Limits, Peer, Running, serve};
pub use tls::{ServerTls, TlsError};
