//! The reconcile shell: queues, freshness, back-off and execution for every planner.
//!
//! A controller is a function from a key to a [`controllers::Plan`], made by wiring caches to a queue
//! ([`Wiring`]). Everything else is here, once: keys are queued without duplicates; one pass per key runs at
//! a time; after a pass has written, the key waits until the caches show what was written; failures back
//! off; plans that name a time are looked at again then.

pub mod caches;
pub mod controllers;
pub mod discovery;
pub mod events;
pub mod execute;
pub mod graph;
pub mod lease;
pub mod metrics;
pub mod queue;
pub mod scheduler;
pub mod shell;

pub use caches::Caches;
pub use events::Recorder;
pub use metrics::Metrics;
pub use queue::Queue;
pub use shell::{Authority, Controller, Pass, Planner, Settings, Shell, Wiring};
