//! What of a certificate request may change, and through which subresource.

use serde_json::Value;

use crate::object::{self, at};

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

fn keep_decisions(old: &Value, new: &mut Value) {
    let is_decision = |c: &Value| DECISIONS.iter().any(|kind| c["type"] == *kind);
    let before = conditions(old);
    let mut after: Vec<Value> = before.iter().filter(|c| is_decision(c)).cloned().collect();
    after.extend(conditions(new).into_iter().filter(|c| !is_decision(c)));
    if after != conditions(new) {
        object::set_at(new, "status.conditions", after.into());
    }
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
        assert_eq!(by_status["status"], json!({"certificate": "eA==", "conditions": []}));
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
