//! Words every layer shares: quantities, timestamps, schedules, names, bootstrap tokens, metrics.
//!
//! - [`bootstrap`]: tokens of those who join, and the secrets that hold them.
//! - [`certificate::Request`]: what a certificate request asks for.
//! - [`cron`]: schedules and time zones.
//! - [`exposition::Text`]: the text format of metrics.
//! - [`quantity::Quantity`]: exact parse, canonical form, arithmetic, comparison.
//! - [`time`]: RFC 3339 with seconds and with microseconds.
//! - [`names`]: the rules for names, labels and keys, with their messages.

/// The Kubernetes version that this build serves and its nodes report.
pub const KUBERNETES_VERSION: &str = "v1.36.2";

pub mod bootstrap;
pub mod certificate;
pub mod cron;
pub mod exposition;
pub mod names;
pub mod quantity;
pub mod time;
