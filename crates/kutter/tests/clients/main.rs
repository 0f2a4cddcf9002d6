//! Foreign clients as judges: kube-rs, the Python client and kubectl against a real server with controllers.
//!
//! Python with the `kubernetes` package and `kubectl` are named by KUTTER_PYTHON and KUTTER_KUBECTL; the test command
//! fetches them when the machine has none.

mod kube_rs;
mod programs;

use std::error::Error;
use std::path::PathBuf;

use apiserver::{ApiServer, Config as ServerConfig, Running};
use client::{Client, Config};
use drive::controllers::Options;

type Outcome = Result<(), Box<dyn Error>>;

/// A control plane without scheduler and nodes.
struct Cluster {
    server: Running,
    controllers: drive::Shell,
    dir: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Result<Self, Box<dyn Error>> {
        let dir = tempfile::tempdir()?;
        let server = ApiServer::start(ServerConfig::new(dir.path(), "127.0.0.1:0".parse()?)).await?;
        let client = Client::from_config(Config::from_kubeconfig(&server.admin_kubeconfig, None)?)?;
        let settings = drive::Settings { root_ca: Some("CA".to_owned()), ..drive::Settings::default() };
        let options = Options { settings, ..Options::default() };
        let controllers = drive::controllers::start(client, &options);
        Ok(Self { server, controllers, dir })
    }

    fn kubeconfig(&self) -> PathBuf {
        self.server.admin_kubeconfig.clone()
    }

    async fn end(self) {
        drop(self.controllers);
        self.server.shutdown().await;
        drop(self.dir);
    }
}
