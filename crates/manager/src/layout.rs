//! Where everything of the managed service lies below its state directory.
//!
//! ```text
//! DIR/manager/            lock, state store, log
//! DIR/manager.sock        the API
//! DIR/notify.sock         where processes say that they are ready
//! DIR/clusters/C/control-plane/     data directory of the API server: pki/, store/, admin.kubeconfig
//! DIR/clusters/C/nodes/N/           one node: kubeconfig, runtime/, volumes/, logs …
//! DIR/clusters/C/log/               one log per process
//! ```

use std::path::{Path, PathBuf};

use fleet::{Role, Target};

/// Paths below one state directory.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Layout {
        Layout { root: root.into() }
    }

    /// The state directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The manager's own folder.
    pub fn manager(&self) -> PathBuf {
        self.root.join("manager")
    }

    /// Held while a manager runs; has its pid.
    pub fn lock(&self) -> PathBuf {
        self.manager().join("lock")
    }

    /// The manager's log.
    pub fn manager_log(&self) -> PathBuf {
        self.manager().join("manager.log")
    }

    /// The API's unix socket.
    pub fn socket(&self) -> PathBuf {
        self.root.join("manager.sock")
    }

    /// The readiness socket.
    pub fn notify_socket(&self) -> PathBuf {
        self.root.join("notify.sock")
    }

    /// Everything of one cluster.
    pub fn cluster(&self, cluster: &str) -> PathBuf {
        self.root.join("clusters").join(cluster)
    }

    /// The data directory of a cluster's API server.
    pub fn control_plane(&self, cluster: &str) -> PathBuf {
        self.cluster(cluster).join("control-plane")
    }

    /// The kubeconfig of a cluster's administrator.
    pub fn admin_kubeconfig(&self, cluster: &str) -> PathBuf {
        self.control_plane(cluster).join("admin.kubeconfig")
    }

    /// Everything of one node.
    pub fn node(&self, cluster: &str, node: &str) -> PathBuf {
        self.cluster(cluster).join("nodes").join(node)
    }

    /// The cgroup around the pods of a node: another one for each state directory, since clusters of two of them may
    /// have the same names.
    pub fn cgroup(&self, node: &str) -> String {
        let root = self.root.as_os_str().as_encoded_bytes();
        let hash = root.iter().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193));
        format!("/kutter-{hash:08x}-{node}")
    }

    /// The authority of a cluster on another machine, of which this one is a member.
    pub fn member_ca(&self, cluster: &str) -> PathBuf {
        self.cluster(cluster).join("ca.crt")
    }

    /// The log of a process.
    pub fn log(&self, target: &Target) -> PathBuf {
        let name = match &target.role {
            Role::ControlPlane => "control-plane.log".to_owned(),
            Role::Supervisor { node } => format!("{node}.supervisor.log"),
            Role::Node { node } => format!("{node}.log"),
        };
        self.cluster(&target.cluster).join("log").join(name)
    }
}
