//! Protobuf answers. A stored object's message is made once and kept beside it.

use bytes::Bytes;
use http::Response;
use schema::Schema;
use schema::protobuf;
use serde_json::{Value, json};
use serve::Body;
use store::Object;

use crate::answer;
use crate::negotiate::Format;
use crate::resource::Resource;
use crate::status::Status;

/// The message of a stored object in this version, without envelope.
pub fn message(resource: &Resource, object: &Object) -> Bytes {
    let make = || {
        let value: Value = serde_json::from_slice(&resource.present(object)).unwrap_or_default();
        Bytes::from(protobuf::encode(resource.def.schema(), &value))
    };
    match resource.stored {
        None => object.protobuf.get_or_init(make).clone(),
        Some(_) => make(),
    }
}

/// A stored object with its envelope.
pub fn enveloped(resource: &Resource, object: &Object) -> Bytes {
    let message = message(resource, object);
    protobuf::wrap(&resource.def.api_version(), &resource.def.kind, &message).into()
}

/// An answer with a value of this type.
pub fn respond(code: u16, schema: &Schema, api_version: &str, kind: &str, value: &Value) -> Response<Body> {
    let body = protobuf::encode_object(schema, api_version, kind, value);
    answer::bytes(code, Format::Protobuf.content_type(), body)
}

/// A value of one of the types of `meta.k8s.io`, named as in the facts; JSON if there is no such type.
pub fn meta(code: u16, type_name: &'static str, api_version: &str, value: &Value) -> Response<Body> {
    let kind = type_name.rsplit('.').next().unwrap_or(type_name);
    match api::schema_of(type_name) {
        Some(schema) => respond(code, &schema, api_version, kind, value),
        None => answer::value(code, Format::Json, value),
    }
}

/// A refusal.
pub fn status(status: &Status) -> Response<Body> {
    meta(status.code, "meta_v1.Status", "v1", &status.to_value())
}

/// The `ListMeta` message of a list.
pub fn list_meta(revision: u64, token: &str, remaining: Option<u64>) -> Vec<u8> {
    let mut value = json!({"resourceVersion": revision.to_string()});
    if !token.is_empty() {
        value["continue"] = token.into();
    }
    if let Some(remaining) = remaining {
        value["remainingItemCount"] = remaining.into();
    }
    api::schema_of("meta_v1.ListMeta").map(|schema| protobuf::encode(&schema, &value)).unwrap_or_default()
}
