//! The one trait of container runtimes, in CRI's words.
//!
//! Two implementations: `embedded` talks to Kutter's own supervisor, `cri` to containerd or CRI-O. The
//! kubelet works on `Arc<dyn Runtime>` and never learns which of them it has. Plain data of requests is in
//! [`config`](crate::config), of answers in [`state`](crate::state); both are re-exported here.

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

pub use crate::config::*;
pub use crate::state::*;

/// What every method answers with.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, Error>>;

/// A container runtime. Every method may be called concurrently; ids are unique over time.
pub trait Runtime: Send + Sync + 'static {
    /// Name and version of the runtime.
    fn version(&self) -> Answer<'_, Version>;
    /// Whether runtime and network are ready, and what this machine lacks.
    fn status(&self) -> Answer<'_, RuntimeStatus>;

    /// Makes a sandbox: its namespaces, its shared memory. The embedded runtime leaves the network
    /// namespace with only `lo` up and answers with its path, so that the caller plugs the network before
    /// containers start. A runtime with CNI of its own has plugged it and says so in `Sandbox::ips`.
    fn run_sandbox(&self, config: SandboxConfig) -> Answer<'_, Sandbox>;
    /// Kills what runs in the sandbox and gives up its namespaces; idempotent.
    fn stop_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;
    /// Removes the sandbox and every container in it; idempotent.
    fn remove_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;
    /// State of one sandbox.
    fn sandbox_status<'a>(&'a self, id: &'a str) -> Answer<'a, SandboxStatus>;
    /// Every sandbox that matches.
    fn list_sandboxes(&self, filter: Filter) -> Answer<'_, Vec<SandboxStatus>>;

    /// Makes a container in a sandbox without starting it; answers with its id.
    fn create_container<'a>(&'a self, sandbox: &'a str, config: ContainerConfig) -> Answer<'a, String>;
    /// Starts a created container; returns once its process has been executed.
    fn start_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;
    /// Sends the stop signal, and SIGKILL after `timeout_seconds` (at once when 0); returns when it has
    /// exited; idempotent.
    fn stop_container<'a>(&'a self, id: &'a str, timeout_seconds: u32) -> Answer<'a, ()>;
    /// Removes a container, killing it if it runs; idempotent. Its log file stays.
    fn remove_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;
    /// State of one container.
    fn container_status<'a>(&'a self, id: &'a str) -> Answer<'a, ContainerStatus>;
    /// Every container that matches.
    fn list_containers(&self, filter: Filter) -> Answer<'_, Vec<ContainerStatus>>;
    /// Changes the limits of a created or running container. Fields that are `None` stay.
    fn update_resources<'a>(&'a self, id: &'a str, resources: Resources) -> Answer<'a, ()>;
    /// Opens the log file again by its path, after a rotation moved the old one away.
    fn reopen_log<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;

    /// Runs a command to its end. `timeout_seconds` 0: no limit. At the limit the command is killed and
    /// the error is [`Error::Deadline`]. At most 16 MiB of each output are kept.
    fn exec_sync<'a>(
        &'a self,
        id: &'a str,
        command: Vec<String>,
        timeout_seconds: u32,
    ) -> Answer<'a, ExecResult>;
    /// Starts a command and answers with its streams. Dropping the `Stream` kills the command.
    fn exec<'a>(&'a self, id: &'a str, command: Vec<String>, want: StreamOptions) -> Answer<'a, Stream>;
    /// Attaches to the main process of a container. What it wrote before is not replayed.
    fn attach<'a>(&'a self, id: &'a str, want: StreamOptions) -> Answer<'a, Stream>;
    /// Connects to `localhost:port` inside the network namespace of a sandbox.
    fn port_forward<'a>(&'a self, sandbox: &'a str, port: u16) -> Answer<'a, Box<dyn Duplex>>;

    /// Use of one container.
    fn container_stats<'a>(&'a self, id: &'a str) -> Answer<'a, ContainerStats>;
    /// Use of every running container that matches.
    fn list_container_stats(&self, filter: Filter) -> Answer<'_, Vec<ContainerStats>>;
    /// Use of one sandbox: its cgroup, processes and network, and its containers.
    fn sandbox_stats<'a>(&'a self, id: &'a str) -> Answer<'a, SandboxStats>;

    /// Every image kept here.
    fn list_images(&self) -> Answer<'_, Vec<Image>>;
    /// The image that a reference (name, name@digest or image id) means here, if it is here.
    fn image_status<'a>(&'a self, reference: &'a str) -> Answer<'a, Option<Image>>;
    /// Pulls an image and answers with its id. `progress` is told while bytes arrive; a full or closed
    /// channel never slows the pull.
    fn pull_image(
        &self,
        request: PullRequest,
        progress: Option<mpsc::Sender<Progress>>,
    ) -> Answer<'_, String>;
    /// Removes an image with all its names; idempotent. Content that other images or containers use stays.
    fn remove_image<'a>(&'a self, reference: &'a str) -> Answer<'a, ()>;
    /// Space that images and writable layers use.
    fn image_fs_info(&self) -> Answer<'_, ImageFsInfo>;

    /// Everything that happens to containers from now on. The channel closes when the runtime went away or
    /// the receiver lagged behind its bound: subscribe again, then list.
    fn events(&self) -> Answer<'_, mpsc::Receiver<Event>>;
}

/// Both directions of one connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Which streams a caller of exec or attach wants.
#[derive(Clone, Debug, Default)]
pub struct StreamOptions {
    /// Bytes go in.
    pub stdin: bool,
    /// Bytes come out.
    pub stdout: bool,
    /// Bytes of standard error come out; never together with `tty`.
    pub stderr: bool,
    /// Run behind a terminal.
    pub tty: bool,
    /// Size of the terminal at the start.
    pub size: Option<TerminalSize>,
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Characters a line.
    pub width: u16,
    /// Lines.
    pub height: u16,
}

/// The streams of an exec or attach. Dropping `stdin` closes it for the process.
pub struct Stream {
    /// To the process, when asked for.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// From the process, when asked for; with a terminal everything.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// From the process, when asked for and no terminal is used.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// New sizes of the terminal; `None` without one.
    pub resize: Option<mpsc::Sender<TerminalSize>>,
    /// Exit code of the command; for attach, of the container's process. Dropping it ends an exec.
    pub exit: BoxFuture<'static, Result<i32, Error>>,
}

/// What a finished command left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecResult {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Exit code; 128 + signal when a signal ended it.
    pub exit_code: i32,
}

/// Why the runtime refused or failed. Fits "failed to …: {error}".
#[derive(Clone, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum Error {
    /// Nothing of that name is here.
    #[error("{kind} {id:?} not found")]
    NotFound {
        /// "container", "sandbox", "image".
        kind: String,
        /// What was asked for.
        id: String,
    },
    /// The request cannot be served as it is.
    #[error("{0}")]
    Invalid(String),
    /// The thing is in a state that does not allow this.
    #[error("{0}")]
    State(String),
    /// The time limit of the request passed.
    #[error("{what} timed out after {seconds} seconds")]
    Deadline {
        /// What ran too long.
        what: String,
        /// The limit.
        seconds: u32,
    },
    /// An image could not be read or pulled.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The runtime cannot be reached.
    #[error("runtime is unavailable: {0}")]
    Unavailable(String),
    /// This runtime does not do that.
    #[error("{0} is not supported by this runtime")]
    Unsupported(String),
    /// A step failed.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// Nothing of that kind has this id.
    pub fn not_found(kind: &str, id: &str) -> Self {
        Self::NotFound { kind: kind.into(), id: id.into() }
    }

    /// True when the thing does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::Image(ImageError::NotFound { .. }))
    }
}

/// Why an image is refused; the kubelet makes its pull reasons from these.
#[derive(Clone, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum ImageError {
    /// The reference does not parse (`InvalidImageName`).
    #[error("image reference {reference:?} is invalid: {reason}")]
    InvalidName {
        /// As given.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No registry has it.
    #[error("image {reference:?} not found: {reason}")]
    NotFound {
        /// As given.
        reference: String,
        /// What the registry said.
        reason: String,
    },
    /// The registry wants other credentials.
    #[error("not authorized to pull {reference:?}: {reason}")]
    Unauthorized {
        /// As given.
        reference: String,
        /// What the registry said.
        reason: String,
    },
    /// The registry cannot be reached (`RegistryUnavailable`).
    #[error("registry {registry:?} is unavailable: {reason}")]
    RegistryUnavailable {
        /// Host and port.
        registry: String,
        /// What failed.
        reason: String,
    },
    /// Content is not what its digest promises.
    #[error("content of {digest} is corrupt: {reason}")]
    Corrupt {
        /// The digest that was promised.
        digest: String,
        /// What is there instead.
        reason: String,
    },
    /// A layer or archive is refused.
    #[error("layer {digest} is refused: {reason}")]
    Layer {
        /// Digest of the layer.
        digest: String,
        /// Why.
        reason: String,
    },
    /// Anything else: manifest, platform, disk.
    #[error("image {reference:?}: {reason}")]
    Other {
        /// As given.
        reference: String,
        /// Why.
        reason: String,
    },
}
