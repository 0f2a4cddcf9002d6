//! A typed Kubernetes client, its watches and the shared cache.
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use k8s_openapi::api::core::v1::{Node, Pod};
//! let client = client::Client::from_config(client::Config::infer(None, None)?)?;
//! let nodes = client.list::<Node>("", &client::ListOptions::default()).await?;
//! let pods = client::Cache::<Pod>::builder(client.clone())
//!     .options(client::ListOptions::default().field("spec.nodeName", "node-1"))
//!     .start();
//! pods.synced().await;
//! # drop(nodes); Ok(()) }
//! ```
//!
//! Everything above the [`Transport`] is the same whether the API server is on the network or in this
//! process.

mod cache;
mod config;
mod crud;
mod error;
mod https;
mod json;
mod kind;
mod options;
mod reflector;
mod tls;
pub mod transport;
mod watch;

pub use cache::{Cache, CacheBuilder, Change, ObjectKey, Subscription};
pub use config::{Config, ConfigError, Identity, Material};
pub use crud::Client;
pub use error::{ApiError, Error};
pub use https::HttpsTransport;
pub use json::{from_value, to_value};
pub use kind::{ApiResource, DynamicObject, Kind, List, Object, PartialObject};
pub use options::{DeleteOptions, ListOptions, Patch, Preconditions, Propagation, WriteOptions};
pub use transport::{Body, Transport, TransportError};
pub use watch::{WatchEvent, WatchStream};
