//! Removal of what the runtime's CRI refuses to remove.
//!
//! containerd makes a container's process in two steps. A caller that dies between them leaves a task that its CRI
//! part does not know: to CRI the container has failed to start, and its removal ends in "cannot delete running
//! task" for ever. So processes are killed by their cgroup, and the task is deleted by containerd's own service
//! on the same socket. Other runtimes lack that service; with the processes gone they are asked again.

use super::{Cri, or_gone, wire};
use crate::config::Filter;
use crate::runtime::Error;
use std::time::Duration;
use tonic::{Code, Request, Status};

const TASKS: &str = "/containerd.services.tasks.v1.Tasks/";
/// A killed process is seen by its shim soon; so often it is asked, this far apart.
const TRIES: u32 = 100;
const APART: Duration = Duration::from_millis(20);
/// One answer of the task service.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, PartialEq, prost::Message)]
struct KillRequest {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(uint32, tag = "3")]
    signal: u32,
    #[prost(bool, tag = "4")]
    all: bool,
}

/// Whether another try after a kill may succeed.
fn refused(result: &Result<(), Error>) -> bool {
    matches!(result, Err(Error::State(_) | Error::Failed(_)))
}

/// In CRI's own namespace of containerd.
pub(super) fn of_cri<A>(message: A) -> Request<A> {
    let mut request = Request::new(message);
    let namespace = tonic::metadata::MetadataValue::from_static("k8s.io");
    request.metadata_mut().insert("containerd-namespace", namespace);
    request
}

impl Cri {
    /// Removes a stopped container.
    pub(super) async fn remove_stopped(&self, id: &str) -> Result<(), Error> {
        let place = self.listed_container(id).await.map(|c| c.pod_sandbox_id);
        let ask = || self.ask("RemoveContainer", wire::Id { id: id.into() }, "container", id);
        let done = or_gone(ask().await);
        if !refused(&done) {
            return done;
        }
        let pod = match &place {
            Ok(place) => self.listed(place).await.map(|(s, _)| s.cgroup_parent).unwrap_or_default(),
            Err(_) => String::new(),
        };
        if !pod.is_empty() {
            self.inner.cgroups.kill(&format!("{pod}/{id}"));
        }
        self.delete_task(id).await;
        or_gone(ask().await)
    }

    /// Removes a sandbox with its containers; `cgroup` is the pod's, when it is known.
    pub(super) async fn remove_with_all(&self, id: &str, cgroup: &str) -> Result<(), Error> {
        let done = self.stop_and_remove(id).await;
        if !refused(&done) {
            return done;
        }
        if !cgroup.is_empty() {
            self.inner.cgroups.kill(cgroup);
        }
        let filter = Filter { sandbox: Some(id.into()), ..Filter::default() };
        for container in self.listed_containers(filter).await.unwrap_or_default() {
            self.delete_task(&container.id).await;
        }
        let again = self.stop_and_remove(id).await;
        if !refused(&again) {
            return again;
        }
        self.delete_task(id).await;
        self.stop_and_remove(id).await
    }

    async fn stop_and_remove(&self, id: &str) -> Result<(), Error> {
        self.halt_sandbox(id).await?;
        or_gone(self.ask("RemovePodSandbox", wire::Id { id: id.into() }, "sandbox", id).await)
    }

    /// Ends and deletes a task that CRI does not know; nothing happens where there is none.
    async fn delete_task(&self, id: &str) {
        let signal = libc::SIGKILL.unsigned_abs();
        let kill = KillRequest { container_id: id.into(), signal, all: true };
        // One that has ended, or never was, is what is wanted.
        let _ = self.tasks("Kill", kill).await;
        for _ in 0..TRIES {
            match self.tasks("Delete", wire::Id { id: id.into() }).await {
                Err(status) if status.code() == Code::FailedPrecondition => tokio::time::sleep(APART).await,
                _ => return,
            }
        }
        tracing::warn!(container = id, "a task does not end though its processes were killed");
    }

    async fn tasks<A: prost::Message + 'static>(&self, method: &str, message: A) -> Result<(), Status> {
        let limit = Some(PATIENCE);
        let told: wire::Nothing =
            self.inner.peer.request_within(TASKS, method, of_cri(message), limit).await?;
        let _ = told;
        Ok(())
    }
}
