//! Statistics, read from cgroups and directories without asking the supervisor.

use super::Embedded;
use crate::cgroup::Cgroups;
use crate::proto::now;
use crate::runtime::Error;
use crate::state::*;
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

impl Embedded {
    pub(super) fn stats_of(&self, status: ContainerStatus) -> Result<ContainerStats, Error> {
        let cgroup = self.spec(&status.id)?.cgroup;
        let cgroups = &self.inner.cgroups;
        Ok(ContainerStats {
            cpu: cgroups.cpu(&cgroup),
            memory: cgroups.memory(&cgroup),
            pids: cgroups.pids_current(&cgroup),
            pressure: cgroups.pressures(&cgroup),
            writable_layer: usage(&self.inner.layout.upper(&status.id)),
            id: status.id,
            sandbox: status.sandbox,
            name: status.name,
            attempt: status.attempt,
            labels: status.labels,
        })
    }

    pub(super) fn fs_info(&self) -> ImageFsInfo {
        let layout = &self.inner.layout;
        let (content, layers) = (usage(&layout.content()), usage(&layout.layers()));
        let mut containers = FsStats { timestamp: now(), ..FsStats::default() };
        for entry in std::fs::read_dir(layout.containers()).into_iter().flatten().flatten() {
            let one = usage(&entry.path());
            containers.used_bytes += one.used_bytes;
            containers.inodes_used += one.inodes_used;
        }
        ImageFsInfo {
            image_path: layout.layers(),
            images: FsStats {
                timestamp: now(),
                used_bytes: content.used_bytes + layers.used_bytes,
                inodes_used: content.inodes_used + layers.inodes_used,
            },
            container_path: layout.containers(),
            containers,
        }
    }
}

/// Use of a sandbox: what its cgroup and its network namespace tell, and its containers.
pub fn of_sandbox(cgroups: &Cgroups, status: SandboxStatus, containers: Vec<ContainerStats>) -> SandboxStats {
    let parent = &status.cgroup_parent;
    SandboxStats {
        cpu: cgroups.cpu(parent),
        memory: cgroups.memory(parent),
        pids: containers.iter().map(|c| c.pids).sum(),
        pressure: cgroups.pressures(parent),
        interfaces: status.netns.as_deref().map(interfaces).unwrap_or_default(),
        containers,
        id: status.id,
        metadata: status.metadata,
    }
}

/// Disk use below a directory, on its own file system; hard links count once.
pub fn usage(dir: &Path) -> FsStats {
    let mut stats = FsStats { timestamp: now(), ..FsStats::default() };
    let mut seen = HashSet::new();
    let Ok(top) = std::fs::symlink_metadata(dir) else { return stats };
    let mut todo = vec![dir.to_owned()];
    stats.used_bytes += top.blocks() * 512;
    stats.inodes_used += 1;
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != top.dev() || (meta.nlink() > 1 && !meta.is_dir() && !seen.insert(meta.ino())) {
                continue;
            }
            stats.used_bytes += meta.blocks() * 512;
            stats.inodes_used += 1;
            if meta.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    stats
}

/// Counters of the interfaces in a network namespace.
fn interfaces(netns: &Path) -> Vec<InterfaceStats> {
    let text =
        super::streams::inside(netns.to_owned(), || std::fs::read_to_string("/proc/thread-self/net/dev"));
    InterfaceStats::parse(&text.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #[test]
    fn interfaces() {
        let text = "Inter-|   Receive  |\n face |bytes packets\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 1 2 0 0 0 0 0 20 1 3 0 0 0 0 0\n";
        let got = crate::state::InterfaceStats::parse(text);
        assert_eq!(got.len(), 1);
        assert_eq!((&*got[0].name, got[0].rx_bytes, got[0].tx_bytes, got[0].tx_errors), ("eth0", 10, 20, 3));
    }
}
