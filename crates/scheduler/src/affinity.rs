//! Selectors and tolerations: whether a node's or pod's labels and taints suit.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::snapshot::NodeInfo;

/// Whether node selector and required node affinity accept the node.
pub fn node_suits(spec: &PodSpec, node: &NodeInfo) -> bool {
    let selected = spec.node_selector.iter().flatten().all(|(k, v)| node.label(k) == Some(v));
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|r| r.node_selector_terms.iter().any(|t| term_matches(t, node)))
}

/// Whether one term accepts the node. An empty term accepts none.
pub fn term_matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let by_label = expressions.iter().all(|r| requirement_matches(r, node.label(&r.key)));
    let by_field = fields.iter().all(|r| {
        let value = (r.key == "metadata.name").then(|| node.name());
        requirement_matches(r, value)
    });
    !(expressions.is_empty() && fields.is_empty()) && by_label && by_field
}

fn requirement_matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = || value.is_some_and(|v| values.iter().any(|x| x == v));
    let number = |text: &str| text.parse::<i64>().ok();
    let compare = |test: fn(i64, i64) -> bool| {
        let bound = values.first().and_then(|v| number(v));
        value.and_then(number).zip(bound).is_some_and(|(v, b)| test(v, b))
    };
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|v, b| v > b),
        "Lt" => compare(|v, b| v < b),
        _ => false,
    }
}

/// Whether a label selector accepts the labels. An absent selector accepts nothing, an empty one everything.
pub fn selector_matches(selector: Option<&LabelSelector>, labels: Option<&BTreeMap<String, String>>) -> bool {
    let Some(selector) = selector else { return false };
    let value = |key: &str| labels.and_then(|l| l.get(key)).map(String::as_str);
    let by_label = selector.match_labels.iter().flatten().all(|(k, v)| value(k) == Some(v));
    let by_expression = selector.match_expressions.iter().flatten().all(|e| {
        let values = e.values.as_deref().unwrap_or_default();
        let listed = value(&e.key).is_some_and(|v| values.iter().any(|x| x == v));
        match e.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value(&e.key).is_some(),
            "DoesNotExist" => value(&e.key).is_none(),
            _ => false,
        }
    });
    by_label && by_expression
}

/// Whether the toleration tolerates the taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => {
            toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        _ => false,
    }
}

/// The taints of these effects that the pod does not tolerate.
pub fn untolerated<'a>(
    spec: &'a PodSpec,
    node: &'a NodeInfo,
    effects: &'a [&str],
) -> impl Iterator<Item = &'a Taint> {
    let node_spec = node.node.as_ref().and_then(|n| n.spec.as_ref());
    let taints = node_spec.and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    taints
        .iter()
        .filter(|t| effects.contains(&t.effect.as_str()))
        .filter(move |taint| !tolerations.iter().any(|t| tolerates(t, taint)))
}
