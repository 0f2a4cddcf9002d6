//! The command line: flags defined once, readable tables, live progress.
//!
//! [`Command`] is the one definition from which parsing, help, man pages and completions come. User commands talk
//! to the manager over its socket and to clusters over the Kubernetes API; they hold no state of their own.

mod backup;
mod cluster;
mod commands;
pub mod config;
mod demo;
mod doctor;
mod down;
mod image;
mod join;
mod kubeconfig;
mod logs;
mod manager;
mod node;
mod output;
mod progress;
mod status;
mod token;
mod up;

pub use join::CONFIG as JOIN_CONFIG;
pub use token::GROUP as JOIN_GROUP;

pub use commands::{Command, Globals, Output};

/// Why a command failed: what on what, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A sentence of its own.
    #[error("{0}")]
    Told(String),
    /// Something failed for a reason that is printed with it.
    #[error("failed to {what}")]
    Failed {
        /// What was being done, on what.
        what: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl CliError {
    /// A [`CliError::Told`].
    pub fn told(text: impl Into<String>) -> CliError {
        CliError::Told(text.into())
    }
}

/// Adds what was being done to an error.
pub(crate) trait Doing<T> {
    /// `failed to {what}: {cause}`.
    fn doing(self, what: impl Into<String>) -> Result<T, CliError>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl Into<String>) -> Result<T, CliError> {
        self.map_err(|error| CliError::Failed { what: what.into(), source: error.into() })
    }
}

/// Runs a user command to its end.
pub fn run(globals: &Globals, command: Command) -> Result<(), CliError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().doing("start the runtime")?;
    runtime.block_on(async {
        match command {
            Command::Up(args) => up::run(globals, args).await,
            Command::Down(args) => down::down(globals, args).await,
            Command::Delete(args) => down::delete(globals, args).await,
            Command::Status(args) => status::run(globals, args).await,
            Command::Logs(args) => logs::run(globals, args).await,
            Command::Kubeconfig(args) => kubeconfig::run(globals, args).await,
            Command::Cluster(args) => cluster::cluster(globals, args).await,
            Command::Nodepool(args) => cluster::nodepool(globals, args).await,
            Command::Node(args) => node::run(globals, args).await,
            Command::Image(args) => image::run(globals, args).await,
            Command::Demo(args) => demo::run(globals, args).await,
            Command::Doctor => doctor::run(globals),
            Command::Backup(args) => backup::backup(globals, args).await,
            Command::Restore(args) => backup::restore(globals, args).await,
        }
    })
}
