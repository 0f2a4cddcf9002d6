//! One real etcd on free ports, ended when dropped; and what several servers on it do.

mod servers;

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use apiserver::{Config, Etcd, StoreChoice};

pub struct Member {
    process: Child,
    ports: (u16, u16),
    dir: tempfile::TempDir,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address").port()
}

fn spawn(dir: &Path, (client, peer): (u16, u16)) -> Child {
    let program = std::env::var("KUTTER_ETCD").unwrap_or_else(|_| "etcd".into());
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    let mut command = Command::new(&program);
    command.arg("--data-dir").arg(dir).args(["--name", "one", "--unsafe-no-fsync"]);
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("one={peer}")]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
    command.spawn().unwrap_or_else(|error| {
        panic!(
            "etcd did not start as {program:?}: {error}. Name the binary in KUTTER_ETCD (.ci/tools has one)"
        )
    })
}

impl Member {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let ports = (free_port(), free_port());
        Self { process: spawn(dir.path(), ports), ports, dir }
    }

    /// How a server with this store is started.
    pub fn config(&self, dir: &Path) -> Config {
        let urls = vec![format!("http://127.0.0.1:{}", self.ports.0)];
        let store = StoreChoice::Etcd(Etcd { urls, ..Etcd::default() });
        Config { store, ..crate::harness::config(dir) }
    }

    /// Waits until it listens.
    pub async fn ready(&self) {
        for _ in 0..1500 {
            if TcpStream::connect(("127.0.0.1", self.ports.0)).is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("etcd never listened");
    }

    pub fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    pub fn restart(&mut self) {
        self.stop();
        self.process = spawn(self.dir.path(), self.ports);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.stop();
    }
}
