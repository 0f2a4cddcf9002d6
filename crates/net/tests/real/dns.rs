//! The DNS server with real questions: through the cluster address, over UDP and TCP, and on to upstream.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use crate::lab::Lab;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use net::dns::{DnsServer, Upstream};
use netplan::base_rules::{BaseFacts, base_part};
use netplan::dns::Index;
use serde_json::json;

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut m = Message::query();
    m.metadata.id = 77;
    m.metadata.recursion_desired = true;
    m.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    m.to_vec().unwrap()
}

fn text(bytes: &[u8]) -> String {
    let m = Message::from_vec(bytes).unwrap();
    assert_eq!(m.metadata.id, 77);
    if m.metadata.response_code != ResponseCode::NoError || m.answers.is_empty() {
        return format!("{:?} {}", m.metadata.response_code, m.authorities.len());
    }
    m.answers.iter().map(|r| r.data.to_string()).collect::<Vec<_>>().join(", ")
}

fn udp(to: SocketAddr, name: &str, kind: RecordType) -> String {
    let s = UdpSocket::bind("0.0.0.0:0").unwrap();
    s.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    s.send_to(&question(name, kind), to).unwrap();
    let mut b = [0; 4096];
    let (n, from) = s.recv_from(&mut b).unwrap();
    assert_eq!(from, to);
    text(&b[..n])
}

fn tcp(to: SocketAddr, name: &str, kind: RecordType) -> String {
    let mut s = TcpStream::connect(to).unwrap();
    let q = question(name, kind);
    s.write_all(&(q.len() as u16).to_be_bytes()).unwrap();
    s.write_all(&q).unwrap();
    let mut length = [0; 2];
    s.read_exact(&mut length).unwrap();
    let mut b = vec![0; usize::from(u16::from_be_bytes(length))];
    s.read_exact(&mut b).unwrap();
    text(&b)
}

fn index(zone: &str, name: &str, ip: &str) -> Arc<RwLock<Index>> {
    let mut i = Index::new(zone);
    let service = json!({"metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": ip, "ports": [{"name": "https", "port": 443}]}});
    let outward = json!({"metadata": {"name": "out", "namespace": "default"},
        "spec": {"type": "ExternalName", "externalName": "there.default.svc.upstream.test"}});
    i.set("default", name, Some((&serde_json::from_value(service).unwrap(), &[])));
    i.set("default", "out", Some((&serde_json::from_value(outward).unwrap(), &[])));
    Arc::new(RwLock::new(i))
}

#[test]
fn pods_resolve_names_through_the_cluster_address() {
    let mut lab = Lab::new();
    let mut node = lab.node("n1", &["10.244.1.0/24"]);
    let pod = lab.pod(&node, "a", &["10.244.1.2"]);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (ready, wait) = std::sync::mpsc::channel();
    let ns = node.ns.clone();
    let server = std::thread::spawn(move || {
        ns.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                // Another instance plays the name server outside, one with no way out the loop's end.
                let nowhere = Upstream::new(&[]);
                let there = index("upstream.test", "there", "192.0.2.7");
                let outside =
                    DnsServer::start(&["127.0.0.1:0".parse().unwrap()], there, nowhere).await.unwrap();
                let upstream = Upstream::new(&outside.addresses);
                let names = index("cluster.local", "kubernetes", "10.96.0.1");
                let at = ["192.168.100.1:0".parse().unwrap()];
                let server = DnsServer::start(&at, names, upstream).await.unwrap();
                ready.send(server.addresses[0]).unwrap();
                let _ = stopped.await;
                server.stop().await;
            });
        });
    });
    let at = wait.recv_timeout(Duration::from_secs(5)).unwrap();
    let facts = BaseFacts {
        pod_cidrs: node.facts.pod_cidrs.clone(),
        native_cidrs: node.facts.pod_cidrs.clone(),
        dns: vec![at],
        dns_cluster_ips: vec!["10.96.0.10".parse().unwrap()],
    };
    node.apply([("base".to_owned(), Some(base_part(&facts)))]);
    let dns: SocketAddr = "10.96.0.10:53".parse().unwrap();
    let results = pod.run(|| {
        [
            udp(dns, "kubernetes.default.svc.cluster.local.", RecordType::A),
            tcp(dns, "kubernetes.default.svc.cluster.local.", RecordType::A),
            udp(dns, "kubernetes.default.svc.cluster.local.", RecordType::AAAA),
            udp(dns, "nobody.default.svc.cluster.local.", RecordType::A),
            udp(dns, "there.default.svc.upstream.test.", RecordType::A),
            udp(dns, "there.default.svc.upstream.test.", RecordType::A),
            udp(dns, "out.default.svc.cluster.local.", RecordType::A),
            udp(dns, "example.org.", RecordType::A),
            udp(dns, "1.0.96.10.in-addr.arpa.", RecordType::PTR),
        ]
    });
    drop(stop);
    server.join().unwrap();
    let want = [
        "10.96.0.1",
        "10.96.0.1",
        "NoError 1",
        "NXDomain 1",
        "192.0.2.7",
        "192.0.2.7",
        "there.default.svc.upstream.test., 192.0.2.7",
        "ServFail 0",
        "kubernetes.default.svc.cluster.local.",
    ];
    assert_eq!(results, want);
}
