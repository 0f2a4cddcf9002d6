//! Protobuf answers.

use http::Response;
use serde_json::Value;
use serve::Body;

use crate::resource::Resource;
use crate::status::Status;

/// One object.
pub fn object(code: u16, resource: &Resource, value: &Value) -> Result<Response<Body>, Status> {
    let _ = (code, resource, value);
    Err(Status::not_acceptable(crate::negotiate::MEDIA_TYPES_CUSTOM))
}

/// A refusal.
pub fn status(status: &Status) -> Response<Body> {
    crate::answer::value(status.code, crate::negotiate::Format::Json, &status.to_value())
}
