//! From the runtime's words to what the decisions look at.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use oci::runtime::{
    ContainerState, ContainerStatus, Error, Filter, Map, Runtime, SandboxState, SandboxStatus,
};
use pods::model::{ContainerSeen, Life, Observed, SandboxSeen};

/// Label with a pod's uid, on sandboxes and containers.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Label with a pod's name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Label with a pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label with a container's name.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Annotation with the fingerprint of a container's spec.
pub const HASH: &str = "io.kubernetes.container.hash";
/// Annotation with the termination message policy.
pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";

/// Longest termination message, in bytes.
const MESSAGE_MAX: u64 = 4096;
/// Longest message made from the end of a log, in bytes.
const LOG_MESSAGE_MAX: u64 = 2048;

/// A runtime's time; 0 is none.
pub fn time(nanos: i64) -> Option<Timestamp> {
    (nanos != 0).then(|| Timestamp::from_nanosecond(i128::from(nanos)).ok()).flatten()
}

/// Selects what belongs to a pod.
pub fn of_pod(uid: &str) -> Filter {
    Filter { labels: Map::from([(POD_UID.to_string(), uid.to_string())]), ..Filter::default() }
}

/// Everything the runtime has of a pod, raw and as seen.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// As the decisions see it.
    pub seen: Observed,
    /// Sandboxes, as the runtime reports them.
    pub sandboxes: Vec<SandboxStatus>,
    /// Containers, as the runtime reports them.
    pub containers: Vec<ContainerStatus>,
}

/// Asks the runtime about one pod.
pub async fn pod(runtime: &dyn Runtime, uid: &str, pod_dir: &Path) -> Result<Snapshot, Error> {
    let (sandboxes, containers) =
        tokio::try_join!(runtime.list_sandboxes(of_pod(uid)), runtime.list_containers(of_pod(uid)))?;
    let kept = kept_ips(pod_dir);
    let seen = Observed {
        sandboxes: sandboxes.iter().map(|s| sandbox(s, &kept)).collect(),
        containers: containers.iter().map(|c| container(c, pod_dir)).collect(),
    };
    Ok(Snapshot { seen: seen.sorted(), sandboxes, containers })
}

/// The file with the addresses of a pod's sandbox: `SANDBOX ip ip…`.
pub fn ips_file(pod_dir: &Path) -> PathBuf {
    pod_dir.join("ips")
}

fn kept_ips(pod_dir: &Path) -> Option<(String, Vec<String>)> {
    let text = std::fs::read_to_string(ips_file(pod_dir)).ok()?;
    let mut words = text.split_whitespace().map(str::to_string);
    Some((words.next()?, words.collect()))
}

fn sandbox(s: &SandboxStatus, kept: &Option<(String, Vec<String>)>) -> SandboxSeen {
    let own = kept.as_ref().filter(|(id, _)| *id == s.id).map(|(_, ips)| ips.clone());
    SandboxSeen {
        id: s.id.clone(),
        attempt: s.metadata.attempt,
        ready: s.state == SandboxState::Ready,
        ips: own.unwrap_or_else(|| s.ips.iter().map(ToString::to_string).collect()),
        created: time(s.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
    }
}

fn container(c: &ContainerStatus, pod_dir: &Path) -> ContainerSeen {
    let life = match c.state {
        ContainerState::Created => Life::Created,
        ContainerState::Running => Life::Running,
        ContainerState::Exited => Life::Exited,
        ContainerState::Unknown => Life::Unknown,
    };
    let message = if life == Life::Exited { message(c, pod_dir) } else { String::new() };
    ContainerSeen {
        id: c.id.clone(),
        name: c.name.clone(),
        sandbox: c.sandbox.clone(),
        attempt: c.attempt,
        life,
        image: c.image.clone(),
        image_id: if c.image_ref.is_empty() { c.image_id.clone() } else { c.image_ref.clone() },
        created: time(c.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
        started: time(c.started_at),
        finished: time(c.finished_at),
        exit_code: c.exit_code,
        reason: c.reason.clone(),
        message,
        spec_hash: c.annotations.get(HASH).and_then(|h| h.parse().ok()),
    }
}

/// Where a container leaves its termination message.
pub fn message_file(pod_dir: &Path, container: &str, attempt: u32) -> PathBuf {
    pod_dir.join("containers").join(container).join(format!("{attempt}.message"))
}

fn message(c: &ContainerStatus, pod_dir: &Path) -> String {
    let own = tail(&message_file(pod_dir, &c.name, c.attempt), MESSAGE_MAX);
    if !own.is_empty() {
        return own;
    }
    let fallback = c.annotations.get(MESSAGE_POLICY).is_some_and(|p| p == "FallbackToLogsOnError");
    if fallback && c.exit_code != 0 {
        let log = tail(&c.log_path, LOG_MESSAGE_MAX * 2);
        let lines: Vec<(bool, &str)> = log.lines().filter_map(log_line).collect();
        let from = lines.len().saturating_sub(80);
        let mut text = String::new();
        for (whole, line) in &lines[from..] {
            text.push_str(line);
            text.push_str(if *whole { "\n" } else { "" });
        }
        let cut = text.len().saturating_sub(usize::try_from(LOG_MESSAGE_MAX).unwrap_or(2048));
        let cut = (cut..=text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        return text[cut..].to_string();
    }
    c.message.clone()
}

/// A line of a log: whether it ended with a line break, and its text.
fn log_line(line: &str) -> Option<(bool, &str)> {
    let mut parts = line.splitn(4, ' ').skip(2);
    let tag = parts.next()?;
    Some((tag != "P", parts.next()?))
}

/// The last bytes of a file, as text.
fn tail(path: &Path, most: u64) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let Ok(mut file) = std::fs::File::open(path) else { return String::new() };
    let length = file.metadata().map(|m| m.len()).unwrap_or(0);
    if length > most && file.seek(SeekFrom::Start(length - most)).is_err() {
        return String::new();
    }
    let mut bytes = Vec::new();
    let _ = file.take(most).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}
