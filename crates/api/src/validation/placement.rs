//! Where pods may run: affinity, tolerations, spreading, node selectors.

use base::names;

use super::check::At;
use super::meta;

/// Affinity of all three sorts.
pub fn affinity(at: &At<'_>) {
    let node = at.get("nodeAffinity");
    let required = node.get("requiredDuringSchedulingIgnoredDuringExecution");
    if required.is_set() {
        node_selector(&required);
    }
    for term in node.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
        weight(&term.get("weight"));
        node_term(&term.get("preference"), false);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = at.get(kind);
        for term in pods.get("requiredDuringSchedulingIgnoredDuringExecution").items() {
            pod_term(&term);
        }
        for term in pods.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
            weight(&term.get("weight"));
            pod_term(&term.get("podAffinityTerm"));
        }
    }
}

fn weight(at: &At<'_>) {
    if !(1..=100).contains(&at.int()) {
        at.invalid_as(at.int(), "must be in the range 1-100");
    }
}

/// Terms of which a node has to fulfil one.
pub fn node_selector(at: &At<'_>) {
    let terms = at.get("nodeSelectorTerms");
    if terms.is_empty() {
        return terms.required("must have at least one node selector term");
    }
    terms.items().for_each(|term| node_term(&term, true));
}

fn node_term(at: &At<'_>, strict: bool) {
    for rule in at.get("matchExpressions").items() {
        let (operator, values) = (rule.get("operator"), rule.get("values"));
        match operator.text() {
            "In" | "NotIn" => {
                values.need_for("must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "Exists" | "DoesNotExist" => {}
            "Gt" | "Lt" if values.len() != 1 => {
                values.required("must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
            "Gt" | "Lt" => {}
            _ => operator.invalid_text("not a valid selector operator"),
        }
        rule.get("key").rule(names::qualified_name);
        values.items().filter(|_| strict).for_each(|value| value.rule(names::label_value));
    }
    for rule in at.get("matchFields").items() {
        let (operator, values, key) = (rule.get("operator"), rule.get("values"), rule.get("key"));
        match operator.text() {
            "In" | "NotIn" if values.len() != 1 => {
                values.required(
                    "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                );
            }
            "In" | "NotIn" => {}
            _ => operator.invalid_text("not a valid selector operator"),
        }
        match key.text() {
            "metadata.name" => values.items().for_each(|value| value.rule(names::dns1123_subdomain)),
            _ => key.invalid_text("not a valid field selector key"),
        }
    }
}

fn pod_term(at: &At<'_>) {
    meta::selector(&at.get("labelSelector"));
    meta::selector(&at.get("namespaceSelector"));
    for name in at.get("namespaces").items() {
        for what in names::dns1123_label(name.text()) {
            at.get("namespace").invalid_as(name.text(), &what);
        }
    }
    label_keys(at);
    let topology = at.get("topologyKey");
    topology.need_for("can not be empty");
    topology.rule(names::qualified_name);
}

/// Keys that are looked up in the pod's own labels.
fn label_keys(at: &At<'_>) {
    let selector = at.get("labelSelector");
    let (wanted, unwanted) = (at.get("matchLabelKeys"), at.get("mismatchLabelKeys"));
    for list in [&wanted, &unwanted] {
        if !list.is_empty() && !selector.is_set() {
            list.forbidden("must not be specified when labelSelector is not set");
            continue;
        }
        list.items().for_each(|key| key.rule(names::qualified_name));
    }
    let mut seen: Vec<String> =
        selector.get("matchLabels").entries().map(|(key, _)| key.to_string()).collect();
    for term in selector.get("matchExpressions").items() {
        let key = term.get("key").text();
        let index = wanted.items().position(|wanted| wanted.text() == key);
        if let Some(index) = index.filter(|_| seen.iter().any(|seen| seen == key)) {
            at.nth(index).invalid_as(key, "exists in both matchLabelKeys and labelSelector");
        }
        seen.push(key.to_string());
    }
    for key in wanted.items() {
        if unwanted.items().any(|other| other.text() == key.text()) {
            key.invalid("exists in both matchLabelKeys and mismatchLabelKeys");
        }
    }
}

/// Taints that a pod bears.
pub fn tolerations(at: &At<'_>) {
    for toleration in at.items() {
        let (key, operator, value) =
            (toleration.get("key"), toleration.get("operator"), toleration.get("value"));
        let effect = toleration.get("effect");
        key.rule_if_set(names::qualified_name);
        if key.is_empty() && operator.text() != "Exists" {
            operator.invalid_text(
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if toleration.get("tolerationSeconds").is_set() && effect.text() != "NoExecute" {
            effect.invalid_text("effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator.text() {
            "Equal" | "" => {
                let wrong = names::label_value(value.text());
                if !wrong.is_empty() {
                    operator.invalid_as(value.text(), &wrong.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                operator.invalid_as(value.text(), "value must be empty when `operator` is 'Exists'");
            }
            "Exists" => {}
            "Lt" | "Gt" => operator.unsupported(&["Equal", "Exists", "Lt", "Gt"]),
            _ => operator.unsupported(&["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            taint_effect(&effect);
        }
    }
}

/// What a taint does.
pub fn taint_effect(at: &At<'_>) {
    at.need_one_of(&["NoSchedule", "PreferNoSchedule", "NoExecute"]);
}

/// Even spreading over nodes.
pub fn spread(at: &At<'_>) {
    for (index, constraint) in at.items().enumerate() {
        let skew = constraint.get("maxSkew");
        if skew.int() <= 0 {
            skew.invalid_as(skew.int(), "must be greater than zero");
        }
        let (topology, action) = (constraint.get("topologyKey"), constraint.get("whenUnsatisfiable"));
        topology.need_for("can not be empty");
        action.one_of(&["DoNotSchedule", "ScheduleAnyway"]);
        let pair = (topology.text(), action.text());
        let again = at
            .items()
            .skip(index + 1)
            .any(|other| (other.get("topologyKey").text(), other.get("whenUnsatisfiable").text()) == pair);
        if again {
            let text = format!("{{{}, {}}}", pair.0, pair.1);
            constraint.get("{topologyKey, whenUnsatisfiable}").duplicate_of(text);
        }
        let domains = constraint.get("minDomains");
        domains.positive();
        if domains.is_set() && action.text() != "DoNotSchedule" {
            let what =
                format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}", action.text());
            domains.invalid(&what);
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            constraint.get(policy).one_of_if_set(&["Honor", "Ignore"]);
        }
        label_keys(&constraint);
        meta::selector(&constraint.get("labelSelector"));
    }
}
