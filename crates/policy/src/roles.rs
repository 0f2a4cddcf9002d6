//! The roles and bindings every cluster has from the start, from a table.

use serde_json::{Value, json};

const TABLE: &str = include_str!("roles.txt");
const GROUP: &str = "rbac.authorization.k8s.io";

/// A role or binding of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Default {
    /// `clusterroles`, `roles`, `clusterrolebindings` or `rolebindings`.
    pub plural: &'static str,
    /// Its namespace, empty for those of the cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The object.
    pub object: Value,
}

impl Default {
    fn new(place: &str, plurals: [&'static str; 2], mut object: Value) -> Self {
        let (namespace, name) = place.split_once('/').unwrap_or(("", place));
        object["metadata"] = json!({"name": name,
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
            "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}});
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        let plural = plurals[usize::from(!namespace.is_empty())];
        Self { plural, namespace: namespace.to_owned(), name: name.to_owned(), object }
    }
}

fn list(text: &str) -> Vec<&str> {
    text.split(',').map(|word| if word == "core" { "" } else { word }).collect()
}

fn subject(text: &str) -> Value {
    let (kind, name) = text.split_once('=').unwrap_or(("Group", text));
    match name.split_once('/').filter(|_| kind == "ServiceAccount") {
        Some((namespace, name)) => json!({"kind": kind, "name": name, "namespace": namespace}),
        None => json!({"apiGroup": GROUP, "kind": kind, "name": name}),
    }
}

fn binding(place: &str, role: &str, subjects: &[&str]) -> Default {
    let (kind, role) = match role.strip_prefix("role=") {
        Some(role) => ("Role", role),
        None => ("ClusterRole", role),
    };
    let mut object = json!({"roleRef": {"apiGroup": GROUP, "kind": kind, "name": role}});
    if let [subjects] = subjects {
        object["subjects"] = subjects.split(',').map(subject).collect();
    }
    Default::new(place, ["clusterrolebindings", "rolebindings"], object)
}

fn rule(words: &[&str]) -> Option<Value> {
    Some(match words {
        [verbs, "path", paths] => json!({"verbs": list(verbs), "nonResourceURLs": list(paths)}),
        [verbs, groups, resources] => {
            json!({"verbs": list(verbs), "apiGroups": list(groups), "resources": list(resources)})
        }
        [verbs, groups, resources, names] => json!({"verbs": list(verbs), "apiGroups": list(groups),
            "resources": list(resources), "resourceNames": list(names)}),
        _ => return None,
    })
}

/// All of them, in the order of the table.
pub fn defaults() -> Vec<Default> {
    let mut all: Vec<Default> = Vec::new();
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (words.as_slice(), all.last_mut()) {
            (["role", place, labels @ ..], _) => {
                let mut role = Default::new(place, ["clusterroles", "roles"], json!({"rules": []}));
                for label in labels {
                    role.object["metadata"]["labels"][*label] = "true".into();
                }
                all.push(role);
            }
            (["bind", place, role, subjects @ ..], _) => all.push(binding(place, role, subjects)),
            (["aggregate", label], Some(role)) => {
                let selectors = &mut role.object["aggregationRule"]["clusterRoleSelectors"];
                match selectors.as_array_mut() {
                    Some(selectors) => selectors.push(json!({"matchLabels": {*label: "true"}})),
                    None => *selectors = json!([{"matchLabels": {*label: "true"}}]),
                }
            }
            (words, Some(role)) => {
                if let (Some(rule), Some(rules)) = (rule(words), role.object["rules"].as_array_mut()) {
                    rules.push(rule);
                }
            }
            _ => {}
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use crate::rbac::{Ask, Objects, Rules};

    #[test]
    fn everybody_may_discover_and_only_masters_may_do_all() {
        let all = super::defaults();
        let of = |plural: &str| all.iter().filter(|d| d.plural == plural).map(|d| d.object.clone()).collect();
        let rules = Rules::compile(&Objects {
            roles: of("roles"),
            cluster_roles: of("clusterroles"),
            bindings: of("rolebindings"),
            cluster_bindings: of("clusterrolebindings"),
        });
        let may =
            |user: &str, group: &str, ask: &Ask<'_>| rules.allows(user, &[group.to_string()], ask).is_some();
        let pods = Ask { verb: "list", is_resource: true, resource: "pods", ..Ask::default() };
        let secrets = Ask { resource: "secrets", ..pods };
        let path = |path| Ask { verb: "get", path, ..Ask::default() };
        assert!(may("x", "system:masters", &pods) && !may("x", "system:authenticated", &pods));
        assert!(may("x", "system:nodes", &pods) && !may("x", "system:nodes", &secrets));
        assert!(may("system:kube-scheduler", "x", &pods) && !may("system:kube-scheduler", "x", &secrets));
        assert!(may("x", "system:authenticated", &path("/apis/apps/v1")));
        assert!(may("x", "system:unauthenticated", &path("/version")));
        assert!(!may("x", "system:unauthenticated", &path("/apis")));
        assert_eq!(all.iter().filter(|d| !d.namespace.is_empty()).count(), 16);
    }
}
