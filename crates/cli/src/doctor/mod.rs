//! `kutter doctor`: what this machine lacks for local nodes, and how to mend it.
//!
//! Here the machine is looked at; [`judge`] says what that means.

mod judge;

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use judge::{DataDir, Finding};
use nix::sched::CloneFlags;

use crate::output::{self, Paint};
use crate::{CliError, Globals, Output};

/// Looks at everything and prints it; fails when something needed is missing.
pub fn run(globals: &Globals) -> Result<(), CliError> {
    let findings = look(globals);
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

/// Refuses to begin on a machine that cannot run nodes, and says what it lacks.
pub fn check(globals: &Globals) -> Result<(), CliError> {
    let lacking: Vec<String> = look(globals)
        .into_iter()
        .filter(|finding| finding.needed && !finding.good)
        .map(|finding| format!("{}: {}", finding.what, finding.detail))
        .collect();
    match lacking.is_empty() {
        true => Ok(()),
        false => Err(CliError::told(format!("this machine cannot run nodes: {}", lacking.join("; ")))),
    }
}

fn look(globals: &Globals) -> Vec<Finding> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let held = effective_capabilities();
    let kinds = ["net", "mnt", "pid", "uts", "ipc", "cgroup"];
    let lacks: Vec<&str> =
        kinds.into_iter().filter(|k| !Path::new("/proc/self/ns").join(k).exists()).collect();
    let forward = "/proc/sys/net/ipv4/ip_forward";
    let writable = nix::unistd::access(forward, nix::unistd::AccessFlags::W_OK).is_ok();
    let state = data_dir(&globals.data_dir);
    let ours = state == DataDir::Managed;
    let api = fleet::address_plan(0).api.port();
    vec![
        judge::capabilities(held),
        judge::oom_scores(held),
        judge::overlay(&read("/proc/filesystems")),
        judge::cgroups(&read("/proc/self/mounts"), &read("/sys/fs/cgroup/cgroup.controllers")),
        judge::namespaces(&lacks),
        judge::ip_forward(read(forward).trim() == "1", writable),
        judge::nftables(nftables()),
        judge::api_port(api, !ours && is_taken(api)),
        judge::ingress_port(80, !ours && is_taken(80)),
        disk(&globals.data_dir),
        judge::data_dir(&globals.data_dir, &state),
        judge::managers(&other_managers(&globals.data_dir)),
    ]
}

/// The names of the capabilities a node needs and this process lacks.
pub fn missing_capabilities() -> Vec<&'static str> {
    judge::lacking(effective_capabilities())
}

fn effective_capabilities() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    line.and_then(|l| u64::from_str_radix(l.trim(), 16).ok()).unwrap_or(0)
}

/// Makes and removes a table in a network namespace of its own, so that nothing of the machine is touched.
fn nftables() -> Result<(), String> {
    let looking = std::thread::spawn(|| {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET).map_err(|e| e.to_string())?;
        let table = net::nft::Nft::open("kutter-doctor").and_then(|table| table.remove());
        table.map_err(|error| match error.errno() {
            Some(errno) => nix::errno::Errno::from_raw(errno).to_string(),
            None => error.to_string(),
        })
    });
    looking.join().unwrap_or_else(|_| Err("it could not be looked at".to_owned()))
}

/// Whether somebody listens there. A port that is not ours to open is not taken.
fn is_taken(port: u16) -> bool {
    let tried = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    tried.is_err_and(|e| e.kind() == std::io::ErrorKind::AddrInUse)
}

fn disk(path: &Path) -> Finding {
    let existing = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let kind = nix::sys::statfs::statfs(existing).map(|s| s.filesystem_type());
    let free = nix::sys::statvfs::statvfs(existing).map(|s| s.blocks_available() * s.fragment_size());
    let overlay = matches!(kind, Ok(k) if k == nix::sys::statfs::OVERLAYFS_SUPER_MAGIC);
    judge::disk(path, overlay, free.map_err(|e| e.to_string()))
}

fn data_dir(path: &Path) -> DataDir {
    let names = |dir: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    };
    let clusters = names(&path.join("clusters"));
    if names(path).is_empty() {
        return DataDir::Fresh;
    }
    if !path.join("manager").is_dir() {
        return DataDir::Foreign;
    }
    let socket = path.join("manager.sock");
    if UnixStream::connect(&socket).is_ok() {
        return DataDir::Managed;
    }
    match held_by(&path.join("manager/lock")) {
        Some(pid) => DataDir::Mute(pid),
        None if socket.exists() => DataDir::Left(clusters),
        None => DataDir::Kept(clusters),
    }
}

/// The process that holds the lock, as it wrote into it.
fn held_by(lock: &Path) -> Option<String> {
    let file = std::fs::File::open(lock).ok()?;
    match nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockSharedNonblock) {
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            Some(std::fs::read_to_string(lock).unwrap_or_default().trim().to_owned())
        }
        _ => None,
    }
}

/// Managers of other state directories in this network namespace.
pub fn other_managers(own: &Path) -> Vec<(i32, PathBuf)> {
    let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().into_string().ok()?.parse::<i32>().ok());
    let manager = |pid: i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<String> =
            line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
        let place = words.iter().position(|w| w == "--data-dir")?;
        let is_one = words.first()?.ends_with("kutter") && words.get(1)? == "manager";
        let dir = PathBuf::from(words.get(place + 1)?);
        (is_one && dir != own && network(&pid.to_string()) == network("self")).then_some((pid, dir))
    };
    pids.filter_map(manager).collect()
}
