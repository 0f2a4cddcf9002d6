//! A load generator that drives any Kubernetes API server through the same phases.
//!
//! Every worker has one HTTP/1.1 connection over TLS and sends one request after the other, so that the load is the
//! same for every server. Objects live in the namespace `kutter-bench`, which is made first and removed last. The
//! phases `schedule` and `deploy` need the server's scheduler and controllers to run, with nodes that are objects alone;
//! the phases `start` need nodes that run pods.

mod cluster;
mod connection;
mod phases;
mod pods;
mod report;
mod start;

use std::path::PathBuf;
use std::sync::Arc;

pub use connection::{Endpoint, Worker};
pub use report::{Phase, Report};

/// What to measure, and against whom.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where the API server is and who we are
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: PathBuf,
    /// Connections that write and read at the same time
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub connections: usize,
    /// Objects of each kind
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub objects: usize,
    /// Watchers in the watch phases
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub watchers: usize,
    /// Process ids of the server (and its store), for their memory
    #[arg(long = "pid", value_name = "PID", value_delimiter = ',')]
    pub pids: Vec<u32>,
    /// Leave out phases whose names contain one of these
    #[arg(long, value_name = "WORD", value_delimiter = ',')]
    pub skip: Vec<String>,
    /// Run only phases whose names contain one of these; `schedule`, `deploy` and `start` run only if named here
    #[arg(long, value_name = "WORD", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Nodes in the schedule phases
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub nodes: usize,
    /// Pods in each schedule phase
    #[arg(long, default_value_t = 5_000, value_name = "N")]
    pub pods: usize,
    /// Replicas in the deploy phases
    #[arg(long, default_value_t = 2_000, value_name = "N")]
    pub replicas: usize,
    /// Pods that start at once in that phase
    #[arg(long, default_value_t = 60, value_name = "N")]
    pub at_once: usize,
    /// What the pods of the start phases run; nodes have it or can pull it
    #[arg(long, default_value = "registry.k8s.io/pause:3.10.2", value_name = "IMAGE")]
    pub image: String,
    /// How long nothing may happen before the run is given up, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub timeout: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Args {
    /// How long nothing may happen before the run is given up.
    fn patience(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.timeout)
    }
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The kubeconfig cannot be used.
    #[error("failed to use the kubeconfig")]
    Config(#[from] client::ConfigError),
    /// The connection broke or was refused.
    #[error("failed to {what}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The cluster did not get there in time.
    #[error("{done} of {wanted} pods {what} after {seconds} s: do the scheduler and the controllers run?")]
    Late {
        /// What pods were waited for to be.
        what: &'static str,
        /// How many were.
        done: usize,
        /// How many should be.
        wanted: usize,
        /// How long nothing more happened.
        seconds: u64,
    },
    /// The namespace of an earlier run does not go away.
    #[error(
        "namespace {namespace} of another run is still there after {seconds} s: delete it, with controllers running"
    )]
    Occupied {
        /// Its name.
        namespace: &'static str,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The server refused a request that should succeed.
    #[error("{what}: the server answered {status}: {body}")]
    Refused {
        /// The request.
        what: String,
        /// HTTP status.
        status: u16,
        /// Start of the answer.
        body: String,
    },
}

/// Runs all phases and gives their figures.
pub async fn run(args: &Args) -> Result<Report, BenchError> {
    let endpoint = Arc::new(Endpoint::from_kubeconfig(&args.kubeconfig)?);
    phases::all(args, endpoint).await
}
