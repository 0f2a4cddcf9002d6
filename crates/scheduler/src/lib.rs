//! Pure scheduling: filters and scores over an incremental snapshot.
//!
//! ```text
//! snapshot.set_node(node); snapshot.set_pod(pod);           // from watches, work proportional to change
//! match solve(&mut snapshot, &PodInfo::of(&pod)) {
//!     Ok(placement) => placement.node,
//!     Err(unschedulable) => unschedulable.to_string(),      // "0/3 nodes are available: 2 Insufficient cpu, …."
//! }
//! ```

pub mod affinity;
mod class;
mod filter;
mod index;
mod info;
pub mod preempt;
pub mod queue;
mod resources;
mod score;
mod snapshot;
mod solve;
mod terms;
mod topology;
pub mod volumes;

pub use info::{PodInfo, is_over};
pub use resources::Resources;
pub use snapshot::{NodeInfo, Snapshot};
pub use solve::{Placement, Unschedulable, ratings, solve};
