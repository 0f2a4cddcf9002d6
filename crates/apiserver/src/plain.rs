//! Requests that name no resource: discovery, documents, health, version, metrics.

use std::sync::Arc;

use http::{Method, Response};
use serde_json::json;
use serve::Body;

use crate::answer;
use crate::authenticate::Identity;
use crate::discovery;
use crate::health;
use crate::info::RequestInfo;
use crate::negotiate;
use crate::query::Query;
use crate::server::ApiServer;
use crate::status::Status;

/// Answers by path.
pub async fn answer(
    server: &Arc<ApiServer>,
    identity: &Identity,
    info: &RequestInfo,
    query: &Query,
    head: &http::request::Parts,
) -> Result<Response<Body>, Status> {
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return Err(Status::no_method());
    }
    let path = info.path.trim_end_matches('/');
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    match segments.as_slice() {
        ["healthz" | "livez" | "readyz", check @ ..] => Ok(health::answer(server, segments[0], check, query)),
        ["version"] => Ok(answer::value(200, negotiate::Format::Pretty, &version())),
        ["metrics"] => Ok(answer::bytes(
            200,
            "text/plain; version=0.0.4; charset=utf-8",
            server.metrics.text(&*server.store) + &server.fairness.metrics(),
        )),
        ["metrics", "slis"] => {
            Ok(answer::bytes(200, "text/plain; version=0.0.4; charset=utf-8", health::indicators(server)))
        }
        ["api" | "apis", ..] => discovery::answer(server, &segments, query, head),
        [".well-known", "openid-configuration"] => {
            Ok(tokens(server, |tokens| tokens.discovery(server.settings.advertise)))
        }
        ["openid", "v1", "jwks"] => Ok(tokens(server, |tokens| tokens.key_set())),
        ["kutter", "backup"] => crate::backup::answer(server, query).await,
        ["openapi", ..] => match crate::aggregate::openapi(server, &segments, identity, head).await? {
            Some(merged) => Ok(merged),
            None => crate::openapi::answer(server, &segments, head),
        },
        [] => Ok(answer::value(200, negotiate::Format::Json, &paths(server))),
        _ => Ok(answer::text(404, "404 page not found\n")),
    }
}

fn tokens(
    server: &ApiServer,
    document: impl FnOnce(&crate::authenticate::token::Tokens) -> serde_json::Value,
) -> Response<Body> {
    match server.tokens.get() {
        Some(tokens) => answer::value(200, negotiate::Format::Json, &document(tokens)),
        None => answer::text(404, "404 page not found\n"),
    }
}

/// What `/version` says: the version of the API that is spoken.
pub fn version() -> serde_json::Value {
    json!({
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": format!("{}+kutter{}", base::KUBERNETES_VERSION, env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": concat!("linux/", "amd64"),
    })
}

fn paths(server: &ApiServer) -> serde_json::Value {
    let mut paths: Vec<String> = vec!["/api".into(), "/api/v1".into(), "/apis".into()];
    for (group, versions) in server.registry.get().groups() {
        if group.is_empty() {
            continue;
        }
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
    }
    for path in [
        "/healthz",
        "/livez",
        "/metrics",
        "/metrics/slis",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ] {
        paths.push(path.into());
    }
    paths.sort();
    json!({"paths": paths})
}
