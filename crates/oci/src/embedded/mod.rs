//! The embedded runtime: images here, processes at the supervisor.
//!
//! This half lives in the node process. It resolves images, users and commands, writes the flat spec of a
//! container, hands pipes over, reads statistics and deletes files; the supervisor does what must outlive it.

mod passwd;
mod resolve;
mod stats;
mod streams;
mod wire;

use crate::cgroup::Cgroups;
use crate::config::{ContainerConfig, Filter, PullRequest, Resources, SandboxConfig};
use crate::images::{Images, Record};
use crate::proto::{Layout, Reply, Request, Spec, now, write_atomic};
use crate::runtime::{Answer, Duplex, Error, ExecResult, Runtime, Stream, StreamOptions};
use crate::state::*;
pub(crate) use stats::of_sandbox;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;
pub(crate) use streams::{inside, port_forward};
use tokio::sync::mpsc;
use wire::{Call, call, odd};

/// Events that may wait for a slow receiver.
const EVENTS_MAX: usize = 4096;

/// Between two looks for what broken pulls left.
const SWEEP_EVERY: Duration = Duration::from_secs(1800);

/// The client half.
#[derive(Clone)]
pub struct Embedded {
    inner: Arc<Inner>,
}

struct Inner {
    layout: Layout,
    images: Images,
    cgroups: Cgroups,
    handlers: Vec<String>,
}

impl Embedded {
    /// Connects to the supervisor that serves `dir`.
    pub async fn connect(dir: &Path) -> Result<Self, Error> {
        Self::connect_with(dir, None, &[]).await
    }

    /// Connects to the supervisor that serves `dir`; pulls follow the file `registries`, if there is one. RuntimeClasses
    /// may name it by `handlers`.
    pub async fn connect_with(
        dir: &Path,
        registries: Option<&Path>,
        handlers: &[String],
    ) -> Result<Self, Error> {
        let dir = dir.canonicalize().map_err(|e| Error::Unavailable(format!("{}: {e}", dir.display())))?;
        let cgroups = Cgroups::detect().map_err(|e| Error::Failed(format!("find cgroups: {e}")))?;
        let mut images = Images::open(&dir)?;
        images.registries = registries.map(Path::to_owned);
        let handlers = handlers.to_vec();
        let inner = Inner { layout: Layout::new(&dir), images, cgroups, handlers };
        call(&inner.layout, Request::Hello).await?;
        let this = Self { inner: Arc::new(inner) };
        tokio::spawn(sweep(Arc::downgrade(&this.inner)));
        Ok(this)
    }

    /// The images below the same directory.
    pub fn images(&self) -> &Images {
        &self.inner.images
    }

    /// Process id of the supervisor.
    pub async fn supervisor_pid(&self) -> Result<u32, Error> {
        match self.ask(Request::Hello).await? {
            Reply::Hello { pid, .. } => Ok(pid),
            other => Err(odd(&other)),
        }
    }

    async fn ask(&self, request: Request) -> Result<Reply, Error> {
        call(&self.inner.layout, request).await
    }

    async fn done(&self, request: Request) -> Result<(), Error> {
        match self.ask(request).await? {
            Reply::Done => Ok(()),
            other => Err(odd(&other)),
        }
    }

    async fn sandboxes(&self, filter: Filter) -> Result<Vec<SandboxStatus>, Error> {
        match self.ask(Request::Sandboxes { filter }).await? {
            Reply::Sandboxes(list) => Ok(list),
            other => Err(odd(&other)),
        }
    }

    async fn containers(&self, filter: Filter) -> Result<Vec<ContainerStatus>, Error> {
        match self.ask(Request::Containers { filter }).await? {
            Reply::Containers(list) => Ok(list),
            other => Err(odd(&other)),
        }
    }

    async fn one_sandbox(&self, id: &str) -> Result<SandboxStatus, Error> {
        let filter = Filter { id: Some(id.into()), ..Filter::default() };
        self.sandboxes(filter).await?.pop().ok_or_else(|| Error::not_found("sandbox", id))
    }

    async fn one_container(&self, id: &str) -> Result<ContainerStatus, Error> {
        let filter = Filter { id: Some(id.into()), ..Filter::default() };
        self.containers(filter).await?.pop().ok_or_else(|| Error::not_found("container", id))
    }

    fn spec(&self, id: &str) -> Result<Spec, Error> {
        let bytes =
            std::fs::read(self.inner.layout.spec(id)).map_err(|_| Error::not_found("container", id))?;
        serde_json::from_slice(&bytes)
            .map_err(|e| Error::Failed(format!("parse spec of container {id:?}: {e}")))
    }

    /// Runs `work` off the event loop.
    async fn off<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&this)).await;
        done.map_err(|e| Error::Failed(format!("background work ended: {e}")))?
    }

    async fn make(&self, sandbox: &str, config: ContainerConfig) -> Result<String, Error> {
        let status = self.one_sandbox(sandbox).await?;
        let status = self.off(move |this| this.prepare(&status, &config)).await?;
        let id = status.id.clone();
        let result = self.done(Request::Create { status: Box::new(status) }).await;
        if result.is_err() {
            self.delete_files(&id).await?;
        }
        result.map(|()| id)
    }

    /// Writes the spec of a container.
    fn prepare(&self, sandbox: &SandboxStatus, config: &ContainerConfig) -> Result<ContainerStatus, Error> {
        let id = new_id();
        let layout = &self.inner.layout;
        let bytes = std::fs::read(layout.sandbox(&sandbox.id).join("config.json"))
            .map_err(|_| Error::not_found("sandbox", &sandbox.id))?;
        let parsed: SandboxConfig = serde_json::from_slice(&bytes)
            .map_err(|e| Error::Failed(format!("parse config of sandbox {:?}: {e}", sandbox.id)))?;
        let (spec, image) = resolve::spec(&id, &sandbox.id, &parsed, config, &self.inner.images)?;
        let dir = layout.container(&id);
        let io = |e: std::io::Error| Error::Failed(format!("write {}: {e}", dir.display()));
        std::fs::create_dir_all(&dir).map_err(io)?;
        let text = serde_json::to_vec(&spec).map_err(|e| Error::Failed(format!("encode spec: {e}")))?;
        write_atomic(&layout.spec(&id), &text).map_err(io)?;
        self.inner.images.touch(&image.id)?;
        let log = &config.log_path;
        let log_path = if log.is_empty() { Default::default() } else { sandbox.log_directory.join(log) };
        let signal = nix::sys::signal::Signal::try_from(spec.stop_signal);
        let stop_signal = signal.map_or(format!("SIGRTMIN+{}", spec.stop_signal - 34), |s| s.to_string());
        Ok(ContainerStatus {
            id,
            sandbox: sandbox.id.clone(),
            name: config.name.clone(),
            attempt: config.attempt,
            state: ContainerState::Created,
            created_at: now(),
            image: if config.user_image.is_empty() {
                config.image.clone()
            } else {
                config.user_image.clone()
            },
            image_ref: image.digests.first().cloned().unwrap_or_else(|| image.id.clone()),
            image_id: image.id,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            log_path,
            user: spec.user,
            stop_signal,
            ..ContainerStatus::default()
        })
    }

    async fn delete_files(&self, id: &str) -> Result<(), Error> {
        let dir = self.inner.layout.container(id);
        self.off(move |_| crate::images::remove_dir(&dir)).await
    }

    async fn status_of(&self, id: &str) -> Result<ContainerStatus, Error> {
        let mut status = self.one_container(id).await?;
        let spec = self.spec(id)?;
        status.mounts = spec.mounts.into_iter().map(|m| m.mount).collect();
        status.resources = spec.resources;
        Ok(status)
    }

    async fn update(&self, id: &str, new: Resources) -> Result<(), Error> {
        let mut spec = self.spec(id)?;
        merge(&mut spec.resources, &new);
        self.done(Request::Update { id: id.into(), resources: Box::new(new) }).await?;
        let text = serde_json::to_vec(&spec).map_err(|e| Error::Failed(format!("encode spec: {e}")))?;
        write_atomic(&self.inner.layout.spec(id), &text)
            .map_err(|e| Error::Failed(format!("write spec: {e}")))
    }

    /// Layers that containers need, whatever happens to their images.
    fn used_layers(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.inner.layout.containers()) else { return vec![] };
        let specs = entries.flatten().filter_map(|e| self.spec(&e.file_name().to_string_lossy()).ok());
        specs.flat_map(|s| s.layers.into_iter().chain(s.mounts.into_iter().flat_map(|m| m.layers))).collect()
    }

    async fn subscribe(&self) -> Result<mpsc::Receiver<Event>, Error> {
        let mut call = Call::new(&self.inner.layout, &Request::Events, &[]).await?;
        call.reply().await?;
        let (to, from) = mpsc::channel(EVENTS_MAX);
        tokio::spawn(async move {
            loop {
                let reply = tokio::select! {
                    reply = call.reply() => reply,
                    () = to.closed() => return,
                };
                let Ok(Reply::Event(event)) = reply else { return };
                if to.try_send(event).is_err() {
                    return;
                }
            }
        });
        Ok(from)
    }
}

/// Now and then removes what broken pulls left, as long as somebody uses the runtime.
async fn sweep(inner: Weak<Inner>) {
    loop {
        let Some(inner) = inner.upgrade() else { return };
        let this = Embedded { inner };
        if let Err(error) = this.off(|this| this.images().sweep(&this.used_layers())).await {
            tracing::warn!(%error, "left-over layers were not swept away");
        }
        drop(this);
        tokio::time::sleep(SWEEP_EVERY).await;
    }
}

fn merge(old: &mut Resources, new: &Resources) {
    macro_rules! take {
        ($($field:ident)*) => { $(if new.$field.is_some() { old.$field = new.$field; })* };
    }
    take!(cpu_shares cpu_quota cpu_period memory_limit memory_swap_limit oom_score_adj pids_limit);
    for (old, new) in [(&mut old.cpuset_cpus, &new.cpuset_cpus), (&mut old.cpuset_mems, &new.cpuset_mems)] {
        if !new.is_empty() {
            old.clone_from(new);
        }
    }
    old.hugepages.extend(new.hugepages.clone());
    old.unified.extend(new.unified.clone());
}

/// 64 random hexadecimal digits, as every runtime has them.
fn new_id() -> String {
    let mut bytes = [0u8; 32];
    // SAFETY: the buffer is as long as said; the kernel fills up to 256 bytes at once.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    debug_assert_eq!(got, 32);
    hex::encode(bytes)
}

impl Runtime for Embedded {
    fn version(&self) -> Answer<'_, Version> {
        Box::pin(async {
            match self.ask(Request::Hello).await? {
                Reply::Hello { version, .. } => {
                    Ok(Version { name: "kutter".into(), version, api_version: "v1".into() })
                }
                other => Err(odd(&other)),
            }
        })
    }

    fn status(&self) -> Answer<'_, RuntimeStatus> {
        Box::pin(async {
            match self.ask(Request::Hello).await? {
                Reply::Hello { notes, user_namespaces, .. } => Ok(RuntimeStatus {
                    ready: true,
                    network_ready: true,
                    message: String::new(),
                    notes,
                    handlers: std::iter::once(&String::new())
                        .chain(&self.inner.handlers)
                        .map(|name| Handler { name: name.clone(), recursive_readonly: true, user_namespaces })
                        .collect(),
                    groups_policy: true,
                }),
                other => Err(odd(&other)),
            }
        })
    }

    fn run_sandbox(&self, config: SandboxConfig) -> Answer<'_, Sandbox> {
        Box::pin(async move {
            let name = &config.runtime_handler;
            if !name.is_empty() && !self.inner.handlers.contains(name) {
                return Err(Error::Invalid(format!("no runtime for {name:?} is configured")));
            }
            match self.ask(Request::RunSandbox { id: new_id(), config: Box::new(config) }).await? {
                Reply::Sandboxes(mut list) => {
                    let status = list.pop().ok_or_else(|| Error::Failed("no sandbox came".into()))?;
                    Ok(Sandbox { id: status.id, netns: status.netns, ips: vec![] })
                }
                other => Err(odd(&other)),
            }
        })
    }

    fn stop_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(self.done(Request::StopSandbox { id: id.into() }))
    }

    fn remove_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            self.stop_sandbox(id).await?;
            let filter = Filter { sandbox: Some(id.into()), ..Filter::default() };
            for container in self.containers(filter).await? {
                self.remove_container(&container.id).await?;
            }
            self.done(Request::RemoveSandbox { id: id.into() }).await?;
            let dir = self.inner.layout.sandbox(id);
            self.off(move |_| crate::images::remove_dir(&dir)).await
        })
    }

    fn sandbox_status<'a>(&'a self, id: &'a str) -> Answer<'a, SandboxStatus> {
        Box::pin(self.one_sandbox(id))
    }

    fn list_sandboxes(&self, filter: Filter) -> Answer<'_, Vec<SandboxStatus>> {
        Box::pin(self.sandboxes(filter))
    }

    fn create_container<'a>(&'a self, sandbox: &'a str, config: ContainerConfig) -> Answer<'a, String> {
        Box::pin(self.make(sandbox, config))
    }

    fn start_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(self.done(Request::Start { id: id.into() }))
    }

    fn stop_container<'a>(&'a self, id: &'a str, timeout_seconds: u32) -> Answer<'a, ()> {
        Box::pin(self.done(Request::Stop { id: id.into(), timeout_seconds }))
    }

    fn remove_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            self.done(Request::Remove { id: id.into() }).await?;
            self.delete_files(id).await
        })
    }

    fn container_status<'a>(&'a self, id: &'a str) -> Answer<'a, ContainerStatus> {
        Box::pin(self.status_of(id))
    }

    fn list_containers(&self, filter: Filter) -> Answer<'_, Vec<ContainerStatus>> {
        Box::pin(self.containers(filter))
    }

    fn update_resources<'a>(&'a self, id: &'a str, resources: Resources) -> Answer<'a, ()> {
        Box::pin(self.update(id, resources))
    }

    fn reopen_log<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(self.done(Request::ReopenLog { id: id.into() }))
    }

    fn exec_sync<'a>(
        &'a self,
        id: &'a str,
        command: Vec<String>,
        timeout_seconds: u32,
    ) -> Answer<'a, ExecResult> {
        Box::pin(streams::exec_sync(&self.inner.layout, id, command, timeout_seconds))
    }

    fn exec<'a>(&'a self, id: &'a str, command: Vec<String>, want: StreamOptions) -> Answer<'a, Stream> {
        Box::pin(streams::exec(&self.inner.layout, id, command, want))
    }

    fn attach<'a>(&'a self, id: &'a str, want: StreamOptions) -> Answer<'a, Stream> {
        Box::pin(streams::attach(&self.inner.layout, id, want))
    }

    fn port_forward<'a>(&'a self, sandbox: &'a str, port: u16) -> Answer<'a, Box<dyn Duplex>> {
        Box::pin(async move {
            let status = self.one_sandbox(sandbox).await?;
            streams::port_forward(status, port).await
        })
    }

    fn container_stats<'a>(&'a self, id: &'a str) -> Answer<'a, ContainerStats> {
        Box::pin(async move {
            let status = self.one_container(id).await?;
            self.off(move |this| this.stats_of(status)).await
        })
    }

    fn list_container_stats(&self, filter: Filter) -> Answer<'_, Vec<ContainerStats>> {
        Box::pin(async move {
            let mut list = self.containers(filter).await?;
            list.retain(|c| c.state == ContainerState::Running);
            self.off(move |this| Ok(list.into_iter().filter_map(|c| this.stats_of(c).ok()).collect())).await
        })
    }

    fn sandbox_stats<'a>(&'a self, id: &'a str) -> Answer<'a, SandboxStats> {
        Box::pin(async move {
            let status = self.one_sandbox(id).await?;
            let filter = Filter { sandbox: Some(id.into()), ..Filter::default() };
            let containers = self.list_container_stats(filter).await?;
            self.off(move |this| Ok(of_sandbox(&this.inner.cgroups, status, containers))).await
        })
    }

    fn list_images(&self) -> Answer<'_, Vec<Image>> {
        Box::pin(self.off(|this| Ok(this.images().list()?.iter().map(Record::show).collect())))
    }

    fn image_status<'a>(&'a self, reference: &'a str) -> Answer<'a, Option<Image>> {
        let reference = reference.to_owned();
        Box::pin(self.off(move |this| Ok(this.images().find(&reference)?.as_ref().map(Record::show))))
    }

    fn pull_image(
        &self,
        request: PullRequest,
        progress: Option<mpsc::Sender<Progress>>,
    ) -> Answer<'_, String> {
        Box::pin(self.inner.images.pull(request, progress))
    }

    fn remove_image<'a>(&'a self, reference: &'a str) -> Answer<'a, ()> {
        let reference = reference.to_owned();
        Box::pin(self.off(move |this| this.images().remove(&reference, &this.used_layers())))
    }

    fn image_fs_info(&self) -> Answer<'_, ImageFsInfo> {
        Box::pin(self.off(|this| Ok(this.fs_info())))
    }

    fn events(&self) -> Answer<'_, mpsc::Receiver<Event>> {
        Box::pin(self.subscribe())
    }
}
