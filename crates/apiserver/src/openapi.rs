//! The OpenAPI documents: made by the schema engine on first demand, kept until the kinds change.

use std::sync::Arc;

use http::Response;
use http::header::ACCEPT;
use serve::Body;

use crate::answer;
use crate::discovery::tagged;
use crate::negotiate::Format;
use crate::server::ApiServer;
use crate::status::Status;

/// Answers `/openapi/v2` and `/openapi/v3…`.
pub fn answer(
    server: &Arc<ApiServer>,
    segments: &[&str],
    head: &http::request::Parts,
) -> Result<Response<Body>, Status> {
    let catalog = server.catalog();
    match segments {
        ["openapi", "v2"] => {
            let accept = head.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
            // The v2 document has a protobuf form of its own, which is not made; clients ask for JSON next.
            if accept.contains("proto") && !accept.contains("json") && !accept.contains("*/*") {
                return Err(Status::not_acceptable("application/json"));
            }
            Ok(tagged("application/json", catalog.openapi_v2(), head))
        }
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
