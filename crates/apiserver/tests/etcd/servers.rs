//! Several servers on one etcd.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use apiserver::{ApiServer, Config, Running};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::Member;
use crate::harness::{self, Server};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const EACH: usize = 40;

/// Servers of one cluster have its keys in common.
fn share(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.join("pki")).expect("directory");
    std::fs::copy(from.join("store.keys"), to.join("store.keys")).expect("keys");
    for file in std::fs::read_dir(from.join("pki")).expect("pki").flatten() {
        std::fs::copy(file.path(), to.join("pki").join(file.file_name())).expect("pki");
    }
}

async fn server(member: &Member, dir: &Path) -> (Running, Server) {
    // Hardly more addresses and ports than will be needed, so that servers often pick the same.
    let ranges = vec!["10.96.0.0/25".parse().expect("range")];
    let config = Config { service_cidrs: ranges, node_ports: (30_000, 30_090), ..member.config(dir) };
    let running = ApiServer::start(config).await.expect("start");
    let api = Server::of(&running, dir);
    (running, api)
}

fn service(name: &str, spec: Value) -> String {
    json!({"metadata": {"name": name}, "spec": spec}).to_string()
}

fn plain() -> Value {
    json!({"type": "NodePort", "ports": [{"port": 80}]})
}

#[test]
fn addresses_and_ports_are_given_once() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("directory"));
    harness::runtime().block_on(async {
        let member = Member::start();
        member.ready().await;
        let (first, a) = server(&member, dirs[0].path()).await;
        share(dirs[0].path(), dirs[1].path());
        let (second, b) = server(&member, dirs[1].path()).await;
        let (a, b) = (&a, &b);
        let make = |api: &'static str, n: usize| async move {
            let to = if api == "a" { a } else { b };
            to.post(SERVICES, &service(&format!("{api}{n}"), plain())).await
        };
        let made = join_all((0..EACH).flat_map(|n| [make("a", n), make("b", n)])).await;
        let mut seen = BTreeSet::new();
        for answer in &made {
            assert_eq!(answer.code, 201, "{}", answer.body);
            let port = answer.body["spec"]["ports"][0]["nodePort"].to_string();
            assert!(seen.insert(answer.text("/spec/clusterIP").to_owned()), "{}", answer.body);
            assert!(seen.insert(port), "{}", answer.body);
        }

        // What is asked for by name goes to one of them.
        let asked = |field: &str| match field {
            "address" => json!({"clusterIP": "10.96.0.3", "ports": [{"port": 80}]}),
            _ => json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30_090}]}),
        };
        let taken = made.iter().find(|answer| answer.body["spec"]["ports"][0]["nodePort"] == 30_090);
        if let Some(taken) = taken {
            let path = format!("{SERVICES}/{}", taken.text("/metadata/name"));
            assert_eq!(a.delete(&path, "").await.code, 200);
        }
        for field in ["address", "port"] {
            let (one, other) =
                (service(&format!("{field}-a"), asked(field)), service(&format!("{field}-b"), asked(field)));
            let (one, other) = tokio::join!(a.post(SERVICES, &one), b.post(SERVICES, &other));
            let mut codes = [one.code, other.code];
            codes.sort_unstable();
            assert_eq!(codes, [201, 422], "{} {}", one.body, other.body);
            let refused = if one.code == 422 { &one } else { &other };
            assert!(refused.text("/message").contains("already allocated"), "{}", refused.body);
        }

        // What one server frees the other gives again.
        let gone = a.delete(&format!("{SERVICES}/address-a"), "").await.code
            + a.delete(&format!("{SERVICES}/address-b"), "").await.code;
        assert_eq!(gone, 604, "one of them is there");
        let mut tries = 0;
        while b.post(SERVICES, &service("again", asked("address"))).await.code != 201 {
            tries += 1;
            assert!(tries < 500, "the address is never free again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        first.shutdown().await;
        second.shutdown().await;
    });
}
