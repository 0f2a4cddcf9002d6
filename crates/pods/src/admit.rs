//! Whether a node takes a pod that was bound to it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod};

use crate::resources;

/// Why a pod is refused: `status.reason` and `status.message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// Decides on `pod`, given the pods that are on the node already (not ended) and allocatable amounts in thousandths.
pub fn admit(
    pod: &Pod,
    others: &[&Pod],
    node: Option<&Node>,
    allocatable: &BTreeMap<String, i128>,
) -> Result<(), Refusal> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    if let Some(node) = node
        && !selected(pod, node)
    {
        return Err(Refusal {
            reason: "NodeAffinity".into(),
            message: "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
                .into(),
        });
    }
    fits(pod, others, allocatable)?;
    let mine = resources::host_ports(spec);
    let clash = others.iter().filter_map(|o| o.spec.as_ref()).flat_map(resources::host_ports).any(
        |(ip, proto, port)| {
            let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
            mine.iter().any(|m| m.1 == proto && m.2 == port && (m.0 == ip || any(&m.0) || any(&ip)))
        },
    );
    if clash {
        return Err(Refusal {
            reason: "NodePorts".into(),
            message: "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
                .into(),
        });
    }
    Ok(())
}

fn fits(pod: &Pod, others: &[&Pod], allocatable: &BTreeMap<String, i128>) -> Result<(), Refusal> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let refuse = |what: &str, requested: i128, used: i128, capacity: i128| Refusal {
        reason: format!("OutOf{what}"),
        message: format!(
            "Pod was rejected: Node didn't have enough resource: {what}, requested: {requested}, used: {used}, capacity: {capacity}"
        ),
    };
    let pods = allocatable.get("pods").copied().unwrap_or(110_000) / 1000;
    let count = i128::try_from(others.len()).unwrap_or(i128::MAX);
    if count + 1 > pods {
        return Err(refuse("pods", 1, count, pods));
    }
    let mut used: BTreeMap<String, i128> = BTreeMap::new();
    for o in others.iter().filter_map(|o| o.spec.as_ref()) {
        for (k, v) in resources::requests(o) {
            *used.entry(k).or_default() += v;
        }
    }
    // What somebody else counts for this node is that one's to count.
    let foreign = |name: &str| name.contains('/') && !allocatable.contains_key(name);
    for (name, wanted) in resources::requests(spec).into_iter().filter(|(n, v)| *v > 0 && !foreign(n)) {
        let have = allocatable.get(&name).copied().unwrap_or(0);
        let taken = used.get(&name).copied().unwrap_or(0);
        if taken + wanted > have {
            let unit = if name == "cpu" { 1 } else { 1000 };
            return Err(refuse(&name, wanted / unit, taken / unit, have / unit));
        }
    }
    Ok(())
}

/// Whether nodeSelector and required node affinity hold.
pub fn selected(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let plain = spec.node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    plain && required.is_none_or(|r| r.node_selector_terms.iter().any(|t| term(t, node, labels)))
}

fn term(term: &NodeSelectorTerm, node: &Node, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let field = |r: &NodeSelectorRequirement| {
        let value = if r.key == "metadata.name" { node.metadata.name.as_deref() } else { None };
        requirement(r, value)
    };
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|r| requirement(r, labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(field)
}

fn requirement(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = r.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|x| x == v));
    let compare = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match r.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare().is_some_and(|(a, b)| a > b),
        "Lt" => compare().is_some_and(|(a, b)| a < b),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_count_does_not_refuse_a_pod() {
        let pod = |amounts: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"spec": {"containers": [
                {"name": "c", "resources": {"requests": amounts}}]}}))
            .expect("a pod")
        };
        let allocatable = BTreeMap::from([("cpu".to_string(), 1000), ("own.example/gpu".to_string(), 1000)]);
        let admit = |amounts| admit(&pod(amounts), &[], None, &allocatable).map_err(|refusal| refusal.reason);
        assert_eq!(admit(json!({"cpu": "1", "else.example/foo": "5"})), Ok(()));
        assert_eq!(admit(json!({"own.example/gpu": "2"})), Err("OutOfown.example/gpu".to_string()));
        assert_eq!(admit(json!({"cpu": "2"})), Err("OutOfcpu".to_string()));
    }
}
