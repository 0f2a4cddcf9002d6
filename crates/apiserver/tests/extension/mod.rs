//! What others add to the server: conversions, aggregated servers, policies.

mod aggregation;
mod conversion;
mod fairness;
pub mod hook;
mod policies;
