//! Network policies with real packets.

use std::sync::Arc;

use crate::lab::{Lab, Node, Ns};
use netplan::policy::{View, compile};
use serde_json::{Value, json};

const PODS: [(&str, &str, &str, &str); 4] = [
    ("web", "shop", "10.244.1.2", "web"),
    ("db", "shop", "10.244.1.3", "db"),
    ("job", "shop", "10.244.1.4", "job"),
    ("spy", "other", "10.244.1.5", "web"),
];

fn install(node: &mut Node, policies: &[Value]) {
    let pods: Vec<_> = PODS
        .iter()
        .map(|(name, ns, ip, app)| {
            let value = json!({"metadata": {"name": name, "namespace": ns, "labels": {"app": app}},
                "spec": {"nodeName": "n1", "containers": [{"name": "c",
                    "ports": [{"name": "echo", "containerPort": 8080}]}]},
                "status": {"phase": "Running", "podIPs": [{"ip": ip}]}});
            Arc::new(serde_json::from_value(value).unwrap())
        })
        .collect();
    let spaces: Vec<_> = ["shop", "other"]
        .iter()
        .map(|n| {
            Arc::new(serde_json::from_value(json!({"metadata": {"name": n, "labels": {"team": n}}})).unwrap())
        })
        .collect();
    let policies: Vec<_> = policies
        .iter()
        .enumerate()
        .map(|(i, spec)| {
            let value = json!({"metadata": {"name": format!("p{i}"), "namespace": "shop"}, "spec": spec});
            Arc::new(serde_json::from_value(value).unwrap())
        })
        .collect();
    let view = View { node: "n1", policies: &policies, pods: &pods, namespaces: &spaces };
    let (part, why) = compile(&view);
    assert_eq!(why, Vec::<String>::new());
    node.apply([("policies".to_owned(), Some(part))]);
}

fn open(from: &Ns, to: &str) -> bool {
    let to: std::net::SocketAddr = format!("{to}:8080").parse().unwrap();
    // Long enough for the one-second repeat of a first packet that was lost while a neighbour was looked up.
    let patience = std::time::Duration::from_millis(1_300);
    from.run(|| std::net::TcpStream::connect_timeout(&to, patience)).is_ok()
}

#[test]
fn policies_allow_what_they_say_and_nothing_else() {
    let mut lab = Lab::new();
    let mut node = lab.node("n1", &["10.244.1.0/24"]);
    let ns: Vec<Ns> = PODS.iter().map(|(name, _, ip, _)| lab.pod(&node, name, &[ip])).collect();
    let outside = lab.namespace("out");
    lab.wire(&node.ns.clone(), "192.168.7.1", &outside, "192.168.7.2", 24);
    lab.route(&outside, "10.244.0.0/16", "192.168.7.1");
    let db = "10.244.1.3";
    let db_pod = json!({"matchLabels": {"app": "db"}});
    // Who of web, job, spy, the outside machine and the node reaches the database.
    let mut reach = |policies: &[Value]| {
        install(&mut node, policies);
        let who = [(&ns[0], "web"), (&ns[2], "job"), (&ns[3], "spy"), (&outside, "out"), (&node.ns, "node")];
        let reached = std::thread::scope(|s| {
            let tries: Vec<_> = who.iter().map(|(n, name)| (s.spawn(|| open(n, db)), *name)).collect();
            tries.into_iter().filter_map(|(t, name)| t.join().unwrap().then_some(name)).collect::<Vec<_>>()
        });
        reached.join(" ")
    };
    let ingress = |rules: Value| json!({"podSelector": db_pod, "policyTypes": ["Ingress"], "ingress": rules});
    // New links take a moment until every neighbour is known.
    let everyone = "web job spy out node";
    let settled = (0..10).any(|_| reach(&[]) == everyone);
    assert!(settled, "not everyone reaches the database without policies");
    assert_eq!(reach(&[json!({"podSelector": {}, "policyTypes": ["Ingress"]})]), "node");
    assert_eq!(reach(&[ingress(json!([{}]))]), "web job spy out node");
    let from_web = json!({"podSelector": {"matchLabels": {"app": "web"}}});
    assert_eq!(reach(&[ingress(json!([{"from": [from_web]}]))]), "web node");
    let everyone_web = json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}});
    assert_eq!(reach(&[ingress(json!([{"from": [everyone_web]}]))]), "web spy node");
    let other = json!({"namespaceSelector": {"matchExpressions":
        [{"key": "team", "operator": "NotIn", "values": ["shop"]}]}});
    assert_eq!(reach(&[ingress(json!([{"from": [other]}]))]), "spy node");
    let block = json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.244.1.4/31", "10.0.0.0/12"]}});
    assert_eq!(reach(&[ingress(json!([{"from": [block]}]))]), "web out node");
    let block = json!({"ipBlock": {"cidr": "192.168.0.0/16"}});
    // Policies add up; named ports and ranges.
    let two = [
        ingress(json!([{"from": [block], "ports": [{"port": "echo"}]}])),
        ingress(json!([{"from": [from_web], "ports": [{"port": 8000, "endPort": 8100}]}])),
    ];
    assert_eq!(reach(&two), "web out node");
    let wrong = ingress(json!([{"ports": [{"port": 8081}, {"port": 8080, "protocol": "UDP"}]}]));
    assert_eq!(reach(&[wrong]), "node");
    // Egress of the job: to the database by the name of its port only.
    let job = json!({"matchLabels": {"app": "job"}});
    let egress = |rules: Value| json!({"podSelector": job, "policyTypes": ["Egress"], "egress": rules});
    assert_eq!(reach(&[egress(json!([]))]), "web spy out node");
    let to_db = json!([{"to": [{"podSelector": db_pod}], "ports": [{"port": "echo"}]}]);
    assert_eq!(reach(&[egress(to_db.clone())]), "web job spy out node");
    assert!(!open(&ns[2], "10.244.1.2"));
    // Both sides must agree.
    assert_eq!(reach(&[egress(to_db), ingress(json!([{"from": [from_web]}]))]), "web node");
    assert_eq!(reach(&[]), "web job spy out node");
}
