//! Two nodes and an overlay between them; local nodes on a bridge; stale UDP flows.

use std::net::UdpSocket;
use std::time::Duration;

use crate::lab::{Lab, Node, service, slice, udp_ask};
use net::localnode::{self, ClusterNetwork, NodePlace};
use net::overlay::{self, Mode, Overlay, Peer};
use serde_json::json;

fn connect(node: &Node, own: (&str, &str), peers: &[(&str, &str)], mode: Mode) {
    let overlay = Overlay {
        mode,
        node_ip: own.0.parse().unwrap(),
        pod_cidrs: vec![own.1.parse().unwrap()],
        port: overlay::PORT,
        mtu: 1450,
    };
    let peers: Vec<Peer> = peers
        .iter()
        .map(|p| Peer { node_ip: p.0.parse().unwrap(), pod_cidrs: vec![p.1.parse().unwrap()], outside: None })
        .collect();
    node.ns.run(|| overlay::apply(&node.kernel.route, &overlay, &peers)).unwrap();
}

#[test]
fn pods_of_two_nodes_meet_through_the_overlay() {
    for mode in [Mode::Overlay, Mode::Kubenet] {
        let mut lab = Lab::new();
        let mut one = lab.node("n1", &["10.244.1.0/24"]);
        let two = lab.node("n2", &["10.244.2.0/24"]);
        lab.wire(&one.ns.clone(), "192.168.7.1", &two.ns.clone(), "192.168.7.2", 24);
        let (a, b) = (("192.168.7.1", "10.244.1.0/24"), ("192.168.7.2", "10.244.2.0/24"));
        connect(&one, a, &[b], mode);
        connect(&one, a, &[b], mode);
        connect(&two, b, &[a, ("192.168.7.9", "10.244.9.0/24")], mode);
        connect(&two, b, &[a], mode);
        one.native(&["10.244.0.0/16"]);
        let pod = lab.pod(&one, "a", &["10.244.1.2"]);
        lab.pod(&two, "b", &["10.244.2.2"]);
        assert_eq!(
            pod.tcp("10.244.2.2:8080").unwrap(),
            ("b".into(), "10.244.1.2".parse().unwrap()),
            "{mode:?}"
        );
        assert_eq!(one.ns.tcp("10.244.2.2:8080").unwrap().0, "b");
        one.service(service("s", "10.96.0.20", &json!({})), slice(&[("10.244.2.2", "n2", true)]));
        assert_eq!(pod.tcp("10.96.0.20:80").unwrap(), ("b".into(), "10.244.1.2".parse().unwrap()));
    }
}

#[test]
fn local_nodes_come_and_go_without_a_trace() {
    let mut lab = Lab::new();
    let machine = lab.namespace("machine");
    let cluster = format!("t{}", std::process::id());
    let network = ClusterNetwork {
        cluster: cluster.clone(),
        gateway: [172, 31, 7, 1].into(),
        length: 24,
        tunnels: Vec::new(),
    };
    let places: Vec<NodePlace> =
        (0..2_u8).map(|i| NodePlace { node: format!("n{i}"), address: [172, 31, 7, 2 + i].into() }).collect();
    let paths = machine.run(|| {
        localnode::ensure_cluster(&network).unwrap();
        localnode::ensure_cluster(&network).unwrap();
        let made: Vec<_> = places.iter().map(|p| localnode::ensure_node(&network, p).unwrap()).collect();
        localnode::ensure_node(&network, &places[0]).unwrap();
        made
    });
    let nodes: Vec<crate::lab::Ns> = paths.into_iter().map(crate::lab::Ns).collect();
    lab.serve(&nodes[1], "n1", 8080);
    lab.serve(&machine, "machine", 8080);
    assert_eq!(nodes[0].tcp("172.31.7.3:8080").unwrap().0, "n1");
    assert_eq!(machine.tcp("172.31.7.3:8080").unwrap().0, "n1");
    assert_eq!(nodes[0].tcp("172.31.7.1:8080").unwrap().0, "machine");
    // The world sees the machine's address.
    let world = lab.namespace("world");
    lab.wire(&machine, "192.168.9.1", &world, "192.168.9.2", 24);
    lab.serve(&world, "world", 8080);
    assert_eq!(nodes[0].tcp("192.168.9.2:8080").unwrap(), ("world".into(), "192.168.9.1".parse().unwrap()));
    let left = machine.run(|| {
        assert_eq!(localnode::nodes(&cluster), ["n0", "n1"]);
        localnode::destroy_node(&cluster, "n0").unwrap();
        localnode::destroy_cluster(&cluster).unwrap();
        localnode::destroy_cluster(&cluster).unwrap();
        net::route::index_of(&localnode::bridge_name(&cluster)).is_some()
    });
    assert!(!left);
    assert!(!localnode::netns_path(&cluster, "n1").exists());
}

#[test]
fn udp_leaves_a_backend_that_is_gone() {
    let mut lab = Lab::new();
    let mut node = lab.node("n1", &["10.244.1.0/24"]);
    let client = lab.pod(&node, "client", &["10.244.1.9"]);
    lab.pod(&node, "a", &["10.244.1.2"]);
    lab.pod(&node, "b", &["10.244.1.3"]);
    node.service(service("s", "10.96.0.20", &json!({})), slice(&[("10.244.1.2", "n1", true)]));
    // One socket, so one flow.
    let socket = client.run(|| {
        let s = UdpSocket::bind("0.0.0.0:0").unwrap();
        s.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        s.connect("10.96.0.20:80").unwrap();
        s
    });
    assert_eq!(udp_ask(&socket).unwrap().0, "a");
    let plan = node.service(service("s", "10.96.0.20", &json!({})), slice(&[("10.244.1.3", "n1", true)]));
    assert_eq!(udp_ask(&socket).unwrap().0, "a", "the flow is tracked");
    let gone = net::conntrack::forget_stale(&node.kernel.conntrack, &plan.udp, &[]).unwrap();
    assert_eq!(gone, 1);
    assert_eq!(udp_ask(&socket).unwrap().0, "b");
    assert_eq!(net::conntrack::forget_stale(&node.kernel.conntrack, &plan.udp, &[]).unwrap(), 0);
}
