//! Pure deciders of who may do what: authorization, admission, quota, pod security.

pub mod admission;
pub mod escalation;
pub mod node;
pub mod podsecurity;
pub mod quota;
pub mod rbac;
pub mod roles;
