//! `kutter doctor`: what this machine lacks for local nodes, and how to mend it.

use std::path::Path;

use nix::sched::CloneFlags;
use serde::Serialize;

use crate::output::{self, Paint};
use crate::{CliError, Globals, Output};

/// One thing looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    good: bool,
    /// Whether clusters cannot run without it.
    needed: bool,
    detail: String,
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

/// Everything there is to look at.
fn findings(globals: &Globals) -> Vec<Finding> {
    vec![
        capabilities(),
        resource_capability(),
        file_system("overlay", "layers of images"),
        cgroups(),
        namespaces(),
        ip_forward(),
        nftables(),
        data_dir(&globals.data_dir),
    ]
}

/// Refuses to begin on a machine that cannot run nodes, and says what it lacks.
pub fn check(globals: &Globals) -> Result<(), CliError> {
    let lacking: Vec<String> = findings(globals)
        .into_iter()
        .filter(|finding| finding.needed && !finding.good)
        .map(|finding| format!("{}: {}", finding.what, finding.detail))
        .collect();
    match lacking.is_empty() {
        true => Ok(()),
        false => Err(CliError::told(format!("this machine cannot run nodes: {}", lacking.join("; ")))),
    }
}

/// Looks at everything and prints it; fails when something needed is missing.
pub fn run(globals: &Globals) -> Result<(), CliError> {
    let findings = findings(globals);
    let missing = findings.iter().filter(|f| f.needed && !f.good).count();
    if globals.output == Output::Json {
        output::json(&findings)?;
    } else {
        let paint = Paint::stdout();
        for finding in &findings {
            let mark = match (finding.good, finding.needed) {
                (true, _) => paint.green("ok     "),
                (false, true) => paint.red("missing"),
                (false, false) => paint.dim("limited"),
            };
            println!("{mark}  {:<18} {}", finding.what, finding.detail);
        }
    }
    match missing {
        0 => Ok(()),
        n => Err(CliError::told(format!("{n} needed thing(s) are missing on this machine"))),
    }
}

/// The names of the capabilities a node needs and this process lacks.
pub fn missing_capabilities() -> Vec<&'static str> {
    let held = effective_capabilities();
    CAPABILITIES.iter().filter(|(_, bit)| held & (1 << bit) == 0).map(|(name, _)| *name).collect()
}

fn effective_capabilities() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    line.and_then(|l| u64::from_str_radix(l.trim(), 16).ok()).unwrap_or(0)
}

fn capabilities() -> Finding {
    let missing = missing_capabilities();
    let detail = match missing.as_slice() {
        [] => "all that nodes need".to_owned(),
        list => format!("{} missing: run as root", list.join(", ")),
    };
    Finding { what: "capabilities", good: missing.is_empty(), needed: true, detail }
}

fn resource_capability() -> Finding {
    let good = effective_capabilities() & (1 << 24) != 0;
    let detail = if good {
        "CAP_SYS_RESOURCE: pods are ranked for the out-of-memory killer"
    } else {
        "no CAP_SYS_RESOURCE: pods cannot be protected from the out-of-memory killer; all else works"
    };
    Finding { what: "oom scores", good, needed: false, detail: detail.into() }
}

fn file_system(name: &'static str, purpose: &str) -> Finding {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let good = known.lines().any(|l| l.split_whitespace().last() == Some(name));
    let detail = match good {
        true => format!("for {purpose}"),
        false => format!("the kernel lacks {name}: load the module with `modprobe {name}`"),
    };
    Finding { what: "overlay", good, needed: true, detail }
}

fn cgroups() -> Finding {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let of_type = |kind: &str| mounts.lines().any(|l| l.split(' ').nth(2) == Some(kind));
    let unified = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let (good, detail) = if unified.contains("memory") {
        (true, "v2".to_owned())
    } else if of_type("cgroup") {
        (
            true,
            if of_type("cgroup2") { "hybrid: limits through v1, kill and freeze through v2" } else { "v1" }
                .into(),
        )
    } else {
        (false, "no cgroup file system is mounted at /sys/fs/cgroup".into())
    };
    Finding { what: "cgroups", good, needed: true, detail }
}

fn namespaces() -> Finding {
    let kinds = ["net", "mnt", "pid", "uts", "ipc", "cgroup"];
    let missing: Vec<&str> =
        kinds.into_iter().filter(|k| !Path::new("/proc/self/ns").join(k).exists()).collect();
    let detail = match missing.as_slice() {
        [] => "network, mount, PID, UTS, IPC, cgroup".to_owned(),
        list => format!("the kernel lacks {}", list.join(", ")),
    };
    Finding { what: "namespaces", good: missing.is_empty(), needed: true, detail }
}

fn ip_forward() -> Finding {
    let path = "/proc/sys/net/ipv4/ip_forward";
    let on = std::fs::read_to_string(path).is_ok_and(|t| t.trim() == "1");
    let writable = nix::unistd::access(path, nix::unistd::AccessFlags::W_OK).is_ok();
    let detail = match (on, writable) {
        (true, _) => "on",
        (false, true) => "off; `kutter up` turns it on",
        (false, false) => "off and not writable: set net.ipv4.ip_forward=1 with sysctl",
    };
    Finding { what: "ip forwarding", good: on || writable, needed: true, detail: detail.into() }
}

/// Makes and removes a table in a network namespace of its own, so that nothing of the machine is touched.
fn nftables() -> Finding {
    let answer = std::thread::spawn(|| {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET).map_err(|e| e.to_string())?;
        let table = net::nft::Nft::open("kutter-doctor").and_then(|table| table.remove());
        table.map_err(|error| match error.errno() {
            Some(errno) => nix::errno::Errno::from_raw(errno).to_string(),
            None => error.to_string(),
        })
    })
    .join();
    let (good, detail) = match answer {
        Ok(Ok(())) => (true, "for Services and network policy".to_owned()),
        Ok(Err(why)) => (false, format!("cannot be used: {why}; run as root, or load nf_tables")),
        Err(_) => (false, "could not be looked at".to_owned()),
    };
    Finding { what: "nftables", good, needed: true, detail }
}

fn data_dir(path: &Path) -> Finding {
    let existing = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let kind = nix::sys::statfs::statfs(existing).map(|s| s.filesystem_type());
    let space =
        nix::sys::statvfs::statvfs(existing).map(|s| (s.blocks_available() * s.fragment_size()) >> 30);
    let overlay = matches!(kind, Ok(k) if k == nix::sys::statfs::OVERLAYFS_SUPER_MAGIC);
    let needed = overlay || space.is_err();
    let (good, detail) = match (overlay, space) {
        (true, _) => {
            (false, format!("{} is on overlayfs: choose another place with --data-dir", path.display()))
        }
        (false, Ok(gib)) if gib < 1 => (false, format!("{} has less than 1 GiB of space", path.display())),
        (false, Ok(gib)) => (true, format!("{} ({gib} GiB free)", path.display())),
        (false, Err(error)) => (false, format!("{}: {error}", path.display())),
    };
    Finding { what: "data directory", good, needed, detail }
}
