//! Custom resources between versions by their definition's webhook: ConversionReviews there and back.
//!
//! Stored bytes are in the version that was the stored one when they were written. Whoever shows objects or stores
//! them passes by here first; for kinds without a webhook that costs one look at the kind.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use store::{Draft, Object};

use crate::hook;
use crate::object;
use crate::resource::Resource;
use crate::server::ApiServer;
use crate::status::Status;

/// How long a webhook has, in seconds.
const TIMEOUT: u64 = 30;
/// The most objects in one review.
const BATCH_MAX: usize = 500;
/// About how many bytes of objects are in one review, so that answers keep within their limit.
const BATCH_BYTES: usize = 8 << 20;
/// Answers longer than this are refused, in bytes.
const ANSWER_MAX: usize = 64 << 20;

/// Whether its objects may have to be converted by a webhook.
pub fn is_hooked(resource: &Resource) -> bool {
    resource.def.conversion.is_some()
}

/// A stored object in the version of `resource`.
pub async fn object(
    server: &ApiServer,
    resource: &Resource,
    object: Arc<Object>,
) -> Result<Arc<Object>, Status> {
    if !is_hooked(resource) {
        return Ok(object);
    }
    let mut one = objects(server, resource, vec![object]).await?;
    one.pop().ok_or_else(|| Status::internal("a conversion lost its object"))
}

/// Stored objects in the version of `resource`.
pub async fn objects(
    server: &ApiServer,
    resource: &Resource,
    mut objects: Vec<Arc<Object>>,
) -> Result<Vec<Arc<Object>>, Status> {
    if !is_hooked(resource) {
        return Ok(objects);
    }
    let mut wanted: Vec<usize> = Vec::new();
    let mut values: Vec<Value> = Vec::new();
    for (i, object) in objects.iter().enumerate() {
        if !object.json.starts_with(resource.head.as_bytes()) {
            wanted.push(i);
            values.push(serde_json::from_slice(&object.json).map_err(Status::internal)?);
        }
    }
    let new = values_to(server, resource, &resource.def.api_version(), values).await?;
    for (i, value) in wanted.into_iter().zip(new) {
        let old = &objects[i];
        let json = object::shown(&resource.head, &value);
        objects[i] = Arc::new(Object {
            key: old.key.clone(),
            json: json.into(),
            created: old.created,
            modified: old.modified,
            hole: 0,
            expires: old.expires,
            index: object::index_by(&resource.own_fields, &value),
            protobuf: std::sync::OnceLock::new(),
        });
    }
    Ok(objects)
}

/// A value in another version of its kind.
pub async fn value(
    server: &ApiServer,
    resource: &Resource,
    version: &str,
    value: Value,
) -> Result<Value, Status> {
    let mut one = values_to(server, resource, version, vec![value]).await?;
    one.pop().ok_or_else(|| Status::internal("a conversion lost its object"))
}

/// The bytes to store for an object of the resource's version.
pub async fn draft(server: &ApiServer, resource: &Resource, object: &Value) -> Result<Draft, Status> {
    match &resource.stored {
        Some(stored) if is_hooked(resource) => {
            let value = value(server, resource, &stored.api_version(), object.clone()).await?;
            Ok(object::draft(resource, &value))
        }
        _ => Ok(crate::prepare::draft(resource, object)),
    }
}

async fn values_to(
    server: &ApiServer,
    resource: &Resource,
    version: &str,
    values: Vec<Value>,
) -> Result<Vec<Value>, Status> {
    // The definition of this moment decides: whoever asks may have begun long ago, as watches do.
    let def = &resource.def;
    let catalog = server.catalog();
    let now = catalog.get(&def.group, &def.version, &def.plural);
    let config = now.and_then(|now| now.def.conversion.clone()).or_else(|| def.conversion.clone());
    let Some(config) = config else { return Ok(values) };
    let mut out: Vec<Value> = Vec::with_capacity(values.len());
    let mut batch: Vec<Value> = Vec::new();
    let mut bytes = 0;
    for value in values {
        bytes += rough_size(&value);
        batch.push(value);
        if batch.len() >= BATCH_MAX || bytes >= BATCH_BYTES {
            out.extend(review(server, &config, version, std::mem::take(&mut batch)).await?);
            bytes = 0;
        }
    }
    out.extend(review(server, &config, version, batch).await?);
    Ok(out)
}

fn rough_size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(list) => list.iter().map(rough_size).sum::<usize>() + 2,
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + 4 + rough_size(value)).sum::<usize>(),
        _ => 8,
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or("")
}

/// A version and kind as messages write them.
fn called(object: &Value) -> String {
    let (group, version) = api::kinds::split(text(object, "apiVersion"));
    format!("{group}/{version}, Kind={}", text(object, "kind"))
}

async fn review(
    server: &ApiServer,
    config: &Value,
    version: &str,
    mut objects: Vec<Value>,
) -> Result<Vec<Value>, Status> {
    let wanted: Vec<usize> = objects
        .iter()
        .enumerate()
        .filter(|(_, o)| text(o, "apiVersion") != version)
        .map(|(i, _)| i)
        .collect();
    let Some(first) = wanted.first().and_then(|i| objects.get(*i)) else { return Ok(objects) };
    let subject = called(first);
    let refuse = |cause: String| Status::new(500, "", cause);
    let shown: Vec<&Value> = wanted.iter().map(|i| &objects[*i]).collect();
    let converted = ask(server, config, version, &shown)
        .await
        .map_err(|cause| refuse(format!("conversion webhook for {subject} failed: {cause}")))?;
    if converted.len() != wanted.len() {
        let (got, want) = (converted.len(), wanted.len());
        let cause = format!("conversion webhook for {subject} returned {got} objects, expected {want}");
        return Err(refuse(cause));
    }
    for (i, mut new) in wanted.into_iter().zip(converted) {
        let old = &mut objects[i];
        let subject = called(old);
        check(old, &new, version)
            .map_err(|cause| refuse(format!("conversion webhook for {subject} returned {cause}")))?;
        restore(old, &mut new).map_err(|cause| {
            refuse(format!("conversion webhook for {subject} returned invalid metadata: {cause}"))
        })?;
        *old = new;
    }
    Ok(objects)
}

async fn ask(
    server: &ApiServer,
    config: &Value,
    version: &str,
    objects: &[&Value],
) -> Result<Vec<Value>, String> {
    let versions = config["conversionReviewVersions"].as_array().into_iter().flatten();
    let known = versions.filter_map(Value::as_str).find(|v| matches!(*v, "v1" | "v1beta1"));
    let review_version =
        format!("apiextensions.k8s.io/{}", known.ok_or("no supported conversion review versions")?);
    let uid = uuid::Uuid::new_v4().to_string();
    let review = json!({"kind": "ConversionReview", "apiVersion": review_version,
        "request": {"uid": uid, "desiredAPIVersion": version, "objects": objects}});
    let body = serde_json::to_vec(&review).map_err(|cause| cause.to_string())?;
    let body = hook::call(server, &config["clientConfig"], TIMEOUT, body, ANSWER_MAX).await?;
    let answer: Value = serde_json::from_slice(&body).map_err(|cause| cause.to_string())?;
    read(answer, &review_version, &uid)
}

/// The converted objects of an answer.
fn read(mut answer: Value, version: &str, uid: &str) -> Result<Vec<Value>, String> {
    let first = version.ends_with("/v1");
    if first && (text(&answer, "apiVersion") != version || text(&answer, "kind") != "ConversionReview") {
        return Err(format!(
            "expected webhook response of {}, Kind=ConversionReview, got {}",
            version,
            called(&answer)
        ));
    }
    let response = answer.get_mut("response").filter(|response| response.is_object());
    let response = response.ok_or("no response provided")?;
    if first && text(response, "uid") != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", text(response, "uid")));
    }
    let result = &response["result"];
    match (text(result, "status"), text(result, "message")) {
        ("Success", _) => {}
        (other, "") => return Err(format!("response.result.status was '{other}', not 'Success'")),
        (_, message) => return Err(message.to_string()),
    }
    match response["convertedObjects"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

/// Whether the converted object is the one that was sent, in the wanted version.
fn check(old: &Value, new: &Value, version: &str) -> Result<(), String> {
    let at = "invalid converted object at index 0";
    if text(new, "apiVersion") != version {
        let received = text(new, "apiVersion");
        return Err(format!("{at}: invalid groupVersion (expected {version}, received {received})"));
    }
    if text(old, "kind") != text(new, "kind") {
        let (expected, received) = (text(old, "kind"), text(new, "kind"));
        return Err(format!("{at}: invalid kind (expected {expected}, received {received})"));
    }
    for (field, called) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let (before, after) = (object::meta_text(old, field), object::meta_text(new, field));
        if before != after {
            return Err(format!("invalid object: must have the same {called}: {before} != {after}"));
        }
    }
    Ok(())
}

/// Of the metadata, a webhook decides labels and annotations; the rest stays as it was.
fn restore(old: &Value, new: &mut Value) -> Result<(), String> {
    let answered = new.get("metadata").ok_or("missing metadata in converted object")?;
    let answered = answered.as_object().ok_or("invalid metadata in converted object: it is no object")?;
    let mut metadata = object::metadata(old).cloned().unwrap_or_else(Map::new);
    for field in ["labels", "annotations"] {
        match answered.get(field) {
            None | Some(Value::Null) => {
                metadata.remove(field);
            }
            Some(Value::Object(entries)) => {
                if let Some((key, _)) = entries.iter().find(|(_, value)| !value.is_string()) {
                    return Err(format!("metadata.{field}[{key}] must be a string in converted object"));
                }
                metadata.insert(field.to_string(), Value::Object(entries.clone()));
            }
            Some(_) => return Err(format!("invalid metadata.{field} in converted object: it is no object")),
        }
    }
    new["metadata"] = Value::Object(metadata);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_checked_before_they_are_believed() {
        let v1 = "apiextensions.k8s.io/v1";
        let answer =
            |response: Value| json!({"kind": "ConversionReview", "apiVersion": v1, "response": response});
        let done = json!({"status": "Success"});
        let cases = [
            (answer(json!({"uid": "u", "result": done, "convertedObjects": [{}]})), v1, ""),
            (answer(json!({"uid": "v", "result": done})), v1, "expected response.uid=\"u\", got \"v\""),
            (json!({"kind": "X", "apiVersion": v1}), v1, "expected webhook response of"),
            (json!({"kind": "ConversionReview", "apiVersion": v1}), v1, "no response provided"),
            (answer(json!({"uid": "u"})), v1, "response.result.status was '', not 'Success'"),
            (answer(json!({"uid": "u", "result": {"status": "Failure", "message": "why"}})), v1, "why"),
            (json!({"response": {"result": done}}), "apiextensions.k8s.io/v1beta1", ""),
        ];
        for (answer, version, wanted) in cases {
            match read(answer.clone(), version, "u") {
                Ok(_) => assert_eq!(wanted, "", "{answer}"),
                Err(cause) => assert!(!wanted.is_empty() && cause.starts_with(wanted), "{answer}: {cause}"),
            }
        }
    }

    #[test]
    fn only_labels_and_annotations_come_from_the_webhook() {
        let old = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n", "uid": "u",
            "generation": 3, "labels": {"a": "1"}, "annotations": {"b": "2"}}});
        let mut new = json!({"apiVersion": "g/v2", "kind": "K", "metadata": {"name": "n", "uid": "u",
            "generation": 9, "labels": {"a": "9"}}});
        assert_eq!(check(&old, &new, "g/v2"), Ok(()));
        assert_eq!(restore(&old, &mut new), Ok(()));
        assert_eq!(new["metadata"], json!({"name": "n", "uid": "u", "generation": 3, "labels": {"a": "9"}}));
        for (pointer, value, wanted) in [
            ("/metadata/uid", json!("x"), "must have the same UID: u != x"),
            ("/apiVersion", json!("g/v3"), "invalid groupVersion (expected g/v2, received g/v3)"),
            ("/kind", json!("L"), "invalid kind (expected K, received L)"),
        ] {
            let mut wrong = new.clone();
            if let Some(place) = wrong.pointer_mut(pointer) {
                *place = value;
            }
            let cause = check(&old, &wrong, "g/v2").expect_err("refused");
            assert!(cause.contains(wanted), "{cause}");
        }
        for labels in [json!("x"), json!({"a": 1})] {
            let mut wrong = json!({"metadata": {"labels": labels}});
            assert!(restore(&old, &mut wrong).is_err());
        }
        assert!(restore(&old, &mut json!({})).is_err());
    }
}
