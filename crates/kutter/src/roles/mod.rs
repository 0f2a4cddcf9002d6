//! The roles the binary can play, one file each, and what they share: logging and the way errors are printed.

mod addons;
pub mod apiserver;
mod authority;
pub mod bench;
pub mod controllers;
pub mod controlplane;
pub mod launch;
mod local;
pub mod manager;
mod memory;
pub mod node;
mod open;
pub mod scheduler;
pub mod supervisor;

/// What a role may end with; printed once, with its chain of causes.
pub type RoleError = Box<dyn std::error::Error + Send + Sync>;

/// The error and its causes as one line: `failed to a: b: c`.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Sends log lines to standard error, `info` and above unless `KUTTER_LOG` says otherwise.
/// Long-running roles call it first; user commands do not.
pub fn init_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("KUTTER_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}

/// Tells the manager that this process is ready, if a manager started it (as `sd_notify` does).
pub fn notify_ready() {
    let (Some(socket), Ok(run)) =
        (std::env::var_os(::manager::NOTIFY_VARIABLE), std::env::var(::manager::RUN_VARIABLE))
    else {
        return;
    };
    let sent = std::os::unix::net::UnixDatagram::unbound()
        .and_then(|s| s.send_to(format!("READY=1\nX_KUTTER_RUN={run}").as_bytes(), socket));
    if let Err(error) = sent {
        tracing::warn!(%error, "the manager could not be told that this process is ready");
    }
}

/// The machine's PodSecurityConfiguration, if it has one.
fn pod_security() -> Option<std::path::PathBuf> {
    let path = std::path::PathBuf::from("/etc/kutter/pod-security.yaml");
    path.exists().then_some(path)
}
