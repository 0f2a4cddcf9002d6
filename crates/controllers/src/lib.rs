//! Pure planners, one file per controller: a view in, a plan out.
//!
//! Nothing here reads a clock, draws a random number or makes a request. A planner is a total function from
//! what is known to what is to be done; [`Action`] is everything that can be done.

mod action;
pub mod aggregation;
pub mod autoscaler;
pub mod bootstrap;
pub mod certificates;
mod claim;
pub mod cronjob;
pub mod daemonset;
pub mod deployment;
pub mod diff;
pub mod disruption;
pub mod endpoints;
pub mod endpointslice;
pub mod fit;
pub mod gc;
pub mod hints;
pub mod job;
pub mod names;
pub mod namespace;
pub mod nodeipam;
pub mod nodelifecycle;
pub mod percent;
pub mod pod;
pub mod podgc;
pub mod protection;
pub mod replicaset;
pub mod revision;
pub mod select;
pub mod serviceaccount;
pub mod servicecidr;
pub mod statefulset;
pub mod tainteviction;
pub mod ttlafterfinished;
pub mod volume;

pub use action::{
    Action, Failure, Note, Object, Plan, Propagation, Reason, Report, Resource, ScopeOf, Target, Wake,
};
