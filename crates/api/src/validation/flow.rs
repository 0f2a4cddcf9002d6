//! Priority and fairness: which requests go where, and how many at a time.

use base::names;
use serde_json::Value;

use super::check::At;
use super::{Create, Rules, Update, meta};

const VERBS: [&str; 9] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
const PRECEDENCE_MAX: i64 = 10_000;
const QUEUES_MAX: i64 = 10_000_000;
/// Bits of the hash that deals requests out to queues.
const HASH_BITS: f64 = 60.0;
const PRESERVE_ZERO: &str = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares";

/// The rules of a kind of the group flowcontrol.apiserver.k8s.io.
pub fn rules(kind: &str) -> Option<Rules> {
    let (create, update): (Create, Update) = match kind {
        "FlowSchema" => (schema, |at, _, sub| match sub {
            "status" => conditions(&at.get("status")),
            _ => schema(at),
        }),
        "PriorityLevelConfiguration" => (level, |at, _, sub| match sub {
            "status" => conditions(&at.get("status")),
            _ => level(at),
        }),
        _ => return None,
    };
    Some(Rules { create, update })
}

fn conditions(status: &At<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for condition in status.get("conditions").items() {
        let text = condition.value.get("type").and_then(Value::as_str).unwrap_or("");
        if seen.contains(&text) {
            condition.get("type").duplicate_of(text);
        }
        if text.is_empty() {
            condition.get("type").required("");
        }
        seen.push(text);
    }
}

fn schema(at: &At<'_>) {
    meta::create(&at.get("metadata"), false, names::dns1123_subdomain);
    let (metadata, spec) = (at.get("metadata"), at.get("spec"));
    let precedence = spec.get("matchingPrecedence");
    match precedence.int() {
        ..=0 => precedence.invalid_as(precedence.int(), "must be a positive value"),
        1 if metadata.get("name").text() != "exempt" => {
            precedence.invalid("only the schema named 'exempt' may have matchingPrecedence 1");
        }
        n if n > PRECEDENCE_MAX => precedence.invalid(&format!("must not be greater than {PRECEDENCE_MAX}")),
        _ => {}
    }
    let method = spec.get("distinguisherMethod");
    let kind = method.get("type");
    if method.is_set() && !["ByNamespace", "ByUser"].contains(&kind.text()) {
        kind.unsupported_as(serde_json::json!({"type": kind.text()}), &["ByNamespace", "ByUser"]);
    }
    let level = spec.get("priorityLevelConfiguration");
    let name = level.get("name");
    if name.need_for("must reference a priority level") {
        name.rule(names::dns1123_subdomain);
    }
    spec.get("rules").items().for_each(|rule| self::rule(&rule));
    conditions(&at.get("status"));
}

fn rule(at: &At<'_>) {
    let (resources, others) = (at.get("resourceRules"), at.get("nonResourceRules"));
    at.get("subjects").need_for("subjects must contain at least one value");
    at.get("subjects").items().for_each(|subject| self::subject(&subject));
    if resources.is_empty() && others.is_empty() {
        at.required("at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for rule in resources.items() {
        verbs(&rule.get("verbs"));
        let groups = rule.get("apiGroups");
        if groups.need_for("resource rules must supply at least one api group") {
            alone(&groups, "api groups");
        }
        let names = rule.get("resources");
        if names.need_for("resource rules must supply at least one resource") {
            alone(&names, "resources");
        }
        namespaces(&rule.get("namespaces"), rule.get("clusterScope").truth());
    }
    for rule in others.items() {
        verbs(&rule.get("verbs"));
        let urls = rule.get("nonResourceURLs");
        if urls.need_for("nonResourceURLs must contain at least one value")
            && !alone(&urls, "non-resource URLs")
        {
            urls.items().for_each(|url| self::url(&url));
        }
    }
}

/// Says whether there is an asterisk, and complains if it does not stand alone.
fn alone(at: &At<'_>, words: &str) -> bool {
    let any = at.items().any(|item| item.text() == "*");
    if any && at.len() > 1 {
        at.invalid(&format!("if '*' is present, must not specify other {words}"));
    }
    any
}

fn verbs(at: &At<'_>) {
    let known = |at: &At<'_>| at.items().all(|verb| VERBS.contains(&verb.text()));
    if at.need_for("verbs must contain at least one value") && !alone(at, "verbs") && !known(at) {
        at.unsupported(&VERBS);
    }
}

fn namespaces(at: &At<'_>, cluster: bool) {
    if at.is_empty() && !cluster {
        return at.required("resource rules that are not cluster scoped must supply at least one namespace");
    }
    if alone(at, "namespaces") {
        return;
    }
    for namespace in at.items() {
        for what in names::dns1123_label(namespace.text()) {
            namespace.invalid(&format!("each member of this list must be '*' or a DNS-1123 label; {what}"));
        }
    }
}

fn url(at: &At<'_>) {
    let text = at.text();
    let stars = text.matches('*').count();
    if text.is_empty() {
        at.invalid_text("must not be empty");
    } else if !text.starts_with('/') {
        at.invalid("must start with slash");
    } else if text.contains(' ') {
        at.invalid("must not contain white-space");
    } else if text.contains("//") {
        at.invalid("must not contain double slash");
    } else if stars > 1 || (stars == 1 && !text.ends_with("/*")) {
        at.invalid("wildcard can only do suffix matching");
    }
}

fn subject(at: &At<'_>) {
    const KINDS: [(&str, &str); 3] =
        [("User", "user"), ("Group", "group"), ("ServiceAccount", "serviceAccount")];
    let kind = at.get("kind");
    let Some((_, own)) = KINDS.iter().find(|(name, _)| *name == kind.text()) else {
        return kind.unsupported(&["Group", "ServiceAccount", "User"]);
    };
    for (name, field) in KINDS {
        let here = at.get(field);
        match (field == *own, here.is_set()) {
            (true, false) => here.required(&format!("{field} is required when subject kind is '{name}'")),
            (true, true) => drop(here.get("name").need()),
            (false, true) => {
                here.forbidden(&format!("{field} is forbidden when subject kind is not '{name}'"))
            }
            (false, false) => {}
        }
    }
    let account = at.get("serviceAccount");
    if *own != "serviceAccount" || !account.is_set() {
        return;
    }
    let (name, namespace) = (account.get("name"), account.get("namespace"));
    if name.text() != "*" {
        name.rule_if_set(names::dns1123_subdomain);
    }
    if namespace.need_for("must specify namespace for service account") {
        namespace.rule(names::dns1123_label);
    }
}

fn level(at: &At<'_>) {
    meta::create(&at.get("metadata"), false, names::dns1123_subdomain);
    let (metadata, spec) = (at.get("metadata"), at.get("spec"));
    if metadata.get("annotations").key(PRESERVE_ZERO).is_set() {
        metadata.get("annotations").forbidden(&format!("annotation '{PRESERVE_ZERO}' is forbidden"));
    }
    let (kind, limited, exempt) = (spec.get("type"), spec.get("limited"), spec.get("exempt"));
    if (metadata.get("name").text() == "exempt") != (kind.text() == "Exempt") {
        kind.invalid_text("must be 'Exempt' if and only if `name` is 'exempt'");
    }
    match kind.text() {
        "Exempt" => {
            if limited.is_set() {
                limited.forbidden("must be nil if the type is not Limited");
            }
            shares(&exempt);
        }
        "Limited" => {
            if exempt.is_set() {
                exempt.forbidden("must be nil if the type is Limited");
            }
            match limited.is_set() {
                false => limited.required("must not be empty when type is Limited"),
                true => self::limited(&limited),
            }
        }
        _ => kind.unsupported(&["Exempt", "Limited"]),
    }
    conditions(&at.get("status"));
}

/// A level's part of all seats, and what it lends.
fn shares(at: &At<'_>) {
    let (shares, lent) = (at.get("nominalConcurrencyShares"), at.get("lendablePercent"));
    if shares.int() < 0 {
        shares.invalid("must be a non-negative integer");
    }
    if !(0..=100).contains(&lent.int()) {
        lent.invalid("must be between 0 and 100, inclusive");
    }
}

fn limited(at: &At<'_>) {
    shares(at);
    if at.get("borrowingLimitPercent").int() < 0 {
        at.get("borrowingLimitPercent").invalid("if specified, must be a non-negative integer");
    }
    let response = at.get("limitResponse");
    let (kind, queuing) = (response.get("type"), response.get("queuing"));
    match (kind.text(), queuing.is_set()) {
        ("Reject", true) => queuing.forbidden("must be nil if limited.limitResponse.type is not Limited"),
        ("Queue", false) => queuing.required("must not be empty if limited.limitResponse.type is Limited"),
        ("Queue", true) => queues(&queuing),
        ("Reject", false) => {}
        _ => kind.unsupported(&["Queue", "Reject"]),
    }
}

fn queues(at: &At<'_>) {
    let (queues, hand, length) = (at.get("queues"), at.get("handSize"), at.get("queueLengthLimit"));
    for count in [&length, &queues, &hand] {
        if count.int() <= 0 {
            count.invalid_as(count.int(), "must be positive");
        }
    }
    if queues.int() > QUEUES_MAX {
        queues.invalid(&format!("must not be greater than {QUEUES_MAX}"));
    }
    if hand.int() <= 0 {
        return;
    }
    if hand.int() > queues.int() {
        return hand.invalid(&format!("should not be greater than queues ({})", queues.int()));
    }
    let bits = ((queues.int() as f64).log2() * hand.int() as f64).ceil();
    if bits > HASH_BITS {
        hand.invalid(&format!(
            "required entropy bits of deckSize {} and handSize {} should not be greater than {HASH_BITS}",
            queues.int(),
            hand.int()
        ));
    }
}
