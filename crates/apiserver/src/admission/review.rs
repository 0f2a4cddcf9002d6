//! The conversation with one webhook: an AdmissionReview there and back over HTTPS.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::rules::Place;
use super::{AdmissionContext, Operation};
use crate::hook;
use crate::server::ApiServer;

/// Answers longer than this are refused, in bytes: an object of the largest size and its patch.
const ANSWER_MAX: usize = 8 << 20;
/// How long a webhook has that says nothing, in seconds.
const TIMEOUT: u64 = 10;

/// What a webhook said.
#[derive(Debug, Default)]
pub struct Answer {
    /// Whether the request may go on.
    pub allowed: bool,
    /// The status to refuse with; null when it gave none.
    pub status: Value,
    /// A JSON patch, decoded from base64.
    pub patch: Option<Vec<u8>>,
    /// Lines for the client.
    pub warnings: Vec<String>,
}

/// The review of a request, as the webhook's version of it.
pub fn request(
    context: &AdmissionContext<'_>,
    seen: (Place<'_>, &str),
    object: &Value,
    old: Option<&Value>,
    version: &str,
) -> (String, Value) {
    let uid = uuid::Uuid::new_v4().to_string();
    let mut request = facts(context, seen, object);
    request["uid"] = uid.as_str().into();
    request["object"] = object.clone();
    request["oldObject"] = old.cloned().unwrap_or_default();
    let review = json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"),
        "request": request});
    (uid, review)
}

/// What a request is, besides its objects.
pub fn facts(context: &AdmissionContext<'_>, (place, kind): (Place<'_>, &str), object: &Value) -> Value {
    let def = &context.resource.def;
    let options = match context.operation {
        Operation::Create => "CreateOptions",
        Operation::Update => "UpdateOptions",
        _ => "DeleteOptions",
    };
    let mut options = json!({"kind": options, "apiVersion": "meta.k8s.io/v1"});
    if context.dry_run {
        options["dryRun"] = json!(["All"]);
    }
    let connects = context.operation == Operation::Connect;
    let shown = |own: &str| match connects {
        true => object.get("kind").and_then(Value::as_str).unwrap_or(own).to_string(),
        false => own.to_string(),
    };
    let mut request = json!({
        "kind": {"group": place.group, "version": place.version, "kind": shown(kind)},
        "resource": {"group": place.group, "version": place.version, "resource": place.plural},
        "requestKind": {"group": def.group, "version": def.version, "kind": shown(&def.kind)},
        "requestResource": {"group": def.group, "version": def.version, "resource": def.plural},
        "operation": context.operation.name(),
        "userInfo": crate::review::user_info(context.identity),
        "dryRun": context.dry_run,
        "options": if connects { Value::Null } else { options },
    });
    if !context.subresource.is_empty() {
        request["subResource"] = context.subresource.into();
        request["requestSubResource"] = context.subresource.into();
    }
    if !context.name.is_empty() {
        request["name"] = context.name.into();
    }
    let namespace = match def.group.is_empty() && def.plural == "namespaces" {
        true => context.name,
        false => context.namespace,
    };
    if !namespace.is_empty() {
        request["namespace"] = namespace.into();
    }
    request
}

/// Sends a review to a webhook and reads its answer.
pub async fn ask(
    server: &ApiServer,
    hook: &Value,
    (uid, review): (String, Value),
    mutating: bool,
) -> Result<Answer, String> {
    let seconds = hook["timeoutSeconds"].as_u64().unwrap_or(TIMEOUT).clamp(1, 30);
    let config = &hook["clientConfig"];
    let failed = |cause: String| format!("failed to call webhook: {cause}");
    let body = serde_json::to_vec(&review).map_err(|cause| failed(cause.to_string()))?;
    let body = hook::call(server, config, seconds, body, ANSWER_MAX).await.map_err(failed)?;
    let answer: Value = serde_json::from_slice(&body).map_err(|cause| failed(cause.to_string()))?;
    read(&answer, &uid, &review, mutating)
        .map_err(|cause| format!("received invalid webhook response: {cause}"))
}

fn read(answer: &Value, uid: &str, review: &Value, mutating: bool) -> Result<Answer, String> {
    let response = answer.get("response").filter(|response| response.is_object());
    let response = response.ok_or("webhook response was absent")?;
    let version = review["apiVersion"].as_str().unwrap_or("");
    let first = version.ends_with("/v1");
    if first && response["uid"] != uid {
        return Err(format!("expected response.uid={uid:?}, got {}", response["uid"]));
    }
    if first && (answer["apiVersion"] != version || answer["kind"] != "AdmissionReview") {
        let text = |field: &str| answer[field].as_str().unwrap_or("").to_string();
        return Err(format!(
            "expected webhook response of {version}, Kind=AdmissionReview, got {}, Kind={}",
            text("apiVersion"),
            text("kind")
        ));
    }
    let patch = response["patch"].as_str().filter(|patch| !patch.is_empty());
    let kind = response["patchType"].as_str();
    match (mutating, patch, kind) {
        (false, Some(_), _) => return Err("validating webhook may not return response.patch".into()),
        (false, None, Some(_)) => return Err("validating webhook may not return response.patchType".into()),
        (true, Some(_), None) if first => {
            return Err("webhook returned response.patch but not response.patchType".into());
        }
        (true, None, Some(_)) if first => {
            return Err("webhook returned response.patchType but not response.patch".into());
        }
        (true, Some(_), Some(kind)) if kind != "JSONPatch" => {
            return Err(format!("unsupported patch type {kind:?}"));
        }
        _ => {}
    }
    let patch = patch.map(|patch| STANDARD.decode(patch)).transpose().map_err(|cause| cause.to_string())?;
    let warnings = response["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Ok(Answer {
        allowed: response["allowed"] == true,
        status: response.get("status").cloned().unwrap_or_default(),
        patch,
        warnings: warnings.map(str::to_string).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_checked_before_they_are_believed() {
        let review = |version: &str| json!({"apiVersion": format!("admission.k8s.io/{version}")});
        let answer = |response: Value| json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response});
        let cases = [
            (answer(json!({"uid": "u", "allowed": true})), false, ""),
            (answer(json!({"uid": "v", "allowed": true})), false, "expected response.uid"),
            (json!({"kind": "AdmissionReview"}), false, "webhook response was absent"),
            (json!({"kind": "X", "response": {"uid": "u"}}), false, "expected webhook response of"),
            (answer(json!({"uid": "u", "patch": "W10="})), false, "may not return response.patch"),
            (answer(json!({"uid": "u", "patchType": "JSONPatch"})), false, "response.patchType"),
            (answer(json!({"uid": "u", "patch": "W10="})), true, "but not response.patchType"),
            (answer(json!({"uid": "u", "patch": "W10=", "patchType": "Merge"})), true, "unsupported"),
            (answer(json!({"uid": "u", "patch": "W10=", "patchType": "JSONPatch"})), true, ""),
        ];
        for (answer, mutating, wanted) in cases {
            match read(&answer, "u", &review("v1"), mutating) {
                Ok(_) => assert_eq!(wanted, "", "{answer}"),
                Err(cause) => assert!(!wanted.is_empty() && cause.contains(wanted), "{answer}: {cause}"),
            }
        }
        // The first version of reviews checked less.
        let old = json!({"response": {"allowed": true, "patch": "W10="}});
        assert_eq!(
            read(&old, "u", &review("v1beta1"), true).expect("read").patch.as_deref(),
            Some(&b"[]"[..])
        );
    }
}
