//! Role-based access: roles and bindings compiled to rules by subject, so that a request is judged without a list.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

/// One rule of a role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// Verbs, or `*`.
    pub verbs: Vec<String>,
    /// API groups, or `*`.
    pub groups: Vec<String>,
    /// `resource`, `resource/subresource`, `*/subresource` or `*`.
    pub resources: Vec<String>,
    /// Objects by name; empty for all.
    pub names: Vec<String>,
    /// Paths, with `*` at their end for all below.
    pub paths: Vec<String>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ask<'a> {
    /// The verb.
    pub verb: &'a str,
    /// Whether a resource is asked for, rather than a path.
    pub is_resource: bool,
    /// API group.
    pub group: &'a str,
    /// Plural name.
    pub resource: &'a str,
    /// Subresource, may be empty.
    pub subresource: &'a str,
    /// Namespace, may be empty.
    pub namespace: &'a str,
    /// Object, may be empty.
    pub name: &'a str,
    /// The path, when no resource is asked for.
    pub path: &'a str,
}

fn texts(rule: &Value, key: &str) -> Vec<String> {
    let list = rule.get(key).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_string).collect()
}

impl Rule {
    /// The rules of a Role or ClusterRole.
    pub fn of_role(role: &Value) -> Vec<Rule> {
        let rules = role.get("rules").and_then(Value::as_array).into_iter().flatten();
        let read = |rule: &Value| Rule {
            verbs: texts(rule, "verbs"),
            groups: texts(rule, "apiGroups"),
            resources: texts(rule, "resources"),
            names: texts(rule, "resourceNames"),
            paths: texts(rule, "nonResourceURLs"),
        };
        rules.map(read).collect()
    }

    /// Whether it allows what is asked for.
    pub fn allows(&self, ask: &Ask<'_>) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|own| own == "*" || own == wanted);
        if !has(&self.verbs, ask.verb) {
            return false;
        }
        if !ask.is_resource {
            return self.paths.iter().any(|own| match own.strip_suffix('*') {
                Some(prefix) => ask.path.starts_with(prefix),
                None => own == ask.path,
            });
        }
        has(&self.groups, ask.group)
            && self.resources.iter().any(|own| fits(own, ask.resource, ask.subresource))
            && (self.names.is_empty() || self.names.iter().any(|own| own == ask.name))
    }
}

fn fits(own: &str, resource: &str, subresource: &str) -> bool {
    if own == "*" {
        return true;
    }
    match own.split_once('/') {
        None => subresource.is_empty() && own == resource,
        Some((parent, child)) => {
            !subresource.is_empty() && child == subresource && (parent == "*" || parent == resource)
        }
    }
}

/// The rules a subject has within a namespace, or everywhere with an empty one.
#[derive(Debug)]
struct Grant {
    namespace: String,
    rules: Arc<Vec<Rule>>,
    reason: String,
}

/// All rules by subject.
#[derive(Debug, Default)]
pub struct Rules {
    users: HashMap<String, Vec<Grant>>,
    groups: HashMap<String, Vec<Grant>>,
}

/// The objects that rules are compiled from.
#[derive(Debug, Default)]
pub struct Objects {
    /// Roles.
    pub roles: Vec<Value>,
    /// ClusterRoles.
    pub cluster_roles: Vec<Value>,
    /// RoleBindings.
    pub bindings: Vec<Value>,
    /// ClusterRoleBindings.
    pub cluster_bindings: Vec<Value>,
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

impl Rules {
    /// Compiles roles and bindings; bindings to roles that are absent grant nothing.
    pub fn compile(objects: &Objects) -> Self {
        let mut known: HashMap<(&str, &str), Arc<Vec<Rule>>> = HashMap::new();
        for role in objects.cluster_roles.iter().chain(&objects.roles) {
            let name = (text(role, "/metadata/namespace"), text(role, "/metadata/name"));
            known.insert(name, Arc::new(Rule::of_role(role)));
        }
        let mut all = Self::default();
        for binding in objects.cluster_bindings.iter().chain(&objects.bindings) {
            let namespace = text(binding, "/metadata/namespace");
            let (kind, role) = (text(binding, "/roleRef/kind"), text(binding, "/roleRef/name"));
            let home = if kind == "Role" { namespace } else { "" };
            if let Some(rules) = known.get(&(home, role)) {
                all.grant(binding, namespace, kind, rules);
            }
        }
        all
    }

    fn grant(&mut self, binding: &Value, namespace: &str, role_kind: &str, rules: &Arc<Vec<Rule>>) {
        let role = text(binding, "/roleRef/name");
        let (what, title) = match namespace {
            "" => ("ClusterRoleBinding", text(binding, "/metadata/name").to_string()),
            namespace => ("RoleBinding", format!("{}/{namespace}", text(binding, "/metadata/name"))),
        };
        for subject in binding.get("subjects").and_then(Value::as_array).into_iter().flatten() {
            let (kind, name) = (text(subject, "/kind"), text(subject, "/name"));
            let (table, key, shown) = match kind {
                "User" => (&mut self.users, name.to_string(), format!("User {name:?}")),
                "Group" => (&mut self.groups, name.to_string(), format!("Group {name:?}")),
                "ServiceAccount" => {
                    let home = match text(subject, "/namespace") {
                        "" => namespace,
                        home => home,
                    };
                    let user = format!("system:serviceaccount:{home}:{name}");
                    (&mut self.users, user, format!("ServiceAccount \"{name}/{home}\""))
                }
                _ => continue,
            };
            let reason = format!("RBAC: allowed by {what} {title:?} of {role_kind} {role:?} to {shown}");
            let grant = Grant { namespace: namespace.to_string(), rules: rules.clone(), reason };
            table.entry(key).or_default().push(grant);
        }
    }

    fn grants<'a>(&'a self, user: &str, groups: &'a [String]) -> impl Iterator<Item = &'a Grant> {
        let by_group = groups.iter().filter_map(|group| self.groups.get(group));
        self.users.get(user).into_iter().chain(by_group).flatten()
    }

    /// All rules a user has within a namespace, those for everywhere among them.
    pub fn rules_of(&self, user: &str, groups: &[String], namespace: &str) -> Vec<Rule> {
        let here = |grant: &&Grant| grant.namespace.is_empty() || grant.namespace == namespace;
        self.grants(user, groups).filter(here).flat_map(|grant| grant.rules.iter().cloned()).collect()
    }

    /// Why it is allowed, or `None` when nothing allows it.
    pub fn allows<'a>(&'a self, user: &str, groups: &'a [String], ask: &Ask<'_>) -> Option<&'a str> {
        let here = |grant: &&Grant| {
            grant.namespace.is_empty() || (ask.is_resource && grant.namespace == ask.namespace)
        };
        let mut fitting = self.grants(user, groups).filter(here);
        let found = fitting.find(|grant| grant.rules.iter().any(|rule| rule.allows(ask)))?;
        Some(&found.reason)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules() -> Rules {
        let role = |namespace: &str, name: &str, rules: Value| json!({"metadata": {"name": name, "namespace": namespace}, "rules": rules});
        let bind = |namespace: &str, kind: &str, role: &str, subject: Value| {
            json!({"metadata": {"name": "b", "namespace": namespace}, "subjects": [subject],
                "roleRef": {"kind": kind, "name": role}})
        };
        Rules::compile(&Objects {
            roles: vec![role(
                "a",
                "one",
                json!([{"verbs": ["get"], "apiGroups": [""],
                "resources": ["configmaps", "pods/log"], "resourceNames": ["x"]}]),
            )],
            cluster_roles: vec![
                role("", "all", json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}])),
                role(
                    "",
                    "scales",
                    json!([{"verbs": ["get"], "apiGroups": ["apps"], "resources": ["*/scale"]}]),
                ),
                role("", "paths", json!([{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/api/*"]}])),
            ],
            bindings: vec![
                bind("a", "Role", "one", json!({"kind": "User", "name": "u"})),
                bind("a", "ClusterRole", "all", json!({"kind": "ServiceAccount", "name": "s"})),
                bind("a", "Role", "absent", json!({"kind": "User", "name": "nobody"})),
            ],
            cluster_bindings: vec![
                bind("", "ClusterRole", "scales", json!({"kind": "Group", "name": "g"})),
                bind("", "ClusterRole", "paths", json!({"kind": "Group", "name": "g"})),
            ],
        })
    }

    #[test]
    fn grants_what_is_bound() {
        let table = [
            ("u", "", "get", "", "configmaps", "", "a", "x", true),
            ("u", "", "get", "", "configmaps", "", "a", "y", false),
            ("u", "", "list", "", "configmaps", "", "a", "", false),
            ("u", "", "get", "", "configmaps", "", "b", "x", false),
            ("u", "", "get", "", "pods", "log", "a", "x", true),
            ("u", "", "get", "", "pods", "", "a", "x", false),
            ("system:serviceaccount:a:s", "", "delete", "apps", "deployments", "status", "a", "", true),
            ("system:serviceaccount:a:s", "", "delete", "apps", "deployments", "", "b", "", false),
            ("system:serviceaccount:a:s", "", "list", "", "nodes", "", "", "", false),
            ("x", "g", "get", "apps", "deployments", "scale", "z", "d", true),
            ("x", "g", "get", "apps", "deployments", "", "z", "d", false),
            ("nobody", "", "get", "", "configmaps", "", "a", "x", false),
        ];
        for (user, member, verb, group, resource, subresource, namespace, name, allowed) in table {
            let ask =
                Ask { verb, is_resource: true, group, resource, subresource, namespace, name, path: "" };
            let got = rules().allows(user, &[member.to_string()], &ask).is_some();
            assert_eq!(got, allowed, "{user} {verb} {resource}/{subresource} {namespace}/{name}");
        }
        for (path, allowed) in [("/healthz", true), ("/healthz/x", false), ("/api/v1", true), ("/", false)] {
            let ask = Ask { verb: "get", path, ..Ask::default() };
            assert_eq!(rules().allows("x", &["g".to_string()], &ask).is_some(), allowed, "{path}");
        }
    }

    #[test]
    fn says_why() {
        let ask = Ask { verb: "get", path: "/healthz", ..Ask::default() };
        let expected = r#"RBAC: allowed by ClusterRoleBinding "b" of ClusterRole "paths" to Group "g""#;
        assert_eq!(rules().allows("x", &["g".to_string()], &ask), Some(expected));
    }
}
