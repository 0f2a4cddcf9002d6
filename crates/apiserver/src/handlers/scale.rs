//! The scale subresource: one kind to read and set how many replicas anything has.

use http::Response;
use serde_json::{Value, json};
use serve::Body;

use crate::object::{self, at, set_at};
use crate::server::Call;
use crate::status::{Cause, Status};
use crate::{answer, conversion, negotiate};

use super::change::{Edit, change, value_of};
use super::subresource::{body_of, changed_value};

/// Where an object has its counts.
struct Paths {
    spec: String,
    status: String,
    selector: Option<String>,
}

fn paths(call: &Call) -> Paths {
    match &call.resource.def.scale {
        Some(own) => {
            Paths { spec: own.spec.clone(), status: own.status.clone(), selector: own.selector.clone() }
        }
        None => Paths { spec: "spec.replicas".into(), status: "status.replicas".into(), selector: None },
    }
}

fn to_scale(call: &Call, object: &Value) -> Value {
    let paths = paths(call);
    let metadata = object.get("metadata").cloned().unwrap_or_default();
    let mut own = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = metadata.get(field) {
            own[field] = value.clone();
        }
    }
    let count = |path: &str| at(object, path).and_then(Value::as_i64).unwrap_or(0);
    let mut spec = json!({});
    if count(&paths.spec) != 0 {
        spec["replicas"] = count(&paths.spec).into();
    }
    let mut status = json!({"replicas": count(&paths.status)});
    let selector = match &paths.selector {
        Some(path) => at(object, path).and_then(Value::as_str).unwrap_or("").to_string(),
        None => at(object, "spec.selector").map(selector_text).unwrap_or_default(),
    };
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": own, "spec": spec, "status": status})
}

/// A label selector in the form of the query parameter.
fn selector_text(selector: &Value) -> String {
    let plain = selector.get("matchLabels").is_none() && selector.get("matchExpressions").is_none();
    let labels = if plain { Some(selector) } else { selector.get("matchLabels") };
    let mut parts: Vec<(String, String)> = labels
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), format!("{key}={}", value.as_str().unwrap_or(""))))
        .collect();
    for term in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
        let key = term.get("key").and_then(Value::as_str).unwrap_or("");
        let mut values: Vec<&str> = term
            .get("values")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        values.sort_unstable();
        let values = values.join(",");
        let text = match term.get("operator").and_then(Value::as_str) {
            Some("In") => format!("{key} in ({values})"),
            Some("NotIn") => format!("{key} notin ({values})"),
            Some("Exists") => key.to_string(),
            _ => format!("!{key}"),
        };
        parts.push((key.to_string(), text));
    }
    parts.sort();
    parts.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}

/// GET of the scale.
pub async fn get(call: &mut Call) -> Result<Response<Body>, Status> {
    let output = negotiate::output(&call.head.headers, &call.query, true, false)?;
    let key = call.resource.key(&call.info.namespace, &call.info.name);
    let object = call.server.store.get(&key).ok_or_else(|| call.not_found(&call.info.name))?;
    let object = conversion::object(&call.server, &call.resource, object).await?;
    let scale = to_scale(call, &value_of(call, &object)?);
    Ok(answer::typed(200, output.format, "autoscaling_v1.Scale", &scale))
}

/// PUT or PATCH of the scale.
pub async fn change_scale(call: &mut Call) -> Result<Response<Body>, Status> {
    let output = negotiate::output(&call.head.headers, &call.query, true, false)?;
    let dry_run = call.query.dry_run()?;
    let name = call.info.name.clone();
    let whole = match call.info.verb {
        "update" => Some(body_of(call, "autoscaling_v1.Scale", "UpdateOptions").await?),
        _ => None,
    };
    let patch = match whole {
        Some(_) => None,
        None => {
            let body = call.take_body().await?;
            Some(super::patch::decode(call, &body)?)
        }
    };
    let schema = api::schema_of("autoscaling_v1.Scale").ok_or_else(|| Status::internal("no Scale"))?;
    let spec_path = paths(call).spec;
    let view = Viewer { call_paths: paths(call) };
    let mut make = |old: &Value| {
        let scale = match (&whole, &patch) {
            (Some(scale), _) => scale.clone(),
            (None, Some(patch)) => {
                let mut new = super::patch::apply(patch, &schema, &view.scale(old))?;
                schema::canonicalize(&schema, &mut new)
                    .map_err(|cause| Status::bad_request(cause.to_string()))?;
                new
            }
            (None, None) => return Err(Status::internal("neither scale nor patch")),
        };
        let replicas = at(&scale, "spec.replicas").and_then(Value::as_i64).unwrap_or(0);
        if replicas < 0 {
            let what = "must be greater than or equal to 0";
            let cause = Cause::invalid("spec.replicas", &replicas.into(), what);
            return Err(Status::invalid("autoscaling", "Scale", object::name(old), vec![cause]));
        }
        let mut new = old.clone();
        set_at(&mut new, &spec_path, replicas.into());
        let version = object::meta_text(&scale, "resourceVersion");
        let fresh = version.is_empty();
        let version = if fresh { Value::from("") } else { version.into() };
        object::metadata_mut(&mut new).insert("resourceVersion".into(), version);
        Ok(new)
    };
    let edit = Edit { make: &mut make, subresource: "scale", put: false, dry_run, track: true };
    let changed = change(call, &name, edit).await?;
    let scale = to_scale(call, &changed_value(call, changed)?);
    Ok(answer::typed(200, output.format, "autoscaling_v1.Scale", &scale))
}

/// Shows an object as scale without the call at hand.
struct Viewer {
    call_paths: Paths,
}

impl Viewer {
    fn scale(&self, object: &Value) -> Value {
        let count = |path: &str| at(object, path).and_then(Value::as_i64).unwrap_or(0);
        let metadata = object.get("metadata").cloned().unwrap_or_default();
        json!({"kind": "Scale", "apiVersion": "autoscaling/v1",
            "metadata": {"name": metadata["name"], "namespace": metadata["namespace"],
                "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]},
            "spec": {"replicas": count(&self.call_paths.spec)},
            "status": {"replicas": count(&self.call_paths.status)}})
    }
}
