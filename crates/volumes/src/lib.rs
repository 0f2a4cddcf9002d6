//! Volume engines: mounts, projected files and node-local persistent volumes.
//!
//! A pod's volumes live in `DATA/pods/UID/volumes/KIND/NAME`. Everything here is blocking file-system work for the
//! caller's blocking threads, and idempotent: setting up what is set up changes nothing, so that a restarted node
//! process simply does it again.
//!
//! Persistent volumes of the default class are directories (`DATA/pv/NAME`) on the node, as `local` volumes with a
//! node affinity. A directory is chosen over a sized loop image because it is the simplest thing that survives
//! everything the file system survives; its capacity is watched by scans, not enforced by the kernel. The binder is
//! a controller, and so is the provisioner; [`local::Pool`] is what they need on the node: provision, delete.

pub mod atomic;
pub mod device;
pub mod local;
pub mod mounts;
pub mod owner;
pub mod scan;
pub mod setup;
pub mod subpath;

/// What went wrong with a volume. Fits "failed to …: {error}".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file-system step failed.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was tried, such as `make directory`.
        what: &'static str,
        /// On what.
        path: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The volume is not as the spec says.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// Wraps an I/O error with what was tried on which path.
    pub fn io(what: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.display().to_string();
        move |source| Error::Io { what, path, source }
    }
}
