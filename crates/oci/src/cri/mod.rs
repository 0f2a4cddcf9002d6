//! The `cri` runtime: containerd, CRI-O or another runtime behind CRI's gRPC interface (`runtime.v1`).
//!
//! The network stays Kutter's. A runtime wants a CNI plugin to plug a sandbox; where its directory of CNI networks
//! is empty, [`shim`] puts a plugin there that plugs nothing, so that the sandbox comes with an empty network
//! namespace and the node plugs it as it does for its own runtime. Where a CNI network is set up already, it plugs
//! the sandbox and its addresses are taken.
//!
//! Cgroups: paths of cgroupfs are handed over, so that the runtime must not use its systemd driver.

mod ask;
mod call;
mod events;
mod runtime;
pub mod shim;
mod signals;
mod spdy;
mod streams;
mod stuck;
mod tell;
mod wire;
mod wire_containers;
mod wire_images;

use crate::cgroup::Cgroups;
use crate::config::{Filter, SandboxConfig};
use crate::proto::now;
use crate::runtime::Error;
use crate::state::*;
use call::{IMAGES, Peer, RUNTIME, failed};
use futures_util::{StreamExt, TryStreamExt};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Questions about single containers under way at once.
const ASK_AT_ONCE: usize = 16;

/// A client of a CRI runtime.
#[derive(Clone)]
pub struct Cri {
    inner: Arc<Inner>,
}

struct Inner {
    peer: Peer,
    cgroups: Cgroups,
    version: Version,
    /// When images were used; the runtime does not remember it.
    used: Mutex<HashMap<String, Nanos>>,
    events: events::Hub,
    /// The image of the sandboxes themselves; older runtimes do not say that it is pinned.
    pause: String,
}

/// The socket in `unix:///run/…` or a plain path.
fn socket(endpoint: &str) -> Result<PathBuf, Error> {
    let path = Path::new(endpoint.strip_prefix("unix://").unwrap_or(endpoint));
    if endpoint.contains("://") && !endpoint.starts_with("unix://") || !path.is_absolute() {
        return Err(Error::Invalid(format!("runtime endpoint {endpoint:?} is not unix:///PATH")));
    }
    Ok(path.to_owned())
}

/// What is gone already is what was wanted.
fn or_gone(result: Result<wire::Nothing, Error>) -> Result<(), Error> {
    match result {
        Err(e) if !e.is_not_found() => Err(e),
        _ => Ok(()),
    }
}

impl Cri {
    /// Connects to the runtime at `unix:///PATH`.
    pub async fn connect(endpoint: &str) -> Result<Self, Error> {
        let peer = Peer::new(&socket(endpoint)?)?;
        let ask = wire::VersionRequest { version: "0.1.0".into() };
        let told: wire::VersionResponse = peer
            .call_within(RUNTIME, "Version", ask, Some(Duration::from_secs(10)))
            .await
            .map_err(failed("runtime", endpoint))?;
        if told.runtime_api_version != "v1" && !told.runtime_api_version.starts_with("v1.") {
            let version = told.runtime_api_version;
            return Err(Error::Invalid(format!("runtime {endpoint} speaks CRI {version:?}, v1 is needed")));
        }
        let version = Version {
            name: told.runtime_name,
            version: told.runtime_version,
            api_version: told.runtime_api_version,
        };
        let cgroups = Cgroups::detect().map_err(|e| Error::Failed(format!("find cgroups: {e}")))?;
        let ask = wire::StatusRequest { verbose: true };
        let told: wire::StatusResponse =
            peer.call(RUNTIME, "Status", ask).await.map_err(failed("runtime", endpoint))?;
        let config = told.info.get("config").and_then(|t| serde_json::from_str(t).ok());
        let config: serde_json::Value = config.unwrap_or_default();
        let pause = config["sandboxImage"].as_str().unwrap_or_default().to_owned();
        refuse_systemd(&peer, &config).await?;
        let (used, events) = (Mutex::default(), events::Hub::default());
        Ok(Self { inner: Arc::new(Inner { peer, cgroups, version, used, events, pause }) })
    }

    async fn ask<A, B>(&self, method: &str, request: A, kind: &'static str, id: &str) -> Result<B, Error>
    where
        A: prost::Message + 'static,
        B: prost::Message + Default + 'static,
    {
        self.inner.peer.call(RUNTIME, method, request).await.map_err(failed(kind, id))
    }

    async fn image<A, B>(&self, method: &str, request: A, reference: &str) -> Result<B, Error>
    where
        A: prost::Message + 'static,
        B: prost::Message + Default + 'static,
    {
        self.inner.peer.call(IMAGES, method, request).await.map_err(call::image_failed(reference))
    }

    async fn verbose_status(&self) -> Result<wire::StatusResponse, Error> {
        self.ask("Status", wire::StatusRequest { verbose: true }, "runtime", "").await
    }

    async fn sandboxes(&self, filter: Filter) -> Result<Vec<(SandboxStatus, Option<SandboxConfig>)>, Error> {
        let id = filter.id.or(filter.sandbox).unwrap_or_default();
        let filter = wire::PodSandboxFilter { id, label_selector: filter.labels };
        let request = wire::ListPodSandboxRequest { filter: Some(filter) };
        let told: wire::ListPodSandboxResponse = self.ask("ListPodSandbox", request, "sandbox", "").await?;
        Ok(told.items.into_iter().map(tell::listed).collect())
    }

    /// A sandbox by its whole id.
    async fn listed(&self, id: &str) -> Result<(SandboxStatus, Option<SandboxConfig>), Error> {
        let filter = Filter { id: Some(id.into()), ..Filter::default() };
        // Runtimes take the beginning of an id too.
        let found = self.sandboxes(filter).await?.into_iter().find(|(s, _)| s.id == id);
        found.ok_or_else(|| Error::not_found("sandbox", id))
    }

    /// Adds addresses and network namespace.
    async fn with_network(&self, mut status: SandboxStatus) -> Result<SandboxStatus, Error> {
        if status.state != SandboxState::Ready {
            return Ok(status);
        }
        let request = wire::PodSandboxStatusRequest { pod_sandbox_id: status.id.clone(), verbose: true };
        let told: wire::PodSandboxStatusResponse =
            self.ask("PodSandboxStatus", request, "sandbox", &status.id).await?;
        let (ips, netns) = tell::network(&told);
        status.ips = ips;
        if status.namespaces.network != crate::config::NamespaceMode::Host {
            status.netns = netns;
        }
        Ok(status)
    }

    async fn every_sandbox(&self, filter: Filter) -> Result<Vec<SandboxStatus>, Error> {
        let list = self.sandboxes(filter).await?;
        let asked = futures_util::stream::iter(list).map(|(s, _)| async move {
            match self.with_network(s).await {
                Err(e) if e.is_not_found() => Ok(None),
                other => other.map(Some),
            }
        });
        asked.buffered(ASK_AT_ONCE).try_filter_map(|s| async { Ok(s) }).try_collect().await
    }

    async fn listed_containers(&self, filter: Filter) -> Result<Vec<wire::Container>, Error> {
        let filter = wire::ContainerFilter {
            id: filter.id.unwrap_or_default(),
            pod_sandbox_id: filter.sandbox.unwrap_or_default(),
            label_selector: filter.labels,
        };
        let request = wire::ListContainersRequest { filter: Some(filter) };
        let told: wire::ListContainersResponse = self.ask("ListContainers", request, "container", "").await?;
        Ok(told.containers)
    }

    async fn listed_container(&self, id: &str) -> Result<wire::Container, Error> {
        let filter = Filter { id: Some(id.into()), ..Filter::default() };
        let found = self.listed_containers(filter).await?.into_iter().find(|c| c.id == id);
        found.ok_or_else(|| Error::not_found("container", id))
    }

    async fn status_in(&self, sandbox: &str, id: &str) -> Result<ContainerStatus, Error> {
        let request = wire::ContainerStatusRequest { container_id: id.into(), verbose: true };
        let told = self.ask("ContainerStatus", request, "container", id).await?;
        Ok(tell::container(sandbox, told))
    }

    async fn status_of(&self, id: &str) -> Result<ContainerStatus, Error> {
        let listed = self.listed_container(id).await?;
        self.status_in(&listed.pod_sandbox_id, id).await
    }

    async fn containers(&self, filter: Filter) -> Result<Vec<ContainerStatus>, Error> {
        let list = self.listed_containers(filter).await?;
        let asked = futures_util::stream::iter(list).map(|c| async move {
            match self.status_in(&c.pod_sandbox_id, &c.id).await {
                Err(e) if e.is_not_found() => Ok(None),
                other => other.map(Some),
            }
        });
        asked.buffered(ASK_AT_ONCE).try_filter_map(|s| async { Ok(s) }).try_collect().await
    }

    fn touch(&self, image: &str) {
        let mut used = self.inner.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.insert(image.to_owned(), now());
    }

    /// When an image was last used; one that is seen for the first time counts as used now.
    fn last_used(&self, image: &str) -> Nanos {
        let mut used = self.inner.used.lock().unwrap_or_else(PoisonError::into_inner);
        *used.entry(image.to_owned()).or_insert_with(now)
    }
}

/// The systemd driver would read our paths as names of slices.
async fn refuse_systemd(peer: &Peer, config: &serde_json::Value) -> Result<(), Error> {
    let told: Result<wire::RuntimeConfigResponse, _> =
        peer.call(RUNTIME, "RuntimeConfig", wire::Nothing {}).await;
    let systemd = match told {
        // 0 is systemd.
        Ok(told) => told.linux.is_some_and(|l| l.cgroup_driver == 0),
        Err(_) => {
            let runtimes = config.pointer("/containerd/runtimes").and_then(|r| r.as_object());
            let set = |r: &serde_json::Value| {
                r.pointer("/options/SystemdCgroup").and_then(|v| v.as_bool()) == Some(true)
            };
            config["systemdCgroup"].as_bool() == Some(true)
                || runtimes.into_iter().flatten().any(|(_, r)| set(r))
        }
    };
    if systemd {
        return Err(Error::Invalid(
            "the runtime uses the systemd cgroup driver; set it to cgroupfs (containerd: SystemdCgroup = false)"
                .into(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::socket;

    #[test]
    fn endpoints() {
        for good in ["unix:///run/c.sock", "/run/c.sock"] {
            assert_eq!(socket(good).unwrap(), std::path::Path::new("/run/c.sock"));
        }
        for bad in ["tcp://1.2.3.4:5", "unix://run/c.sock", "c.sock", ""] {
            assert!(socket(bad).is_err(), "{bad}");
        }
    }
}
