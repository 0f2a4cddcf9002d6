//! The supervision loop: records and observed processes in, steps out, one at a time.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleet::{Cluster, ClusterView, Desired, NodePool, ProcessState, ProcessView, Role, Step, Target, phase};
use tokio::net::UnixDatagram;
use tokio::sync::{Mutex, Notify, mpsc, watch};

use crate::forward::Forward;
use crate::process::{Happening, Processes, parse_run_name};
use crate::provision::Provision;
use crate::records::Records;
use crate::{Layout, ManagerError, api};

/// How much of a log is read for its last words.
const LAST_BYTES: u64 = 4096;

/// Happenings that may wait for the engine.
const HAPPENINGS_MAX: usize = 1024;

/// How a manager is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The state directory.
    pub directory: PathBuf,
    /// Loopback ports to try for the ingress, in order.
    pub ingress_ports: Vec<u16>,
}

/// The running manager.
pub struct Manager {
    pub(crate) layout: Layout,
    pub(crate) records: Records,
    options: Options,
    pub(crate) provision: Provision,
    state: Mutex<State>,
    changed: Notify,
    views: watch::Sender<u64>,
    stop: watch::Sender<bool>,
    started: Instant,
}

struct State {
    processes: Processes,
    forwards: HashMap<String, Forward>,
    why: BTreeMap<String, Vec<String>>,
}

impl Manager {
    /// Runs until [`Manager::stop`] or SIGTERM. Clusters go on when the manager ends.
    pub async fn run(options: Options) -> Result<(), ManagerError> {
        let layout = Layout::new(&options.directory);
        make_private_dir(&layout.manager())?;
        let _lock = lock(&layout)?;
        let records = Records::open(&layout.manager().join("store"))?;
        let (sender, mut happenings) = mpsc::channel(HAPPENINGS_MAX);
        let notify = bind_notify(&layout.notify_socket())?;
        let processes = Processes::adopt(layout.root(), sender.clone());
        let manager = Arc::new(Manager {
            provision: Provision::new(layout.clone()),
            state: Mutex::new(State { processes, forwards: HashMap::new(), why: BTreeMap::new() }),
            changed: Notify::new(),
            views: watch::Sender::new(0),
            stop: watch::Sender::new(false),
            started: Instant::now(),
            layout,
            records,
            options,
        });
        tracing::info!(pid = std::process::id(), directory = %manager.layout.root().display(), "manager started");
        tokio::spawn(hear_ready(notify, manager.layout.root().display().to_string(), sender));
        let api = tokio::spawn(api::serve(Arc::clone(&manager)));
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .map_err(ManagerError::file("watch signals for", manager.layout.root()))?;
        let mut stop = manager.stop.subscribe();
        loop {
            let wake = manager.pass().await;
            tokio::select! {
                Some(happening) = happenings.recv() => {
                    let now = manager.now_ms();
                    manager.state.lock().await.processes.note(&happening, now);
                }
                () = manager.changed.notified() => {}
                () = sleep_until(wake, manager.now_ms()) => {}
                _ = stop.changed() => break,
                _ = terminate.recv() => break,
            }
        }
        api.abort();
        std::fs::remove_file(manager.layout.socket()).ok();
        tracing::info!("manager ends; clusters go on");
        Ok(())
    }

    /// Ends the manager, not the clusters.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// One plan, executed. Gives the time at which to look again.
    async fn pass(&self) -> Option<u64> {
        let (clusters, pools) = (self.records.clusters(), self.records.pools());
        let mut state = self.state.lock().await;
        let plan = fleet::plan(&clusters, &pools, &state.processes.observed(), self.now_ms());
        for cluster in &clusters {
            let mut why = self.failing(&state, &cluster.name);
            why.extend(plan.why.iter().cloned());
            state.why.insert(cluster.name.clone(), why);
        }
        let again = !plan.steps.is_empty();
        for step in plan.steps {
            if let Err(error) = self.execute(&mut state, &step, &clusters, &pools).await {
                let text = chain(&error);
                tracing::error!(?step, error = text, "step failed");
                if let Step::Start(target) = &step {
                    let now = self.now_ms();
                    state.processes.note_failed_start(target, now);
                    state.why.entry(target.cluster.clone()).or_default().push(text);
                }
            }
        }
        self.tend_forwards(&mut state, &clusters, &pools).await;
        drop(state);
        self.views.send_modify(|v| *v += 1);
        if again { Some(self.now_ms()) } else { plan.wake_ms }
    }

    /// A sentence for each process that ends again and again, with its own last words.
    fn failing(&self, state: &State, cluster: &str) -> Vec<String> {
        let ended = |known: &crate::process::Known| match known.state {
            ProcessState::Exited(exit) => exit.streak,
            ProcessState::Starting => known.streak,
            _ => 0,
        };
        let failing = state.processes.of_cluster(cluster).filter(|(_, known)| ended(known) > 1);
        failing
            .map(|(target, known)| {
                let who = target.role.node().map_or_else(
                    || target.role.word().to_owned(),
                    |node| format!("{} of {node}", target.role.word()),
                );
                let words = last_words(&self.layout.log(target));
                format!("{who} ended {} times in a row: {words}", ended(known))
            })
            .collect()
    }

    async fn execute(
        &self,
        state: &mut State,
        step: &Step,
        clusters: &[Cluster],
        pools: &[NodePool],
    ) -> Result<(), ManagerError> {
        let now = self.now_ms();
        match step {
            Step::Start(target) => {
                let Some(cluster) = clusters.iter().find(|c| c.name == target.cluster) else { return Ok(()) };
                let supervisor = target.role.node().and_then(|node| {
                    let role = Role::Supervisor { node: node.to_owned() };
                    state.processes.get(&Target { cluster: cluster.name.clone(), role }).map(|k| k.pid)
                });
                let command = self.provision.command(cluster, pools, target, supervisor).await?;
                state.processes.start(command, now).await?;
                let pid = state.processes.get(target).map(|k| k.pid);
                self.mark(cluster, pools, target);
                tracing::info!(
                    cluster = target.cluster,
                    role = target.role.word(),
                    node = target.role.node(),
                    pid,
                    "started"
                );
                Ok(())
            }
            Step::Stop(target) => {
                state.processes.signal(target, false, now);
                Ok(())
            }
            Step::Kill(target) => {
                state.processes.signal(target, true, now);
                Ok(())
            }
            Step::Forget(target) => {
                state.processes.forget(target);
                let Some(cluster) = clusters.iter().find(|c| c.name == target.cluster) else { return Ok(()) };
                let gone =
                    self.wanted_nodes(cluster, pools).iter().all(|n| Some(n.as_str()) != target.role.node());
                let of_node = |t: &Target| t.role.node().is_some() && t.role.node() == target.role.node();
                let others = state.processes.of_cluster(&cluster.name).any(|(t, _)| of_node(t));
                match target.role.node() {
                    Some(node) if !others => self.provision.clear_node(cluster, pools, node, gone).await,
                    _ => Ok(()),
                }
            }
            Step::Remove(name) => {
                tracing::info!(cluster = name, "removed with all its data");
                state.forwards.remove(name);
                state.why.remove(name);
                if let Some(cluster) = clusters.iter().find(|c| c.name == *name) {
                    self.provision.clear_cluster(cluster).await?;
                }
                self.records.delete_cluster(name).await
            }
        }
    }

    /// Brings labels and taints of the pool to the Node of a node process that was started. A member's manager may
    /// not change taints.
    fn mark(&self, cluster: &Cluster, pools: &[NodePool], target: &Target) {
        let Role::Node { node } = &target.role else { return };
        let own = pools.iter().find(|p| p.cluster == cluster.name && p.ordinal_of(node).is_some());
        if let Some(pool) = own.filter(|_| cluster.remote.is_none()) {
            let kubeconfig = self.layout.admin_kubeconfig(&cluster.name);
            tokio::spawn(crate::marks::settle(kubeconfig, node.clone(), fleet::marks::Marks::of(pool)));
        }
    }

    /// The nodes whose data is kept: members of a pool of a cluster that is not being deleted.
    fn wanted_nodes(&self, cluster: &Cluster, pools: &[NodePool]) -> Vec<String> {
        if cluster.desired == Desired::Deleted {
            return Vec::new();
        }
        let member = |p: &NodePool| {
            let mut pool = p.clone();
            pool.stopped.clear();
            pool.node_names()
        };
        pools.iter().filter(|p| p.cluster == cluster.name).flat_map(member).collect()
    }

    /// Keeps one door per running cluster, leading to its nodes' ingress.
    async fn tend_forwards(&self, state: &mut State, clusters: &[Cluster], pools: &[NodePool]) {
        for cluster in clusters {
            if cluster.desired != Desired::Running || cluster.remote.is_some() {
                state.forwards.remove(&cluster.name);
                continue;
            }
            let targets = self.provision.ingress_targets(cluster, pools);
            if let Some(forward) = state.forwards.get(&cluster.name) {
                forward.set_targets(targets);
                continue;
            }
            match Forward::open(&self.options.ingress_ports, targets).await {
                Ok(forward) => {
                    state.forwards.insert(cluster.name.clone(), forward);
                }
                Err(error) => tracing::warn!(%error, "no port is free for the ingress"),
            }
        }
    }

    /// What the API shows of one cluster.
    pub(crate) async fn view(&self, name: &str) -> Result<ClusterView, ManagerError> {
        let cluster = self.cluster(name)?;
        let state = self.state.lock().await;
        Ok(self.view_of(&cluster, &self.records.pools(), &state))
    }

    /// What the API shows of all clusters.
    pub(crate) async fn views(&self) -> Vec<ClusterView> {
        let (clusters, pools) = (self.records.clusters(), self.records.pools());
        let state = self.state.lock().await;
        clusters.iter().map(|c| self.view_of(c, &pools, &state)).collect()
    }

    fn view_of(&self, cluster: &Cluster, pools: &[NodePool], state: &State) -> ClusterView {
        let mut processes: Vec<ProcessView> = state
            .processes
            .of_cluster(&cluster.name)
            .map(|(target, known)| ProcessView {
                role: target.role.word().to_owned(),
                node: target.role.node().map(str::to_owned),
                pid: (!matches!(known.state, ProcessState::Exited(_))).then_some(known.pid),
                state: word(known.state).to_owned(),
                restarts: known.restarts,
                failures: match known.state {
                    ProcessState::Exited(exit) => exit.streak,
                    _ => 0,
                },
                log: self.layout.log(target),
                memory_bytes: None,
            })
            .collect();
        processes.sort_by(|a, b| (&a.node, &a.role).cmp(&(&b.node, &b.role)));
        let pools: Vec<NodePool> = pools.iter().filter(|p| p.cluster == cluster.name).cloned().collect();
        let control_planes = usize::from(cluster.remote.is_none());
        let each = |p: &NodePool| if p.foreign_runtime().is_some() { 1 } else { 2 };
        let wanted = control_planes + pools.iter().map(|p| each(p) * p.node_names().len()).sum::<usize>();
        let phase = phase(cluster, wanted, &processes);
        processes.insert(0, self.own_process());
        ClusterView {
            name: cluster.name.clone(),
            phase,
            version: cluster.version.clone(),
            api: match &cluster.remote {
                Some(remote) => remote.server.clone(),
                None => format!("https://{}", fleet::address_plan(cluster.index).api),
            },
            listen: cluster.listen,
            member: cluster.remote.is_some(),
            ingress: state.forwards.get(&cluster.name).map(|f| f.address().to_string()),
            kubeconfig: match pools.iter().flat_map(NodePool::node_names).next() {
                Some(node) if cluster.remote.is_some() => {
                    self.layout.node(&cluster.name, &node).join("kubeconfig")
                }
                _ => self.layout.admin_kubeconfig(&cluster.name),
            },
            why: state.why.get(&cluster.name).cloned().unwrap_or_default(),
            pools,
            processes,
        }
    }

    /// The manager itself, which is a process of each of its clusters.
    fn own_process(&self) -> ProcessView {
        ProcessView {
            role: "manager".to_owned(),
            node: None,
            pid: i32::try_from(std::process::id()).ok(),
            state: "ready".to_owned(),
            restarts: 0,
            failures: 0,
            log: self.layout.manager_log(),
            memory_bytes: None,
        }
    }

    /// The record of a cluster.
    pub(crate) fn cluster(&self, name: &str) -> Result<Cluster, ManagerError> {
        let found = self.records.clusters().into_iter().find(|c| c.name == name);
        found.ok_or_else(|| ManagerError::NotFound { kind: "cluster", name: name.to_owned() })
    }

    /// Keeps a changed cluster, and pools with it, and looks at them.
    pub(crate) async fn put(&self, cluster: &Cluster, pools: &[NodePool]) -> Result<(), ManagerError> {
        for pool in pools {
            pool.check()?;
        }
        for pool in pools {
            self.records.put_pool(pool).await?;
        }
        self.records.put_cluster(cluster).await?;
        self.look();
        Ok(())
    }

    /// Whether a pool is recorded.
    pub(crate) fn has_pool(&self, cluster: &str, name: &str) -> bool {
        self.records.pools().iter().any(|p| p.cluster == cluster && p.name == name)
    }

    /// Starts what has ended again at once.
    pub(crate) async fn forgive(&self, cluster: &str) {
        self.state.lock().await.processes.forgive(cluster);
        self.look();
    }

    /// Ends the control plane's process, so that it starts again with what is recorded now.
    pub(crate) async fn renew_control_plane(&self, cluster: &str) {
        let target = Target { cluster: cluster.to_owned(), role: Role::ControlPlane };
        self.end_to_renew(&target).await;
    }

    /// Ends the node processes of these nodes, so that they start again with what their pool asks for now. Their
    /// containers go on.
    pub(crate) async fn renew(&self, cluster: &str, nodes: &[String]) {
        for node in nodes {
            let target = Target { cluster: cluster.to_owned(), role: Role::Node { node: node.clone() } };
            self.end_to_renew(&target).await;
        }
    }

    async fn end_to_renew(&self, target: &Target) {
        let mut state = self.state.lock().await;
        if state.processes.get(target).is_some_and(|k| !matches!(k.state, ProcessState::Exited(_))) {
            state.processes.signal(target, false, self.now_ms());
        }
    }

    /// Wakes the engine.
    pub(crate) fn look(&self) {
        self.changed.notify_one();
    }

    /// Changes whenever a view may have.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.views.subscribe()
    }
}

/// The last line of a log that is not one of its ordinary ones, or the last at all.
fn last_words(log: &Path) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LAST_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines().rev().filter(|l| !l.trim().is_empty());
    let last = lines.clone().next().unwrap_or("it left no word");
    let told = lines.find_map(|l| l.strip_prefix("kutter: ")).unwrap_or(last);
    told.chars().take(300).collect()
}

fn word(state: ProcessState) -> &'static str {
    match state {
        ProcessState::Starting => "starting",
        ProcessState::Ready => "ready",
        ProcessState::Stopping { .. } => "stopping",
        ProcessState::Exited(_) => "exited",
    }
}

async fn sleep_until(wake_ms: Option<u64>, now_ms: u64) {
    match wake_ms {
        Some(at) => tokio::time::sleep(Duration::from_millis(at.saturating_sub(now_ms))).await,
        None => std::future::pending().await,
    }
}

/// The error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn make_private_dir(path: &Path) -> Result<(), ManagerError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(ManagerError::file("create", path))
}

/// Takes the state directory for this process, for as long as the file is open.
fn lock(layout: &Layout) -> Result<nix::fcntl::Flock<std::fs::File>, ManagerError> {
    let path = layout.lock();
    let file = std::fs::OpenOptions::new()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(ManagerError::file("open", &path))?;
    match nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock) {
        Ok(mut locked) => {
            let written = locked.set_len(0).and_then(|()| write!(*locked, "{}", std::process::id()));
            written.map_err(ManagerError::file("write", &path))?;
            Ok(locked)
        }
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            let pid = std::fs::read_to_string(&path).unwrap_or_default();
            let pid = if pid.is_empty() { "?".to_owned() } else { pid };
            Err(ManagerError::Second { path: layout.root().display().to_string(), pid })
        }
        Err((_, error)) => Err(ManagerError::file("lock", &path)(error.into())),
    }
}

fn bind_notify(path: &Path) -> Result<UnixDatagram, ManagerError> {
    std::fs::remove_file(path).ok();
    UnixDatagram::bind(path).map_err(ManagerError::file("listen on", path))
}

/// Hears `READY=1` together with the sender's run name.
async fn hear_ready(socket: UnixDatagram, root: String, happenings: mpsc::Sender<Happening>) {
    let mut buffer = [0u8; 1024];
    while let Ok(length) = socket.recv(&mut buffer).await {
        let text = String::from_utf8_lossy(&buffer[..length]);
        let ready = text.lines().any(|l| l == "READY=1");
        let run = text.lines().find_map(|l| l.strip_prefix("X_KUTTER_RUN="));
        if let Some(target) = run.and_then(|r| parse_run_name(&root, r)).filter(|_| ready)
            && happenings.send(Happening::Ready(target)).await.is_err()
        {
            return;
        }
    }
}
