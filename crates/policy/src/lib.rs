//! Pure deciders of who may do what: authorization, admission, quota, pod security.

pub mod admission;
