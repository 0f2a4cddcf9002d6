//! A node against our own API server and controllers: real processes, real containers, no pod network.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use client::{Client, Config, DeleteOptions};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, ServiceAccount};
use oci::cgroup::Cgroups;
use oci::images::{Binary, ProcessConfig};
use serde_json::{Value, json};

const KUTTER: &str = env!("CARGO_BIN_EXE_kutter");
const IMAGE: &str = "localhost/busybox:1";

/// The static busybox of Debian, which `.ci/run` fetches.
fn busybox() -> PathBuf {
    let named = std::env::var_os("KUTTER_BUSYBOX").map(PathBuf::from);
    let known = ["/bin/busybox", "/usr/bin/busybox", "/usr/lib/kutter/busybox"].map(PathBuf::from);
    let cached = std::env::var_os("HOME").map(|h| Path::new(&h).join(".cache/kutter-ci/busybox/bin/busybox"));
    let mut all = named.into_iter().chain(cached).chain(known);
    all.find(|p| p.exists()).expect("no busybox: run .ci/run once or set KUTTER_BUSYBOX to a static busybox")
}

struct Rig {
    dir: PathBuf,
    cgroup: String,
    kubeconfig: PathBuf,
    children: Vec<Child>,
    node: Option<Child>,
    client: Client,
}

fn start(args: &[&str]) -> Child {
    Command::new(KUTTER).args(args).env("KUTTER_LOG", "warn").stdout(Stdio::piped()).spawn().expect("starts")
}

/// Waits until `found` finds something; the limit only keeps a broken run from hanging.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut found: impl FnMut() -> F) -> T {
    for _ in 0..1500 {
        if let Some(value) = found().await {
            return value;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what} did not happen");
}

impl Rig {
    async fn new() -> Rig {
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
        let controllers = start(&["controllers", "--kubeconfig", &text(&kubeconfig)]);
        let runtime = dir.join("runtime");
        std::fs::create_dir_all(&runtime).expect("dir");
        let supervisor = start(&["supervisor", "--dir", &text(&runtime)]);
        let embedded =
            until("the supervisor's answer", || async { oci::Embedded::connect(&runtime).await.ok() }).await;
        let applets = "sh cat echo sleep true test rm ls id";
        let links = applets.split(' ').map(|a| (format!("/bin/{a}").into(), "/bin/busybox".into())).collect();
        let image = Binary {
            name: IMAGE.into(),
            source: busybox(),
            target: "/bin/busybox".into(),
            links,
            files: vec![("/etc/passwd".into(), "root:x:0:0:root:/:/bin/sh\n".into())],
            config: ProcessConfig { cmd: vec!["sh".into()], ..ProcessConfig::default() },
        };
        embedded.images().from_binary(&image).expect("image");
        let config = Config::infer(Some(&kubeconfig), None).expect("kubeconfig");
        let client = Client::from_config(config).expect("client");
        let children = vec![api, controllers, supervisor];
        let mut rig = Rig { dir, cgroup, kubeconfig, children, node: None, client };
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

    fn start_node(&mut self) {
        let text = |p: PathBuf| p.to_string_lossy().into_owned();
        let runtime = format!("embedded={}", self.dir.join("runtime").display());
        let args = [
            ["node", "--name=n1"].map(String::from).to_vec(),
            vec!["--kubeconfig".into(), text(self.kubeconfig.clone())],
            vec!["--data-dir".into(), text(self.dir.join("node"))],
            vec!["--runtime".into(), runtime, "--network".into(), "none".into()],
            vec!["--listen".into(), "127.0.0.1:0".into(), "--cgroup-root".into(), self.cgroup.clone()],
        ]
        .concat();
        self.node = Some(start(&args.iter().map(String::as_str).collect::<Vec<_>>()));
    }

    fn kill_node(&mut self) {
        if let Some(mut node) = self.node.take() {
            node.kill().expect("kill");
            node.wait().expect("wait");
        }
    }

    async fn create(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = json!("n1");
        let pod = json!({ "metadata": { "name": name, "namespace": "default" }, "spec": spec });
        self.client.create::<Pod>(&serde_json::from_value(pod).expect("a pod")).await.expect("created");
    }

    /// The pod once `done` holds for it.
    async fn pod(&self, name: &str, what: &str, done: impl Fn(&Pod) -> bool) -> Pod {
        let describe = format!("pod {name}: {what}");
        until(&describe, || async { self.client.find::<Pod>("default", name).await.ok()?.filter(&done) })
            .await
    }

    async fn delete(&self, name: &str) {
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
            let roots: Vec<PathBuf> =
                cgroups.v1.iter().map(|(_, p)| p.clone()).chain(cgroups.v2.clone()).collect();
            roots.iter().for_each(|root| kill_below(&cgroups, root, &self.cgroup));
            if cgroups.remove(&self.cgroup) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = volumes::mounts::undo(&self.dir);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn kill_below(cgroups: &Cgroups, root: &Path, path: &str) {
    cgroups.kill(path);
    let dir = root.join(path.trim_start_matches('/'));
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            kill_below(cgroups, root, &format!("{path}/{}", entry.file_name().to_string_lossy()));
        }
    }
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}

fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn status<'a>(pod: &'a Pod, name: &str) -> Option<&'a k8s_openapi::api::core::v1::ContainerStatus> {
    let s = pod.status.as_ref()?;
    s.container_statuses.iter().chain(&s.init_container_statuses).flatten().find(|c| c.name == name)
}

fn waits(pod: &Pod, name: &str, reason: &str) -> bool {
    let waiting = status(pod, name).and_then(|s| s.state.as_ref()?.waiting.as_ref());
    waiting.and_then(|w| w.reason.as_deref()) == Some(reason)
}

fn script(name: &str, text: &str) -> Value {
    json!({ "name": name, "image": IMAGE, "command": ["sh", "-c", text] })
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_live_and_die() {
    let mut rig = Rig::new().await;
    completes_with_volumes(&rig).await;
    reports_what_is_wrong(&rig).await;
    survives_the_node_process(&mut rig).await;
    // A pod without grace leaves the API at once, the node a little later.
    let pods = rig.dir.join("node/pods");
    let empty = || async { (std::fs::read_dir(&pods).ok()?.count() == 0).then_some(()) };
    until("the removal of all files of pods", empty).await;
}

/// Init container, sidecar, volumes, variables, termination message, phase Succeeded.
async fn completes_with_volumes(rig: &Rig) {
    let map = json!({ "metadata": { "name": "m", "namespace": "default" }, "data": { "a": "1" } });
    rig.client.create::<ConfigMap>(&serde_json::from_value(map).expect("map")).await.expect("map");
    let secret = json!({ "metadata": { "name": "s", "namespace": "default" }, "data": { "b": "Mg==" } });
    rig.client.create::<Secret>(&serde_json::from_value(secret).expect("secret")).await.expect("secret");
    let mounts = json!([{ "name": "d", "mountPath": "/d" }, { "name": "p", "mountPath": "/p" }]);
    let mut init = script("init", "echo init > /d/f");
    init["volumeMounts"] = mounts.clone();
    let mut side = script("side", "trap 'exit 0' TERM; while true; do sleep 0.1; done");
    side["restartPolicy"] = json!("Always");
    let mut main = script("main", "cat /d/f /p/a /p/b; echo -n $A$NAME > /dev/termination-log");
    main["volumeMounts"] = mounts;
    main["env"] = json!([
        { "name": "A", "valueFrom": { "configMapKeyRef": { "name": "m", "key": "a" } } },
        { "name": "NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
    ]);
    let volumes = json!([
        { "name": "d", "emptyDir": {} },
        { "name": "p", "projected": { "sources": [{ "configMap": { "name": "m" } }, { "secret": { "name": "s" } }] } },
    ]);
    let spec = json!({ "restartPolicy": "Never", "initContainers": [init, side], "containers": [main], "volumes": volumes });
    rig.create("job", spec).await;
    let pod = rig.pod("job", "succeeds", |p| phase(p) == "Succeeded").await;
    let ended = status(&pod, "main").and_then(|s| s.state.as_ref()?.terminated.clone()).expect("ended");
    assert_eq!(
        (ended.exit_code, ended.reason.as_deref(), ended.message.as_deref()),
        (0, Some("Completed"), Some("1job"))
    );
    let uid = pod.metadata.uid.expect("uid");
    let log = rig.dir.join(format!("node/log/pods/default_job_{uid}/main/0.log"));
    let lines: Vec<String> = std::fs::read_to_string(log)
        .expect("log")
        .lines()
        .filter_map(|l| l.splitn(4, ' ').nth(3).map(str::to_string))
        .collect();
    assert_eq!(lines.concat(), "init12");
    rig.delete("job").await;
}

/// Reasons of containers that cannot run, refusal, deadline.
async fn reports_what_is_wrong(rig: &Rig) {
    rig.create("crash", json!({ "containers": [script("c", "exit 3")] })).await;
    let missing = json!({ "name": "c", "image": "localhost/absent:1", "imagePullPolicy": "Never" });
    let invalid = json!({ "name": "d", "image": "BAD" });
    rig.create("image", json!({ "containers": [missing, invalid] })).await;
    let mut config = script("c", "sleep 100");
    config["env"] =
        json!([{ "name": "A", "valueFrom": { "configMapKeyRef": { "name": "later", "key": "a" } } }]);
    rig.create("config", json!({ "terminationGracePeriodSeconds": 0, "containers": [config] })).await;
    let mut big = script("c", "true");
    big["resources"] = json!({ "requests": { "cpu": "1000" } });
    rig.create("big", json!({ "containers": [big] })).await;
    let late = json!({ "activeDeadlineSeconds": 1, "terminationGracePeriodSeconds": 0, "containers": [script("c", "sleep 100")] });
    rig.create("late", late).await;

    let again =
        |p: &Pod| waits(p, "c", "CrashLoopBackOff") && status(p, "c").is_some_and(|s| s.restart_count > 0);
    let pod = rig.pod("crash", "waits to restart", again).await;
    let s = status(&pod, "c").expect("status");
    let last = s.last_state.as_ref().and_then(|l| l.terminated.as_ref()).expect("last state");
    assert_eq!((s.restart_count, last.exit_code, phase(&pod)), (1, 3, "Running"));
    rig.pod("image", "says why", |p| waits(p, "c", "ErrImageNeverPull") && waits(p, "d", "InvalidImageName"))
        .await;
    rig.pod("config", "says why", |p| waits(p, "c", "CreateContainerConfigError")).await;
    let map = json!({ "metadata": { "name": "later", "namespace": "default" }, "data": { "a": "1" } });
    rig.client.create::<ConfigMap>(&serde_json::from_value(map).expect("map")).await.expect("map");
    rig.pod("config", "runs once the map is there", ready).await;
    let pod = rig.pod("big", "is refused", |p| phase(p) == "Failed").await;
    assert_eq!(pod.status.and_then(|s| s.reason).as_deref(), Some("OutOfcpu"));
    let pod = rig.pod("late", "is ended", |p| phase(p) == "Failed").await;
    assert_eq!(pod.status.and_then(|s| s.reason).as_deref(), Some("DeadlineExceeded"));
    for name in ["crash", "image", "config", "big", "late"] {
        rig.delete(name).await;
    }
}

/// A killed node process touches no container; probes and statuses go on with the next one.
async fn survives_the_node_process(rig: &mut Rig) {
    let mut c = script("c", "while true; do sleep 0.1; done");
    c["readinessProbe"] = json!({ "exec": { "command": ["test", "!", "-f", "/off"] }, "periodSeconds": 1, "failureThreshold": 1 });
    rig.create("stays", json!({ "terminationGracePeriodSeconds": 0, "containers": [c] })).await;
    let before = rig.pod("stays", "is ready", ready).await;
    let id = |p: &Pod| status(p, "c").and_then(|s| s.container_id.clone());
    rig.kill_node();
    let runtime = oci::Embedded::connect(&rig.dir.join("runtime")).await.expect("the supervisor lives");
    let name = id(&before).expect("id");
    let bare = name.rsplit('/').next().expect("id");
    let ask: std::sync::Arc<dyn oci::runtime::Runtime> = std::sync::Arc::new(runtime);
    let command = ["sh", "-c", "echo > /off"].map(String::from).to_vec();
    ask.exec_sync(bare, command, 5).await.expect("the container runs");
    rig.start_node();
    let after = rig.pod("stays", "is probed again", |p| !ready(p)).await;
    assert_eq!((id(&after), status(&after, "c").map(|s| s.restart_count)), (id(&before), Some(0)));
    rig.delete("stays").await;
}
