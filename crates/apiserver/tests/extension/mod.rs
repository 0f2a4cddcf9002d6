//! What others add to the server: conversions, aggregated servers, policies.

mod conversion;
pub mod hook;
