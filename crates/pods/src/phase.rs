//! A pod's phase and conditions from its container statuses.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec};

use crate::spec;

fn status<'a>(list: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    list.iter().find(|s| s.name == name)
}

/// What one status says for the phase.
enum Is {
    Running,
    Ended(i32),
    Waiting,
    Unknown,
}

fn is(list: &[ContainerStatus], name: &str) -> Is {
    let Some(s) = status(list, name) else { return Is::Unknown };
    let Some(state) = &s.state else { return Is::Unknown };
    let last = s.last_state.as_ref().and_then(|l| l.terminated.as_ref());
    if state.running.is_some() {
        Is::Running
    } else if let Some(t) = &state.terminated {
        Is::Ended(t.exit_code)
    } else if state.waiting.is_some() {
        last.map_or(Is::Waiting, |t| Is::Ended(t.exit_code))
    } else {
        Is::Unknown
    }
}

/// The phase. `over` says that nothing will be started again, `initialized` that a regular container has run before.
pub fn phase(
    spec: &PodSpec,
    inits: &[ContainerStatus],
    regular: &[ContainerStatus],
    over: bool,
    initialized: bool,
) -> &'static str {
    let mut pending = false;
    let (mut running, mut waiting, mut unknown) = (0, 0, 0);
    for c in spec::inits(spec) {
        let sidecar = spec::is_sidecar(c);
        match (is(inits, &c.name), sidecar) {
            (Is::Ended(code), false) if code != 0 && !spec::restarts(spec, c, code) => return "Failed",
            (Is::Ended(_), _) => {}
            (Is::Running, true) => {
                running += 1;
                let started = status(inits, &c.name).and_then(|s| s.started) == Some(true);
                pending |= !started && !initialized;
            }
            (Is::Waiting, true) => {
                waiting += 1;
                pending |= !initialized;
            }
            (Is::Unknown, true) => {
                unknown += 1;
                pending |= !initialized;
            }
            (_, false) => pending = true,
        }
    }
    let (mut ended, mut succeeded, mut for_good) = (0, 0, 0);
    for c in &spec.containers {
        match is(regular, &c.name) {
            Is::Running => running += 1,
            Is::Waiting => waiting += 1,
            Is::Unknown => unknown += 1,
            Is::Ended(code) => {
                ended += 1;
                succeeded += usize::from(code == 0);
                for_good += usize::from(!spec::restarts(spec, c, code));
            }
        }
    }
    if pending || waiting > 0 {
        "Pending"
    } else if running > 0 && unknown == 0 {
        "Running"
    } else if running == 0 && ended > 0 && unknown == 0 {
        match (over || ended == for_good, ended == succeeded) {
            (false, _) => "Running",
            (true, true) => "Succeeded",
            (true, false) => "Failed",
        }
    } else {
        "Pending"
    }
}

/// A condition without its times.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// `True` or `False`.
    pub ok: bool,
    /// One word, may be empty.
    pub reason: &'static str,
    /// A sentence, may be empty.
    pub message: String,
}

impl Verdict {
    fn yes() -> Verdict {
        Verdict { ok: true, ..Verdict::default() }
    }
    fn no(reason: &'static str, message: String) -> Verdict {
        Verdict { ok: false, reason, message }
    }
}

fn listed(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn complaint(unknown: &[&str], bad: &[&str], word: &str) -> Option<String> {
    let mut parts = Vec::new();
    if !unknown.is_empty() {
        parts.push(format!("containers with unknown status: {}", listed(unknown)));
    }
    if !bad.is_empty() {
        parts.push(format!("containers with {word} status: {}", listed(bad)));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Sorts containers into those without a status and those for which `good` is false.
fn judge<'a>(
    containers: impl Iterator<Item = &'a Container>,
    list: &[ContainerStatus],
    good: impl Fn(&Container, &ContainerStatus) -> bool,
) -> (Vec<&'a str>, Vec<&'a str>) {
    let (mut unknown, mut bad) = (Vec::new(), Vec::new());
    for c in containers {
        match status(list, &c.name) {
            None => unknown.push(c.name.as_str()),
            Some(s) if !good(c, s) => bad.push(c.name.as_str()),
            Some(_) => {}
        }
    }
    (unknown, bad)
}

/// The ContainersReady condition; `list` has sidecars and regular containers.
pub fn containers_ready(spec: &PodSpec, list: &[ContainerStatus], phase: &str) -> Verdict {
    let who = spec::inits(spec).iter().filter(|c| spec::is_sidecar(c)).chain(&spec.containers);
    let (unknown, unready) = judge(who, list, |_, s| s.ready);
    if phase == "Succeeded" && unknown.is_empty() {
        return Verdict::no("PodCompleted", String::new());
    }
    if phase == "Failed" {
        return Verdict::no("PodFailed", String::new());
    }
    complaint(&unknown, &unready, "unready")
        .map_or_else(Verdict::yes, |m| Verdict::no("ContainersNotReady", m))
}

/// The Ready condition: ContainersReady and every readiness gate.
pub fn ready(pod: &Pod, containers: &Verdict) -> Verdict {
    if !containers.ok {
        return containers.clone();
    }
    let gates = pod.spec.as_ref().and_then(|s| s.readiness_gates.as_deref()).unwrap_or_default();
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let mut complaints = Vec::new();
    for gate in gates.iter().map(|g| g.condition_type.as_str()) {
        match conditions.iter().find(|c| c.type_ == gate) {
            None => complaints
                .push(format!("corresponding condition of pod readiness gate {gate:?} does not exist.")),
            Some(c) if c.status != "True" => complaints
                .push(format!("the status of pod readiness gate {gate:?} is not \"True\", but {}", c.status)),
            Some(_) => {}
        }
    }
    if complaints.is_empty() {
        Verdict::yes()
    } else {
        Verdict::no("ReadinessGatesNotReady", complaints.join(", "))
    }
}

/// The Initialized condition.
pub fn initialized(spec: &PodSpec, inits: &[ContainerStatus], started_before: bool, phase: &str) -> Verdict {
    let (unknown, incomplete) = judge(spec::inits(spec).iter(), inits, |c, s| {
        if spec::is_sidecar(c) { s.started == Some(true) } else { s.ready }
    });
    if phase == "Succeeded" && unknown.is_empty() {
        return Verdict { ok: true, reason: "PodCompleted", message: String::new() };
    }
    if started_before {
        return Verdict::yes();
    }
    complaint(&unknown, &incomplete, "incomplete")
        .map_or_else(Verdict::yes, |m| Verdict::no("ContainersNotInitialized", m))
}
