//! Words every layer shares: quantities, timestamps, names.
//!
//! - [`quantity::Quantity`]: exact parse, canonical form, arithmetic, comparison.
//! - [`time`]: RFC 3339 with seconds and with microseconds.
//! - [`names`]: the rules for names, labels and keys, with their messages.

pub mod names;
pub mod quantity;
pub mod time;
