//! The columns of pods: how many containers are ready, the one word that says how the pod is, its restarts.

use base::time::unix_seconds;
use serde_json::{Value, json};

use super::{NONE, age, at, condition, items, number, text};

/// The cell of a pod's column.
pub fn cell(column: &str, pod: &Value, now: i64) -> Option<Value> {
    let value = match column {
        "Ready" => {
            let (ready, total) = ready(pod);
            json!(format!("{ready}/{total}"))
        }
        "Status" => json!(status(pod)),
        "Restarts" => json!(restarts(pod, now)),
        "Readiness Gates" => {
            let gates = items(pod, "spec.readinessGates");
            if gates.is_empty() {
                return Some(json!(NONE));
            }
            let holds = |gate: &&Value| {
                text(gate, "conditionType").and_then(|name| condition(pod, name)) == Some("True")
            };
            json!(format!("{}/{}", gates.iter().filter(holds).count(), gates.len()))
        }
        _ => return None,
    };
    Some(value)
}

fn is_sidecar(pod: &Value, name: &str) -> bool {
    let found = items(pod, "spec.initContainers").iter().find(|c| text(c, "name") == Some(name));
    found.and_then(|c| text(c, "restartPolicy")) == Some("Always")
}

fn flag(object: &Value, path: &str) -> bool {
    at(object, path).and_then(Value::as_bool) == Some(true)
}

fn sidecar_statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    let statuses = items(pod, "status.initContainerStatuses").iter();
    statuses.filter(|s| text(s, "name").is_some_and(|name| is_sidecar(pod, name)))
}

fn ready(pod: &Value) -> (usize, usize) {
    let sidecars =
        items(pod, "spec.initContainers").iter().filter(|c| text(c, "restartPolicy") == Some("Always"));
    let total = items(pod, "spec.containers").len() + sidecars.count();
    let running = |s: &&Value| flag(s, "ready") && at(s, "state.running").is_some();
    let own = items(pod, "status.containerStatuses").iter().filter(running).count();
    let aside = sidecar_statuses(pod).filter(|s| flag(s, "started") && flag(s, "ready")).count();
    (own + aside, total)
}

/// The one word: the phase, unless a container or the deletion has more to say.
fn status(pod: &Value) -> String {
    let phase = text(pod, "status.phase").unwrap_or("Unknown");
    let mut word = text(pod, "status.reason").filter(|r| !r.is_empty()).unwrap_or(phase).to_owned();
    let scheduled = items(pod, "status.conditions").iter().find(|c| text(c, "type") == Some("PodScheduled"));
    if scheduled.and_then(|c| text(c, "reason")) == Some("SchedulingGated") {
        word = "SchedulingGated".into();
    }
    let starting = initializing(pod);
    let initialized = condition(pod, "Initialized") == Some("True");
    match starting {
        Some(init) if !initialized => word = init,
        _ => {
            let mut some_running = false;
            for container in items(pod, "status.containerStatuses").iter().rev() {
                match container_word(container, "") {
                    Some(said) => word = said,
                    None => {
                        some_running |= flag(container, "ready") && at(container, "state.running").is_some()
                    }
                }
            }
            if word == "Completed" && some_running {
                let ready = condition(pod, "Ready") == Some("True");
                word = if ready { "Running".into() } else { "NotReady".into() };
            }
        }
    }
    if text(pod, "metadata.deletionTimestamp").is_some() {
        let over = matches!(phase, "Succeeded" | "Failed");
        return match text(pod, "status.reason") {
            Some("NodeLost") => "Unknown".into(),
            _ if over => word,
            _ => "Terminating".into(),
        };
    }
    word
}

/// What a container that waits or has ended says.
fn container_word(container: &Value, prefix: &str) -> Option<String> {
    if let Some(reason) = text(container, "state.waiting.reason").filter(|r| !r.is_empty()) {
        return Some(format!("{prefix}{reason}"));
    }
    at(container, "state.terminated")?;
    if let Some(reason) = text(container, "state.terminated.reason").filter(|r| !r.is_empty()) {
        return Some(format!("{prefix}{reason}"));
    }
    let signal = number(container, "state.terminated.signal");
    Some(match signal {
        0 => format!("{prefix}ExitCode:{}", number(container, "state.terminated.exitCode")),
        signal => format!("{prefix}Signal:{signal}"),
    })
}

/// How far the init containers are, while they are not done.
fn initializing(pod: &Value) -> Option<String> {
    let total = items(pod, "spec.initContainers").len();
    for (index, container) in items(pod, "status.initContainerStatuses").iter().enumerate() {
        let name = text(container, "name").unwrap_or_default();
        let done = at(container, "state.terminated").is_some()
            && number(container, "state.terminated.exitCode") == 0;
        if done || is_sidecar(pod, name) && flag(container, "started") {
            continue;
        }
        let waiting = text(container, "state.waiting.reason").unwrap_or_default();
        let silent = at(container, "state.terminated").is_none() && matches!(waiting, "" | "PodInitializing");
        return Some(match container_word(container, "Init:") {
            Some(said) if !silent => said,
            _ => format!("Init:{index}/{total}"),
        });
    }
    None
}

/// The restarts of all containers, and when the last was.
fn restarts(pod: &Value, now: i64) -> String {
    let statuses = items(pod, "status.containerStatuses").iter().chain(sidecar_statuses(pod));
    let mut count = 0;
    let mut last = None;
    for container in statuses {
        count += number(container, "restartCount");
        let ended = text(container, "lastState.terminated.finishedAt").and_then(unix_seconds);
        last = last.max(ended);
    }
    match last {
        Some(at) if count > 0 => format!("{count} ({} ago)", age(now - at)),
        _ => count.to_string(),
    }
}
