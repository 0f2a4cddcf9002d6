//! What of a certificate request may change, and through which subresource.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use serve::pki::{self, PkiError};

use crate::object::{self, at};
use crate::status::Cause;

/// The conditions that only the subresource `approval` changes.
const DECISIONS: [&str; 2] = ["Approved", "Denied"];

/// Keeps what the subresource may not change and dates new conditions.
pub fn settle(old: &Value, new: &mut Value, subresource: &str) {
    match subresource {
        // Nobody changes what was asked for once it may have been approved.
        "" => return object::set_at(new, "spec", at(old, "spec").cloned().unwrap_or_default()),
        "status" => keep_decisions(old, new),
        _ => {}
    }
    let now = object::timestamp(jiff::Timestamp::now());
    let before = conditions(old);
    let mut after = conditions(new);
    for condition in &mut after {
        let own =
            before.iter().find(|c| c["type"] == condition["type"] && c["status"] == condition["status"]);
        if condition.get("lastUpdateTime").is_none_or(Value::is_null) {
            condition["lastUpdateTime"] = now.as_str().into();
        }
        if condition.get("lastTransitionTime").is_none_or(Value::is_null) {
            let since = own.and_then(|c| c.get("lastTransitionTime")).filter(|since| !since.is_null());
            condition["lastTransitionTime"] = since.cloned().unwrap_or_else(|| now.as_str().into());
        }
    }
    if !after.is_empty() {
        object::set_at(new, "status.conditions", after.into());
    }
}

fn conditions(of: &Value) -> Vec<Value> {
    at(of, "status.conditions").and_then(Value::as_array).cloned().unwrap_or_default()
}

/// Decisions keep their content. One that comes or goes is left for validation to refuse.
fn keep_decisions(old: &Value, new: &mut Value) {
    let (before, mut after) = (conditions(old), conditions(new));
    for kind in DECISIONS {
        let own: Vec<&Value> = before.iter().filter(|c| c["type"] == kind).collect();
        let places: Vec<&mut Value> = after.iter_mut().filter(|c| c["type"] == kind).collect();
        if own.len() == places.len() {
            own.into_iter().zip(places).for_each(|(own, place)| *place = own.clone());
        }
    }
    if after != conditions(new) {
        object::set_at(new, "status.conditions", after.into());
    }
}

/// What is wrong with what is inside of the request and of the certificate; both are taken as they are when they
/// did not change.
pub fn check(old: Option<&Value>, new: &Value) -> Vec<Cause> {
    let text = |of: &Value, path: &str| at(of, path).and_then(Value::as_str).unwrap_or("").to_owned();
    let changed = |path: &str| old.is_none_or(|old| text(old, path) != text(new, path));
    let bytes = |path: &str| STANDARD.decode(text(new, path)).unwrap_or_default();
    let mut causes = Vec::new();
    let mut wrong = |path: &str, bad: &str, why: &PkiError| {
        let message = format!("Invalid value: {bad:?}: {why}");
        causes.push(Cause::field("FieldValueInvalid", path, message));
    };
    if changed("spec.request")
        && let Err(why) = pki::read_request(&bytes("spec.request"))
    {
        wrong("spec.request", &text(new, "spec.request"), &why);
    }
    if changed("status.certificate")
        && let Err(why) = pki::check_chain(&bytes("status.certificate"))
    {
        wrong("status.certificate", "<certificate data>", &why);
    }
    causes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn decisions_and_specs_stay() {
        let old = json!({"spec": {"usages": ["client auth"]}, "status": {"conditions": []}});
        let mut new = json!({"spec": {"usages": ["server auth"]},
            "status": {"certificate": "eA==", "conditions": [{"type": "Approved", "status": "True"}]}});
        let mut by_status = new.clone();
        settle(&old, &mut by_status, "status");
        // Nothing is taken away in silence: validation refuses it.
        assert_eq!(by_status["status"]["conditions"][0]["type"], "Approved");
        let approved =
            json!({"status": {"conditions": [{"type": "Approved", "status": "True", "message": "m"}]}});
        let mut changed = approved.clone();
        changed["status"]["conditions"][0]["message"] = json!("other");
        settle(&approved, &mut changed, "status");
        assert_eq!(changed["status"]["conditions"][0]["message"], "m");
        settle(&old, &mut new, "");
        assert_eq!(new["spec"], old["spec"]);
    }

    #[test]
    fn conditions_are_dated() {
        let old = json!({"status": {}});
        let mut new = json!({"status": {"conditions": [{"type": "Approved", "status": "True"}]}});
        settle(&old, &mut new, "approval");
        let dated = &new["status"]["conditions"][0];
        assert!(dated["lastUpdateTime"].is_string() && dated["lastTransitionTime"].is_string(), "{dated}");
    }
}
