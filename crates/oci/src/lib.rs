//! Images and containers: registry client, content store, snapshots, the runtime and its supervisor.

pub mod config;
pub mod runtime;
pub mod state;
