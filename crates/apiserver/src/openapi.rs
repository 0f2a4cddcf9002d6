//! The OpenAPI documents. Their content is the schema engine's.

use std::sync::Arc;

use http::Response;
use serve::Body;

use crate::server::ApiServer;
use crate::status::Status;

/// Answers `/openapi/v2` and `/openapi/v3…`.
pub fn answer(
    server: &Arc<ApiServer>,
    segments: &[&str],
    head: &http::request::Parts,
) -> Result<Response<Body>, Status> {
    let _ = (server, segments, head);
    Err(Status::no_resource())
}
