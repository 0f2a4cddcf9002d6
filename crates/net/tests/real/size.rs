//! A large table: 1,000 Services of 10 backends, and one change to it. Prints what it costs.

use std::time::Instant;

use crate::lab::{Lab, service, slice};
use netplan::services::compile;
use serde_json::{Value, json};

fn part(node: &crate::lab::Node, i: usize, endpoints: usize) -> (String, Option<netplan::ruleset::Part>) {
    let ip = format!("10.96.{}.{}", i / 250, i % 250 + 1);
    let only_tcp = json!({"ports": [{"name": "t", "port": 80, "protocol": "TCP"}]});
    let service = serde_json::from_value(service(&format!("s{i}"), &ip, &only_tcp)).unwrap();
    let addresses: Vec<String> = (0..endpoints).map(|e| format!("10.244.{}.{}", i % 200, e + 2)).collect();
    let list: Vec<(&str, &str, bool)> = addresses.iter().map(|a| (a.as_str(), "n1", true)).collect();
    let value: Value = slice(&list);
    let slice = serde_json::from_value(value).unwrap();
    (format!("svc/s{i}"), Some(compile(&service, &[&slice], &node.facts).part))
}

#[test]
fn a_thousand_services_install_and_change_in_one_transaction() {
    let mut lab = Lab::new();
    let mut node = lab.node("n1", &["10.244.1.0/24"]);
    let parts: Vec<_> = (0..1000).map(|i| part(&node, i, 10)).collect();
    let begun = Instant::now();
    let batch = node.table.replace(parts);
    let planned = begun.elapsed();
    node.kernel.nft.apply(&batch).unwrap();
    println!("1,000 services x 10 endpoints: plan {planned:?}, all {:?}", begun.elapsed());
    let full = node.table.full();
    let begun = Instant::now();
    node.kernel.nft.apply(&full).unwrap();
    println!("replacing the whole table: {:?}", begun.elapsed());
    let changes: Vec<_> = [9, 10, 9, 10, 9].iter().map(|n| part(&node, 500, *n)).collect();
    for change in changes {
        let begun = Instant::now();
        let batch = node.table.replace([change]);
        assert!(!batch.replace && batch.ops.len() < 30, "{} operations", batch.ops.len());
        node.kernel.nft.apply(&batch).unwrap();
        println!("one endpoint less or more: {} operations, {:?}", batch.ops.len(), begun.elapsed());
    }
}
