//! The processes of clusters as the machine has them: start, find again, signal, and learn of their end.
//!
//! Every process carries its name in its environment ([`RUN_VARIABLE`]). That is the only record of it: a manager
//! that starts scans the machine once for its own names and adopts what it finds, so that there is no file that
//! could disagree with what runs.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use fleet::{Exit, Process, ProcessState, Role, STEADY_MS, Target};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::ManagerError;
use crate::launch::{Place, pid_fd};

/// Names the process: `STATE_DIR|CLUSTER|ROLE|NODE`.
pub const RUN_VARIABLE: &str = "KUTTER_RUN";
/// Where it says that it is ready, as with `sd_notify`.
pub const NOTIFY_VARIABLE: &str = "NOTIFY_SOCKET";

/// Something the engine must look at.
#[derive(Debug)]
pub enum Happening {
    /// A process said that it is ready.
    Ready(Target),
    /// A process ended.
    Exited(Target, i32),
}

/// What is known of one process.
#[derive(Debug)]
pub struct Known {
    /// Its pid on this machine; of the last run when it has exited.
    pub pid: i32,
    /// What it does.
    pub state: ProcessState,
    /// When it was started, on the engine's clock.
    pub started_ms: u64,
    /// Ends in a row, for the restart delay.
    pub streak: u32,
    /// Restarts by this manager.
    pub restarts: u32,
}

/// All processes of this state directory.
#[derive(Debug)]
pub struct Processes {
    root: String,
    known: HashMap<Target, Known>,
    happenings: mpsc::Sender<Happening>,
}

/// What to start.
#[derive(Debug)]
pub struct Command {
    /// Which process.
    pub target: Target,
    /// Where.
    pub place: Place,
    /// Arguments of the own binary.
    pub arguments: Vec<String>,
    /// Additional environment.
    pub environment: Vec<(String, String)>,
    /// Standard output and error are appended here.
    pub log: PathBuf,
    /// Readiness socket.
    pub notify: PathBuf,
}

impl Processes {
    /// Becomes the subreaper and finds the processes an earlier manager left.
    pub fn adopt(root: &Path, happenings: mpsc::Sender<Happening>) -> Processes {
        if let Err(error) = nix::sys::prctl::set_child_subreaper(true) {
            tracing::warn!(%error, "processes that a launch leaves behind go to init");
        }
        let mut processes = Processes { root: root.display().to_string(), known: HashMap::new(), happenings };
        for (pid, target) in scan(&processes.root) {
            tracing::info!(
                pid,
                cluster = target.cluster,
                role = target.role.word(),
                node = target.role.node(),
                "adopted"
            );
            processes.track(target, pid, ProcessState::Ready, 0);
        }
        processes
    }

    /// What the planner needs to know.
    pub fn observed(&self) -> Vec<Process> {
        self.known.iter().map(|(t, k)| Process { target: t.clone(), state: k.state }).collect()
    }

    /// What is known of a process.
    pub fn get(&self, target: &Target) -> Option<&Known> {
        self.known.get(target)
    }

    /// All known processes of a cluster.
    pub fn of_cluster<'a>(&'a self, cluster: &'a str) -> impl Iterator<Item = (&'a Target, &'a Known)> {
        self.known.iter().filter(move |(t, _)| t.cluster == cluster)
    }

    /// Starts a process through `kutter launch`.
    pub async fn start(&mut self, command: Command, now_ms: u64) -> Result<(), ManagerError> {
        let what = format!("{:?}", command.target.role);
        let failed = |source| ManagerError::Start { what: what.clone(), source };
        let log = open_log(&command.log)?;
        let mut launch = tokio::process::Command::new("/proc/self/exe");
        launch
            .arg("launch")
            .args(place_arguments(&command.place))
            .arg("--")
            .args(&command.arguments)
            .env(RUN_VARIABLE, self.run_name(&command.target))
            .env(NOTIFY_VARIABLE, &command.notify)
            .envs(command.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(log.try_clone().map_err(ManagerError::file("clone", &command.log))?));
        let output = launch.spawn().map_err(failed)?.wait_with_output().await.map_err(failed)?;
        let pid = String::from_utf8_lossy(&output.stdout).trim().parse::<i32>().map_err(|_| {
            failed(std::io::Error::other(format!("the launch told no pid; see {}", command.log.display())))
        })?;
        self.track(command.target, pid, ProcessState::Starting, now_ms);
        Ok(())
    }

    fn track(&mut self, target: Target, pid: i32, state: ProcessState, started_ms: u64) {
        let before = self.known.get(&target);
        let streak = before.map_or(0, |k| k.streak);
        let restarts = before.map_or(0, |k| k.restarts + 1);
        self.known.insert(target.clone(), Known { pid, state, started_ms, streak, restarts });
        tokio::spawn(watch_end(target, pid, self.happenings.clone()));
    }

    /// Takes in what happened. A late word about an earlier run of the process changes nothing.
    pub fn note(&mut self, happening: &Happening, now_ms: u64) {
        match happening {
            Happening::Ready(target) => {
                if let Some(known) = self.known.get_mut(target)
                    && known.state == ProcessState::Starting
                {
                    known.state = ProcessState::Ready;
                    let (cluster, role) = (&target.cluster, target.role.word());
                    let took_ms = now_ms.saturating_sub(known.started_ms);
                    tracing::info!(cluster, role, node = target.role.node(), took_ms, "ready");
                }
            }
            Happening::Exited(target, pid) => {
                if let Some(known) = self.known.get_mut(target)
                    && known.pid == *pid
                {
                    let steady = now_ms.saturating_sub(known.started_ms) >= STEADY_MS;
                    known.streak = if steady { 1 } else { known.streak + 1 };
                    known.state = ProcessState::Exited(Exit { at_ms: now_ms, streak: known.streak });
                }
            }
        }
    }

    /// Forgets that the cluster's processes ended, so that they start again at once: somebody asked.
    pub fn forgive(&mut self, cluster: &str) {
        for (_, known) in self.known.iter_mut().filter(|(t, _)| t.cluster == cluster) {
            if let ProcessState::Exited(exit) = &mut known.state {
                known.streak = 0;
                exit.streak = 0;
            }
        }
    }

    /// A start that failed counts as an end, so that the restart delay applies.
    pub fn note_failed_start(&mut self, target: &Target, now_ms: u64) {
        let known = self.known.entry(target.clone()).or_insert(Known {
            pid: 0,
            state: ProcessState::Starting,
            started_ms: now_ms,
            streak: 0,
            restarts: 0,
        });
        known.streak += 1;
        known.state = ProcessState::Exited(Exit { at_ms: now_ms, streak: known.streak });
    }

    /// Asks a process to end (SIGTERM) or ends it (SIGKILL).
    pub fn signal(&mut self, target: &Target, kill: bool, now_ms: u64) {
        let Some(known) = self.known.get_mut(target) else { return };
        let signal = if kill { nix::sys::signal::Signal::SIGKILL } else { nix::sys::signal::Signal::SIGTERM };
        if let Err(error) = nix::sys::signal::kill(nix::unistd::Pid::from_raw(known.pid), signal) {
            tracing::debug!(pid = known.pid, %error, "signal not delivered");
        }
        if !matches!(known.state, ProcessState::Stopping { .. }) {
            known.state = ProcessState::Stopping { since_ms: now_ms };
        }
    }

    /// Drops what is known of a process that has ended.
    pub fn forget(&mut self, target: &Target) {
        self.known.remove(target);
    }

    fn run_name(&self, target: &Target) -> String {
        let node = target.role.node().unwrap_or_default();
        format!("{}|{}|{}|{node}", self.root, target.cluster, target.role.word())
    }
}

/// The target in a [`RUN_VARIABLE`] value of this state directory.
pub fn parse_run_name(root: &str, text: &str) -> Option<Target> {
    let rest = text.strip_prefix(root)?.strip_prefix('|')?;
    let mut parts = rest.splitn(3, '|');
    let cluster = parts.next()?.to_owned();
    let (word, node) = (parts.next()?, parts.next()?.to_owned());
    let role = match word {
        "control-plane" => Role::ControlPlane,
        "supervisor" => Role::Supervisor { node },
        "node" => Role::Node { node },
        _ => return None,
    };
    Some(Target { cluster, role })
}

/// Every process of the machine that carries a name of this state directory. Where a process and its children
/// carry the same name, the eldest counts.
fn scan(root: &str) -> Vec<(i32, Target)> {
    let prefix = format!("{RUN_VARIABLE}=");
    let mut found: HashMap<Target, (u64, i32)> = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let Ok(environment) = std::fs::read(entry.path().join("environ")) else { continue };
        let name = environment.split(|b| *b == 0).find_map(|v| v.strip_prefix(prefix.as_bytes()));
        let Some(target) =
            name.and_then(|n| std::str::from_utf8(n).ok()).and_then(|n| parse_run_name(root, n))
        else {
            continue;
        };
        let Some(started) = start_ticks(pid) else { continue };
        let best = found.entry(target).or_insert((started, pid));
        *best = (*best).min((started, pid));
    }
    found.into_iter().map(|(target, (_, pid))| (pid, target)).collect()
}

/// When the process started, in clock ticks since boot (field 22 of /proc/PID/stat), unless it is a zombie.
fn start_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Waits for the end of a process, a child or not, and reaps it if it is one.
async fn watch_end(target: Target, pid: i32, happenings: mpsc::Sender<Happening>) {
    let ended = async {
        let fd = pid_fd(pid).map_err(std::io::Error::other)?;
        // SAFETY: the descriptor is owned by what is registered and stays open as long as it.
        let fd = unsafe { AsyncFd::register(fd) }.map_err(|e| e.into_parts().1)?;
        fd.readable().await?.retain_ready();
        let (cluster, role, node) = (&target.cluster, target.role.word(), target.role.node());
        let id = nix::sys::wait::Id::PIDFd(fd.get_ref().as_fd());
        match nix::sys::wait::waitid(id, nix::sys::wait::WaitPidFlag::WEXITED) {
            Ok(status) => tracing::info!(pid, cluster, role, node, ?status, "ended"),
            Err(_) => {
                tracing::info!(pid, cluster, role, node, "ended; it was adopted, so its status is not known");
            }
        }
        tracing::trace!(descriptor = fd.as_raw_fd(), "closed");
        Ok::<(), std::io::Error>(())
    };
    if let Err(error) = ended.await {
        tracing::debug!(pid, %error, "gone before it could be watched");
    }
    // The engine ends by dropping the receiver; then nobody needs to know.
    happenings.send(Happening::Exited(target, pid)).await.ok();
}

fn place_arguments(place: &Place) -> Vec<String> {
    match place {
        Place::Machine => Vec::new(),
        Place::New { network, hostname } => {
            let network = network.iter().map(|path| format!("--network={}", path.display()));
            network.chain([format!("--hostname={hostname}")]).collect()
        }
        Place::Of(pid) => vec![format!("--join={pid}")],
    }
}

/// Logs are rotated at start once they pass this size, keeping one earlier file.
const LOG_BYTES_MAX: u64 = 16 << 20;

fn open_log(path: &Path) -> Result<std::fs::File, ManagerError> {
    use std::os::unix::fs::OpenOptionsExt;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(ManagerError::file("create", parent))?;
    }
    if std::fs::metadata(path).is_ok_and(|m| m.len() > LOG_BYTES_MAX) {
        std::fs::rename(path, path.with_extension("log.1")).map_err(ManagerError::file("rotate", path))?;
    }
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(ManagerError::file("open", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_names_round_trip() {
        let (sender, _receiver) = mpsc::channel(1);
        let processes =
            Processes { root: "/var/lib/kutter".into(), known: HashMap::new(), happenings: sender };
        for role in
            [Role::ControlPlane, Role::Supervisor { node: "n-0".into() }, Role::Node { node: "n-0".into() }]
        {
            let target = Target { cluster: "default".into(), role };
            let name = processes.run_name(&target);
            assert_eq!(parse_run_name("/var/lib/kutter", &name), Some(target.clone()));
            assert_eq!(parse_run_name("/var/lib/kut", &name), None);
            assert_eq!(parse_run_name("/var/lib/kutter2", &name), None);
        }
    }
}
