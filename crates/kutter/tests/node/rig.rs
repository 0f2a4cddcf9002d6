//! A node against our own API server and controllers, on either runtime.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use client::{Client, Config, DeleteOptions, ListOptions};
use k8s_openapi::api::core::v1::{Event, Node, Pod, ServiceAccount};
use oci::cgroup::Cgroups;
use oci::runtime::Runtime;
use serde_json::{Value, json};

use crate::busybox::{IMAGE, busybox_image};
use crate::containerd;

const KUTTER: &str = env!("CARGO_BIN_EXE_kutter");

pub struct Rig {
    pub dir: PathBuf,
    pub cgroup: String,
    pub kubeconfig: PathBuf,
    pub children: Vec<Child>,
    pub node: Option<Child>,
    pub client: Client,
    pub sort: Sort,
    pub flags: Vec<String>,
}

fn start(args: &[&str]) -> Child {
    Command::new(KUTTER).args(args).env("KUTTER_LOG", "warn").stdout(Stdio::piped()).spawn().expect("starts")
}

/// Waits until `found` finds something; the limit only keeps a broken run from hanging.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, found: impl FnMut() -> F) -> T {
    until_or(found).await.unwrap_or_else(|| panic!("{what} did not happen"))
}

async fn until_or<T, F: Future<Output = Option<T>>>(mut found: impl FnMut() -> F) -> Option<T> {
    for _ in 0..1500 {
        if let Some(value) = found().await {
            return Some(value);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    None
}

/// Which runtime the node uses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    Embedded,
    Cri,
}

impl Rig {
    /// A cluster of one node, which gets these flags too.
    pub async fn new(sort: Sort, flags: &[&str]) -> Rig {
        let made = tempfile::Builder::new().prefix("kutter-node-").tempdir().expect("temp dir");
        let dir = made.keep();
        let cgroup = format!("/{}", dir.file_name().expect("name").to_string_lossy());
        let text = |p: &Path| p.to_string_lossy().into_owned();
        let mut api = start(&["apiserver", "--data-dir", &text(&dir.join("api")), "--listen", "127.0.0.1:0"]);
        let lines = BufReader::new(api.stdout.take().expect("stdout")).lines();
        let line =
            lines.map_while(Result::ok).find(|l| l.contains("--kubeconfig")).expect("kubeconfig is told");
        let kubeconfig: PathBuf =
            line.split_whitespace().skip_while(|w| *w != "--kubeconfig").nth(1).expect("a path").into();
        let config = Config::infer(Some(&kubeconfig), None).expect("kubeconfig");
        let client = Client::from_config(config).expect("client");
        let controllers = start(&["controllers", "--kubeconfig", &text(&kubeconfig)]);
        let flags = flags.iter().map(|f| f.replace("DIR", &text(&dir))).collect();
        let children = vec![api, controllers];
        let mut rig = Rig { dir, cgroup, kubeconfig, children, node: None, client, sort, flags };
        rig.start_runtime().await;
        rig.start_node();
        let c = rig.client.clone();
        until("a ready node", || async {
            let node = c.find::<Node>("", "n1").await.ok()??;
            let conditions = node.status?.conditions?;
            conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True").then_some(())
        })
        .await;
        until("the default service account", || async {
            c.find::<ServiceAccount>("default", "default").await.ok()?
        })
        .await;
        rig
    }

    async fn start_runtime(&mut self) {
        match self.sort {
            Sort::Embedded => {
                let place = self.dir.join("runtime");
                std::fs::create_dir_all(&place).expect("dir");
                self.children.push(start(&["supervisor", "--dir", &place.to_string_lossy()]));
                let connect = || async { oci::Embedded::connect(&place).await.ok() };
                let embedded = until("the supervisor's answer", connect).await;
                embedded.images().from_binary(&busybox_image(IMAGE)).expect("image");
            }
            Sort::Cri => {
                self.children.push(containerd::spawn(&self.dir, &self.cgroup));
                containerd::connect(&self.dir).await;
            }
        }
    }

    /// The runtime, as the node has it.
    pub async fn runtime(&self) -> Arc<dyn Runtime> {
        match self.sort {
            Sort::Embedded => Arc::new(
                oci::Embedded::connect(&self.dir.join("runtime")).await.expect("the supervisor lives"),
            ),
            Sort::Cri => Arc::new(containerd::again(&self.dir).await),
        }
    }

    pub fn start_node(&mut self) {
        let text = |p: PathBuf| p.to_string_lossy().into_owned();
        let runtime = match self.sort {
            Sort::Embedded => format!("embedded={}", self.dir.join("runtime").display()),
            Sort::Cri => format!("cri=unix://{}", self.dir.join("containerd.sock").display()),
        };
        let mut args = vec!["node".to_owned(), "--name=n1".into(), "--kubeconfig".into()];
        args.extend([text(self.kubeconfig.clone()), "--data-dir".into(), text(self.dir.join("node"))]);
        args.extend(["--runtime".into(), runtime, "--network".into(), "none".into()]);
        args.extend(["--listen".into(), "127.0.0.1:0".into(), "--cgroup-root".into(), self.cgroup.clone()]);
        args.extend(self.flags.clone());
        let mut command = match self.sort {
            Sort::Embedded => Command::new(KUTTER),
            Sort::Cri => {
                // Mounts of volumes have to be where containerd sees them.
                let mut command = Command::new("nsenter");
                let containerd = self.children.last().expect("containerd").id();
                command.args(["--target", &containerd.to_string(), "--mount", KUTTER]);
                command
            }
        };
        command.args(args).env("KUTTER_LOG", "warn").stdout(Stdio::null());
        self.node = Some(command.spawn().expect("starts"));
    }

    pub fn kill_node(&mut self) {
        if let Some(mut node) = self.node.take() {
            node.kill().expect("kill");
            node.wait().expect("wait");
        }
    }

    /// Asks the node process to end, and waits until it has.
    pub async fn terminate_node(&mut self) {
        let Some(mut node) = self.node.take() else { return };
        let pid = nix::unistd::Pid::from_raw(node.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("kill");
        until("the end of the node process", || {
            let ended = node.try_wait().expect("wait");
            async move { ended }
        })
        .await;
    }

    /// The messages of events about a pod with this reason.
    pub async fn events(&self, name: &str, reason: &str) -> Vec<String> {
        let options = ListOptions::default().field("involvedObject.name", name);
        let list = self.client.list::<Event>("default", &options).await.map(|l| l.items).unwrap_or_default();
        let mine = list.into_iter().filter(|e| e.reason.as_deref() == Some(reason));
        mine.filter_map(|e| e.message).collect()
    }

    /// Waits for an event about a pod whose message contains `text`.
    pub async fn event(&self, name: &str, reason: &str, text: &str) {
        let what = format!("event {reason} of {name} with {text:?}");
        until(&what, || async {
            self.events(name, reason).await.iter().any(|m| m.contains(text)).then_some(())
        })
        .await;
    }

    /// Runs a command in the running container `c` of a pod; answers with its output.
    pub async fn exec(&self, pod: &Pod, command: &str) -> String {
        let id = status(pod, "c").and_then(|s| s.container_id.clone()).expect("a container");
        let bare = id.rsplit('/').next().expect("an id").to_owned();
        let command = ["sh", "-c", command].map(String::from).to_vec();
        let done = self.runtime().await.exec_sync(&bare, command, 10).await.expect("runs");
        String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).trim().to_owned()
    }

    pub async fn create(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = json!("n1");
        let pod = json!({ "metadata": { "name": name, "namespace": "default" }, "spec": spec });
        self.client.create::<Pod>(&serde_json::from_value(pod).expect("a pod")).await.expect("created");
    }

    /// The pod once `done` holds for it.
    pub async fn pod(&self, name: &str, what: &str, done: impl Fn(&Pod) -> bool) -> Pod {
        let last = std::cell::RefCell::new(None);
        let found = until_or(|| async {
            let pod = self.client.find::<Pod>("default", name).await.ok()?;
            let found = pod.clone().filter(&done);
            last.replace(pod);
            found
        });
        match found.await {
            Some(pod) => pod,
            None => panic!("pod {name}: {what} did not happen: {:?}", last.take().map(|p| p.status)),
        }
    }

    pub async fn delete(&self, name: &str) {
        self.client.delete::<Pod>("default", name, &DeleteOptions::default()).await.expect("deleted");
        until(&format!("the end of pod {name}"), || async {
            self.client.find::<Pod>("default", name).await.ok()?.is_none().then_some(())
        })
        .await;
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for child in self.node.iter_mut().chain(&mut self.children) {
            let _ = child.kill();
            let _ = child.wait();
        }
        let cgroups = Cgroups::detect().unwrap_or_default();
        for _ in 0..100 {
            cgroups.kill(&self.cgroup);
            if cgroups.remove(&self.cgroup) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = volumes::mounts::undo(&self.dir);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}

pub fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

pub fn status<'a>(pod: &'a Pod, name: &str) -> Option<&'a k8s_openapi::api::core::v1::ContainerStatus> {
    let s = pod.status.as_ref()?;
    s.container_statuses.iter().chain(&s.init_container_statuses).flatten().find(|c| c.name == name)
}

pub fn waits(pod: &Pod, name: &str, reason: &str) -> bool {
    let waiting = status(pod, name).and_then(|s| s.state.as_ref()?.waiting.as_ref());
    waiting.and_then(|w| w.reason.as_deref()) == Some(reason)
}

pub fn script(name: &str, text: &str) -> Value {
    json!({ "name": name, "image": IMAGE, "command": ["sh", "-c", text] })
}
