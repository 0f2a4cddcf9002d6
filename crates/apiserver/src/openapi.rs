//! The OpenAPI documents: made by the schema engine on first demand, kept until the kinds change.

use std::sync::Arc;

use api::openapi::proto;
use http::Response;
use http::header::ACCEPT;
use serve::Body;

use crate::answer;
use crate::discovery::tagged;
use crate::negotiate::Format;
use crate::server::ApiServer;
use crate::status::Status;

/// The forms of the v2 document.
enum Form {
    Json,
    Protobuf,
}

fn form(media: &str) -> Option<Form> {
    match media {
        "application/json" | "application/*" | "*/*" => Some(Form::Json),
        proto::MEDIA_TYPE | proto::MEDIA_TYPE_OLD => Some(Form::Protobuf),
        _ => None,
    }
}

/// Whether the client wants the v2 document as protobuf.
pub fn wants_protobuf(head: &http::request::Parts) -> Result<bool, Status> {
    let accept = head.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let media = accept.split(',').map(|clause| clause.split(';').next().unwrap_or("").trim());
    match media.map(str::to_ascii_lowercase).find_map(|media| form(&media)) {
        None if !accept.is_empty() => Err(Status::not_acceptable("application/json")),
        found => Ok(matches!(found, Some(Form::Protobuf))),
    }
}

/// Answers `/openapi/v2` and `/openapi/v3…`.
pub fn answer(
    server: &Arc<ApiServer>,
    segments: &[&str],
    head: &http::request::Parts,
) -> Result<Response<Body>, Status> {
    let catalog = server.catalog();
    match segments {
        ["openapi", "v2"] => Ok(match wants_protobuf(head)? {
            true => tagged(proto::MEDIA_TYPE, catalog.openapi_v2_protobuf(), head),
            false => tagged("application/json", catalog.openapi_v2(), head),
        }),
        ["openapi", "v3"] => {
            let index = api::openapi::v3_index(&catalog.registry, |name| {
                catalog
                    .openapi_v3(name)
                    .map(|document| document.etag.trim_matches('"').to_string())
                    .unwrap_or_default()
            });
            Ok(answer::value(200, Format::Json, &index))
        }
        ["openapi", "v3", rest @ ..] => match catalog.openapi_v3(&rest.join("/")) {
            Some(document) => Ok(tagged("application/json", document, head)),
            None => Ok(answer::text(404, "404 page not found\n")),
        },
        _ => Ok(answer::text(404, "404 page not found\n")),
    }
}
