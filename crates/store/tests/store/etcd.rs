//! The shared suite on a real etcd, and what only this store does: reconnecting, compaction, foreign keys.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::suite::{json, key, pod, put};
use store::{Etcd, EtcdOptions, Precondition, Store, StoreError};

/// One etcd of its own; ended when dropped.
struct Server {
    process: Child,
    ports: (u16, u16),
    dir: tempfile::TempDir,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn spawn(dir: &std::path::Path, (client, peer): (u16, u16)) -> Child {
    let program = std::env::var("KUTTER_ETCD").unwrap_or_else(|_| "etcd".into());
    let client = format!("http://127.0.0.1:{client}");
    let peer = format!("http://127.0.0.1:{peer}");
    let mut command = Command::new(&program);
    command.arg("--data-dir").arg(dir.join("etcd")).args(["--name", "one", "--unsafe-no-fsync"]);
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("one={peer}")]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
    command.spawn().unwrap_or_else(|error| {
        panic!(
            "etcd did not start as {program:?}: {error}. Install Debian's package etcd-server, or name the binary in \
             KUTTER_ETCD"
        )
    })
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ports = (free_port(), free_port());
        Self { process: spawn(dir.path(), ports), ports, dir }
    }

    fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    fn restart(&mut self) {
        self.stop();
        self.process = spawn(self.dir.path(), self.ports);
    }

    fn urls(&self) -> Vec<String> {
        vec![format!("http://127.0.0.1:{}", self.ports.0)]
    }

    fn options(&self) -> EtcdOptions {
        EtcdOptions::new(self.dir.path().join("keys"))
    }

    /// Connects as soon as it answers.
    async fn connect(&self, options: EtcdOptions) -> Arc<Etcd> {
        let start = Instant::now();
        loop {
            match Etcd::connect(&self.urls(), options.clone()).await {
                Ok(store) => return store,
                Err(error) if start.elapsed() > Duration::from_secs(60) => panic!("{error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn fresh() -> (Server, Arc<dyn Store>) {
    let server = Server::start();
    let store = server.connect(server.options()).await;
    (server, store)
}

suite!(fresh);

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_share_one_etcd() {
    let server = Server::start();
    let (a, b) = (server.connect(server.options()).await, server.connect(server.options()).await);
    let secret = key("core/secrets", "ns", "s");
    let made = a.write(put(&secret, Precondition::Absent, "hidden")).await.unwrap();
    b.reach(None).await.unwrap();
    let read = b.get(&secret).unwrap();
    assert_eq!((read.json.clone(), read.created), (json("hidden", made.modified).into(), made.created));
    let stale = b.write(put(&secret, Precondition::Revision(made.modified), "two")).await.unwrap();
    let refused = a.write(put(&secret, Precondition::Revision(made.modified), "three")).await;
    let Err(StoreError::Conflict { current: Some(current), .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(current.modified, stale.modified);
    let late = server.connect(server.options()).await;
    assert_eq!(late.get(&secret).unwrap().json, json("two", stale.modified));
    let mut strangers = server.options();
    strangers.keys = server.dir.path().join("other-keys");
    let error = Etcd::connect(&server.urls(), strangers).await.unwrap_err().to_string();
    assert!(error.contains("keys file"), "{error}");
}

/// Keys of others move etcd's revision without an event for us.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_keys_do_not_hold_up_reads() {
    let server = Server::start();
    let ours = server.connect(server.options()).await;
    let others = server.connect(EtcdOptions { prefix: "/other".into(), ..server.options() }).await;
    let mut newest = 0;
    for n in 0..5 {
        newest = others.write(put(&pod(&n.to_string()), Precondition::Absent, "x")).await.unwrap().modified;
    }
    assert!(ours.reach(None).await.unwrap() >= newest);
    assert_eq!(ours.counts().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_survive_a_restart_of_etcd() {
    let mut server = Server::start();
    let store = server.connect(server.options()).await;
    let made = store.write(put(&pod("a"), Precondition::Absent, "1")).await.unwrap();
    let mut watch = store.watch("core/pods", made.modified).unwrap();
    server.stop();
    assert!(matches!(
        store.write(put(&pod("b"), Precondition::Absent, "1")).await,
        Err(StoreError::Unavailable(_))
    ));
    assert!(store.get(&pod("a")).is_some(), "reads go on");
    while store.failure().is_none() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.restart();
    let start = Instant::now();
    let second = loop {
        match store.write(put(&pod("a"), Precondition::None, "2")).await {
            Ok(object) => break object,
            Err(error) if start.elapsed() > Duration::from_secs(60) => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let (events, _) = tokio::time::timeout(Duration::from_secs(30), watch.next(100)).await.unwrap().unwrap();
    assert!(events.iter().any(|event| event.object.modified == second.modified));
    while store.failure().is_some() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_compacted() {
    let server = Server::start();
    let options = EtcdOptions { compact_every: Some(Duration::from_millis(200)), ..server.options() };
    let store = server.connect(options).await;
    for n in 0..20 {
        store.write(put(&pod("a"), Precondition::None, &n.to_string())).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert_eq!(store.counts().get("core/pods"), Some(&1));
}
