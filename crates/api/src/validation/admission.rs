//! Admission policies and their bindings, and the rules they share with webhooks. Expressions are only looked at for being there.

use base::names;
use serde_json::Value;

use super::check::At;
use super::webhook::hooks;
use super::{Create, Rules, Update, meta};

/// What happens when something cannot be evaluated.
pub const FAILURE: [&str; 2] = ["Fail", "Ignore"];
/// How versions of resources are matched.
pub const MATCH: [&str; 2] = ["Equivalent", "Exact"];
/// Whether something is asked again.
pub const REINVOCATION: [&str; 2] = ["IfNeeded", "Never"];
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const MUTATING: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];
const CONDITIONS_MAX: usize = 64;
const ANNOTATIONS_MAX: usize = 20;
const ANNOTATION_BYTES_MAX: usize = 5 << 10;
/// The rules of a kind of the group admissionregistration.k8s.io.
pub fn rules(kind: &str) -> Option<Rules> {
    let (create, update): (Create, Update) = match kind {
        "ValidatingWebhookConfiguration" => {
            (|at| hooks(at, None, false), |at, old, _| hooks(at, Some(old), false))
        }
        "MutatingWebhookConfiguration" => {
            (|at| hooks(at, None, true), |at, old, _| hooks(at, Some(old), true))
        }
        "ValidatingAdmissionPolicy" => (
            |at| validating(at, None),
            |at, old, sub| match sub {
                "status" => policy_status(&at.get("status")),
                _ => validating(at, Some(old)),
            },
        ),
        "MutatingAdmissionPolicy" => (|at| mutating(at, None), |at, old, _| mutating(at, Some(old))),
        "ValidatingAdmissionPolicyBinding" => (validating_binding, |at, _, _| validating_binding(at)),
        "MutatingAdmissionPolicyBinding" => (mutating_binding, |at, _, _| mutating_binding(at)),
        _ => return None,
    };
    Some(Rules { create, update })
}

/// Operations and resources.
pub fn rule_with_operations(at: &At<'_>) {
    let operations = at.get("operations");
    operations.need();
    alone(&operations, "operations");
    operations.items().for_each(|operation| operation.one_of(&OPERATIONS));
    for (field, words) in [("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        at.get(field).need();
        alone(&at.get(field), words);
    }
    for version in at.get("apiVersions").items() {
        version.need();
    }
    resources(&at.get("resources"));
    at.get("scope").one_of_if_set(&["*", "Cluster", "Namespaced"]);
}

/// An asterisk stands alone.
fn alone(at: &At<'_>, words: &str) {
    if at.len() > 1 && at.items().any(|item| item.text() == "*") {
        at.invalid(&format!("if '*' is present, must not specify other {words}"));
    }
}

fn resources(at: &At<'_>) {
    at.need();
    let (mut all_below, mut below_all): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    let mut plain = false;
    for item in at.items() {
        let text = item.value.as_str().unwrap_or("");
        if !item.need() {
            continue;
        }
        let Some((resource, sub)) = text.split_once('/') else {
            plain = text != "*";
            continue;
        };
        if all_below.contains(&resource) {
            item.invalid(&format!("if '{resource}/*' is present, must not specify {text}"));
        }
        if below_all.contains(&sub) {
            item.invalid(&format!("if '*/{sub}' is present, must not specify {text}"));
        }
        if sub == "*" {
            all_below.push(resource);
        }
        if resource == "*" {
            below_all.push(sub);
        }
    }
    let has = |wanted: &str| at.items().any(|item| item.text() == wanted);
    if at.len() > 1 && has("*/*") {
        at.invalid("if '*/*' is present, must not specify other resources");
    }
    if has("*") && plain {
        at.invalid("if '*' is present, must not specify other resources without subresources");
    }
}

/// Conditions requests have to fulfil.
pub fn conditions(at: &At<'_>) {
    at.at_most(CONDITIONS_MAX);
    let mut seen: Vec<&str> = Vec::new();
    for condition in at.items() {
        let name = condition.get("name");
        blank(&condition.get("expression"), "");
        name.need_rule(names::qualified_name);
        if !name.is_empty() && seen.contains(&name.text()) {
            name.duplicate();
        } else if !name.is_empty() {
            seen.push(condition.text_of("name"));
        }
    }
}

/// A text of blanks only is no text.
fn blank(at: &At<'_>, detail: &str) {
    if at.text().trim().is_empty() {
        at.required(detail);
    }
}

fn validating(at: &At<'_>, old: Option<&At<'_>>) {
    meta::accessor(&at.get("metadata"), false, names::dns1123_subdomain);
    let spec = at.get("spec");
    policy(&spec, old);
    spec.get("variables").items().for_each(|variable| self::variable(&variable));
    let (validations, annotations) = (spec.get("validations"), spec.get("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        let words = "validations or auditAnnotations must contain at least one item";
        validations.required(words);
        return annotations.required(words);
    }
    validations.items().for_each(|validation| self::validation(&validation));
    if annotations.len() > ANNOTATIONS_MAX {
        annotations.invalid(&format!("must not have more than {ANNOTATIONS_MAX} auditAnnotations"));
    }
    let metadata = at.get("metadata");
    let policy_name = metadata.get("name");
    let mut seen: Vec<&str> = Vec::new();
    for annotation in annotations.items() {
        audit_annotation(&annotation, policy_name.text());
        let key = annotation.text_of("key");
        if seen.contains(&key) {
            annotation.get("key").duplicate_of(key);
        }
        seen.push(key);
    }
}

fn mutating(at: &At<'_>, old: Option<&At<'_>>) {
    meta::accessor(&at.get("metadata"), false, names::dns1123_subdomain);
    let spec = at.get("spec");
    policy(&spec, old);
    mutable(&spec.get("matchConstraints"));
    spec.get("variables").items().for_each(|variable| self::variable(&variable));
    let mutations = spec.get("mutations");
    mutations.need_for("mutations must contain at least one item");
    mutations.items().for_each(|mutation| self::mutation(&mutation));
    spec.get("reinvocationPolicy").need_one_of(&REINVOCATION);
}

/// What policies of both kinds have.
fn policy(spec: &At<'_>, old: Option<&At<'_>>) {
    let failure = spec.get("failurePolicy");
    match failure.is_set() {
        true => failure.one_of(&FAILURE),
        false => failure.required(""),
    }
    let kind = spec.get("paramKind");
    if kind.is_set() {
        param_kind(&kind);
    }
    let matching = spec.get("matchConstraints");
    match matching.is_set() {
        true => {
            match_resources(&matching);
            matching.get("resourceRules").need();
        }
        false => matching.required(""),
    }
    let same = |old: &At<'_>| {
        let old = old.get("spec");
        kind.same(&old.get("paramKind")) && spec.get("matchConditions").same(&old.get("matchConditions"))
    };
    if !old.is_some_and(same) {
        conditions(&spec.get("matchConditions"));
    }
}

fn param_kind(at: &At<'_>) {
    let (version, kind) = (at.get("apiVersion"), at.get("kind"));
    if version.need() {
        let parts: Vec<&str> = version.text().split('/').collect();
        match parts[..] {
            [only] => group_version(&version, "", only),
            [group, of] => group_version(&version, group, of),
            _ => version.invalid(&format!("unexpected GroupVersion string: {}", version.text())),
        }
    }
    if kind.need() {
        let wrong = names::dns1035_label(&kind.text().to_lowercase());
        if !wrong.is_empty() {
            kind.invalid(&format!("may have mixed case, but should otherwise match: {}", wrong.join(",")));
        }
    }
}

fn group_version(at: &At<'_>, group: &str, version: &str) {
    let wrong = names::dns1123_subdomain(group);
    if !group.is_empty() && !wrong.is_empty() {
        at.invalid_as(group, &wrong.join(","));
    }
    let wrong = names::dns1035_label(version);
    match version.is_empty() {
        true => at.invalid("version must be specified"),
        false if !wrong.is_empty() => at.invalid_as(version, &wrong.join(",")),
        false => {}
    }
}

fn match_resources(at: &At<'_>) {
    let policy = at.get("matchPolicy");
    match policy.is_set() {
        true => policy.one_of(&MATCH),
        false => policy.required(""),
    }
    for field in ["namespaceSelector", "objectSelector"] {
        let selector = at.get(field);
        match selector.is_set() {
            true => meta::selector(&selector),
            false => selector.required(""),
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        for rule in at.get(field).items() {
            let mut seen: Vec<&Value> = Vec::new();
            for name in rule.get("resourceNames").items() {
                name.rule(names::path_segment);
                if seen.contains(&name.value) {
                    name.duplicate();
                }
                seen.push(name.value);
            }
            rule_with_operations(&rule);
        }
    }
}

/// Only what creates or changes objects can be changed on its way.
fn mutable(at: &At<'_>) {
    let rules = at.get("resourceRules");
    let place = rules.get("operations");
    for rule in rules.items() {
        for operation in rule.get("operations").items() {
            if !MUTATING.contains(&operation.text()) {
                place.unsupported_as(operation.text(), &MUTATING);
            }
        }
    }
}

fn variable(at: &At<'_>) {
    let name = at.get("name");
    let first = |b: u8| b == b'_' || b.is_ascii_alphabetic();
    let text = name.text();
    let identifier = text.bytes().next().is_some_and(first)
        && text.bytes().all(|b| first(b) || b.is_ascii_digit())
        && !cel::is_reserved(text);
    if text.trim().is_empty() {
        name.required("name is not specified");
    } else if !identifier {
        name.invalid("must be a valid CEL identifier");
    }
    blank(&at.get("expression"), "expression is not specified");
}

fn validation(at: &At<'_>) {
    blank(&at.get("expression"), "expression is not specified");
    for field in ["messageExpression", "message"] {
        let text = at.get(field);
        if !text.is_empty() && text.text().trim().is_empty() {
            text.invalid("must be non-empty if specified");
        } else if field == "message" && text.text().trim().contains(['\n', '\r']) {
            text.invalid("must not contain line breaks");
        }
    }
    at.get("reason").one_of_if_set(&["Forbidden", "Invalid", "RequestEntityTooLarge"]);
}

fn audit_annotation(at: &At<'_>, policy: &str) {
    let key = at.get("key");
    match policy {
        "" => key.invalid("requires metadata.name be non-empty"),
        policy => {
            let whole = format!("{policy}/{}", key.text());
            for what in names::qualified_name(&whole) {
                key.invalid_as(whole.as_str(), &what);
            }
        }
    }
    let value = at.get("valueExpression");
    match value.text().trim() {
        "" => value.required("valueExpression is not specified"),
        text if text.len() > ANNOTATION_BYTES_MAX => {
            value.required(&format!("must not exceed {ANNOTATION_BYTES_MAX} bytes in length"));
        }
        _ => {}
    }
}

fn mutation(at: &At<'_>) {
    let kind = at.get("patchType");
    if !kind.need() {
        return;
    }
    let (own, other) = match kind.text() {
        "JSONPatch" => ("jsonPatch", "applyConfiguration"),
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
        _ => return kind.unsupported(&["ApplyConfiguration", "JSONPatch"]),
    };
    match at.get(own).is_set() {
        true => blank(&at.get(own).get("expression"), ""),
        false => at.get(own).required(&format!("must be specified when patchType is {}", kind.text())),
    }
    if at.get(other).is_set() {
        let what = format!("must not be specified when patchType is {}", kind.text());
        at.get(other).invalid_as(format!("{{{other}}}"), &what);
    }
}

fn validating_binding(at: &At<'_>) {
    let spec = at.get("spec");
    binding(at, &spec);
    let actions = spec.get("validationActions");
    let mut seen: Vec<&str> = Vec::new();
    for action in actions.items() {
        let text = action.value.as_str().unwrap_or("");
        action.one_of(&["Audit", "Deny", "Warn"]);
        if seen.contains(&text) {
            action.duplicate();
        }
        seen.push(text);
    }
    if seen.contains(&"Deny") && seen.contains(&"Warn") {
        actions.invalid(
            "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
        );
    }
    actions.need_for("at least one validation action is required");
}

fn mutating_binding(at: &At<'_>) {
    let spec = at.get("spec");
    binding(at, &spec);
    mutable(&spec.get("matchResources"));
}

/// What bindings of both kinds have.
fn binding(at: &At<'_>, spec: &At<'_>) {
    meta::accessor(&at.get("metadata"), false, names::dns1123_subdomain);
    spec.get("policyName").need_rule(names::dns1123_subdomain);
    let params = spec.get("paramRef");
    if params.is_set() {
        param_ref(&params);
    }
    if spec.get("matchResources").is_set() {
        match_resources(&spec.get("matchResources"));
    }
}

fn param_ref(at: &At<'_>) {
    let (name, selector) = (at.get("name"), at.get("selector"));
    let both = !name.is_empty() && selector.is_set();
    let words = "name and selector are mutually exclusive";
    name.rule_if_set(names::path_segment);
    if both {
        name.forbidden(words);
    }
    if selector.is_set() {
        meta::selector(&selector);
    }
    if both {
        selector.forbidden(words);
    }
    if name.is_empty() && !selector.is_set() {
        at.required("one of name or selector must be specified");
    }
    let action = at.get("parameterNotFoundAction");
    if action.need() && !["Deny", "Allow"].contains(&action.text()) {
        action.unsupported(&["Deny", "Allow"]);
    }
}

fn policy_status(at: &At<'_>) {
    for warning in at.get("typeChecking").get("expressionWarnings").items() {
        warning.get("warning").need();
        blank(&warning.get("fieldRef"), "");
    }
    meta::conditions(&at.get("conditions"));
}
