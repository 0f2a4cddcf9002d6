//! The kubelet: what all pod workers share, and the dispatch of wake-ups to them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use client::{Cache, Client, ListOptions};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use oci::runtime::{Filter, Runtime};
use parking_lot::Mutex;
use pods::threshold::{Known, Met};
use tokio::sync::Notify;

use crate::events::Recorder;
use crate::facts::{self, Machine};
use crate::network::PodNetwork;
use crate::observe::POD_UID;
use crate::pulled::Pulled;
use crate::refs::Refs;
use crate::{
    Options, certificates, cgroups, pressure, register, server, statics, usage, users, volume, worker,
};

/// Everything pod workers share.
pub struct Kubelet {
    /// What this node was told.
    pub options: Options,
    /// The API.
    pub client: Client,
    /// The containers.
    pub runtime: Arc<dyn Runtime>,
    /// The name of the runtime, which prefixes container ids.
    pub runtime_name: String,
    /// Its version.
    pub runtime_version: String,
    /// The pod network.
    pub network: Arc<dyn PodNetwork>,
    /// Pods bound to this node.
    pub pods: Cache<Pod>,
    /// Services, for the variables that link to them.
    pub services: Cache<Service>,
    /// ConfigMaps and Secrets in use.
    pub refs: Refs,
    /// Events.
    pub events: Recorder,
    /// The machine.
    pub machine: Machine,
    /// The Node object as last written.
    pub node: Mutex<Option<Node>>,
    /// Pulls that may go on at once.
    pub pulls: tokio::sync::Semaphore,
    /// The port the HTTPS server got.
    pub port: Mutex<u16>,
    /// Told when a mirror of a static pod changed in the API.
    pub mirrors: Notify,
    /// With whose credentials images were pulled.
    pub pulled: Pulled,
    /// Devices that volumes are on.
    pub devices: volume::Devices,
    /// The ids of pods with user namespaces.
    pub users: users::Ranges,
    /// How full volumes were when last measured.
    pub usage: usage::Kept,
    /// Processor time as last read.
    pub rates: crate::summary::Rates,
    /// Where images are, once the runtime told.
    pub image_path: OnceLock<PathBuf>,
    /// Counts for the metrics.
    pub tally: crate::tally::Tally,
    /// Whether the node takes no more pods, since it shuts down.
    pub shutting_down: AtomicBool,
    /// Told when a condition of pressure comes or goes.
    pub pressed: Notify,
    /// When each condition of pressure was last seen.
    pressures: Mutex<BTreeMap<&'static str, Instant>>,
    /// Which thresholds were met before.
    eviction: Mutex<Known>,
    /// Pods whose resize waits for room.
    deferred: Mutex<HashSet<String>>,
    /// The HTTPS server.
    server: Mutex<Option<serve::Running>>,
    admitted: Mutex<BTreeMap<String, Arc<Pod>>>,
    handles: Mutex<HashMap<String, Arc<Handle>>>,
}

/// What others know of a worker.
pub struct Handle {
    /// The pod as last heard of.
    pub pod: Mutex<Arc<Pod>>,
    /// Whether the API no longer has it.
    pub gone: AtomicBool,
    /// Whether the API may have lost its status.
    pub unreported: AtomicBool,
    /// Whether an object it refers to changed.
    pub refs_changed: AtomicBool,
    /// A decision of the node about it, to be taken up by the worker.
    pub end: Mutex<Option<pods::model::End>>,
    /// Where its volumes are.
    pub volumes: Mutex<BTreeMap<String, PathBuf>>,
    /// The status as the worker last made it.
    pub status: Mutex<Option<k8s_openapi::api::core::v1::PodStatus>>,
    /// Wakes the worker.
    pub notify: Notify,
}

/// The kubelet could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The runtime does not answer.
    #[error("reach the container runtime")]
    Runtime(#[from] oci::runtime::Error),
    /// The HTTPS server did not start.
    #[error(transparent)]
    Server(#[from] server::ServeError),
    /// A directory could not be made.
    #[error("make directory {path}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

impl Kubelet {
    /// Starts the kubelet. It lives until the process ends.
    pub async fn start(
        options: Options,
        client: Client,
        runtime: Arc<dyn Runtime>,
        network: Arc<dyn PodNetwork>,
    ) -> Result<Arc<Kubelet>, StartError> {
        for path in [&options.data_dir, &options.log_dir] {
            std::fs::create_dir_all(path)
                .map_err(|source| StartError::Directory { path: path.clone(), source })?;
        }
        match options.size.enforce(&options.cgroup_root) {
            Ok(notes) if options.size == crate::size::Size::default() => drop(notes),
            Ok(notes) => {
                notes.iter().for_each(|note| tracing::warn!(note, "the node's size is not enforced"))
            }
            Err(error) => tracing::warn!(%error, "the cgroup of the node's pods cannot be set up"),
        }
        let client = client.named("kutter-node");
        let version = runtime.version().await?;
        let events = Recorder::start(client.clone(), options.name.clone());
        let mine = ListOptions::default().field("spec.nodeName", &options.name);
        let pods = Cache::<Pod>::builder(client.clone()).options(mine).start();
        let services = Cache::<Service>::builder(client.clone()).start();
        let kubelet = Arc::new_cyclic(|weak: &std::sync::Weak<Kubelet>| {
            let weak = weak.clone();
            let waker = Arc::new(move |uid: &str| {
                if let Some(handle) = weak.upgrade().and_then(|k| k.handle(uid)) {
                    handle.refs_changed.store(true, Ordering::Release);
                    handle.notify.notify_one();
                }
            });
            Kubelet {
                refs: Refs::new(client.clone(), waker),
                machine: options.size.of(facts::machine()),
                runtime_name: version.name,
                runtime_version: version.version,
                node: Mutex::default(),
                pulls: tokio::sync::Semaphore::new(options.pulls_at_once.max(1)),
                port: Mutex::new(options.listen.port()),
                mirrors: Notify::new(),
                pulled: Pulled::open(&options.data_dir),
                devices: Arc::default(),
                users: users::Ranges::open(&options.data_dir),
                usage: Mutex::default(),
                rates: crate::summary::Rates::default(),
                image_path: OnceLock::new(),
                tally: crate::tally::Tally::default(),
                shutting_down: AtomicBool::new(false),
                pressed: Notify::new(),
                pressures: Mutex::default(),
                eviction: Mutex::default(),
                deferred: Mutex::default(),
                server: Mutex::default(),
                admitted: Mutex::default(),
                handles: Mutex::default(),
                options,
                client,
                runtime,
                network,
                pods,
                services,
                events,
            }
        });
        *kubelet.server.lock() = Some(server::start(kubelet.clone()).await?);
        let (o, m) = (&kubelet.options, &kubelet.machine);
        tracing::info!(
            node = o.name,
            listen = %o.listen,
            runtime = kubelet.runtime_name,
            cpus = m.cpus,
            memory_mib = m.memory >> 20,
            "node started"
        );
        tokio::spawn(kubelet.clone().listen());
        tokio::spawn(register::run(kubelet.clone()));
        if let Some(file) = kubelet.options.client_pem.clone() {
            tokio::spawn(certificates::client(kubelet.clone(), file));
        }
        tokio::spawn(kubelet.clone().dispatch());
        tokio::spawn(pressure::run(kubelet.clone()));
        if let Some(dir) = kubelet.options.static_pods.clone() {
            tokio::spawn(statics::run(kubelet.clone(), dir));
        }
        Ok(kubelet)
    }

    /// The directory of a pod's files.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        volumes::setup::pod_dir(&self.options.data_dir, uid)
    }

    /// The directory of a pod's log files.
    pub fn pod_logs(&self, pod: &Pod) -> PathBuf {
        let m = &pod.metadata;
        let part = |v: &Option<String>| v.clone().unwrap_or_default();
        self.options.log_dir.join(format!("{}_{}_{}", part(&m.namespace), part(&m.name), part(&m.uid)))
    }

    /// The worker of this pod.
    pub fn handle(&self, uid: &str) -> Option<Arc<Handle>> {
        self.handles.lock().get(uid).cloned()
    }

    /// Every worker, by its pod's uid.
    pub fn every_handle(&self) -> HashMap<String, Arc<Handle>> {
        self.handles.lock().clone()
    }

    /// The worker of the pod of this name.
    pub fn handle_of(&self, namespace: &str, name: &str) -> Option<Arc<Handle>> {
        let handles = self.handles.lock();
        let is = |h: &&Arc<Handle>| {
            let pod = h.pod.lock();
            pod.metadata.namespace.as_deref() == Some(namespace) && pod.metadata.name.as_deref() == Some(name)
        };
        handles.values().find(is).cloned()
    }

    /// Every pod here, with the status as the worker last made it.
    pub fn all_pods(&self) -> Vec<Pod> {
        let handles: Vec<_> = self.handles.lock().values().cloned().collect();
        let with_status = |h: Arc<Handle>| {
            let mut pod = Pod::clone(&h.pod.lock());
            if let Some(status) = h.status.lock().clone() {
                pod.status = Some(status);
            }
            pod
        };
        handles.into_iter().map(with_status).collect()
    }

    /// Wakes the worker of a pod.
    pub fn wake(&self, uid: &str) {
        if let Some(handle) = self.handle(uid) {
            handle.notify.notify_one();
        }
    }

    /// The worker has ended.
    pub(crate) fn forget(&self, uid: &str) {
        self.handles.lock().remove(uid);
        self.release(uid);
        self.refs.release(uid);
        self.users.release(uid);
    }

    /// The pod no longer counts against the node's resources.
    pub(crate) fn release(&self, uid: &str) {
        if self.admitted.lock().remove(uid).is_none() {
            return;
        }
        self.weigh();
        let waiting: Vec<String> = self.deferred.lock().drain().collect();
        waiting.iter().for_each(|uid| self.wake(uid));
    }

    fn weigh(&self) {
        let admitted: Vec<Arc<Pod>> = self.admitted.lock().values().cloned().collect();
        cgroups::weigh(&self.options, admitted.iter().map(|p| &**p));
    }

    /// Gives the pod what it asks for by now, or says what is lacking.
    pub(crate) fn resize(&self, pod: &Pod) -> Result<(), String> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut admitted = self.admitted.lock();
        let others: Vec<&Pod> = admitted.iter().filter(|(u, _)| **u != uid).map(|(_, p)| &**p).collect();
        if let Err(lacks) = pods::admit::resized(pod, &others, &register::allocatable_milli(self)) {
            self.deferred.lock().insert(uid);
            return Err(lacks);
        }
        admitted.insert(uid, Arc::new(pod.clone()));
        drop(admitted);
        self.weigh();
        Ok(())
    }

    /// The thresholds that are met, and those for which a pod may go.
    pub(crate) fn thresholds(&self) -> (Vec<Met>, Vec<Met>) {
        let readings = register::readings(self);
        self.eviction.lock().look(&self.options.eviction, &readings, Timestamp::now())
    }

    /// The conditions of pressure that hold: those seen now, and those seen not long ago.
    pub(crate) fn pressures(&self) -> Vec<&'static str> {
        let (low, _) = self.thresholds();
        let now = Instant::now();
        let mut known = self.pressures.lock();
        let before = known.len();
        known.retain(|_, seen| now.duration_since(*seen) < self.options.pressure_hold);
        let gone = known.len() < before;
        let mut changed = gone;
        for met in low {
            changed |= known.insert(met.reading.signal.condition(), now).is_none();
        }
        if changed {
            self.pressed.notify_one();
        }
        known.keys().copied().collect()
    }

    /// Takes the pod, or says why not. A pod that `runs` already is always taken.
    pub(crate) fn admit(&self, pod: &Arc<Pod>, runs: bool) -> Result<(), pods::admit::Refusal> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let pressures = if runs { Vec::new() } else { self.pressures() };
        let mut admitted = self.admitted.lock();
        if !runs && !admitted.contains_key(&uid) {
            if self.shutting_down.load(Ordering::Acquire) {
                return Err(pods::admit::shutting_down());
            }
            pods::admit::pressed(pod, &pressures)?;
            pods::admit::sysctls(pod, &self.options.allowed_sysctls)?;
            let node = self.node.lock().clone();
            let others: Vec<&Pod> = admitted.values().map(|p| &**p).collect();
            pods::admit::admit(pod, &others, node.as_ref(), &register::allocatable_milli(self))?;
        }
        admitted.insert(uid, pod.clone());
        drop(admitted);
        self.weigh();
        Ok(())
    }

    /// Looks at the own node again when the pod does not fit it as it is remembered: its labels may just have changed.
    pub(crate) async fn recall_node(&self, pod: &Pod) {
        let known = self.node.lock().clone();
        if known.as_ref().is_none_or(|node| pods::admit::selected(pod, node)) {
            return;
        }
        if let Ok(Some(node)) = self.client.find::<Node>("", &self.options.name).await {
            *self.node.lock() = Some(node);
        }
    }

    /// Hands every change of a pod to its worker.
    async fn dispatch(self: Arc<Self>) {
        self.pods.synced().await;
        self.services.synced().await;
        self.clean_orphans().await;
        let sandboxes = self.runtime.list_sandboxes(Filter::default()).await.unwrap_or_default();
        let runs = |p: &Arc<Pod>| {
            let uid = p.metadata.uid.as_deref();
            !pods::spec::host_network(p) && sandboxes.iter().any(|s| uid == Some(&s.metadata.uid))
        };
        let adopted: Vec<Arc<Pod>> = self.pods.list("").into_iter().filter(runs).collect();
        if let Err(error) = self.network.adopt(&adopted).await {
            tracing::warn!(error, "the network of running pods was not brought in line");
        }
        let kubelet = self.clone();
        self.pods.hook(move |change| {
            let uid = |p: &Arc<Pod>| p.metadata.uid.clone().unwrap_or_default();
            let new = change.new.map(uid);
            if let Some(old) = change.old.map(uid).filter(|o| Some(o) != new.as_ref())
                && let Some(handle) = kubelet.handle(&old)
            {
                handle.gone.store(true, Ordering::Release);
                handle.notify.notify_one();
            }
            if change.new.is_none() && change.old.is_some_and(|p| statics::is_mirror(p)) {
                kubelet.mirrors.notify_one();
            }
            // A mirror is a picture of a static pod, whose worker has it from its file.
            if let Some(pod) = change.new.filter(|p| !statics::is_mirror(p)) {
                kubelet.offer(pod.clone());
            }
        });
        std::future::pending::<()>().await;
    }

    /// Gives a pod to its worker, which is made if there is none.
    pub fn offer(self: &Arc<Self>, pod: Arc<Pod>) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut handles = self.handles.lock();
        if let Some(handle) = handles.get(&uid) {
            *handle.pod.lock() = pod;
            handle.notify.notify_one();
            return;
        }
        let handle = Arc::new(Handle {
            pod: Mutex::new(pod),
            gone: AtomicBool::new(false),
            unreported: AtomicBool::new(false),
            refs_changed: AtomicBool::new(false),
            end: Mutex::default(),
            volumes: Mutex::default(),
            status: Mutex::default(),
            notify: Notify::new(),
        });
        handles.insert(uid.clone(), handle.clone());
        tokio::spawn(worker::run(self.clone(), uid, handle));
    }

    /// Passes the runtime's events on. A closed channel means that events were lost: everyone looks again.
    async fn listen(self: Arc<Self>) {
        loop {
            match self.runtime.events().await {
                Ok(mut events) => {
                    let all: Vec<_> = self.handles.lock().values().cloned().collect();
                    all.iter().for_each(|h| h.notify.notify_one());
                    while let Some(event) = events.recv().await {
                        self.wake(&event.pod_uid);
                    }
                }
                Err(error) => tracing::warn!(%error, "the runtime gives no events, trying again"),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Removes what is left of pods that the API no longer has.
    async fn clean_orphans(&self) {
        let mut known: HashSet<String> =
            self.pods.list("").iter().filter_map(|p| p.metadata.uid.clone()).collect();
        if let Some(dir) = &self.options.static_pods {
            known.extend(statics::uids(self, dir));
        }
        let sandboxes = self.runtime.list_sandboxes(Filter::default()).await.unwrap_or_default();
        let orphans = sandboxes.iter().filter(|s| s.labels.get(POD_UID).is_some_and(|u| !known.contains(u)));
        futures_util::future::join_all(orphans.map(|s| self.remove_orphan(s))).await;
        let data = self.options.data_dir.clone();
        let logs = self.options.log_dir.clone();
        let clean = move || {
            for entry in std::fs::read_dir(&logs).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.rsplit('_').next().is_some_and(|uid| !known.contains(uid)) {
                    let _ = std::fs::remove_dir_all(entry.path());
                }
            }
            for uid in volumes::setup::pods_with_data(&data).into_iter().filter(|u| !known.contains(u)) {
                if let Err(error) = volumes::setup::tear_down(&volumes::setup::pod_dir(&data, &uid)) {
                    tracing::warn!(%error, pod = uid, "files of an orphan are left");
                }
            }
        };
        if let Err(error) = tokio::task::spawn_blocking(clean).await {
            tracing::warn!(%error, "the removal of orphans failed");
        }
    }

    async fn remove_orphan(&self, s: &oci::runtime::SandboxStatus) {
        tracing::info!(pod = %s.metadata.name, "removing a pod that no longer exists");
        let of_it = Filter { sandbox: Some(s.id.clone()), ..Filter::default() };
        let containers = self.runtime.list_containers(of_it).await.unwrap_or_default();
        let stops = containers.iter().map(|c| self.runtime.stop_container(&c.id, 10));
        for error in futures_util::future::join_all(stops).await.into_iter().filter_map(Result::err) {
            tracing::warn!(%error, sandbox = %s.id, "an orphan could not be stopped");
        }
        let _ = self.network.detach(&s.metadata.uid).await;
        if let Err(error) = self.runtime.remove_sandbox(&s.id).await {
            tracing::warn!(%error, sandbox = %s.id, "an orphan could not be removed");
        }
        if !s.cgroup_parent.is_empty()
            && let Ok(groups) = oci::cgroup::Cgroups::detect()
        {
            groups.remove(&s.cgroup_parent);
        }
    }
}
