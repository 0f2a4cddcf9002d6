//! Rules of custom resources: what they refuse of objects, and what is refused of them.

use schema::expressions::{RuleTree, check};
use serde_json::{Value, json};

fn refused(openapi: &Value, object: &Value, old: Option<&Value>) -> Vec<String> {
    let tree = RuleTree::compile(openapi).expect("there are rules");
    tree.evaluate(object, old).0.iter().map(ToString::to_string).collect()
}

fn at_definition(openapi: &Value) -> Vec<String> {
    check(openapi, "spec").iter().map(|one| one.to_string().replace('\n', "|")).collect()
}

fn none() -> Vec<String> {
    Vec::new()
}

#[test]
fn a_rule_says_what_is_wrong_where() {
    let words = "'min %d is above max %d'.format([self.min, self.max])";
    let openapi = json!({"type": "object", "properties": {"spec": {"type": "object",
        "properties": {"min": {"type": "integer"}, "max": {"type": "integer"},
            "name": {"type": "string", "x-kubernetes-validations": [
                {"rule": "self.startsWith('a')", "message": "must start with a", "reason": "FieldValueForbidden"}]}},
        "x-kubernetes-validations": [
            {"rule": "self.min <= self.max", "messageExpression": words, "fieldPath": ".min"},
            {"rule": "!has(self.name) || self.name.size() < 5"}]}}});
    let good = json!({"spec": {"min": 1, "max": 2, "name": "abc"}});
    assert_eq!(refused(&openapi, &good, None), none());
    let bad = json!({"spec": {"min": 3, "max": 2, "name": "zabcde"}});
    assert_eq!(
        refused(&openapi, &bad, None),
        [
            "spec.min: Invalid value: min 3 is above max 2",
            "spec: Invalid value: failed rule: !has(self.name) || self.name.size() < 5",
            "spec.name: Forbidden: must start with a",
        ]
    );
    assert_eq!(
        refused(&openapi, &json!({"spec": {"min": 3}}), None),
        ["spec: Invalid value: \"object\": no such key: max evaluating rule: self.min <= self.max"]
    );
}

#[test]
fn rules_with_the_past_go_by_keys() {
    let openapi = json!({"type": "object", "properties": {"list": {
        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["key"],
        "maxItems": 100,
        "items": {"type": "object", "properties": {"key": {"type": "string"}, "value": {"type": "integer"}},
            "x-kubernetes-validations": [{"rule": "self.value >= oldSelf.value", "message": "only grows"}]}}}});
    assert_eq!(at_definition(&openapi), none());
    let old = json!({"list": [{"key": "a", "value": 1}, {"key": "b", "value": 5}]});
    let new = json!({"list": [{"key": "b", "value": 4}, {"key": "c", "value": 0}, {"key": "a", "value": 2}]});
    assert_eq!(refused(&openapi, &new, Some(&old)), ["list[0]: Invalid value: only grows"]);
    assert_eq!(refused(&openapi, &new, None), none());
}

#[test]
fn an_optional_past_is_asked_for_at_creation_too() {
    let openapi = json!({"type": "object", "properties": {"a": {"type": "integer", "x-kubernetes-validations": [
        {"rule": "self >= oldSelf.orValue(0)", "optionalOldSelf": true}]}}});
    assert_eq!(at_definition(&openapi), none());
    assert_eq!(refused(&openapi, &json!({"a": -1}), None).len(), 1);
    assert_eq!(refused(&openapi, &json!({"a": 3}), Some(&json!({"a": 4}))).len(), 1);
    assert_eq!(refused(&openapi, &json!({"a": 4}), Some(&json!({"a": 4}))), none());
}

#[test]
fn what_was_wrong_before_is_a_warning() {
    let openapi = json!({"type": "object", "properties": {
        "a": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 5"}]}, "b": {"type": "integer"}}});
    let tree = RuleTree::compile(&openapi).expect("there are rules");
    let (old, new) = (json!({"a": 1, "b": 1}), json!({"a": 1, "b": 2}));
    let (errors, warnings) = tree.evaluate(&new, Some(&old));
    assert!(errors.is_empty());
    assert_eq!(warnings, ["a: Invalid value: 1: failed rule: self > 5"]);
    assert_eq!(tree.evaluate(&json!({"a": 2}), Some(&old)).0.len(), 1);
}

#[test]
fn rules_below_all_of_know_the_types_beside_it() {
    let openapi = json!({"type": "object", "properties": {"a": {"type": "integer"}},
        "allOf": [{"properties": {"a": {"x-kubernetes-validations": [{"rule": "self > 5"}]}}}]});
    assert_eq!(refused(&openapi, &json!({"a": 1}), None), ["a: Invalid value: 1: failed rule: self > 5"]);
}

#[test]
fn the_budget_of_a_request_ends() {
    let openapi = json!({"type": "object", "properties": {"list": {"type": "array", "items": {"type": "integer"},
        "x-kubernetes-validations": [{"rule": "self.all(x, self.all(y, self.all(z, x + y + z < 0)) || true)"}]}}});
    let object = json!({"list": (0..200).map(|i| i - 1000).collect::<Vec<i32>>()});
    let errors = refused(&openapi, &object, None);
    assert_eq!(errors.len(), 1);
    assert!(errors[0].contains("call cost exceeds limit for rule"), "{errors:?}");
}

#[test]
fn a_definition_is_refused_for_rules_that_do_not_hold() {
    let rule = |rule: &str| {
        json!({"type": "object", "properties": {"a": {"type": "string"}, "n": {"type": "integer"}},
            "x-kubernetes-validations": [{"rule": rule}]})
    };
    let first = |openapi: &Value| at_definition(openapi).first().cloned().unwrap_or_default();
    for (source, wanted) in [
        (
            "self.b == 1",
            "compilation failed: ERROR: <input>:1:5: undefined field 'b'| | self.b == 1| | ....^",
        ),
        ("self.n", "cel expression must evaluate to a bool"),
        ("self.n ==", "compilation failed: ERROR: <input>:1:10: Syntax error: mismatched input '<EOF>'"),
    ] {
        let message = first(&rule(source));
        assert!(message.starts_with("spec.x-kubernetes-validations[0].rule: Invalid value: "), "{message}");
        assert!(message.contains(wanted), "{message}");
    }
    let costly = json!({"type": "array", "items": {"type": "string"},
        "x-kubernetes-validations": [{"rule": "self.all(x, self.all(y, x != y || x == ''))"}]});
    let message = first(&costly);
    let start = "spec.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more \
                 than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, \
                 and strings are declared)";
    assert!(message.starts_with(start), "{message}");
    let unmatched = json!({"type": "array", "maxItems": 5, "items": {"type": "integer",
        "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}});
    let wanted = "spec.items.x-kubernetes-validations[0].rule: Invalid value: \"self == oldSelf\": oldSelf cannot be used on \
                  the uncorrelatable portion of the schema within spec";
    assert_eq!(at_definition(&unmatched), [wanted]);
    let unused =
        json!({"type": "object", "x-kubernetes-validations": [{"rule": "true", "optionalOldSelf": true}]});
    let wanted = "spec.x-kubernetes-validations[0].optionalOldSelf: Invalid value: true: may not be set if oldSelf is not \
                  used in rule";
    assert_eq!(at_definition(&unused), [wanted]);
}
