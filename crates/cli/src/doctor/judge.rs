//! What each look at the machine means, and how to mend it. Nothing here looks itself.

use std::path::{Path, PathBuf};

use serde::Serialize;

/// One thing looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is.
    pub what: &'static str,
    /// Whether it is as it should be.
    pub good: bool,
    /// Whether clusters cannot run without it.
    pub needed: bool,
    /// What was found; where it is not good, what to do.
    pub detail: String,
}

fn fine(what: &'static str, detail: impl Into<String>) -> Finding {
    Finding { what, good: true, needed: true, detail: detail.into() }
}

fn missing(what: &'static str, detail: impl Into<String>) -> Finding {
    Finding { what, good: false, needed: true, detail: detail.into() }
}

fn limited(what: &'static str, detail: impl Into<String>) -> Finding {
    Finding { what, good: false, needed: false, detail: detail.into() }
}

/// Capabilities a node needs, with their bit numbers (capabilities(7)).
const CAPABILITIES: [(&str, u32); 6] = [
    ("CAP_SYS_ADMIN", 21),
    ("CAP_NET_ADMIN", 12),
    ("CAP_SYS_CHROOT", 18),
    ("CAP_MKNOD", 27),
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_SETUID", 7),
];
const SYS_RESOURCE: u32 = 24;
/// Controllers whose limits pods use.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// Free space below which little fits, in bytes.
const SPACE_MIN: u64 = 1 << 30;

/// The names of the capabilities a node needs that are not among `held` (a mask).
pub fn lacking(held: u64) -> Vec<&'static str> {
    CAPABILITIES.iter().filter(|(_, bit)| held & (1 << bit) == 0).map(|(name, _)| *name).collect()
}

/// Rights of the process.
pub fn capabilities(held: u64) -> Finding {
    match lacking(held).as_slice() {
        [] => fine("capabilities", "all that nodes need"),
        list => missing("capabilities", format!("{} missing: run as root", list.join(", "))),
    }
}

/// Whether pods can be protected from the out-of-memory killer.
pub fn oom_scores(held: u64) -> Finding {
    match held & (1 << SYS_RESOURCE) != 0 {
        true => fine("oom scores", "CAP_SYS_RESOURCE: pods are ranked for the out-of-memory killer"),
        false => limited(
            "oom scores",
            "no CAP_SYS_RESOURCE: pods cannot be protected from the out-of-memory killer; all else works",
        ),
    }
}

/// Whether /proc/filesystems names overlay.
pub fn overlay(filesystems: &str) -> Finding {
    match filesystems.lines().any(|l| l.split_whitespace().last() == Some("overlay")) {
        true => fine("overlay", "for layers of images"),
        false => missing("overlay", "the kernel lacks overlay: load the module with `modprobe overlay`"),
    }
}

/// Control groups, by /proc/self/mounts and the root's cgroup.controllers.
pub fn cgroups(mounts: &str, unified: &str) -> Finding {
    let fields = || mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>()).filter(|f| f.len() > 3);
    let v1: Vec<&str> = fields().filter(|f| f[2] == "cgroup").flat_map(|f| f[3].split(',')).collect();
    let both = fields().any(|f| f[2] == "cgroup2");
    let has = |name: &&&str| v1.contains(*name) || unified.split_whitespace().any(|w| w == **name);
    let lacks: Vec<&str> = CONTROLLERS.iter().filter(|name| !has(name)).copied().collect();
    match (v1.is_empty(), both, lacks.as_slice()) {
        (true, false, _) => {
            missing("cgroups", "no cgroup file system is mounted: `mount -t cgroup2 none /sys/fs/cgroup`")
        }
        (_, _, [_, ..]) => missing(
            "cgroups",
            format!(
                "no controller {}: take cgroup_disable= off the kernel's command line, or add cgroup_enable=memory",
                lacks.join(", ")
            ),
        ),
        (true, true, []) => fine("cgroups", "v2"),
        (false, true, []) => fine("cgroups", "hybrid: limits through v1, kill and freeze through v2"),
        (false, false, []) => fine("cgroups", "v1"),
    }
}

/// Kinds of namespaces the kernel lacks.
pub fn namespaces(lacks: &[&str]) -> Finding {
    match lacks {
        [] => fine("namespaces", "network, mount, PID, UTS, IPC, cgroup"),
        list => missing(
            "namespaces",
            format!(
                "the kernel lacks {}: use one built with CONFIG_NAMESPACES and these kinds",
                list.join(", ")
            ),
        ),
    }
}

/// Whether packets pass, and whether that can be changed.
pub fn ip_forward(on: bool, writable: bool) -> Finding {
    match (on, writable) {
        (true, _) => fine("ip forwarding", "on"),
        (false, true) => fine("ip forwarding", "off; `kutter up` turns it on"),
        (false, false) => {
            missing("ip forwarding", "off and not writable: `sysctl -w net.ipv4.ip_forward=1` as root")
        }
    }
}

/// Whether a netfilter socket can be had.
pub fn nftables(answer: Result<(), String>) -> Finding {
    match answer {
        Ok(()) => fine("nftables", "for Services and network policy"),
        Err(why) => missing("nftables", format!("{why}: run as root, or `modprobe nf_tables`")),
    }
}

/// A port of the loopback address: `taken` by somebody else than the own manager.
pub fn api_port(port: u16, taken: bool) -> Finding {
    match taken {
        false => fine("API port", format!("127.0.0.1:{port} is free or ours")),
        true => missing(
            "API port",
            format!(
                "127.0.0.1:{port} is taken by another program: `ss -ltnp sport = :{port}` names it; end it"
            ),
        ),
    }
}

/// The port of the ingress, which moves when it is taken.
pub fn ingress_port(port: u16, taken: bool) -> Finding {
    match taken {
        false => fine("ingress port", format!("127.0.0.1:{port} is free or ours")),
        true => limited(
            "ingress port",
            format!(
                "127.0.0.1:{port} is taken: the ingress answers at 8080 or another port, which `up` prints"
            ),
        ),
    }
}

/// Where the data are: on overlayfs or not, free bytes.
pub fn disk(path: &Path, overlay: bool, free: Result<u64, String>) -> Finding {
    let path = path.display();
    match (overlay, free) {
        (true, _) => missing("disk", format!("{path} is on overlayfs: choose another place with --data-dir")),
        (_, Err(why)) => missing("disk", format!("{path}: {why}: choose another place with --data-dir")),
        (_, Ok(free)) if free < SPACE_MIN => limited(
            "disk",
            format!(
                "{path} has {} MiB free, images need more: make room, or choose another with --data-dir",
                free >> 20
            ),
        ),
        (_, Ok(free)) => fine("disk", format!("{path} ({} GiB free)", free >> 30)),
    }
}

/// What the state directory is found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataDir {
    /// Absent or empty.
    Fresh,
    /// Its manager answers.
    Managed,
    /// No manager runs; these clusters are kept.
    Kept(Vec<String>),
    /// A manager was killed and left its socket; these clusters are kept.
    Left(Vec<String>),
    /// A process holds the lock and does not answer.
    Mute(String),
    /// It has files, none of them ours.
    Foreign,
}

/// The state directory.
pub fn data_dir(path: &Path, found: &DataDir) -> Finding {
    let (what, dir) = ("data directory", path.display());
    match found {
        DataDir::Fresh => fine(what, format!("{dir} is fresh")),
        DataDir::Managed => fine(what, format!("{dir} belongs to the running manager")),
        DataDir::Kept(clusters) => {
            fine(what, format!("{dir} keeps {}; `kutter up` goes on", named(clusters)))
        }
        DataDir::Left(clusters) => limited(
            what,
            format!(
                "{dir} keeps {} of a manager that was killed: `kutter up` takes over what runs, `kutter delete` removes it",
                named(clusters)
            ),
        ),
        DataDir::Mute(pid) => missing(
            what,
            format!(
                "the manager of {dir} (pid {pid}) does not answer: look at `kutter logs manager`, then `kill {pid}`"
            ),
        ),
        DataDir::Foreign => {
            missing(what, format!("{dir} has files that are not Kutter's: choose another with --data-dir"))
        }
    }
}

fn named(clusters: &[String]) -> String {
    if clusters.is_empty() { "no cluster".to_owned() } else { clusters.join(", ") }
}

/// Managers of other state directories on this machine and network.
pub fn managers(others: &[(i32, PathBuf)]) -> Finding {
    match others {
        [] => fine("managers", "no other"),
        [(pid, dir), ..] => missing(
            "managers",
            format!(
                "another manager (pid {pid}) has the same addresses and ports: `kutter --data-dir {} down`",
                dir.display()
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: u64 = (1 << 40) - 1;

    #[test]
    fn findings_by_table() {
        let dir = Path::new("/srv/k");
        let v1 = "c /sys/fs/cgroup/cpu cgroup rw,cpu,cpuacct 0 0\nc /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
            c /sys/fs/cgroup/pids cgroup rw,pids 0 0\n";
        let v2 = "c /sys/fs/cgroup cgroup2 rw 0 0\n";
        let all = "cpuset cpu io memory pids";
        let one = || vec!["default".to_owned()];
        let second = [(7, PathBuf::from("/srv/other"))];
        let table = [
            (capabilities(ROOT), "ok", "all that nodes need"),
            (capabilities(ROOT & !(1 << 12)), "missing", "CAP_NET_ADMIN missing: run as root"),
            (oom_scores(ROOT), "ok", "CAP_SYS_RESOURCE"),
            (oom_scores(ROOT & !(1 << 24)), "limited", "no CAP_SYS_RESOURCE"),
            (overlay("nodev\tproc\n\text4\nnodev\toverlay\n"), "ok", "layers"),
            (overlay("nodev\toverlayx\n"), "missing", "modprobe overlay"),
            (cgroups(v1, ""), "ok", "v1"),
            (cgroups(v2, all), "ok", "v2"),
            (cgroups(&format!("{v1}{v2}"), ""), "ok", "hybrid"),
            (cgroups("", ""), "missing", "mount -t cgroup2"),
            (cgroups(v2, "cpu pids"), "missing", "no controller memory"),
            (namespaces(&[]), "ok", "network"),
            (namespaces(&["pid"]), "missing", "the kernel lacks pid"),
            (ip_forward(true, false), "ok", "on"),
            (ip_forward(false, true), "ok", "turns it on"),
            (ip_forward(false, false), "missing", "sysctl -w"),
            (nftables(Ok(())), "ok", "Services"),
            (nftables(Err("no".into())), "missing", "modprobe nf_tables"),
            (api_port(6443, false), "ok", "free or ours"),
            (api_port(6443, true), "missing", "ss -ltnp sport = :6443"),
            (ingress_port(80, true), "limited", "8080"),
            (disk(dir, false, Ok(5 << 30)), "ok", "5 GiB free"),
            (disk(dir, false, Ok(5 << 20)), "limited", "5 MiB free"),
            (disk(dir, true, Ok(5 << 30)), "missing", "overlayfs"),
            (disk(dir, false, Err("gone".into())), "missing", "gone"),
            (data_dir(dir, &DataDir::Fresh), "ok", "fresh"),
            (data_dir(dir, &DataDir::Managed), "ok", "running manager"),
            (data_dir(dir, &DataDir::Kept(one())), "ok", "keeps default"),
            (data_dir(dir, &DataDir::Left(one())), "limited", "was killed"),
            (data_dir(dir, &DataDir::Mute("9".into())), "missing", "kill 9"),
            (data_dir(dir, &DataDir::Foreign), "missing", "not Kutter's"),
            (managers(&[]), "ok", "no other"),
            (managers(&second), "missing", "kutter --data-dir /srv/other down"),
        ];
        for (finding, state, words) in table {
            let told = match (finding.good, finding.needed) {
                (true, _) => "ok",
                (false, true) => "missing",
                (false, false) => "limited",
            };
            assert_eq!(told, state, "{finding:?}");
            assert!(finding.detail.contains(words), "{finding:?} without {words:?}");
        }
    }
}
