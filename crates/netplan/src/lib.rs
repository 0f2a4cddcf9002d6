//! Pure networking: services, network policy, address management and DNS answers compiled to rule sets.

pub mod balancers;
pub mod base_rules;
pub mod cidr;
pub mod dns;
pub mod endpoints;
pub mod ipam;
pub mod pods;
pub mod policy;
pub mod routes;
pub mod ruleset;
pub mod services;
pub mod table;

pub use cidr::{Cidr, Family};
