//! Pure kubelet decisions: pod lifecycle, probes, eviction, status.
//!
//! Everything here is a function of what is asked for (the Pod), what is there ([`model::Observed`]), what is
//! remembered ([`model::Memory`]) and the time, which is an argument. The `node` crate does what is decided.

pub mod admit;
pub mod backoff;
pub mod dns;
pub mod downward;
pub mod env;
pub mod evict;
pub mod image;
pub mod model;
pub mod phase;
pub mod plan;
pub mod probe;
pub mod quantity;
pub mod resources;
pub mod spec;
pub mod status;
pub mod stop;
pub mod threshold;
