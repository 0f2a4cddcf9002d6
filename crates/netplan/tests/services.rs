//! What Services come to, as text.

use netplan::base_rules::base_sets;
use netplan::services::{NodeFacts, compile};
use serde_json::{Value, json};

fn text(spec: Value, status: Value, endpoints: Value) -> String {
    labelled(spec, status, endpoints, json!({}), json!({}))
}

fn labelled(spec: Value, status: Value, endpoints: Value, service: Value, slice: Value) -> String {
    let service = json!({"metadata": {"name": "s", "namespace": "d", "labels": service}, "spec": spec, "status": status});
    let slice = json!({"metadata": {"labels": slice}, "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}]});
    let (service, slice) = (serde_json::from_value(service).unwrap(), serde_json::from_value(slice).unwrap());
    let facts = NodeFacts {
        name: "n1".into(),
        zone: Some("z1".into()),
        pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
    };
    let plan = compile(&service, &[&slice], &facts);
    let health = plan.health.map_or(String::new(), |h| format!("health {} {}\n", h.port, h.local_endpoints));
    format!("{}{health}", plan.part.text(&base_sets()))
}

fn endpoint(ip: &str, node: &str, ready: bool, draining: bool, zone: Option<&str>) -> Value {
    let mut e = json!({"addresses": [ip], "nodeName": node,
        "conditions": {"ready": ready, "serving": ready || draining, "terminating": draining}});
    if let Some(z) = zone {
        e["hints"] = json!({"forZones": [{"name": z}]});
    }
    e
}

#[track_caller]
fn check(got: &str, want: &str) {
    let clean = |t: &str| t.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("\n");
    assert_eq!(clean(got), clean(want), "\n{got}");
}

#[test]
fn a_cluster_address_spreads_over_its_endpoints() {
    let spec = json!({"clusterIP": "10.96.0.9", "ports": [{"port": 80}]});
    let both = json!([
        endpoint("10.244.1.2", "n1", true, false, None),
        endpoint("10.244.2.2", "n2", true, false, None),
        endpoint("10.244.3.2", "n3", false, false, None),
    ]);
    check(
        &text(spec, json!({}), both),
        "chain lb4-2
         ip saddr != 10.244.1.0/24; mark for masquerade
         dnat to ip daddr . meta l4proto . th dport . numgen random mod 2 map @ep4
         ips4: 10.96.0.9
         svc4: 10.96.0.9 . tcp . 80 : goto lb4-2
         ep4: 10.96.0.9 . tcp . 80 . 0 : 10.244.1.2 . 8080
         ep4: 10.96.0.9 . tcp . 80 . 1 : 10.244.2.2 . 8080",
    );
}

#[test]
fn draining_endpoints_serve_when_nothing_else_does_and_zones_keep_to_themselves() {
    let spec = json!({"clusterIP": "10.96.0.9", "ports": [{"port": 80}]});
    let backends = |endpoints: Value| {
        let all = text(spec.clone(), json!({}), endpoints);
        let lines = all.lines().filter(|l| l.starts_with("ep4") || l.starts_with("noep4"));
        lines.map(|l| l.rsplit(" : ").next().unwrap().to_owned()).collect::<Vec<_>>().join(", ")
    };
    let draining = json!([
        endpoint("10.244.1.2", "n1", false, true, None),
        endpoint("10.244.1.3", "n1", false, false, None),
    ]);
    assert_eq!(backends(draining), "10.244.1.2 . 8080");
    let zones = json!([
        endpoint("10.244.1.2", "n1", true, false, Some("z2")),
        endpoint("10.244.1.3", "n1", true, false, Some("z1")),
    ]);
    assert_eq!(backends(zones), "10.244.1.3 . 8080");
    let partly = json!([
        endpoint("10.244.1.2", "n1", true, false, None),
        endpoint("10.244.1.3", "n1", true, false, Some("z1")),
    ]);
    assert_eq!(backends(partly), "10.244.1.2 . 8080, 10.244.1.3 . 8080");
    assert_eq!(backends(json!([])), "noep4: 10.96.0.9 . tcp . 80");
}

#[test]
fn local_traffic_policies_have_two_views() {
    let spec = json!({"type": "LoadBalancer", "clusterIP": "10.96.0.9", "externalTrafficPolicy": "Local",
        "internalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
        "ports": [{"port": 80, "nodePort": 30080}]});
    let status = json!({"loadBalancer": {"ingress": [{"ip": "172.31.0.5"}]}});
    let both = json!([
        endpoint("10.244.1.2", "n1", true, false, None),
        endpoint("10.244.2.2", "n2", true, false, None),
    ]);
    check(
        &text(spec, status, both),
        "chain lb4-1
         ip saddr != 10.244.1.0/24; mark for masquerade
         dnat to ip daddr . meta l4proto . th dport . numgen random mod 1 map @ep4
         chain lb4-2
         ip saddr != 10.244.1.0/24; mark for masquerade
         dnat to ip daddr . meta l4proto . th dport . numgen random mod 2 map @ep4
         chain loc4-1
         dnat to ip daddr . meta l4proto . th dport . numgen random mod 1 map @eploc4
         chain npi4-2
         ip saddr != 10.244.1.0/24; mark for masquerade
         dnat to 0.0.0.0 . meta l4proto . th dport . numgen random mod 2 map @ep4
         chain npl4-1
         dnat to 0.0.0.0 . meta l4proto . th dport . numgen random mod 1 map @eploc4
         ips4: 10.96.0.9
         ips4: 172.31.0.5
         svc4: 10.96.0.9 . tcp . 80 : goto lb4-1
         ep4: 10.96.0.9 . tcp . 80 . 0 : 10.244.1.2 . 8080
         svc4: 172.31.0.5 . tcp . 80 : goto external-local
         svcin4: 172.31.0.5 . tcp . 80 : goto lb4-2
         ep4: 172.31.0.5 . tcp . 80 . 0 : 10.244.1.2 . 8080
         ep4: 172.31.0.5 . tcp . 80 . 1 : 10.244.2.2 . 8080
         svcloc4: 172.31.0.5 . tcp . 80 : goto loc4-1
         eploc4: 172.31.0.5 . tcp . 80 . 0 : 10.244.1.2 . 8080
         svc4: 0.0.0.0 . tcp . 30080 : goto node-local
         svcin4: 0.0.0.0 . tcp . 30080 : goto npi4-2
         ep4: 0.0.0.0 . tcp . 30080 . 0 : 10.244.1.2 . 8080
         ep4: 0.0.0.0 . tcp . 30080 . 1 : 10.244.2.2 . 8080
         svcloc4: 0.0.0.0 . tcp . 30080 : goto npl4-1
         eploc4: 0.0.0.0 . tcp . 30080 . 0 : 10.244.1.2 . 8080
         health 31000 1",
    );
}

#[test]
fn what_other_proxies_serve_is_left_to_them() {
    let with = |service: Value, slice: Value| {
        let spec = json!({"clusterIP": "10.96.0.9", "ports": [{"port": 80}]});
        let endpoints = json!([endpoint("10.244.1.2", "n1", true, false, None)]);
        labelled(spec, json!({}), endpoints, service, slice)
    };
    let plain = json!({"kubernetes.io/service-name": "s"});
    assert!(with(json!({}), plain.clone()).contains("ep4: 10.96.0.9 . tcp . 80 . 0"));
    for label in ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"] {
        check(&with(json!({label: "other"}), plain.clone()), "");
        check(&with(json!({}), json!({label: ""})), "ips4: 10.96.0.9\nnoep4: 10.96.0.9 . tcp . 80");
    }
}
