//! The API server role: request path, registry and admission over the store.
//!
//! A request passes authenticate → authorize → decode → mutate (defaults, admission) → validate → commit →
//! encode. [`ApiServer::handle`] is the same call for the TLS path and for callers within the process.

pub mod admission;
pub mod aggregate;
mod answer;
pub mod authenticate;
pub mod authorize;
mod backup;
mod bootstrap;
mod certificates;
mod codec;
mod components;
mod config;
pub mod connect;
mod conversion;
mod convert;
mod custom;
mod discovery;
mod endpoints;
mod fairness;
pub mod handlers;
mod health;
mod hook;
pub mod info;
mod managed;
mod metrics;
mod negotiate;
pub mod object;
mod openapi;
mod plain;
mod policies;
mod prepare;
mod proto;
pub mod query;
pub mod quota;
pub mod resource;
mod review;
mod rewrite;
pub mod selector;
pub mod server;
mod shared;
pub use shared::SharedRegistry;
pub mod services;
mod settle;
mod start;
pub mod status;
pub mod trees;
pub mod usage;
mod validate;
mod view;

pub use authenticate::Identity;
pub use config::{Config, Etcd, StoreChoice};
pub use server::{ApiServer, Call, Settings};
pub use start::{Running, StartError};
pub use status::Status;
