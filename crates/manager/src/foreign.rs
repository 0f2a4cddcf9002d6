//! Nodes on a container runtime of the machine: what is left in it, and of mounts, once the node has ended. Kutter's own
//! runtime ends with its supervisor and the namespaces of the node; a runtime of the machine goes on.

use std::path::Path;

use oci::runtime::{Filter, Runtime};
use serve::pki::replace_file;

use crate::ManagerError;

/// Says in which runtime a node's pods are, for those who have nothing of the node but its folder.
const FILE: &str = "foreign-runtime";

/// Keeps which runtime the node in this folder uses.
pub fn remember(node: &Path, runtime: &str) -> Result<(), ManagerError> {
    crate::provision::private_dir(node)?;
    let path = node.join(FILE);
    replace_file(&path, runtime.as_bytes(), 0o600)
        .map_err(|e| ManagerError::Credentials { what: path.display().to_string(), why: e.to_string() })
}

/// Removes the pods of a node that has ended from the runtime it used, and its mounts from the machine.
pub async fn clear(node: &Path, cgroup: &str) {
    let Ok(runtime) = std::fs::read_to_string(node.join(FILE)) else { return };
    if let Err(error) = remove_pods(&runtime, cgroup).await {
        tracing::warn!(%error, runtime, "pods are left in the runtime");
    }
    if let Err(error) = volumes::mounts::undo(node) {
        tracing::warn!(%error, "mounts of pods are left");
    }
}

async fn remove_pods(runtime: &str, cgroup: &str) -> Result<(), oci::runtime::Error> {
    let cri = oci::Cri::connect(runtime.strip_prefix("cri=").unwrap_or(runtime)).await?;
    let below = format!("{}/", cgroup.trim_end_matches('/'));
    for sandbox in cri.list_sandboxes(Filter::default()).await? {
        // Others may use the runtime, too.
        if sandbox.cgroup_parent.starts_with(&below) {
            cri.remove_sandbox(&sandbox.id).await?;
        }
    }
    Ok(())
}
