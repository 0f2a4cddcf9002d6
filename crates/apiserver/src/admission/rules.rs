//! Which requests a webhook wants to see.

use serde_json::Value;

use super::{AdmissionContext, Operation};
use crate::handlers::selects;

/// A kind in one version, as rules name it.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// API group.
    pub group: &'a str,
    /// Version.
    pub version: &'a str,
    /// Plural name.
    pub plural: &'a str,
    /// Subresource, may be empty.
    pub subresource: &'a str,
}

fn texts<'a>(rule: &'a Value, field: &str) -> impl Iterator<Item = &'a str> {
    rule.get(field).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn names(rule: &Value, field: &str, name: &str) -> bool {
    texts(rule, field).any(|wanted| wanted == "*" || wanted == name)
}

/// `pods`, `pods/log`, `*`, `pods/*`, `*/scale` and `*/*`.
fn names_resource(rule: &Value, place: Place<'_>) -> bool {
    texts(rule, "resources").any(|wanted| {
        let (plural, subresource) = wanted.split_once('/').unwrap_or((wanted, ""));
        (plural == "*" || plural == place.plural) && (subresource == "*" || subresource == place.subresource)
    })
}

/// Whether a rule is about this place, operation and scope.
pub fn covers(rule: &Value, place: Place<'_>, how: Operation, namespaced: bool) -> bool {
    let scope = match rule.get("scope").and_then(Value::as_str).unwrap_or("*") {
        "Namespaced" => namespaced,
        "Cluster" => !namespaced,
        _ => true,
    };
    scope
        && names(rule, "operations", how.name())
        && names(rule, "apiGroups", place.group)
        && names(rule, "apiVersions", place.version)
        && names_resource(rule, place)
}

/// An absent or empty selector selects everything.
fn open(selector: &Value) -> bool {
    let empty = |field: &str| match selector.get(field) {
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        _ => true,
    };
    empty("matchLabels") && empty("matchExpressions")
}

fn labels(object: &Value) -> Value {
    object.pointer("/metadata/labels").cloned().unwrap_or_default()
}

/// Whether the object's namespace is selected; what is in no namespace always is.
pub fn in_namespace(selector: &Value, object: &Value, context: &AdmissionContext<'_>) -> bool {
    if open(selector) {
        return true;
    }
    let def = &context.resource.def;
    if def.group.is_empty() && def.plural == "namespaces" && context.operation != Operation::Connect {
        let own = if object.is_object() { object } else { context.old.unwrap_or(&Value::Null) };
        return selects(selector, &labels(own));
    }
    if !def.namespaced() || context.namespace.is_empty() {
        return true;
    }
    let catalog = context.server.catalog();
    let Some(namespaces) = catalog.stored("", "namespaces") else { return false };
    let found = context.server.store.get(&namespaces.key("", context.namespace));
    let value = found.and_then(|found| context.server.trees.of(&found));
    value.is_some_and(|namespace| selects(selector, &labels(&namespace)))
}

/// Whether the object, as it was or as it will be, is selected.
pub fn of_object(selector: &Value, object: &Value, old: Option<&Value>) -> bool {
    open(selector)
        || [Some(object), old].into_iter().flatten().any(|value| {
            value.get("metadata").is_some_and(Value::is_object) && selects(selector, &labels(value))
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_name_resources_in_six_ways() {
        let place = |plural, subresource| Place { group: "apps", version: "v1", plural, subresource };
        let cases = [
            ("deployments", "deployments", "", true),
            ("deployments", "deployments", "scale", false),
            ("deployments/scale", "deployments", "scale", true),
            ("deployments/*", "deployments", "status", true),
            ("deployments/*", "deployments", "", true),
            ("*/scale", "replicasets", "scale", true),
            ("*/scale", "replicasets", "", false),
            ("*", "replicasets", "", true),
            ("*", "replicasets", "status", false),
            ("*/*", "replicasets", "status", true),
            ("pods", "deployments", "", false),
        ];
        for (wanted, plural, subresource, yes) in cases {
            let rule = json!({"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["*"],
                "resources": [wanted]});
            let place = place(plural, subresource);
            assert_eq!(covers(&rule, place, Operation::Create, true), yes, "{wanted} {plural}/{subresource}");
            assert!(!covers(&rule, place, Operation::Delete, true), "{wanted}");
        }
    }

    #[test]
    fn a_rule_may_be_about_one_scope() {
        let rule = json!({"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["v1"], "resources": ["*/*"],
            "scope": "Cluster"});
        let place = Place { group: "", version: "v1", plural: "nodes", subresource: "" };
        assert!(covers(&rule, place, Operation::Delete, false));
        assert!(!covers(&rule, place, Operation::Delete, true));
        assert!(!covers(&rule, Place { version: "v2", ..place }, Operation::Delete, false));
    }

    #[test]
    fn objects_are_selected_as_they_were_or_will_be() {
        let labelled = |value: &str| json!({"metadata": {"labels": {"a": value}}});
        let selector = json!({"matchLabels": {"a": "1"}});
        assert!(of_object(&selector, &labelled("1"), None));
        assert!(of_object(&selector, &labelled("2"), Some(&labelled("1"))));
        assert!(!of_object(&selector, &labelled("2"), None));
        assert!(!of_object(&selector, &Value::Null, Some(&labelled("2"))));
        assert!(of_object(&json!({}), &Value::Null, None));
    }
}
