//! ClusterRoles that are made of others.

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};

use crate::select::matches;
use crate::{Action, Plan, pod};

/// Gives the role the rules of all roles its aggregation selects.
#[must_use]
pub fn plan<'a>(role: &ClusterRole, all: impl IntoIterator<Item = &'a ClusterRole>) -> Plan {
    let Some(rule) = &role.aggregation_rule else { return Plan::idle("the role is its own") };
    let selectors = rule.cluster_role_selectors.as_deref().unwrap_or_default();
    let selected = |r: &&ClusterRole| selectors.iter().any(|s| matches(Some(s), r.metadata.labels.as_ref()));
    let mut parts: Vec<&ClusterRole> =
        all.into_iter().filter(selected).filter(|r| pod::name(*r) != pod::name(role)).collect();
    parts.sort_by_key(|r| pod::name(*r).to_owned());
    let mut rules: Vec<PolicyRule> = Vec::new();
    for rule in parts.into_iter().flat_map(|r| r.rules.iter().flatten()) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    if role.rules.as_deref().unwrap_or_default() == rules {
        return Plan::idle("the role has all rules");
    }
    let new = ClusterRole { rules: Some(rules), ..role.clone() };
    let actions = Action::patch(role, &new).into_iter().collect();
    Plan { actions, ..Plan::idle("the rules of the parts differ") }
}
