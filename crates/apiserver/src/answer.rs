//! Answers out: values and stored bytes in the form the client asked for.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WARNING};
use http::{Response, StatusCode};
use serde_json::Value;
use serve::{Body, full};

use crate::negotiate::{Format, Output, View};
use crate::resource::Resource;
use crate::status::Status;

/// An answer with a body known whole.
pub fn bytes(code: u16, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Plain text.
pub fn text(code: u16, body: impl Into<String>) -> Response<Body> {
    bytes(code, "text/plain; charset=utf-8", body.into())
}

/// A value as JSON or YAML. Without a protobuf form of the value, JSON is what a protobuf client gets.
pub fn value(code: u16, format: Format, value: &Value) -> Response<Body> {
    match format {
        Format::Pretty => bytes(code, "application/json", pretty(value)),
        Format::Yaml => bytes(code, "application/yaml", yaml(value)),
        Format::Json | Format::Protobuf => {
            bytes(code, "application/json", serde_json::to_vec(value).unwrap_or_default())
        }
    }
}

/// Indented JSON.
pub fn pretty(value: &Value) -> Vec<u8> {
    serde_json::to_vec_pretty(value).unwrap_or_default()
}

/// YAML.
pub fn yaml(value: &Value) -> Vec<u8> {
    serde_saphyr::to_string(value).unwrap_or_default().into_bytes()
}

/// One stored object.
pub fn object(code: u16, output: Output, resource: &Resource, json: Bytes) -> Result<Response<Body>, Status> {
    let parse = || serde_json::from_slice::<Value>(&json).map_err(Status::internal);
    match (output.view, output.format) {
        (View::Whole, Format::Json) => Ok(bytes(code, "application/json", json)),
        (View::Whole, Format::Protobuf) => crate::proto::object(code, resource, &parse()?),
        (View::Whole, format) => Ok(value(code, format, &parse()?)),
        (View::Metadata, format) => {
            crate::view::respond(code, format, crate::view::partial(parse()?), "PartialObjectMetadata")
        }
        (View::Table, format) => {
            let table = crate::view::table(resource, vec![parse()?], Value::Object(Default::default()), true);
            Ok(value(code, format, &table))
        }
    }
}

/// The answer that tells a refusal.
pub fn status(status: &Status, format: Format) -> Response<Body> {
    let mut response = match format {
        Format::Protobuf => crate::proto::status(status),
        format => value(status.code, format, &status.to_value()),
    };
    let retry_after = status.details.as_ref().map_or(0, |details| details.retry_after);
    if retry_after > 0
        && let Ok(seconds) = HeaderValue::from_str(&retry_after.to_string())
    {
        response.headers_mut().insert(http::header::RETRY_AFTER, seconds);
    }
    response
}

/// Adds `Warning` headers.
pub fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        let printable: String = quoted.chars().filter(|c| !c.is_control()).collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{printable}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
}
