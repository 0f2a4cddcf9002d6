//! Services with real packets: each kind of frontend, from pods, the node and outside.

use crate::lab::{Lab, service, slice};
use serde_json::json;

fn name(r: Result<(String, std::net::IpAddr), String>) -> String {
    r.map_or_else(|e| format!("error: {e}"), |(n, _)| n)
}

#[test]
fn cluster_addresses_answer_between_pods_on_one_node() {
    let mut lab = Lab::new();
    let mut node = lab.node("n1", &["10.244.1.0/24"]);
    let a = lab.pod(&node, "a", &["10.244.1.2"]);
    let b = lab.pod(&node, "b", &["10.244.1.3"]);
    assert_eq!(a.tcp("10.244.1.3:8080").unwrap(), ("b".into(), "10.244.1.2".parse().unwrap()));
    node.service(service("s", "10.96.0.20", &json!({})), slice(&[("10.244.1.3", "n1", true)]));
    assert_eq!(a.tcp("10.96.0.20:80").unwrap(), ("b".into(), "10.244.1.2".parse().unwrap()));
    assert_eq!(a.udp("10.96.0.20:80").unwrap(), ("b".into(), "10.244.1.2".parse().unwrap()));
    // A pod reaches itself through its Service.
    node.apply([("pods".to_owned(), Some(netplan::pods::part(&["10.244.1.3".parse().unwrap()])))]);
    assert_eq!(name(b.tcp("10.96.0.20:80")), "b");
    // Unused ports and Services without endpoints refuse at once.
    assert!(a.tcp("10.96.0.20:81").unwrap_err().contains("refused"));
    node.service(service("s", "10.96.0.20", &json!({})), slice(&[("10.244.1.3", "n1", false)]));
    assert!(a.tcp("10.96.0.20:80").unwrap_err().contains("refused"));
    node.service(service("s", "10.96.0.20", &json!({})), slice(&[("10.244.1.2", "n1", true)]));
    assert_eq!(name(b.tcp("10.96.0.20:80")), "a");
}

#[test]
fn node_ports_answer_from_outside_and_on_the_loopback_address() {
    let mut lab = Lab::new();
    let mut node = lab.node("n1", &["10.244.1.0/24"]);
    let outside = lab.namespace("out");
    lab.wire(&node.ns.clone(), "192.168.7.1", &outside, "192.168.7.2", 24);
    lab.pod(&node, "a", &["10.244.1.2"]);
    let ports = json!([{"name": "t", "port": 80, "protocol": "TCP", "nodePort": 30080}]);
    let spec = json!({"type": "NodePort", "ports": ports});
    node.service(service("s", "10.96.0.20", &spec), slice(&[("10.244.1.2", "n1", true)]));
    let (who, from) = outside.tcp("192.168.7.1:30080").unwrap();
    assert_eq!(who, "a");
    assert_ne!(from.to_string(), "192.168.7.2", "the policy Cluster translates the source");
    assert_eq!(name(node.ns.tcp("127.0.0.1:30080")), "a");
    let spec = json!({"type": "NodePort", "ports": ports, "externalTrafficPolicy": "Local"});
    node.service(service("s", "10.96.0.20", &spec), slice(&[("10.244.1.2", "n1", true)]));
    let (who, from) = outside.tcp("192.168.7.1:30080").unwrap();
    assert_eq!((who.as_str(), from.to_string().as_str()), ("a", "192.168.7.2"));
    // No backend on this node: outside gets nothing, the node itself may still use the others.
    node.service(service("s", "10.96.0.20", &spec), slice(&[("10.244.1.2", "n2", true)]));
    assert!(outside.tcp("192.168.7.1:30080").unwrap_err().contains("timed out"));
    assert_eq!(name(node.ns.tcp("192.168.7.1:30080")), "a");
}

#[test]
fn load_balancer_addresses_keep_to_their_source_ranges() {
    let mut lab = Lab::new();
    let mut node = lab.node("n1", &["10.244.1.0/24"]);
    let near = lab.namespace("near");
    lab.wire(&node.ns.clone(), "192.168.7.1", &near, "192.168.7.2", 24);
    lab.route(&near, "172.31.0.0/24", "192.168.7.1");
    lab.pod(&node, "a", &["10.244.1.2"]);
    let balanced = |ranges: &[&str]| {
        let spec = json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ranges});
        let mut s = service("s", "10.96.0.20", &spec);
        s["status"] = json!({"loadBalancer": {"ingress": [{"ip": "172.31.0.5"}]}});
        s
    };
    let to = slice(&[("10.244.1.2", "n1", true)]);
    node.service(balanced(&[]), to.clone());
    assert_eq!(name(near.tcp("172.31.0.5:80")), "a");
    node.service(balanced(&["10.0.0.0/8", "192.168.9.0/24"]), to.clone());
    assert!(near.tcp("172.31.0.5:80").unwrap_err().contains("timed out"));
    node.service(balanced(&["10.0.0.0/8", "192.168.7.0/24"]), to);
    assert_eq!(name(near.tcp("172.31.0.5:80")), "a");
}

#[test]
fn a_client_stays_with_its_backend_until_that_is_gone() {
    let mut lab = Lab::new();
    let mut node = lab.node("n1", &["10.244.1.0/24"]);
    let client = lab.pod(&node, "client", &["10.244.1.9"]);
    let addresses = ["10.244.1.2", "10.244.1.3", "10.244.1.4"];
    for (i, a) in addresses.iter().enumerate() {
        lab.pod(&node, &format!("p{i}"), &[a]);
    }
    let all: Vec<(&str, &str, bool)> = addresses.iter().map(|a| (*a, "n1", true)).collect();
    let spec =
        json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}});
    node.service(service("s", "10.96.0.20", &spec), slice(&all));
    let first = name(client.tcp("10.96.0.20:80"));
    assert!(first.starts_with('p'), "{first}");
    for _ in 0..8 {
        assert_eq!(name(client.tcp("10.96.0.20:80")), first);
    }
    let index: usize = first[1..].parse().unwrap();
    let rest: Vec<_> = all.iter().enumerate().filter(|(i, _)| *i != index).map(|(_, e)| *e).collect();
    node.service(service("s", "10.96.0.20", &spec), slice(&rest));
    let second = name(client.tcp("10.96.0.20:80"));
    assert_ne!(second, first);
    for _ in 0..8 {
        assert_eq!(name(client.tcp("10.96.0.20:80")), second);
    }
    // Without affinity, connections spread.
    node.service(service("s", "10.96.0.20", &json!({})), slice(&all));
    let seen: std::collections::BTreeSet<_> = (0..64).map(|_| name(client.tcp("10.96.0.20:80"))).collect();
    assert_eq!(seen.len(), 3);
}

#[test]
fn both_families_are_served() {
    let mut lab = Lab::new();
    let mut node = lab.node("n1", &["10.244.1.0/24", "fd00:244::/64"]);
    let a = lab.pod(&node, "a", &["10.244.1.2", "fd00:244::2"]);
    lab.pod(&node, "b", &["10.244.1.3", "fd00:244::3"]);
    node.service(service("s", "fd00:96::20", &json!({})), slice(&[("fd00:244::3", "n1", true)]));
    assert_eq!(a.tcp("[fd00:96::20]:80").unwrap(), ("b".into(), "fd00:244::2".parse().unwrap()));
    let spec = json!({"sessionAffinity": "ClientIP"});
    node.service(service("s", "fd00:96::20", &spec), slice(&[("fd00:244::3", "n1", true)]));
    for _ in 0..3 {
        assert_eq!(name(a.udp("[fd00:96::20]:80")), "b");
    }
    assert!(a.tcp("[fd00:96::20]:81").unwrap_err().contains("refused"));
}
