//! The manager as commands see it: its API over the unix socket, and starting it.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fleet::ClusterView;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::{CliError, Doing, Globals, doctor};

/// How long a manager may take from its start to its first answer.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// The manager's API.
#[derive(Debug, Clone)]
pub struct Manager {
    socket: PathBuf,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl Manager {
    /// The manager of the state directory, running or not.
    pub fn of(globals: &Globals) -> Manager {
        Manager { socket: globals.data_dir.join("manager.sock") }
    }

    /// The running manager.
    pub async fn running(globals: &Globals) -> Result<Manager, CliError> {
        let manager = Manager::of(globals);
        if manager.is_up().await {
            return Ok(manager);
        }
        Err(CliError::told(format!(
            "no manager runs for {}: start one with `kutter up`",
            globals.data_dir.display()
        )))
    }

    /// Whether it answers.
    pub async fn is_up(&self) -> bool {
        UnixStream::connect(&self.socket).await.is_ok()
    }

    /// Starts the manager if none runs, detached from this terminal, and waits until it answers.
    pub async fn ensure(globals: &Globals) -> Result<Manager, CliError> {
        let manager = Manager::of(globals);
        if manager.is_up().await {
            return Ok(manager);
        }
        if let Some((pid, dir)) = doctor::other_managers(&globals.data_dir).into_iter().next() {
            return Err(CliError::told(format!(
                "another manager (pid {pid}) has the addresses and ports of this machine: use it with `kutter --data-dir \
                 {0} …`, or end it with `kutter --data-dir {0} down`",
                dir.display()
            )));
        }
        let log_dir = globals.data_dir.join("manager");
        make_private(&globals.data_dir)?;
        make_private(&log_dir)?;
        let log_path = log_dir.join("manager.log");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .doing(format!("open {}", log_path.display()))?;
        let program = std::env::current_exe().doing("find the own program")?;
        let mut command = std::process::Command::new(program);
        command
            .arg("manager")
            .arg("--data-dir")
            .arg(&globals.data_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            .process_group(0);
        let mut child = command.spawn().doing("start the manager")?;
        let deadline = Instant::now() + START_TIMEOUT;
        while !manager.is_up().await {
            if let Ok(Some(status)) = child.try_wait() {
                let text = std::fs::read_to_string(&log_path).unwrap_or_default();
                let last = text.lines().last().unwrap_or_default();
                return Err(CliError::told(format!("the manager ended at once ({status}): {last}")));
            }
            if Instant::now() > deadline {
                return Err(CliError::told(format!(
                    "the manager does not answer; see {}",
                    log_path.display()
                )));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(manager)
    }

    /// All clusters.
    pub async fn clusters(&self) -> Result<Vec<ClusterView>, CliError> {
        self.call(Method::GET, "/v1/clusters", None).await
    }

    /// One cluster.
    pub async fn cluster(&self, name: &str) -> Result<ClusterView, CliError> {
        self.call(Method::GET, &format!("/v1/clusters/{name}"), None).await
    }

    /// One cluster, if it exists.
    pub async fn find(&self, name: &str) -> Result<Option<ClusterView>, CliError> {
        Ok(self.clusters().await?.into_iter().find(|c| c.name == name))
    }

    /// Calls the API and reads the answer; a refusal becomes an error with the manager's words.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<T, CliError> {
        let response = self.send(method, path, body).await?;
        let status = response.status();
        let bytes = response.into_body().collect().await.doing("read the manager's answer")?.to_bytes();
        if !status.is_success() {
            let refusal: Option<Refusal> = serde_json::from_slice(&bytes).ok();
            return Err(CliError::told(refusal.map_or_else(|| status.to_string(), |r| r.error)));
        }
        serde_json::from_slice(&bytes).doing("read the manager's answer")
    }

    /// Views of a cluster from now on, one at each change.
    pub async fn watch(&self, name: &str) -> Result<Views, CliError> {
        let response = self.send(Method::GET, &format!("/v1/clusters/{name}/watch"), None).await?;
        Ok(Views { body: response.into_body(), buffer: Vec::new() })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<http::Response<Incoming>, CliError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .doing(format!("reach the manager at {}", self.socket.display()))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.doing("reach the manager")?;
        tokio::spawn(connection);
        let text = body.map(ToString::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "kutter")
            .body(Full::new(Bytes::from(text)))
            .doing("ask the manager")?;
        sender.send_request(request).await.doing("ask the manager")
    }
}

/// Lines of a watch.
#[derive(Debug)]
pub struct Views {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Views {
    /// The next view; `None` when the cluster is gone or the manager has ended.
    pub async fn next(&mut self) -> Result<Option<ClusterView>, CliError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).doing("read the manager's answer");
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[], |d| d)),
                _ => return Ok(None),
            }
        }
    }

    /// Waits for a view that `done` accepts.
    pub async fn until(
        &mut self,
        timeout: Duration,
        mut done: impl FnMut(&ClusterView) -> bool,
    ) -> Result<Option<ClusterView>, CliError> {
        let mut last: Option<ClusterView> = None;
        let wait = async {
            while let Some(view) = self.next().await? {
                let end = done(&view);
                last = Some(view);
                if end {
                    break;
                }
            }
            Ok::<(), CliError>(())
        };
        match tokio::time::timeout(timeout, wait).await {
            Ok(result) => result.map(|()| last),
            Err(_) => {
                let why = last.map(|v| v.why.join("; ")).unwrap_or_default();
                Err(CliError::told(format!("gave up after {} s: {why}", timeout.as_secs())))
            }
        }
    }
}

fn make_private(path: &std::path::Path) -> Result<(), CliError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .doing(format!("create {} (root is needed, or --data-dir)", path.display()))
}
