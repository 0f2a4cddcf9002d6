//! Webhook configurations: how webhooks are named, reached and asked.

use base::names;

use super::admission::{FAILURE, MATCH, REINVOCATION, conditions, rule_with_operations};
use super::check::At;
use super::{meta, url};

const REVIEWS: [&str; 2] = ["v1", "v1beta1"];
const HARMLESS: [&str; 2] = ["None", "NoneOnDryRun"];

/// What an older object may go on having that a new one may not.
struct Lenient {
    side_effects: bool,
    reviews: bool,
    names: bool,
    conditions: bool,
}

impl Lenient {
    fn of(new: &At<'_>, old: Option<&At<'_>>) -> Lenient {
        let Some(old) = old else {
            return Lenient { side_effects: false, reviews: false, names: false, conditions: false };
        };
        let (hooks, new) = (old.get("webhooks"), new.get("webhooks"));
        let known = |hook: &At<'_>| {
            let versions = hook.get("admissionReviewVersions");
            versions.is_empty() || versions.items().any(|v| REVIEWS.contains(&v.text()))
        };
        let mut seen = Vec::new();
        let twice = hooks.items().any(|hook| {
            let name = hook.value.get("name");
            let twice = seen.contains(&name);
            seen.push(name);
            twice
        });
        let conditions = |hook: &At<'_>| hook.value.get("matchConditions").cloned();
        let same = hooks.len() == new.len()
            && hooks.items().zip(new.items()).all(|(a, b)| conditions(&a) == conditions(&b));
        Lenient {
            side_effects: hooks.items().any(|hook| !HARMLESS.contains(&hook.get("sideEffects").text())),
            reviews: hooks.items().any(|hook| !known(&hook)),
            names: twice,
            conditions: same,
        }
    }
}

/// The webhooks of a configuration, new or changed.
pub fn hooks(at: &At<'_>, old: Option<&At<'_>>, mutating: bool) {
    meta::accessor(&at.get("metadata"), false, names::dns1123_subdomain);
    let lenient = Lenient::of(at, old);
    let mut seen: Vec<&str> = Vec::new();
    for hook in at.get("webhooks").items() {
        webhook(&hook, &lenient, mutating);
        reviews(&hook.get("admissionReviewVersions"), !lenient.reviews);
        let name = hook.text_of("name");
        if !lenient.names && !name.is_empty() {
            if seen.contains(&name) {
                hook.get("name").duplicate();
            }
            seen.push(name);
        }
    }
}

fn webhook(at: &At<'_>, lenient: &Lenient, mutating: bool) {
    full_name(&at.get("name"));
    at.get("rules").items().for_each(|rule| rule_with_operations(&rule));
    at.get("failurePolicy").one_of_if_set(&FAILURE);
    at.get("matchPolicy").one_of_if_set(&MATCH);
    let effects = at.get("sideEffects");
    let allowed: &[&str] =
        if lenient.side_effects { &["None", "NoneOnDryRun", "Some", "Unknown"] } else { &HARMLESS };
    match effects.is_set() {
        true => effects.one_of(allowed),
        false => effects.required(&format!("must specify one of {}", allowed.join(", "))),
    }
    let timeout = at.get("timeoutSeconds");
    if timeout.is_set() && !(1..=30).contains(&timeout.int()) {
        timeout.invalid("the timeout value must be between 1 and 30 seconds");
    }
    meta::selector(&at.get("namespaceSelector"));
    meta::selector(&at.get("objectSelector"));
    if mutating {
        at.get("reinvocationPolicy").one_of_if_set(&REINVOCATION);
    }
    let client = at.get("clientConfig");
    match (client.get("url").is_set(), client.get("service").is_set()) {
        (true, false) => url::webhook(&client.get("url")),
        (false, true) => url::service(&client.get("service")),
        _ => client.required("exactly one of url or service is required"),
    }
    if !lenient.conditions {
        conditions(&at.get("matchConditions"));
    }
}

fn full_name(at: &At<'_>) {
    if !at.need() {
        return;
    }
    let wrong = names::dns1123_subdomain(at.text());
    if !wrong.is_empty() {
        at.invalid(&wrong.join(","));
    } else if at.text().split('.').count() < 3 {
        at.invalid("should be a domain with at least three segments separated by dots");
    }
}

fn reviews(at: &At<'_>, known: bool) {
    if at.is_empty() {
        return at.required(&format!("must specify one of {}", REVIEWS.join(", ")));
    }
    let mut seen: Vec<&str> = Vec::new();
    for version in at.items() {
        if seen.contains(&version.text()) {
            version.invalid("duplicate version");
            continue;
        }
        version.rule(names::dns1035_label);
        seen.push(version.value.as_str().unwrap_or(""));
    }
    if known && !seen.iter().any(|version| REVIEWS.contains(version)) {
        at.invalid(&format!("must include at least one of {}", REVIEWS.join(", ")));
    }
}
