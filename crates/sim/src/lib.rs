//! A simulation of the cluster's brain: the real store, the real planners of workloads, of volumes and of the
//! garbage collector, and the real scheduler, under a clock that jumps from event to event, on a network that loses, delays and reorders, with
//! processes and a server that die at any time, also in the middle of a write.
//!
//! Everything follows from one seed, so what went wrong once goes wrong again:
//!
//! ```text
//! KUTTER_SIM_SEED=1234 cargo test -p sim what_must_hold -- --nocapture    # the same story, told aloud
//! KUTTER_SIM_SEEDS=100000 cargo test -p sim what_must_hold                # a hunt
//! ```
//!
//! At every write: no object is adopted while another controls it, no pod is bound twice, no volume is given to a
//! second claim, no Job counts more than it was to complete, no StatefulSet has an ordinal nobody asked for. After
//! every crash: what was acknowledged is there. In the end: every set has the pods it asks for, and they run; every
//! Job has completed exactly; nothing whose owner is gone is left; claims and volumes agree.

mod actors;
mod cache;
mod check;
mod plans;
mod scene;
mod server;
mod world;

pub use server::Sabotage;
pub use world::{Failure, Options, Report, run};
