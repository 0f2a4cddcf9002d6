//! The trait of runtimes over CRI.

use super::call::{IMAGES, RUNTIME, failed, image_failed};
use super::{Cri, ask, or_gone, streams, tell, wire};
use crate::config::{ContainerConfig, Filter, NamespaceMode, PullRequest, Resources, SandboxConfig};
use crate::proto::now;
use crate::runtime::{Answer, Duplex, Error, ExecResult, Runtime, Stream, StreamOptions};
use crate::state::*;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::Code;

/// A pull may take this long in all; the runtime itself gives up earlier when nothing arrives.
const PULL_MAX: Duration = Duration::from_secs(3600);
/// What a runtime may need besides the time that a command or a stop was given.
const SLACK: Duration = Duration::from_secs(60);

impl Cri {
    async fn make_sandbox(&self, config: SandboxConfig) -> Result<Sandbox, Error> {
        // The pod's cgroup is the kubelet's, the runtime only puts its own into it.
        if !config.cgroup_parent.is_empty() {
            let made = self.inner.cgroups.create(&config.cgroup_parent);
            made.map_err(|e| Error::Failed(e.to_string()))?;
        }
        let request = wire::RunPodSandboxRequest {
            config: Some(ask::sandbox(&config)?),
            runtime_handler: config.runtime_handler.clone(),
        };
        let told: Result<wire::RunPodSandboxResponse, _> = self
            .inner
            .peer
            .call_within(RUNTIME, "RunPodSandbox", request, Some(Duration::from_secs(240)))
            .await;
        let id = told.map_err(failed("sandbox", &config.metadata.name))?.pod_sandbox_id;
        match self.plugged(&id, &config).await {
            Ok(sandbox) => Ok(sandbox),
            Err(error) => {
                let _ = self.drop_sandbox(&id).await;
                Err(error)
            }
        }
    }

    async fn plugged(&self, id: &str, config: &SandboxConfig) -> Result<Sandbox, Error> {
        let (status, _) = self.listed(id).await?;
        let status = self.with_network(status).await?;
        if config.namespaces.network == NamespaceMode::Host {
            return Ok(Sandbox { id: status.id, netns: None, ips: vec![] });
        }
        let Some(netns) = status.netns.clone() else {
            return Err(Error::Failed(format!(
                "the runtime does not tell the network namespace of sandbox {id:?}"
            )));
        };
        if status.ips.is_empty() {
            // Our shim stands for the loopback plugin too.
            let up =
                tokio::task::spawn_blocking(move || crate::embedded::inside(netns, crate::sys::loopback_up));
            let up = up.await.map_err(|e| Error::Failed(format!("bring lo up: {e}")))?;
            up.map_err(|e| Error::Failed(format!("bring lo up in sandbox {id:?}: {e}")))?;
        }
        Ok(Sandbox { id: status.id, netns: status.netns, ips: status.ips })
    }

    pub(super) async fn halt_sandbox(&self, id: &str) -> Result<(), Error> {
        self.inner.events.look();
        or_gone(self.ask("StopPodSandbox", wire::Id { id: id.into() }, "sandbox", id).await)
    }

    async fn drop_sandbox(&self, id: &str) -> Result<(), Error> {
        let cgroup = self.listed(id).await.map(|(s, _)| s.cgroup_parent).unwrap_or_default();
        self.remove_with_all(id, &cgroup).await?;
        if !cgroup.is_empty() {
            // What another sandbox of the same pod still has in it stays.
            self.inner.cgroups.remove(&cgroup);
        }
        self.inner.events.look();
        Ok(())
    }

    async fn make(&self, sandbox: &str, config: ContainerConfig) -> Result<String, Error> {
        let (status, kept) = self.listed(sandbox).await?;
        let kept = kept.ok_or_else(|| {
            Error::State(format!("sandbox {:?} was not made by kutter: no container is added", status.id))
        })?;
        let image = self.find_image(&config.image).await?;
        let image = image.ok_or_else(|| Error::not_found("image", &config.image))?;
        let request = wire::CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(ask::container(&config)),
            sandbox_config: Some(ask::sandbox(&kept)?),
        };
        let told: wire::CreateContainerResponse =
            self.ask("CreateContainer", request, "sandbox", sandbox).await?;
        self.touch(&image.id);
        self.inner.events.look();
        Ok(told.container_id)
    }

    async fn find_image(&self, reference: &str) -> Result<Option<wire::Image>, Error> {
        let request = wire::ImageStatusRequest { image: Some(ask::image(reference)) };
        let told: wire::ImageStatusResponse = self.image("ImageStatus", request, reference).await?;
        Ok(told.image.filter(|i| !i.id.is_empty()))
    }

    async fn halt(&self, id: &str, timeout_seconds: u32) -> Result<(), Error> {
        let request =
            wire::StopContainerRequest { container_id: id.into(), timeout: i64::from(timeout_seconds) };
        let limit = Duration::from_secs(timeout_seconds.into()) + SLACK;
        let told: Result<wire::Nothing, _> =
            self.inner.peer.call_within(RUNTIME, "StopContainer", request, Some(limit)).await;
        self.inner.events.look();
        or_gone(told.map_err(failed("container", id)))
    }

    async fn run_command(
        &self,
        id: &str,
        cmd: Vec<String>,
        timeout_seconds: u32,
    ) -> Result<ExecResult, Error> {
        let what = format!("command {:?}", cmd.join(" "));
        let request =
            wire::ExecSyncRequest { container_id: id.into(), cmd, timeout: i64::from(timeout_seconds) };
        let limit = (timeout_seconds > 0).then(|| Duration::from_secs(timeout_seconds.into()) + SLACK);
        let told: Result<wire::ExecSyncResponse, _> =
            self.inner.peer.call_within(RUNTIME, "ExecSync", request, limit).await;
        match told {
            Ok(told) => {
                Ok(ExecResult { stdout: told.stdout, stderr: told.stderr, exit_code: told.exit_code })
            }
            Err(status)
                if status.code() == Code::DeadlineExceeded
                    || timeout_seconds > 0 && status.message().contains("deadline exceeded") =>
            {
                Err(Error::Deadline { what, seconds: timeout_seconds })
            }
            Err(status) => Err(failed("container", id)(status)),
        }
    }

    async fn told_status(&self) -> Result<RuntimeStatus, Error> {
        let told = self.verbose_status().await?;
        let conditions = told.status.unwrap_or_default().conditions;
        let holds = |kind: &str| conditions.iter().any(|c| c.kind == kind && c.status);
        let wrong = conditions.iter().filter(|c| !c.status);
        let message: Vec<String> =
            wrong.map(|c| format!("{} is false: {}: {}", c.kind, c.reason, c.message)).collect();
        let mut handlers: Vec<Handler> = told.runtime_handlers.into_iter().map(tell::handler).collect();
        if handlers.is_empty() {
            let config = told.info.get("config").and_then(|t| serde_json::from_str(t).ok());
            let config: serde_json::Value = config.unwrap_or_default();
            let runtimes = config.pointer("/containerd/runtimes").and_then(|r| r.as_object());
            let names =
                std::iter::once(String::new()).chain(runtimes.into_iter().flat_map(|r| r.keys().cloned()));
            handlers.extend(names.map(|name| Handler { name, ..Handler::default() }));
        }
        Ok(RuntimeStatus {
            ready: holds("RuntimeReady"),
            network_ready: holds("NetworkReady"),
            message: message.join("; "),
            notes: vec![],
            handlers,
            groups_policy: told.features.is_some_and(|f| f.supplemental_groups_policy),
        })
    }

    async fn listed_stats(&self, filter: Filter) -> Result<Vec<ContainerStats>, Error> {
        let sandboxes: HashMap<String, SandboxStatus> =
            self.sandboxes(Filter::default()).await?.into_iter().map(|(s, _)| (s.id.clone(), s)).collect();
        let places: HashMap<String, String> = self
            .listed_containers(filter.clone())
            .await?
            .into_iter()
            .map(|c| (c.id, c.pod_sandbox_id))
            .collect();
        let filter = wire::ContainerStatsFilter {
            id: filter.id.unwrap_or_default(),
            pod_sandbox_id: filter.sandbox.unwrap_or_default(),
            label_selector: filter.labels,
        };
        let request = wire::ListContainerStatsRequest { filter: Some(filter) };
        let told: wire::ListContainerStatsResponse =
            self.ask("ListContainerStats", request, "container", "").await?;
        let stats = told.stats.into_iter().filter_map(|s| {
            let place = places.get(&s.attributes.as_ref()?.id)?;
            Some(self.measured(tell::stats(place, s), sandboxes.get(place)))
        });
        Ok(stats.collect())
    }

    /// Takes what the cgroup says where it can be seen: it says more than CRI.
    fn measured(&self, mut stats: ContainerStats, sandbox: Option<&SandboxStatus>) -> ContainerStats {
        let Some(sandbox) = sandbox.filter(|s| !s.cgroup_parent.is_empty()) else { return stats };
        let path = format!("{}/{}", sandbox.cgroup_parent, stats.id);
        let cgroups = &self.inner.cgroups;
        if cgroups.exists(&path) {
            stats.cpu = cgroups.cpu(&path);
            stats.memory = cgroups.memory(&path);
            stats.pids = cgroups.pids_current(&path);
            stats.pressure = cgroups.pressures(&path);
        }
        stats
    }

    async fn stats_of_sandbox(&self, id: &str) -> Result<SandboxStats, Error> {
        let status = self.with_network(self.listed(id).await?.0).await?;
        let filter = Filter { sandbox: Some(id.into()), ..Filter::default() };
        let containers = self.listed_stats(filter).await?;
        let cgroups = self.inner.cgroups.clone();
        let work =
            tokio::task::spawn_blocking(move || crate::embedded::of_sandbox(&cgroups, status, containers));
        work.await.map_err(|e| Error::Failed(format!("read statistics: {e}")))
    }

    async fn pull(&self, request: PullRequest) -> Result<String, Error> {
        let auth = request.auth.map(|a| wire::AuthConfig {
            username: a.username,
            password: a.password,
            identity_token: a.identity_token,
            registry_token: a.registry_token,
            ..Default::default()
        });
        let reference = request.reference;
        let ask = wire::PullImageRequest { image: Some(ask::image(&reference)), auth };
        let told: Result<wire::PullImageResponse, _> =
            self.inner.peer.call_within(IMAGES, "PullImage", ask, Some(PULL_MAX)).await;
        let id = told.map_err(image_failed(&reference))?.image_ref;
        // Some runtimes answer with a digest; the id is what everything else goes by.
        let id = self.find_image(&id).await?.map_or(id, |i| i.id);
        self.touch(&id);
        Ok(id)
    }

    async fn file_systems(&self) -> Result<ImageFsInfo, Error> {
        let told: wire::ImageFsInfoResponse = self.image("ImageFsInfo", wire::Nothing {}, "").await?;
        let first = |list: Vec<wire::FilesystemUsage>| list.into_iter().next();
        let path = |u: &Option<wire::FilesystemUsage>| {
            let id = u.as_ref().and_then(|u| u.fs_id.as_ref());
            id.map(|i| i.mountpoint.clone().into()).unwrap_or_default()
        };
        let images = first(told.image_filesystems);
        let containers = first(told.container_filesystems).or_else(|| images.clone());
        Ok(ImageFsInfo {
            image_path: path(&images),
            container_path: path(&containers),
            images: tell::file_system(images),
            containers: tell::file_system(containers),
        })
    }
}

impl Runtime for Cri {
    fn version(&self) -> Answer<'_, Version> {
        Box::pin(async { Ok(self.inner.version.clone()) })
    }

    fn status(&self) -> Answer<'_, RuntimeStatus> {
        Box::pin(self.told_status())
    }

    fn run_sandbox(&self, config: SandboxConfig) -> Answer<'_, Sandbox> {
        Box::pin(self.make_sandbox(config))
    }

    fn stop_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(self.halt_sandbox(id))
    }

    fn remove_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(self.drop_sandbox(id))
    }

    fn sandbox_status<'a>(&'a self, id: &'a str) -> Answer<'a, SandboxStatus> {
        Box::pin(async move { self.with_network(self.listed(id).await?.0).await })
    }

    fn list_sandboxes(&self, filter: Filter) -> Answer<'_, Vec<SandboxStatus>> {
        Box::pin(self.every_sandbox(filter))
    }

    fn create_container<'a>(&'a self, sandbox: &'a str, config: ContainerConfig) -> Answer<'a, String> {
        Box::pin(self.make(sandbox, config))
    }

    fn start_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let done: Result<wire::Nothing, _> =
                self.ask("StartContainer", wire::Id { id: id.into() }, "container", id).await;
            self.inner.events.look();
            done.map(drop)
        })
    }

    fn stop_container<'a>(&'a self, id: &'a str, timeout_seconds: u32) -> Answer<'a, ()> {
        Box::pin(self.halt(id, timeout_seconds))
    }

    fn remove_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            self.halt(id, 0).await?;
            let done = self.remove_stopped(id).await;
            self.inner.events.look();
            done
        })
    }

    fn container_status<'a>(&'a self, id: &'a str) -> Answer<'a, ContainerStatus> {
        Box::pin(self.status_of(id))
    }

    fn list_containers(&self, filter: Filter) -> Answer<'_, Vec<ContainerStatus>> {
        Box::pin(self.containers(filter))
    }

    fn update_resources<'a>(&'a self, id: &'a str, resources: Resources) -> Answer<'a, ()> {
        Box::pin(async move {
            let request = wire::UpdateContainerResourcesRequest {
                container_id: id.into(),
                linux: Some(ask::resources(&resources)),
            };
            let done: wire::Nothing = self.ask("UpdateContainerResources", request, "container", id).await?;
            let _ = done;
            Ok(())
        })
    }

    fn reopen_log<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let done: Result<wire::Nothing, _> =
                self.ask("ReopenContainerLog", wire::Id { id: id.into() }, "container", id).await;
            done.map(drop)
        })
    }

    fn exec_sync<'a>(
        &'a self,
        id: &'a str,
        command: Vec<String>,
        timeout_seconds: u32,
    ) -> Answer<'a, ExecResult> {
        Box::pin(self.run_command(id, command, timeout_seconds))
    }

    fn exec<'a>(&'a self, id: &'a str, command: Vec<String>, want: StreamOptions) -> Answer<'a, Stream> {
        Box::pin(streams::exec(self, id, command, want))
    }

    fn attach<'a>(&'a self, id: &'a str, want: StreamOptions) -> Answer<'a, Stream> {
        Box::pin(streams::attach(self, id, want))
    }

    fn port_forward<'a>(&'a self, sandbox: &'a str, port: u16) -> Answer<'a, Box<dyn Duplex>> {
        Box::pin(async move {
            let status = self.with_network(self.listed(sandbox).await?.0).await?;
            crate::embedded::port_forward(status, port).await
        })
    }

    fn container_stats<'a>(&'a self, id: &'a str) -> Answer<'a, ContainerStats> {
        Box::pin(async move {
            let place = self.listed_container(id).await?.pod_sandbox_id;
            let told: wire::ContainerStatsResponse = self
                .ask(
                    "ContainerStats",
                    wire::ContainerStatsRequest { container_id: id.into() },
                    "container",
                    id,
                )
                .await?;
            let stats = told.stats.ok_or_else(|| Error::not_found("container", id))?;
            let sandbox = self.listed(&place).await?.0;
            Ok(self.measured(tell::stats(&place, stats), Some(&sandbox)))
        })
    }

    fn list_container_stats(&self, filter: Filter) -> Answer<'_, Vec<ContainerStats>> {
        Box::pin(self.listed_stats(filter))
    }

    fn sandbox_stats<'a>(&'a self, id: &'a str) -> Answer<'a, SandboxStats> {
        Box::pin(self.stats_of_sandbox(id))
    }

    fn list_images(&self) -> Answer<'_, Vec<Image>> {
        Box::pin(async {
            let told: wire::ListImagesResponse =
                self.image("ListImages", wire::ListImagesRequest {}, "").await?;
            let mut used = self.inner.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            used.retain(|id, _| told.images.iter().any(|i| i.id == *id));
            let show = |i: wire::Image| {
                let last = *used.entry(i.id.clone()).or_insert_with(now);
                let mut image = tell::image(i, last);
                image.pinned |= image.tags.contains(&self.inner.pause);
                image
            };
            Ok(told.images.into_iter().map(show).collect())
        })
    }

    fn image_status<'a>(&'a self, reference: &'a str) -> Answer<'a, Option<Image>> {
        Box::pin(async move {
            let found = self.find_image(reference).await?;
            Ok(found.map(|i| {
                let last = self.last_used(&i.id);
                tell::image(i, last)
            }))
        })
    }

    fn pull_image(&self, request: PullRequest, _: Option<mpsc::Sender<Progress>>) -> Answer<'_, String> {
        // CRI tells nothing of a pull until it is done.
        Box::pin(self.pull(request))
    }

    fn remove_image<'a>(&'a self, reference: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let request = wire::RemoveImageRequest { image: Some(ask::image(reference)) };
            or_gone(self.image("RemoveImage", request, reference).await)
        })
    }

    fn image_fs_info(&self) -> Answer<'_, ImageFsInfo> {
        Box::pin(self.file_systems())
    }

    fn events(&self) -> Answer<'_, mpsc::Receiver<Event>> {
        Box::pin(self.subscribe())
    }
}
