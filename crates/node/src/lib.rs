//! The node role: kubelet, proxy and DNS of one machine.
//!
//! The kubelet is one task per pod (`worker`), woken by changes of the pod, events of the runtime, verdicts of
//! probes and timers; the decisions are in the crate `pods`. Nothing polls.

mod act;
mod carry;
pub mod certificates;
mod cgroups;
mod claim;
pub mod config;
pub mod container;
pub mod events;
pub mod facts;
mod files;
pub mod forward;
pub mod halt;
pub mod hooks;
pub mod images;
pub mod kubelet;
pub mod logs;
pub mod network;
pub mod observe;
pub mod pool;
pub mod pressure;
pub mod probes;
pub mod pulled;
pub mod refs;
pub mod register;
mod report;
mod resize;
pub mod sandbox;
pub mod server;
pub mod shutdown;
pub mod size;
pub mod statics;
pub mod stats;
pub mod streams;
pub mod summary;
mod tally;
pub mod usage;
pub mod users;
pub mod volume;
mod worker;

pub use config::Options;
pub use kubelet::Kubelet;
pub use network::{NoNetwork, PodNetwork};
