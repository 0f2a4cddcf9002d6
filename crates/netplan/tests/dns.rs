//! The cluster DNS specification as a table of questions and answers.

use netplan::dns::{Answer, Index, Kind, RecordData};
use serde_json::{Value, json};

fn index() -> Index {
    let mut i = Index::new("cluster.local");
    let mut set = |ns: &str, name: &str, spec: Value, slices: Vec<Value>| {
        let service =
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": ns}, "spec": spec}))
                .unwrap();
        let slices: Vec<_> = slices.into_iter().map(|s| serde_json::from_value(s).unwrap()).collect();
        i.set(ns, name, Some((&service, &slices.iter().collect::<Vec<_>>())));
    };
    let https = json!([{"name": "https", "port": 443, "protocol": "TCP"}]);
    set("default", "kubernetes", json!({"clusterIP": "10.96.0.1", "ports": https}), vec![]);
    let dual = json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00::5"], "ports": https});
    set("default", "dual", dual, vec![]);
    set("default", "out", json!({"type": "ExternalName", "externalName": "Example.org."}), vec![]);
    set("default", "bare", json!({"clusterIP": "None"}), vec![]);
    let slice = json!({"metadata": {}, "addressType": "IPv4",
    "ports": [{"name": "peer", "port": 7000, "protocol": "TCP"}],
    "endpoints": [
        {"addresses": ["10.1.0.2"], "hostname": "web-0", "conditions": {"ready": true}},
        {"addresses": ["10.1.0.3"], "hostname": "web-1", "conditions": {"ready": false}},
        {"addresses": ["10.1.0.4"]},
    ]});
    set("db", "web", json!({"clusterIP": "None"}), vec![slice]);
    i
}

fn text(a: &Answer) -> String {
    match a {
        Answer::Records { answers, extra } => {
            let one = |d: &RecordData| match d {
                RecordData::Address(ip) => ip.to_string(),
                RecordData::Srv { weight, port, target } => format!("{weight} {port} {target}"),
                RecordData::Ptr(n) | RecordData::Cname(n) | RecordData::Txt(n) => n.clone(),
            };
            let list: Vec<String> = answers.iter().map(|r| one(&r.data)).collect();
            let more: Vec<String> = extra.iter().map(|r| format!("{}={}", r.name, one(&r.data))).collect();
            if more.is_empty() {
                list.join(", ")
            } else {
                format!("{} + {}", list.join(", "), more.join(", "))
            }
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn questions_and_answers() {
    let i = index();
    let table = [
        (Kind::A, "kubernetes.default.svc.cluster.local.", "10.96.0.1"),
        (Kind::A, "KUBERNETES.default.SVC.cluster.local", "10.96.0.1"),
        (Kind::Aaaa, "kubernetes.default.svc.cluster.local.", "NoData"),
        (Kind::Aaaa, "dual.default.svc.cluster.local.", "fd00::5"),
        (Kind::A, "none.default.svc.cluster.local.", "NxDomain"),
        (Kind::A, "kubernetes.default.svc.cluster.local.default.svc.cluster.local.", "NxDomain"),
        (Kind::A, "default.svc.cluster.local.", "NoData"),
        (Kind::A, "nowhere.svc.cluster.local.", "NxDomain"),
        (Kind::A, "cluster.local.", "NoData"),
        (Kind::A, "example.org.", "NotOurs"),
        (Kind::A, "xcluster.local.", "NotOurs"),
        (
            Kind::Srv,
            "_https._tcp.kubernetes.default.svc.cluster.local.",
            "100 443 kubernetes.default.svc.cluster.local + kubernetes.default.svc.cluster.local=10.96.0.1",
        ),
        (Kind::A, "_https._tcp.kubernetes.default.svc.cluster.local.", "NoData"),
        (Kind::Srv, "_http._tcp.kubernetes.default.svc.cluster.local.", "NxDomain"),
        (Kind::A, "out.default.svc.cluster.local.", "Alias(\"example.org\")"),
        (Kind::A, "bare.default.svc.cluster.local.", "NoData"),
        (Kind::A, "web.db.svc.cluster.local.", "10.1.0.2, 10.1.0.4"),
        (Kind::A, "web-0.web.db.svc.cluster.local.", "10.1.0.2"),
        (Kind::A, "web-1.web.db.svc.cluster.local.", "NxDomain"),
        (Kind::A, "10-1-0-4.web.db.svc.cluster.local.", "10.1.0.4"),
        (
            Kind::Srv,
            "_peer._tcp.web.db.svc.cluster.local.",
            "50 7000 web-0.web.db.svc.cluster.local, 50 7000 10-1-0-4.web.db.svc.cluster.local + \
          web-0.web.db.svc.cluster.local=10.1.0.2, 10-1-0-4.web.db.svc.cluster.local=10.1.0.4",
        ),
        (Kind::A, "10-1-0-2.db.pod.cluster.local.", "10.1.0.2"),
        (Kind::A, "x.db.pod.cluster.local.", "NxDomain"),
        (Kind::Ptr, "1.0.96.10.in-addr.arpa.", "kubernetes.default.svc.cluster.local"),
        (Kind::Ptr, "2.0.1.10.in-addr.arpa.", "web-0.web.db.svc.cluster.local"),
        (Kind::Ptr, "8.8.8.8.in-addr.arpa.", "NotOurs"),
        (
            Kind::Ptr,
            "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.",
            "dual.default.svc.cluster.local",
        ),
        (Kind::Txt, "dns-version.cluster.local.", "1.1.0"),
    ];
    for (kind, name, want) in table {
        assert_eq!(text(&i.answer(name, kind)), want, "{kind:?} {name}");
    }
}

#[test]
fn a_forgotten_service_leaves_nothing() {
    let mut i = index();
    i.set("db", "web", None);
    assert_eq!(i.answer("web.db.svc.cluster.local", Kind::A), Answer::NxDomain);
    assert_eq!(i.answer("2.0.1.10.in-addr.arpa", Kind::Ptr), Answer::NotOurs);
    assert_eq!(i.len(), 4);
}
