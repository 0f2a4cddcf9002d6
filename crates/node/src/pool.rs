//! The node's own volumes: directories made and removed on request of whoever provisions them.
//!
//! `POST /kutter/volumes/NAME` makes one and answers `{"path": …}`; `DELETE` removes it with its data. Both may be
//! repeated. Who may ask is who may use the node's proxy.

use std::sync::Arc;

use http::{Method, Response, StatusCode};
use serde_json::json;
use serve::Body;
use volumes::local::Pool;

use crate::kubelet::Kubelet;
use crate::server::{json_answer, text};

/// Answers a request about one volume.
pub async fn answer(k: &Arc<Kubelet>, method: &Method, name: &str) -> Response<Body> {
    let pool = Pool::new(&k.options.data_dir);
    let (name, makes) = match method.as_str() {
        "POST" => (name.to_owned(), true),
        "DELETE" => (name.to_owned(), false),
        _ => return text(StatusCode::METHOD_NOT_ALLOWED, "volumes are made (POST) or removed (DELETE)"),
    };
    let work = move || match makes {
        true => pool.provision(&name).map(|path| json!({"path": path})),
        false => pool.delete(&name).map(|()| json!({})),
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => json_answer(&value),
        Ok(Err(error @ volumes::Error::Invalid(_))) => text(StatusCode::BAD_REQUEST, error.to_string()),
        Ok(Err(error)) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
