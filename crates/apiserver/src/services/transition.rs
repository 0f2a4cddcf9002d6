//! A Service that changes its type loses what only the old type has, unless the client changed it as well (then
//! validation speaks). Follows upstream's `dropTypeDependentFields`.

use serde_json::{Value, json};

use crate::object::at;

fn kind_of(service: &Value) -> &str {
    at(service, "spec.type").and_then(Value::as_str).unwrap_or("")
}

fn needs_cluster_ip(service: &Value) -> bool {
    matches!(kind_of(service), "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn needs_node_ports(service: &Value) -> bool {
    let refused = at(service, "spec.allocateLoadBalancerNodePorts") == Some(&Value::Bool(false));
    kind_of(service) == "NodePort" || (kind_of(service) == "LoadBalancer" && !refused)
}

fn is_balanced(service: &Value) -> bool {
    kind_of(service) == "LoadBalancer"
}

fn is_external(service: &Value) -> bool {
    let ips = at(service, "spec.externalIPs").and_then(Value::as_array);
    is_balanced(service) || kind_of(service) == "NodePort" || ips.is_some_and(|ips| !ips.is_empty())
}

fn node_ports(service: &Value) -> Vec<i64> {
    let ports = at(service, "spec.ports").and_then(Value::as_array).into_iter().flatten();
    ports.filter_map(|port| port.get("nodePort").and_then(Value::as_i64)).filter(|port| *port != 0).collect()
}

/// Drops of `new` what its type has no use for and the client left as it was.
pub fn settle(old: &Value, new: &mut Value) {
    let mut drop = Vec::new();
    if needs_cluster_ip(old) && !needs_cluster_ip(new) {
        drop.extend([&["clusterIP", "clusterIPs"][..], &["ipFamilies"], &["ipFamilyPolicy"]]);
    }
    if super::healthy_port_wanted(old) && !super::healthy_port_wanted(new) {
        drop.push(&["healthCheckNodePort"]);
    }
    if is_balanced(old) && !is_balanced(new) {
        drop.extend([&["allocateLoadBalancerNodePorts"][..], &["loadBalancerClass"]]);
    }
    if is_external(old) && !is_external(new) {
        drop.push(&["externalTrafficPolicy"]);
    }
    let ports = needs_node_ports(old) && !needs_node_ports(new) && node_ports(old) == node_ports(new);
    if !is_balanced(new) && new.get("status").is_some() {
        new["status"]["loadBalancer"] = json!({});
    }
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for fields in drop {
        let same = |field: &&str| spec.get(*field).filter(|v| !v.is_null()) == old["spec"].get(*field);
        if fields.iter().all(same) {
            for field in fields {
                spec.remove(*field);
            }
        }
    }
    if ports {
        let ports = spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten();
        ports.filter_map(Value::as_object_mut).for_each(|port| {
            port.remove("nodePort");
        });
    }
}

#[cfg(test)]
mod tests {
    use super::settle;
    use serde_json::{Value, json};

    #[test]
    fn a_service_keeps_nothing_of_its_old_type() {
        let old = json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "externalTrafficPolicy": "Cluster",
            "allocateLoadBalancerNodePorts": true, "ports": [{"port": 80, "nodePort": 30000}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}});
        let cases: [(Value, Value); 3] = [
            (
                json!({"type": "ExternalName", "externalName": "a.b"}),
                json!({"type": "ExternalName", "externalName": "a.b", "ports": [{"port": 80}]}),
            ),
            (
                json!({"type": "ClusterIP"}),
                json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
                    "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "ports": [{"port": 80}]}),
            ),
            (
                json!({"type": "ClusterIP", "ports": [{"port": 80, "nodePort": 30001}]}),
                json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
                    "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
                    "ports": [{"port": 80, "nodePort": 30001}]}),
            ),
        ];
        for (change, wanted) in cases {
            let mut new = old.clone();
            let spec = new["spec"].as_object_mut().expect("spec");
            spec.extend(change.as_object().cloned().into_iter().flatten());
            settle(&old, &mut new);
            assert_eq!(new["spec"], wanted);
            assert_eq!(new["status"]["loadBalancer"], json!({}));
        }
    }
}
