//! Discovery: which groups, versions and resources are served; one document per version, or all in one.

use std::sync::Arc;

use http::Response;
use http::header::{ACCEPT, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use serve::Body;

use crate::answer;
use crate::negotiate::{self, Format};
use crate::query::Query;
use crate::server::ApiServer;
use crate::status::Status;

/// Discovery in one document.
pub const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Answers `/api…` and `/apis…`.
pub fn answer(
    server: &Arc<ApiServer>,
    segments: &[&str],
    query: &Query,
    head: &http::request::Parts,
) -> Result<Response<Body>, Status> {
    let catalog = server.catalog();
    let output = negotiate::output(&head.headers, query, true, false);
    let format = output.map_or(Format::Json, |output| output.format);
    if let Some(merged) = crate::aggregate::discovery(server, segments, format, head) {
        return Ok(merged);
    }
    if segments.len() == 1 && wants_aggregated(head) {
        let document = catalog.aggregated(segments[0] == "api");
        return Ok(tagged(AGGREGATED, document, head));
    }
    let registry = &catalog.registry;
    let (type_name, value) = match segments {
        ["api"] => {
            let address = server.settings.advertise.to_string();
            ("meta_v1.APIVersions", Some(api::discovery::api_versions(registry, &address)))
        }
        ["apis"] => ("meta_v1.APIGroupList", Some(api::discovery::group_list(registry))),
        ["api", version] => ("meta_v1.APIResourceList", api::discovery::resource_list(registry, "", version)),
        ["apis", group] => ("meta_v1.APIGroup", api::discovery::group(registry, group)),
        ["apis", group, version] => {
            ("meta_v1.APIResourceList", api::discovery::resource_list(registry, group, version))
        }
        _ => ("", None),
    };
    Ok(match value {
        Some(value) => answer::typed(200, format, type_name, &value),
        None => answer::text(404, "404 page not found\n"),
    })
}

/// A document with its tag, or 304 when the client has it.
pub fn tagged(
    content_type: &'static str,
    document: crate::resource::Document,
    head: &http::request::Parts,
) -> Response<Body> {
    let known = head.headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let same = known.is_some_and(|known| known.trim_matches('"') == document.etag.trim_matches('"'));
    let mut response = match same {
        true => answer::bytes(304, content_type, ""),
        false => answer::bytes(200, content_type, document.body),
    };
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&document.etag) {
        headers.insert(ETAG, value);
    }
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    response
}

/// Whether the client takes discovery in one document.
pub fn wants_aggregated(head: &http::request::Parts) -> bool {
    let accept = head.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    accept.split(',').any(|clause| {
        let clause: String = clause.chars().filter(|c| !c.is_whitespace()).collect();
        clause.starts_with("application/json;")
            && clause.contains("as=APIGroupDiscoveryList")
            && clause.contains("g=apidiscovery.k8s.io")
            && (clause.contains("v=v2;") || clause.ends_with("v=v2"))
    })
}
