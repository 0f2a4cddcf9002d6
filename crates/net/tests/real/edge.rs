//! Load balancer addresses on real links.

use std::collections::BTreeSet;

use crate::lab::{Lab, service, slice};
use net::announce;
use serde_json::json;

#[test]
fn an_address_moves_between_nodes_and_answers() {
    let mut lab = Lab::new();
    let mut node = lab.node("n1", &["10.244.1.0/24"]);
    let machine = lab.namespace("machine");
    lab.wire(&node.ns.clone(), "172.31.7.2", &machine, "172.31.7.1", 24);
    lab.pod(&node, "a", &["10.244.1.2"]);
    let mut s = service("s", "10.96.0.20", &json!({"type": "LoadBalancer"}));
    s["status"] = json!({"loadBalancer": {"ingress": [{"ip": "172.31.7.200"}]}});
    node.service(s, slice(&[("10.244.1.2", "n1", true)]));
    let pool = "172.31.7.192/26".parse().unwrap();
    let set = |ips: &[&str]| {
        let wanted: BTreeSet<_> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        let own = "172.31.7.2".parse().unwrap();
        node.ns.run(|| announce::apply(&node.kernel.route, &pool, &wanted, own)).unwrap().len()
    };
    assert_eq!(set(&["172.31.7.200", "172.31.7.201"]), 2);
    assert_eq!(set(&["172.31.7.200"]), 0);
    assert_eq!(machine.tcp("172.31.7.200:80").unwrap().0, "a");
    assert!(machine.tcp("172.31.7.200:8080").unwrap_err().contains("refused"));
    assert_eq!(set(&[]), 0);
    let all = node.ns.run(|| net::route::addresses(&node.kernel.route)).unwrap();
    assert!(all.iter().all(|(_, ip, _)| ip.to_string() != "172.31.7.200"));
    assert!(all.iter().any(|(_, ip, _)| ip.to_string() == "172.31.7.2"));
    set(&["172.31.7.200"]);
    // Nothing is left but what was there before.
    let links = node.ns.run(|| {
        net::cleanup::node(&[pool]).unwrap();
        net::cleanup::node(&[pool]).unwrap();
        net::route::links(&node.kernel.route).unwrap()
    });
    assert!(links.iter().all(|l| !net::pod::is_pod_link(&l.name)));
    let all = node.ns.run(|| net::route::addresses(&node.kernel.route)).unwrap();
    assert!(all.iter().all(|(_, ip, _)| ip.to_string() != "172.31.7.200"));
    assert!(machine.tcp("172.31.7.2:80").unwrap_err().contains("refused"));
}
