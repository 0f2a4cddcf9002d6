//! The Node authorizer: a kubelet may read what the pods on its node refer to, and nothing more. Follows upstream's
//! `plugin/pkg/auth/authorizer/node`.
//!
//! Nothing is kept: a question is answered from the pods that are bound to the node now, so that a pod's objects are
//! readable the moment it is bound.

use serde_json::Value;

use crate::rbac::{Ask, Rule};
use crate::roles;

const USER_PREFIX: &str = "system:node:";
const GROUP: &str = "system:nodes";

/// What is known of the cluster, from memory.
pub trait Graph {
    /// The pods of a namespace, or of all with an empty one, that are bound to this node.
    fn pods(&self, namespace: &str, node: &str) -> Vec<Value>;
    /// One object.
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value>;
    /// Whether an Ingress of the namespace uses this Secret for TLS; every node serves Ingresses.
    fn has_certificate(&self, namespace: &str, secret: &str) -> bool;
}

/// The node's name, when the user is a kubelet.
pub fn name_of<'a>(user: &'a str, groups: &[String]) -> Option<&'a str> {
    let name = user.strip_prefix(USER_PREFIX).filter(|name| !name.is_empty())?;
    groups.iter().any(|group| group == GROUP).then_some(name)
}

/// The rules every node has, compiled once.
#[derive(Debug)]
pub struct NodeRules(Vec<Rule>);

impl Default for NodeRules {
    fn default() -> Self {
        let all = roles::defaults();
        let role = all.iter().find(|role| role.name == "system:node" && role.plural == "clusterroles");
        Self(role.map(|role| Rule::of_role(&role.object)).unwrap_or_default())
    }
}

impl NodeRules {
    /// Allows, or says why it has no opinion. `selector` is the request's field selector.
    pub fn judge(&self, node: &str, ask: &Ask<'_>, selector: &str, graph: &dyn Graph) -> Result<(), String> {
        let reads = matches!(ask.verb, "get" | "list" | "watch");
        let related = |found: bool| match found {
            true => Ok(()),
            false => Err(format!("no relationship found between node '{node}' and this object")),
        };
        let whole = ask.subresource.is_empty();
        match (ask.is_resource, ask.group, ask.resource) {
            (true, "", "secrets" | "configmaps") => {
                if !reads || !whole || ask.namespace.is_empty() || ask.name.is_empty() {
                    return Err("can only read namespaced object of this type".into());
                }
                related(
                    refers(graph, node, ask)
                        || (ask.resource == "secrets" && graph.has_certificate(ask.namespace, ask.name)),
                )
            }
            (true, "", "persistentvolumeclaims") if ask.verb == "get" || ask.subresource == "status" => {
                related(refers(graph, node, ask))
            }
            (true, "", "persistentvolumes") if ask.verb == "get" && whole => {
                related(has_volume(graph, node, ask.name))
            }
            (true, "storage.k8s.io", "volumeattachments") if ask.verb == "get" && whole => {
                let object = graph.get(ask.group, ask.resource, "", ask.name);
                related(object.is_some_and(|object| text(&object, "/spec/nodeName") == node))
            }
            (true, "", "serviceaccounts") if ask.subresource == "token" => match ask.verb {
                "create" => related(refers(graph, node, ask)),
                _ => Err("can only create tokens for individual service accounts".into()),
            },
            (true, "", "serviceaccounts") => related(ask.verb == "get" && whole && refers(graph, node, ask)),
            (true, "coordination.k8s.io", "leases") => match ask.namespace {
                "kube-node-lease" if ask.verb == "create" || ask.name == node => self.by_rule(ask),
                "kube-node-lease" => {
                    Err("can only access node lease with the same name as the requesting node".into())
                }
                _ => Err("can only access leases in the \"kube-node-lease\" system namespace".into()),
            },
            (true, "storage.k8s.io", "csinodes") => match ask.name == node || ask.verb == "create" {
                true => self.by_rule(ask),
                false => Err("can only access CSINode with the same name as the requesting node".into()),
            },
            (true, "", "nodes") if reads => match ask.name == node {
                true => Ok(()),
                false => Err(format!("node '{node}' cannot read all nodes, only its own Node object")),
            },
            (true, "", "pods") if ask.verb == "get" && whole => {
                let pod = graph.get("", "pods", ask.namespace, ask.name);
                related(pod.is_some_and(|pod| text(&pod, "/spec/nodeName") == node))
            }
            (true, "", "pods") if reads => {
                match selector.split(',').any(|term| term.trim() == format!("spec.nodeName={node}")) {
                    true => Ok(()),
                    false => Err("can only list/watch pods with spec.nodeName field selector".into()),
                }
            }
            _ => self.by_rule(ask),
        }
    }

    fn by_rule(&self, ask: &Ask<'_>) -> Result<(), String> {
        match self.0.iter().any(|rule| rule.allows(ask)) {
            true => Ok(()),
            false => Err(String::new()),
        }
    }
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// Whether a pod of the node in the object's namespace refers to it.
fn refers(graph: &dyn Graph, node: &str, ask: &Ask<'_>) -> bool {
    let names = |pod: &Value| names(pod, ask.resource, ask.name);
    !ask.name.is_empty() && graph.pods(ask.namespace, node).iter().any(names)
}

/// Whether the volume is that of a claim of the node's pods.
fn has_volume(graph: &dyn Graph, node: &str, volume: &str) -> bool {
    let Some(object) = graph.get("", "persistentvolumes", "", volume) else { return false };
    let (namespace, claim) =
        (text(&object, "/spec/claimRef/namespace"), text(&object, "/spec/claimRef/name"));
    !claim.is_empty()
        && graph.pods(namespace, node).iter().any(|pod| names(pod, "persistentvolumeclaims", claim))
}

fn items<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// Whether a pod names this object of its namespace.
pub fn names(pod: &Value, resource: &str, name: &str) -> bool {
    let is = |object: &Value, pointer: &str| text(object, pointer) == name;
    match resource {
        "serviceaccounts" => is(pod, "/spec/serviceAccountName"),
        "persistentvolumeclaims" => items(pod, "/spec/volumes").any(|volume| {
            is(volume, "/persistentVolumeClaim/claimName")
                || (volume.get("ephemeral").is_some_and(|v| !v.is_null())
                    && format!("{}-{}", text(pod, "/metadata/name"), text(volume, "/name")) == name)
        }),
        "configmaps" => {
            items(pod, "/spec/volumes").any(|volume| {
                is(volume, "/configMap/name")
                    || items(volume, "/projected/sources").any(|source| is(source, "/configMap/name"))
            }) || in_environment(pod, "configMapRef", "configMapKeyRef", name)
        }
        "secrets" => {
            items(pod, "/spec/imagePullSecrets").any(|secret| is(secret, "/name"))
                || items(pod, "/spec/volumes").any(|volume| {
                    is(volume, "/secret/secretName")
                        || items(volume, "/projected/sources").any(|source| is(source, "/secret/name"))
                        || is(volume, "/azureFile/secretName")
                        || ["cephfs", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos", "cinder"]
                            .iter()
                            .any(|kind| is(volume, &format!("/{kind}/secretRef/name")))
                        || is(volume, "/csi/nodePublishSecretRef/name")
                })
                || in_environment(pod, "secretRef", "secretKeyRef", name)
        }
        _ => false,
    }
}

fn in_environment(pod: &Value, whole: &str, key: &str, name: &str) -> bool {
    let lists = ["/spec/containers", "/spec/initContainers", "/spec/ephemeralContainers"];
    lists.iter().flat_map(|list| items(pod, list)).any(|container| {
        items(container, "/envFrom").any(|from| text(from, &format!("/{whole}/name")) == name)
            || items(container, "/env").any(|env| text(env, &format!("/valueFrom/{key}/name")) == name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct One(Value);

    impl Graph for One {
        fn pods(&self, namespace: &str, node: &str) -> Vec<Value> {
            let fits =
                text(&self.0, "/metadata/namespace") == namespace && text(&self.0, "/spec/nodeName") == node;
            if fits { vec![self.0.clone()] } else { Vec::new() }
        }

        fn get(&self, _: &str, plural: &str, _: &str, name: &str) -> Option<Value> {
            match (plural, name) {
                ("pods", "p") => Some(self.0.clone()),
                ("persistentvolumes", "pv") => {
                    Some(json!({"spec": {"claimRef": {"namespace": "a", "name": "claim"}}}))
                }
                _ => None,
            }
        }

        fn has_certificate(&self, namespace: &str, secret: &str) -> bool {
            (namespace, secret) == ("b", "tls")
        }
    }

    #[test]
    fn nodes_read_what_their_pods_refer_to() {
        let graph = One(json!({"metadata": {"namespace": "a", "name": "p"}, "spec": {
            "nodeName": "n", "serviceAccountName": "robot", "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "env"}}}],
                "envFrom": [{"configMapRef": {"name": "map"}}]}],
            "volumes": [{"name": "v", "secret": {"secretName": "vol"}}, {"name": "scratch", "ephemeral": {}},
                {"persistentVolumeClaim": {"claimName": "claim"}},
                {"projected": {"sources": [{"configMap": {"name": "root"}}]}}]}}));
        let rules = NodeRules::default();
        // node, verb, group, resource[/subresource], namespace, name, selector, allowed
        let table = [
            ("n", "get", "", "secrets", "a", "vol", "", true),
            ("n", "watch", "", "secrets", "a", "env", "", true),
            ("n", "get", "", "secrets", "a", "pull", "", true),
            ("n", "get", "", "secrets", "a", "other", "", false),
            ("n", "list", "", "secrets", "a", "", "", false),
            ("n", "update", "", "secrets", "a", "vol", "", false),
            ("m", "get", "", "secrets", "a", "vol", "", false),
            ("n", "get", "", "secrets", "b", "vol", "", false),
            ("m", "get", "", "secrets", "b", "tls", "", true),
            ("n", "get", "", "configmaps", "a", "map", "", true),
            ("n", "get", "", "configmaps", "a", "root", "", true),
            ("n", "get", "", "persistentvolumeclaims", "a", "claim", "", true),
            ("n", "get", "", "persistentvolumeclaims", "a", "p-scratch", "", true),
            ("n", "get", "", "persistentvolumes", "", "pv", "", true),
            ("m", "get", "", "persistentvolumes", "", "pv", "", false),
            ("n", "create", "", "serviceaccounts/token", "a", "robot", "", true),
            ("n", "create", "", "serviceaccounts/token", "a", "admin", "", false),
            ("n", "get", "", "pods", "a", "p", "", true),
            ("m", "get", "", "pods", "a", "p", "", false),
            ("n", "list", "", "pods", "", "", "spec.nodeName=n", true),
            ("n", "list", "", "pods", "", "", "", false),
            ("n", "patch", "", "pods/status", "a", "p", "", true),
            ("n", "get", "", "nodes", "", "n", "", true),
            ("n", "get", "", "nodes", "", "m", "", false),
            ("n", "update", "coordination.k8s.io", "leases", "kube-node-lease", "n", "", true),
            ("n", "update", "coordination.k8s.io", "leases", "kube-node-lease", "m", "", false),
            ("n", "update", "coordination.k8s.io", "leases", "kube-system", "n", "", false),
            ("n", "create", "", "events", "a", "", "", true),
            ("n", "delete", "apps", "deployments", "a", "d", "", false),
        ];
        for (node, verb, group, resource, namespace, name, selector, allowed) in table {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let ask =
                Ask { verb, is_resource: true, group, resource, subresource, namespace, name, path: "" };
            let got = rules.judge(node, &ask, selector, &graph);
            assert_eq!(
                got.is_ok(),
                allowed,
                "{node} {verb} {resource}/{subresource} {namespace}/{name}: {got:?}"
            );
        }
    }
}
