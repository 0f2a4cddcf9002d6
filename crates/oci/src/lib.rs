//! Images and containers: registry client, content store, snapshots, the runtime and its supervisor.

pub mod caps;
pub mod cgroup;
pub mod config;
pub mod cri;
pub mod embedded;
pub mod images;
mod proto;
pub mod registry;
pub mod runtime;
pub mod seccomp;
pub mod state;
pub mod supervisor;
mod sys;

pub use cri::Cri;
pub use embedded::Embedded;
