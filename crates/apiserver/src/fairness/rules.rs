//! Which flow a request belongs to.

use serde_json::Value;

use crate::authenticate::Identity;
use crate::info::RequestInfo;

/// Who a rule is about.
enum Subject {
    User(String),
    Group(String),
    /// Namespace and name, which may be `*`.
    Account(String, String),
    All,
}

/// A list of names, or all.
enum Names {
    All,
    These(Vec<String>),
}

impl Names {
    fn of(value: &Value) -> Self {
        let texts = value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_string);
        let texts: Vec<String> = texts.collect();
        if texts.as_slice() == ["*"] { Names::All } else { Names::These(texts) }
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Names::All => true,
            Names::These(names) => names.iter().any(|own| own == name),
        }
    }
}

struct ResourceRule {
    verbs: Names,
    groups: Names,
    resources: Names,
    namespaces: Names,
    cluster: bool,
}

struct PathRule {
    verbs: Names,
    paths: Vec<String>,
}

struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

/// How requests of one flow schema are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distinguisher {
    /// Not at all.
    None,
    /// By user.
    User,
    /// By namespace.
    Namespace,
}

/// A flow schema, ready to be asked.
pub struct FlowSchema {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The level it leads to.
    pub level: String,
    /// Lower goes first.
    pub precedence: i64,
    /// What makes a flow.
    pub distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("").to_string()
}

fn subject(value: &Value) -> Option<Subject> {
    Some(match value["kind"].as_str()? {
        "User" => match text(&value["user"]["name"]).as_str() {
            "*" => Subject::All,
            name => Subject::User(name.to_string()),
        },
        "Group" => match text(&value["group"]["name"]).as_str() {
            "*" => Subject::All,
            name => Subject::Group(name.to_string()),
        },
        _ => {
            let account = &value["serviceAccount"];
            Subject::Account(text(&account["namespace"]), text(&account["name"]))
        }
    })
}

impl Subject {
    fn is(&self, identity: &Identity) -> bool {
        match self {
            Subject::All => true,
            Subject::User(name) => *name == identity.name,
            Subject::Group(name) => identity.is_in(name),
            Subject::Account(namespace, name) => {
                let own = identity.name.strip_prefix("system:serviceaccount:");
                let own = own.and_then(|own| own.split_once(':'));
                own.is_some_and(|(space, own)| space == namespace && (name == "*" || own == name))
            }
        }
    }
}

impl ResourceRule {
    fn fits(&self, info: &RequestInfo) -> bool {
        let resource = || match info.subresource.as_str() {
            "" => self.resources.has(&info.resource),
            subresource => match &self.resources {
                Names::All => true,
                names => names.has(&format!("{}/{subresource}", info.resource)),
            },
        };
        let place = || match info.namespace.as_str() {
            "" => self.cluster,
            namespace => self.namespaces.has(namespace),
        };
        self.verbs.has(info.verb) && self.groups.has(&info.group) && resource() && place()
    }
}

impl PathRule {
    fn fits(&self, info: &RequestInfo) -> bool {
        let below = |path: &String| {
            let prefix = path.trim_end_matches('*').trim_end_matches('/');
            path == "*"
                || *path == info.path
                || info.path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
        };
        self.verbs.has(info.verb) && self.paths.iter().any(below)
    }
}

impl FlowSchema {
    /// Reads a FlowSchema object.
    pub fn of(object: &Value) -> Self {
        let spec = &object["spec"];
        let rule = |rule: &Value| Rule {
            subjects: list(&rule["subjects"]).filter_map(subject).collect(),
            resources: list(&rule["resourceRules"])
                .map(|own| ResourceRule {
                    verbs: Names::of(&own["verbs"]),
                    groups: Names::of(&own["apiGroups"]),
                    resources: Names::of(&own["resources"]),
                    namespaces: Names::of(&own["namespaces"]),
                    cluster: own["clusterScope"] == true,
                })
                .collect(),
            paths: list(&rule["nonResourceRules"])
                .map(|own| PathRule {
                    verbs: Names::of(&own["verbs"]),
                    paths: list(&own["nonResourceURLs"]).map(text).collect(),
                })
                .collect(),
        };
        Self {
            name: crate::object::name(object).to_string(),
            uid: crate::object::meta_text(object, "uid").to_string(),
            level: text(&spec["priorityLevelConfiguration"]["name"]),
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(1000),
            distinguisher: match spec["distinguisherMethod"]["type"].as_str() {
                Some("ByUser") => Distinguisher::User,
                Some("ByNamespace") => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules: list(&spec["rules"]).map(rule).collect(),
        }
    }

    /// Whether a request is of this schema.
    pub fn fits(&self, identity: &Identity, info: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| {
            rule.subjects.iter().any(|subject| subject.is(identity))
                && match info.is_resource {
                    true => rule.resources.iter().any(|own| own.fits(info)),
                    false => rule.paths.iter().any(|own| own.fits(info)),
                }
        })
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::super::defaults;
    use super::*;

    #[test]
    fn requests_find_their_flow() {
        let mut schemas: Vec<FlowSchema> = defaults::schemas()
            .into_iter()
            .map(|(name, spec)| {
                FlowSchema::of(&serde_json::json!({"metadata": {"name": name}, "spec": spec}))
            })
            .collect();
        schemas.sort_by_key(|schema| schema.precedence);
        let account = |namespace: &str| {
            Identity::user(format!("system:serviceaccount:{namespace}:a"), ["system:serviceaccounts"])
        };
        let node = Identity::user("system:node:n", ["system:nodes"]);
        let cases = [
            (Identity::system("x"), "GET", "/api/v1/pods", "exempt"),
            (Identity::user("jane", ["g"]), "GET", "/readyz/ping", "probes"),
            (Identity::anonymous(), "GET", "/healthz", "probes"),
            (Identity::anonymous(), "GET", "/healthzz", "global-default"),
            (
                account("kube-system"),
                "PUT",
                "/apis/coordination.k8s.io/v1/namespaces/a/leases/b",
                "system-leader-election",
            ),
            (
                account("kube-system"),
                "DELETE",
                "/apis/coordination.k8s.io/v1/namespaces/a/leases/b",
                "kube-system-service-accounts",
            ),
            (account("default"), "GET", "/api/v1/pods", "service-accounts"),
            (node.clone(), "PATCH", "/api/v1/nodes/n/status", "system-node-high"),
            (node.clone(), "PUT", "/apis/coordination.k8s.io/v1/namespaces/a/leases/b", "system-node-high"),
            (node, "GET", "/api/v1/pods", "system-nodes"),
            (Identity::user("system:kube-scheduler", ["g"]), "GET", "/api/v1/pods", "kube-scheduler"),
            (Identity::user("jane", ["g"]), "GET", "/api/v1/pods", "global-default"),
        ];
        for (identity, method, path, wanted) in cases {
            let method = Method::from_bytes(method.as_bytes()).expect("method");
            let info = RequestInfo::parse(&method, path, false);
            let found = schemas.iter().find(|schema| schema.fits(&identity, &info)).expect("a schema");
            assert_eq!(found.name, wanted, "{} {path}", identity.name);
        }
    }
}
