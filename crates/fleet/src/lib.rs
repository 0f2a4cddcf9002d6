//! Pure decisions of the managed service: clusters, node pools, upgrades, autoscaling.
//!
//! What should run is said by [`Cluster`] and [`NodePool`]; what runs is observed as [`Process`]; [`plan`]
//! compares the two. Nothing here starts anything.

mod address;
pub mod marks;
mod plan;
mod spec;
mod view;

pub use address::{AddressPlan, address_plan};
pub use plan::{Exit, Plan, Process, ProcessState, Role, STEADY_MS, STOP_MS, Step, Target, plan};
pub use spec::{
    Cluster, Desired, Host, KUBERNETES_VERSION, NodePool, Phase, Remote, SpecError, Toleration,
    local_node_name,
};
pub use view::{ClusterView, ProcessView, phase};
