//! The managed service: clusters and node pools as supervised child processes.
//!
//! [`Manager::run`] keeps what runs equal to what is recorded: `fleet::plan` decides, this crate observes and
//! executes. It may be killed at any moment: the processes go on, and the next manager finds them again by their
//! environment (see [`process`]).

mod api;
mod engine;
mod foreign;
mod forward;
pub mod launch;
mod layout;
mod marks;
mod network;
mod process;
mod provision;
mod records;

pub use engine::{Manager, Options};
pub use layout::Layout;
pub use process::{NOTIFY_VARIABLE, RUN_VARIABLE};

/// Why the manager cannot do something.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// A file or folder could not be used.
    #[error("failed to {what} {path}")]
    File {
        /// The verb: `create`, `read`, `lock` …
        what: &'static str,
        /// Which file.
        path: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Another manager owns the state directory.
    #[error(
        "another manager (pid {pid}) owns {path}: use it with `kutter status`, or end it with `kutter down`"
    )]
    Second {
        /// The state directory.
        path: String,
        /// Its process id, or `?` when it cannot be told.
        pid: String,
    },
    /// A process could not be started.
    #[error("failed to start {what}")]
    Start {
        /// Which process.
        what: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The wanted state is refused.
    #[error(transparent)]
    Spec(#[from] fleet::SpecError),
    /// Something named does not exist.
    #[error("{kind} {name:?} does not exist")]
    NotFound {
        /// `cluster`, `node pool` or `node`.
        kind: &'static str,
        /// The name asked for.
        name: String,
    },
    /// The request cannot be read.
    #[error("bad request: {0}")]
    BadRequest(String),
    /// The state store refused.
    #[error("failed to keep the state")]
    Store(#[from] store::StoreError),
    /// The network of a cluster or node could not be made.
    #[error("failed to set up the network of {what}: {why}")]
    Network {
        /// Cluster or node.
        what: String,
        /// The chain of causes.
        why: String,
    },
    /// A certificate or kubeconfig could not be made.
    #[error("failed to make credentials for {what}: {why}")]
    Credentials {
        /// For whom.
        what: String,
        /// The chain of causes.
        why: String,
    },
}

impl ManagerError {
    /// A [`ManagerError::File`] for `map_err`.
    pub(crate) fn file(what: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.display().to_string();
        move |source| ManagerError::File { what, path, source }
    }
}
