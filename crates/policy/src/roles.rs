//! The ClusterRoles and ClusterRoleBindings every cluster has from the start, from a table.

use std::collections::BTreeMap;

use serde_json::{Value, json};

const TABLE: &str = include_str!("roles.txt");
const GROUP: &str = "rbac.authorization.k8s.io";

fn meta(name: &str) -> Value {
    json!({"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}})
}

fn list(text: &str) -> Vec<&str> {
    text.split(',').map(|word| if word == "core" { "" } else { word }).collect()
}

/// The ClusterRoles by name, and the ClusterRoleBindings by name.
pub fn defaults() -> (BTreeMap<String, Value>, BTreeMap<String, Value>) {
    let mut rules: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut bindings = BTreeMap::new();
    let mut current = String::new();
    for line in TABLE.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["role", name] => current = (*name).to_string(),
            ["bind", name, role, groups] => {
                let subjects: Vec<Value> = list(groups)
                    .into_iter()
                    .map(|group| json!({"apiGroup": GROUP, "kind": "Group", "name": group}))
                    .collect();
                let role = json!({"apiGroup": GROUP, "kind": "ClusterRole", "name": role});
                let binding = json!({"metadata": meta(name), "roleRef": role, "subjects": subjects});
                bindings.insert((*name).to_string(), binding);
            }
            ["like", other] => {
                let same = rules.get(*other).cloned().unwrap_or_default();
                rules.entry(current.clone()).or_default().extend(same);
            }
            [verbs, "path", paths] => {
                let rule = json!({"verbs": list(verbs), "nonResourceURLs": list(paths)});
                rules.entry(current.clone()).or_default().push(rule);
            }
            [verbs, groups, resources] if line.starts_with(' ') => {
                let rule =
                    json!({"verbs": list(verbs), "apiGroups": list(groups), "resources": list(resources)});
                rules.entry(current.clone()).or_default().push(rule);
            }
            _ => {}
        }
    }
    let roles = rules
        .into_iter()
        .map(|(name, rules)| {
            let role = json!({"metadata": meta(&name), "rules": rules});
            (name, role)
        })
        .collect();
    (roles, bindings)
}

#[cfg(test)]
mod tests {
    use crate::rbac::{Ask, Objects, Rules};

    #[test]
    fn everybody_may_discover_and_only_masters_may_do_all() {
        let (roles, bindings) = super::defaults();
        let cluster_roles = roles.into_values().collect();
        let cluster_bindings = bindings.into_values().collect();
        let rules = Rules::compile(&Objects { cluster_roles, cluster_bindings, ..Objects::default() });
        let may = |group: &str, ask: &Ask<'_>| rules.allows("x", &[group.to_string()], ask).is_some();
        let pods = Ask { verb: "list", is_resource: true, resource: "pods", ..Ask::default() };
        let path = |path| Ask { verb: "get", path, ..Ask::default() };
        assert!(may("system:masters", &pods) && !may("system:authenticated", &pods));
        assert!(may("system:authenticated", &path("/apis/apps/v1")));
        assert!(may("system:unauthenticated", &path("/version")));
        assert!(!may("system:unauthenticated", &path("/apis")));
    }
}
