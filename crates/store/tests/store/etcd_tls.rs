//! Three members of one etcd over TLS, which ask for client certificates; and one of them gone.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::suite::{pod, put};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use store::{Etcd, EtcdOptions, Precondition, Store, Tls};

struct Members {
    all: Vec<Child>,
    urls: Vec<String>,
    dir: tempfile::TempDir,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An authority, a pair of the members and one of ours; all in files.
fn certificates(dir: &Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    std::fs::write(dir.join("ca.crt"), authority.pem()).unwrap();
    let issuer = Issuer::from_params(&params, &key);
    for name in ["member", "client"] {
        let own = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        let signed = params.signed_by(&own, &issuer).unwrap();
        std::fs::write(dir.join(format!("{name}.crt")), signed.pem()).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), own.serialize_pem()).unwrap();
    }
}

impl Members {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path());
        let program = std::env::var("KUTTER_ETCD").unwrap_or_else(|_| "etcd".into());
        let ports: Vec<(u16, u16)> = (0..3).map(|_| (free_port(), free_port())).collect();
        let peer = |n: usize| format!("http://127.0.0.1:{}", ports[n].1);
        let cluster: Vec<String> = (0..3).map(|n| format!("m{n}={}", peer(n))).collect();
        let urls: Vec<String> = ports.iter().map(|(port, _)| format!("https://127.0.0.1:{port}")).collect();
        let file = |name: &str| dir.path().join(name);
        let start = |n: usize| {
            let mut command = Command::new(&program);
            command.arg("--data-dir").arg(file(&format!("m{n}"))).args(["--name", &format!("m{n}")]);
            command.args([
                "--unsafe-no-fsync",
                "--client-cert-auth",
                "--initial-cluster",
                &cluster.join(","),
            ]);
            command.args(["--listen-client-urls", &urls[n], "--advertise-client-urls", &urls[n]]);
            command.args(["--listen-peer-urls", &peer(n), "--initial-advertise-peer-urls", &peer(n)]);
            command.arg("--trusted-ca-file").arg(file("ca.crt"));
            command.arg("--cert-file").arg(file("member.crt")).arg("--key-file").arg(file("member.key"));
            command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
            command.spawn().expect("etcd: name the binary in KUTTER_ETCD (.ci/tools has one)")
        };
        let all = (0..3).map(start).collect();
        Self { all, urls, dir }
    }

    fn options(&self, shows_itself: bool) -> EtcdOptions {
        let read = |name: &str| std::fs::read(self.dir.path().join(name)).unwrap();
        let identity_pem = shows_itself.then(|| (read("client.crt"), read("client.key")));
        let tls = Some(Tls { ca_pem: Some(read("ca.crt")), identity_pem });
        EtcdOptions { tls, ..EtcdOptions::new(self.dir.path().join("keys")) }
    }

    fn stop(&mut self, n: usize) {
        let _ = self.all[n].kill();
        let _ = self.all[n].wait();
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        (0..self.all.len()).for_each(|n| self.stop(n));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_over_tls_and_one_may_go() {
    let mut members = Members::start();
    let start = Instant::now();
    let store = loop {
        match Etcd::connect(&members.urls, members.options(true)).await {
            Ok(store) => break store,
            Err(error) if start.elapsed() > Duration::from_secs(60) => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    store.write(put(&pod("a"), Precondition::Absent, "1")).await.unwrap();
    let stranger = Etcd::connect(&members.urls[..1], members.options(false)).await;
    assert!(stranger.is_err(), "a client without a certificate is let in");
    for gone in 0..2 {
        members.stop(gone);
        if gone == 1 {
            break;
        }
        let start = Instant::now();
        // The one that goes may have been the leader, or have had our watch.
        while let Err(error) = store.write(put(&pod("a"), Precondition::None, "2")).await {
            assert!(start.elapsed() < Duration::from_secs(60), "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    while store.failure().is_none() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(store.get(&pod("a")).is_some(), "reads go on without a quorum");
}
