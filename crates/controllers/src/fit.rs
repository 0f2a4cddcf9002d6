//! Which nodes a pod may be on, as far as labels, names and taints say.

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

use crate::pod;

/// Whether node selector and required node affinity admit the node.
#[must_use]
pub fn affinity(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let selected = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(k, v)| labels.and_then(|l| l.get(k)).is_some_and(|w| w == v));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|r| r.node_selector_terms.iter().any(|t| term(t, node)))
}

fn term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |r: &NodeSelectorRequirement| {
        requirement(r, node.metadata.labels.as_ref().and_then(|l| l.get(&r.key)).map(String::as_str))
    };
    let field =
        |r: &NodeSelectorRequirement| requirement(r, (r.key == "metadata.name").then(|| pod::name(node)));
    expressions.iter().all(label) && fields.iter().all(field)
}

pub(crate) fn requirement(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = r.values.as_deref().unwrap_or_default();
    let listed = || value.is_some_and(|v| values.iter().any(|w| w == v));
    let compared = |order: std::cmp::Ordering| {
        let numbers =
            value.and_then(|v| v.parse::<i64>().ok()).zip(values.first().and_then(|v| v.parse().ok()));
        numbers.is_some_and(|(a, b)| a.cmp(&b) == order)
    };
    match r.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(std::cmp::Ordering::Greater),
        "Lt" => compared(std::cmp::Ordering::Less),
        _ => false,
    }
}

/// Whether the toleration is for this taint.
#[must_use]
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let some = |s: &Option<String>| s.as_deref().filter(|s| !s.is_empty()).map(str::to_owned);
    let effect = some(&toleration.effect).is_none_or(|e| e == taint.effect);
    let key = some(&toleration.key).is_none_or(|k| k == taint.key);
    let value = match some(&toleration.operator).as_deref() {
        Some("Exists") => true,
        None | Some("Equal") => {
            some(&toleration.key).is_some()
                && toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or("")
        }
        Some(other) => {
            let numbers = toleration.value.as_deref().and_then(|v| v.parse::<i64>().ok());
            let numbers = taint.value.as_deref().and_then(|v| v.parse::<i64>().ok()).zip(numbers);
            numbers.is_some_and(
                |(taint, limit)| if other == "Gt" { taint > limit } else { other == "Lt" && taint < limit },
            )
        }
    };
    effect && key && value
}

/// The first taint of these effects that nothing tolerates.
#[must_use]
pub fn untolerated<'a>(
    taints: &'a [Taint],
    tolerations: &[Toleration],
    effects: &[&str],
) -> Option<&'a Taint> {
    let relevant = taints.iter().filter(|t| effects.contains(&t.effect.as_str()));
    { relevant }.find(|t| !tolerations.iter().any(|o| tolerates(o, t)))
}
