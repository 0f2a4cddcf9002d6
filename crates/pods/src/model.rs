//! What the runtime reports about one pod, and what the kubelet remembers between two passes over it.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::backoff::Backoff;

/// How far a container got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Life {
    /// Made, not started.
    Created,
    /// Its process runs.
    Running,
    /// Its process ended.
    Exited,
    /// The runtime cannot say.
    Unknown,
}

/// One sandbox of the pod, as the runtime reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSeen {
    /// The runtime's id.
    pub id: String,
    /// Which sandbox of this pod it is, from 0.
    pub attempt: u32,
    /// Whether containers can run in it.
    pub ready: bool,
    /// Addresses, the primary one first; empty with host network.
    pub ips: Vec<String>,
    /// When it was made.
    pub created: Timestamp,
}

/// One container, as the runtime reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSeen {
    /// The runtime's id, without a prefix.
    pub id: String,
    /// Name in the pod.
    pub name: String,
    /// The sandbox it belongs to.
    pub sandbox: String,
    /// How often it was restarted before.
    pub attempt: u32,
    /// How far it got.
    pub life: Life,
    /// The image as the pod named it.
    pub image: String,
    /// The image's id as status reports it.
    pub image_id: String,
    /// When it was made.
    pub created: Timestamp,
    /// When its process started.
    pub started: Option<Timestamp>,
    /// When its process ended.
    pub finished: Option<Timestamp>,
    /// Exit code, of an ended one.
    pub exit_code: i32,
    /// The runtime's word for why it ended (`Completed`, `Error`, `OOMKilled`, `StartError`).
    pub reason: String,
    /// The runtime's message, or the termination message.
    pub message: String,
    /// [`crate::spec::hash`] of the container spec it was made from.
    pub spec_hash: Option<u64>,
}

/// All that the runtime reports of one pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Sandboxes, newest first.
    pub sandboxes: Vec<SandboxSeen>,
    /// Containers of every attempt, newest first within a name.
    pub containers: Vec<ContainerSeen>,
}

impl Observed {
    /// Brings both lists into the promised order.
    pub fn sorted(mut self) -> Self {
        self.sandboxes.sort_by(|a, b| b.attempt.cmp(&a.attempt).then(b.created.cmp(&a.created)));
        self.containers.sort_by(|a, b| {
            a.name.cmp(&b.name).then(b.attempt.cmp(&a.attempt)).then(b.created.cmp(&a.created))
        });
        self
    }

    /// The newest container of this name.
    pub fn newest(&self, name: &str) -> Option<&ContainerSeen> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The newest container of this name in this sandbox.
    pub fn newest_in(&self, name: &str, sandbox: &str) -> Option<&ContainerSeen> {
        self.containers.iter().find(|c| c.name == name && c.sandbox == sandbox)
    }

    /// The sandbox in use: the newest, if it is ready.
    pub fn live_sandbox(&self) -> Option<&SandboxSeen> {
        self.sandboxes.first().filter(|s| s.ready)
    }

    /// Whether anything of the pod may still run.
    pub fn anything_runs(&self) -> bool {
        self.containers.iter().any(|c| c.life == Life::Running)
    }
}

/// Why a container is not running, in the words of its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// One word, such as `ErrImagePull`.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// What the probes of one running container say so far; `None` means no verdict yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// The container instance these belong to; verdicts of an earlier instance count for nothing.
    pub container_id: String,
    /// Startup probe.
    pub startup: Option<bool>,
    /// Liveness probe.
    pub liveness: Option<bool>,
    /// Readiness probe.
    pub readiness: Option<bool>,
}

/// What the kubelet remembers of a pod. Losing it (a restart of the node process) costs precision, never a container.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Restart back-off, per container name.
    pub restarts: BTreeMap<String, Backoff>,
    /// Probe verdicts, per container name.
    pub verdicts: BTreeMap<String, Verdicts>,
    /// Why the last attempt to start a container failed.
    pub waiting: BTreeMap<String, Waiting>,
    /// Do not try to start this container before then (image pulls that failed).
    pub not_before: BTreeMap<String, Timestamp>,
    /// The pod must end for this reason, whatever its spec says (eviction, deadline, rejection).
    pub end: Option<End>,
    /// How a resize in place stands.
    pub resize: Resize,
    /// Containers that ended and were taken away when the whole pod was restarted, per name.
    pub taken: BTreeMap<String, ContainerSeen>,
}

/// How a resize in place stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resize {
    /// The node has no room for it: `Deferred` or `Infeasible`, and why.
    pub pending: Option<(&'static str, String)>,
    /// It is being carried out; with what went wrong at the last attempt.
    pub running: Option<Option<String>>,
}

/// A decision of the node that a pod is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// `status.reason`, such as `Evicted`.
    pub reason: String,
    /// `status.message`.
    pub message: String,
    /// A grace period that replaces the pod's own.
    pub grace: Option<SignedDuration>,
    /// Type and reason of the DisruptionTarget condition, when this counts as a disruption.
    pub disruption: Option<String>,
}

impl Memory {
    /// The verdicts on this instance, if the name's verdicts belong to it.
    pub fn verdicts_on(&self, seen: &ContainerSeen) -> Option<&Verdicts> {
        self.verdicts.get(&seen.name).filter(|v| v.container_id == seen.id)
    }
}
