//! Horizontal pod autoscalers of both versions.

use base::names;

use super::check::At;
use super::{Rules, meta, resources};

const SOURCES: [&str; 5] = ["object", "external", "pods", "resource", "containerResource"];
const KINDS: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];
/// The one kind of the core group that scales.
const CORE_SCALABLE: &str = "ReplicationController";
const WINDOW_MAX: i64 = 3600;
const PERIOD_MAX: i64 = 1800;

/// The rules of a kind of the autoscaling group.
pub fn rules(kind: &str) -> Option<Rules> {
    (kind == "HorizontalPodAutoscaler").then_some(Rules { create, update })
}

fn create(at: &At<'_>) {
    meta::create(&at.get("metadata"), true, names::dns1123_subdomain);
    spec(&at.get("spec"), true);
}

fn update(new: &At<'_>, old: &At<'_>, subresource: &str) {
    meta::update(&new.get("metadata"), &old.get("metadata"));
    if subresource == "status" {
        let status = new.get("status");
        status.get("currentReplicas").not_negative();
        status.get("desiredReplicas").not_negative();
        return;
    }
    let (now, before) = (new.get("spec"), old.get("spec"));
    let (now, before) = (now.get("scaleTargetRef"), before.get("scaleTargetRef"));
    let kept = now.get("apiVersion").text() == before.get("apiVersion").text()
        && now.get("kind").text() == before.get("kind").text();
    spec(&new.get("spec"), !kept);
}

fn spec(at: &At<'_>, versioned: bool) {
    let (min, max) = (at.get("minReplicas"), at.get("maxReplicas"));
    if min.is_set() && min.int() < 1 {
        min.invalid("must be greater than or equal to 1");
    }
    match max.int() {
        0 => max.required("must be set and greater than 0"),
        count if count < 0 => max.invalid("must be greater than or equal to 1"),
        _ => {}
    }
    if min.is_set() && max.int() < min.int() {
        max.invalid_as(max.int(), "must be greater than or equal to `minReplicas`");
    }
    let target = at.get("scaleTargetRef");
    reference(&target);
    let version = target.get("apiVersion");
    let grouped = version.text().contains('/') || target.get("kind").text() == CORE_SCALABLE;
    if versioned && !grouped {
        version.invalid_text("apiVersion must specify API group");
    }
    at.get("metrics").items().for_each(|metric| self::metric(&metric));
    for direction in ["scaleUp", "scaleDown"] {
        let rules = at.get("behavior");
        let rules = rules.get(direction);
        if rules.is_set() {
            scaling(&rules);
        }
    }
}

fn reference(at: &At<'_>) {
    at.get("kind").need_rule(names::path_segment);
    at.get("name").need_rule(names::path_segment);
}

fn scaling(at: &At<'_>) {
    let window = at.get("stabilizationWindowSeconds");
    if window.int() < 0 {
        window.invalid("must be greater than or equal to zero");
    }
    if window.int() > WINDOW_MAX {
        window.invalid(&format!("must be less than or equal to {WINDOW_MAX}"));
    }
    at.get("selectPolicy").one_of_if_set(&["Disabled", "Max", "Min"]);
    let policies = at.get("policies");
    policies.need_for("must specify at least one Policy");
    for policy in policies.items() {
        policy.get("type").one_of(&["Percent", "Pods"]);
        for field in ["value", "periodSeconds"] {
            if policy.get(field).int() <= 0 {
                policy.get(field).invalid_as(policy.get(field).int(), "must be greater than zero");
            }
        }
        if policy.get("periodSeconds").int() > PERIOD_MAX {
            policy.get("periodSeconds").invalid(&format!("must be less than or equal to {PERIOD_MAX}"));
        }
    }
    if let Some(tolerance) = at.get("tolerance").quantity().filter(|tolerance| tolerance.sign() < 0) {
        at.get("tolerance").invalid_as(tolerance.to_string(), "must be greater than or equal to 0");
    }
}

fn metric(at: &At<'_>) {
    let kind = at.get("type");
    if kind.is_empty() {
        kind.required("must specify a metric source type");
    }
    let known = KINDS.contains(&kind.text());
    if !known {
        kind.unsupported(&KINDS);
    }
    let present: Vec<&str> = SOURCES.into_iter().filter(|source| at.get(source).is_set()).collect();
    if let Some(first) = present.first() {
        source(first, &at.get(first));
    }
    let wanted = match kind.text() {
        "Object" => "object",
        "Pods" => "pods",
        "Resource" => "resource",
        "External" => "external",
        "ContainerResource" => "containerResource",
        _ => "",
    };
    if !known {
        kind.unsupported(&KINDS);
    } else if !at.get(wanted).is_set() {
        at.get(wanted).required("must populate information for the given metric source");
    }
    if present.len() != 1 {
        for other in present.iter().filter(|other| **other != wanted) {
            at.get(other).forbidden("must populate the given metric source only");
        }
    }
}

fn source(kind: &str, at: &At<'_>) {
    let target = at.get("target");
    let (value, average, share) =
        (target.get("value"), target.get("averageValue"), target.get("averageUtilization"));
    match kind {
        "object" => {
            reference(&at.get("describedObject"));
            identifier(&at.get("metric"));
        }
        "external" | "pods" => identifier(&at.get("metric")),
        _ => {
            let name = at.get("name");
            name.need_for("must specify a resource name");
            if kind == "containerResource" {
                if name.is_set() {
                    resources::container_name(name.text(), &name);
                }
                if at.get("container").need_for("must specify a container") {
                    at.get("container").rule(names::dns1123_label);
                }
            }
        }
    }
    self::target(&target);
    match kind {
        "object" if !value.is_set() && !average.is_set() => {
            average.required("must set either a target value or averageValue");
        }
        "external" => match (value.is_set(), average.is_set()) {
            (false, false) => {
                average.required("must set either a target value for metric or a per-pod target")
            }
            (true, true) => {
                value.forbidden("may not set both a target value for metric and a per-pod target")
            }
            _ => {}
        },
        "pods" if average.quantity().is_none_or(|amount| amount.sign() <= 0) => {
            average.required("must specify a positive target averageValue");
        }
        "resource" | "containerResource" => match (share.is_set(), average.is_set()) {
            (false, false) => share.required("must set either a target raw value or a target utilization"),
            (true, true) => average.forbidden("may not set both a target raw value and a target utilization"),
            _ => {}
        },
        _ => {}
    }
}

fn identifier(at: &At<'_>) {
    if at.get("name").need_for("must specify a metric name") {
        at.get("name").rule(names::path_segment);
    }
}

fn target(at: &At<'_>) {
    let kind = at.get("type");
    if kind.is_empty() {
        kind.required("must specify a metric target type");
    }
    if !matches!(kind.text(), "Utilization" | "Value" | "AverageValue") {
        kind.invalid_text("must be either Utilization, Value, or AverageValue");
    }
    for field in ["value", "averageValue"] {
        if at.get(field).quantity().is_some_and(|amount| amount.sign() != 1) {
            at.get(field).invalid("must be positive");
        }
    }
    let share = at.get("averageUtilization");
    if share.is_set() && share.int() < 1 {
        share.invalid("must be greater than 0");
    }
}
