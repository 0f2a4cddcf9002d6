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

/// A value that clients see under a type of the facts, in any form.
pub fn typed(code: u16, format: Format, type_name: &'static str, value: &Value) -> Response<Body> {
    match format {
        Format::Protobuf => {
            let version = value.get("apiVersion").and_then(Value::as_str).unwrap_or("v1");
            crate::proto::meta(code, type_name, version, value)
        }
        format => self::value(code, format, value),
    }
}

/// One stored object.
pub fn stored(
    code: u16,
    output: Output,
    resource: &Resource,
    object: &store::Object,
) -> Result<Response<Body>, Status> {
    match (output.view, output.format) {
        (View::Whole, Format::Json) => Ok(bytes(code, "application/json", resource.present(object))),
        (View::Whole, Format::Protobuf) => {
            let body = crate::proto::enveloped(resource, object);
            Ok(bytes(code, Format::Protobuf.content_type(), body))
        }
        _ => {
            let value = serde_json::from_slice(&resource.present(object)).map_err(Status::internal)?;
            computed(code, output, resource, &value)
        }
    }
}

/// One object that is not stored in this form.
pub fn computed(
    code: u16,
    output: Output,
    resource: &Resource,
    object: &Value,
) -> Result<Response<Body>, Status> {
    let def = &resource.def;
    match (output.view, output.format) {
        (View::Whole, Format::Protobuf) => {
            Ok(crate::proto::respond(code, def.schema(), &def.api_version(), &def.kind, object))
        }
        (View::Whole, format) => Ok(value(code, format, object)),
        (View::Metadata, format) => {
            let partial = output.versioned(crate::view::partial(object));
            Ok(typed(code, format, "meta_v1.PartialObjectMetadata", &partial))
        }
        (View::Table, format) => {
            let metadata = serde_json::json!({
                "resourceVersion": crate::object::meta_text(object, "resourceVersion")});
            let table =
                crate::view::table(resource, std::slice::from_ref(object), metadata, true, "Metadata");
            Ok(value(code, format, &output.versioned(table)))
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

/// Bodies smaller than this are never compressed, in bytes.
const GZIP_MIN: usize = 128 << 10;

/// Whether the client takes gzip.
pub fn wants_gzip(call: &crate::server::Call) -> bool {
    let accepted = call.head.headers.get(http::header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    accepted.is_some_and(|accepted| accepted.split(',').any(|coding| coding.trim().starts_with("gzip")))
}

/// Bytes, compressed when they are many and the client takes it.
pub fn compressed(
    call: &crate::server::Call,
    code: u16,
    content_type: &'static str,
    body: Bytes,
) -> Response<Body> {
    if body.len() < GZIP_MIN || !wants_gzip(call) {
        return bytes(code, content_type, body);
    }
    use std::io::Write;
    let mut encoder =
        flate2::write::GzEncoder::new(Vec::with_capacity(body.len() / 8), flate2::Compression::fast());
    match encoder.write_all(&body).and_then(|()| encoder.finish()) {
        Ok(packed) => {
            let mut response = bytes(code, content_type, packed);
            let headers = response.headers_mut();
            headers.insert(http::header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            headers.insert(http::header::VARY, HeaderValue::from_static("Accept-Encoding"));
            response
        }
        Err(_) => bytes(code, content_type, body),
    }
}
