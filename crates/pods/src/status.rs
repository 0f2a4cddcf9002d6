//! A pod's status from what is seen and remembered.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ContainerUser, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
    ResourceRequirements, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::model::{ContainerSeen, Life, Memory, Observed, Waiting};
use crate::phase::{self, Verdict};
use crate::plan::startup_passed;
use crate::spec::{self, Sort};

/// What a status is made from, besides the pod.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// What the runtime reports.
    pub seen: &'a Observed,
    /// What is remembered.
    pub memory: &'a Memory,
    /// Containers that wait, from the plan.
    pub waiting: &'a BTreeMap<String, Waiting>,
    /// Whether nothing will be started again.
    pub over: bool,
    /// The node's addresses, primary first.
    pub host_ips: &'a [String],
    /// The prefix of container ids, `containerd` in `containerd://id`.
    pub runtime: &'a str,
    /// Who containers run as, by container id, where the runtime knows.
    pub users: &'a BTreeMap<String, ContainerUser>,
    /// What containers run with, by container id; what is absent runs with what its pod wants.
    pub resources: &'a BTreeMap<String, ResourceRequirements>,
    /// The time.
    pub now: Timestamp,
}

/// Condition of a pod whose resize the node has no room for.
pub const RESIZE_PENDING: &str = "PodResizePending";
/// Condition of a pod whose resize is being carried out.
pub const RESIZE_RUNNING: &str = "PodResizeInProgress";

/// The status that should be in the API server. What the node does not own in the old status is kept.
pub fn status(pod: &Pod, view: &View<'_>) -> PodStatus {
    let old = pod.status.clone().unwrap_or_default();
    let Some(spec) = &pod.spec else { return old };
    let mut inits = Vec::new();
    let mut regular = Vec::new();
    let mut ephemeral = Vec::new();
    for (sort, c) in spec::all(spec) {
        let (list, olds) = match sort {
            Sort::Init | Sort::Sidecar => (&mut inits, &old.init_container_statuses),
            Sort::Regular => (&mut regular, &old.container_statuses),
            Sort::Ephemeral => (&mut ephemeral, &old.ephemeral_container_statuses),
        };
        let before = olds.as_deref().unwrap_or_default().iter().find(|s| s.name == c.name);
        list.push(one(spec, sort, &c, before, view));
    }
    let ran = regular.iter().any(|s| {
        let has = |state: &Option<ContainerState>| {
            state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some())
        };
        s.started == Some(true) || has(&s.state) || has(&s.last_state)
    });
    let mut new = PodStatus {
        observed_generation: pod.metadata.generation.or(old.observed_generation),
        start_time: old.start_time.clone().or(Some(Time(view.now))),
        qos_class: Some(crate::resources::qos(spec).to_string()),
        ..old.clone()
    };
    let sticky = old.phase.as_deref().filter(|p| matches!(*p, "Succeeded" | "Failed"));
    let end = view.memory.end.as_ref().filter(|_| is_over(view));
    let computed = match end {
        Some(_) => "Failed",
        None => {
            let (inits, regular) = (begun_anew(&inits, view), begun_anew(&regular, view));
            match phase::phase(spec, &inits, &regular, view.over, ran) {
                "Failed" | "Succeeded" if restarts_as_a_whole(spec, view) && ran => "Running",
                "Failed" | "Succeeded" if restarts_as_a_whole(spec, view) => "Pending",
                phase => phase,
            }
        }
    };
    let phase = sticky.unwrap_or(computed);
    new.phase = Some(phase.to_string());
    if let Some(end) = end {
        new.reason = Some(end.reason.clone());
        new.message = Some(end.message.clone());
    }
    if view.memory.end.is_some() && view.seen.sandboxes.is_empty() && view.seen.containers.is_empty() {
        // Refused before anything was made: there is nothing to say of containers.
        return new;
    }
    addresses(&mut new, pod, view);
    conditions(&mut new, pod, spec, [&inits, &regular], ran, view);
    let some = |list: Vec<ContainerStatus>| (!list.is_empty()).then_some(list);
    new.init_container_statuses = some(inits);
    new.container_statuses = some(regular);
    new.ephemeral_container_statuses = some(ephemeral);
    new
}

/// Whether what has ended is about to begin again together.
fn restarts_as_a_whole(spec: &PodSpec, view: &View<'_>) -> bool {
    let sandbox = view.seen.sandboxes.first().map_or("", |s| &s.id);
    !view.over && crate::plan::restart_all_due(spec, view.seen, sandbox)
}

/// The statuses without the ends that a restart of the whole pod has undone: they say nothing of how the pod fares.
fn begun_anew(list: &[ContainerStatus], view: &View<'_>) -> Vec<ContainerStatus> {
    let mut list = list.to_vec();
    for s in list.iter_mut().filter(|s| view.memory.taken.contains_key(&s.name)) {
        let waits = s.state.as_ref().is_some_and(|state| state.waiting.is_some());
        if waits && view.seen.newest(&s.name).is_none_or(|n| n.life != Life::Exited) {
            s.last_state = None;
        }
    }
    list
}

/// A pod that has to end is over once nothing of it runs any more: whoever reads its status may rely on that.
fn is_over(view: &View<'_>) -> bool {
    !view.seen.anything_runs()
}

fn addresses(new: &mut PodStatus, pod: &Pod, view: &View<'_>) {
    new.host_ip = view.host_ips.first().cloned();
    let hosts: Vec<_> = view.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect();
    new.host_ips = (!hosts.is_empty()).then_some(hosts);
    let ips: &[String] = if spec::host_network(pod) {
        if view.seen.sandboxes.is_empty() { &[] } else { view.host_ips }
    } else {
        view.seen.sandboxes.first().map_or(&[], |s| s.ips.as_slice())
    };
    if !ips.is_empty() {
        new.pod_ip = ips.first().cloned();
        new.pod_ips = Some(ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect());
    }
}

fn conditions(
    new: &mut PodStatus,
    pod: &Pod,
    spec: &PodSpec,
    [inits, regular]: [&[ContainerStatus]; 2],
    ran: bool,
    view: &View<'_>,
) {
    let phase = new.phase.clone().unwrap_or_default();
    let both: Vec<_> = inits.iter().chain(regular).cloned().collect();
    let containers = phase::containers_ready(spec, &both, &phase);
    let sandbox = Verdict { ok: view.seen.live_sandbox().is_some(), ..Verdict::default() };
    let mut wanted = vec![
        ("PodReadyToStartContainers", sandbox),
        ("Initialized", phase::initialized(spec, inits, ran, &phase)),
        ("Ready", phase::ready(pod, &containers)),
        ("ContainersReady", containers),
        ("PodScheduled", Verdict { ok: true, ..Verdict::default() }),
    ];
    let disruption = view.memory.end.as_ref().filter(|e| e.disruption.is_some() && is_over(view));
    if let Some(end) = disruption {
        let message = end.message.clone();
        wanted.push(("DisruptionTarget", Verdict { ok: true, reason: "TerminationByKubelet", message }));
    }
    let resize = &view.memory.resize;
    if let Some((reason, message)) = &resize.pending {
        wanted.push((RESIZE_PENDING, Verdict { ok: true, reason, message: message.clone() }));
    }
    if let Some(error) = &resize.running {
        let reason = if error.is_some() { "Error" } else { "" };
        let message = error.clone().unwrap_or_default();
        wanted.push((RESIZE_RUNNING, Verdict { ok: true, reason, message }));
    }
    let mut old = new.conditions.take().unwrap_or_default();
    old.retain(|c| {
        ![RESIZE_PENDING, RESIZE_RUNNING].contains(&&*c.type_) || wanted.iter().any(|w| w.0 == c.type_)
    });
    let generation = pod.metadata.generation;
    let mut list: Vec<PodCondition> =
        wanted.into_iter().map(|(kind, v)| condition(kind, v, &old, generation, view.now)).collect();
    let kept: Vec<_> = old.into_iter().filter(|c| list.iter().all(|n| n.type_ != c.type_)).collect();
    list.extend(kept);
    new.conditions = Some(list);
}

fn condition(
    kind: &str,
    v: Verdict,
    old: &[PodCondition],
    generation: Option<i64>,
    now: Timestamp,
) -> PodCondition {
    let before = old.iter().find(|c| c.type_ == kind);
    let status = if v.ok { "True" } else { "False" };
    if kind == "PodScheduled"
        && let Some(b) = before.filter(|b| b.status == "True")
    {
        return PodCondition { observed_generation: generation.or(b.observed_generation), ..b.clone() };
    }
    let same = before.filter(|b| b.status == status).and_then(|b| b.last_transition_time.clone());
    let text = |s: String| (!s.is_empty()).then_some(s);
    PodCondition {
        type_: kind.to_string(),
        status: status.to_string(),
        reason: text(v.reason.to_string()),
        message: text(v.message),
        last_transition_time: same.or(Some(Time(now))),
        last_probe_time: None,
        observed_generation: generation,
    }
}

/// Why a container ended, in one word.
pub fn reason_of_end(s: &ContainerSeen) -> &str {
    match (s.reason.as_str(), s.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    }
}

fn terminated(s: &ContainerSeen, view: &View<'_>) -> ContainerState {
    let reason = reason_of_end(s);
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: s.exit_code,
            reason: Some(reason.to_string()),
            message: (!s.message.is_empty()).then(|| s.message.clone()),
            started_at: s.started.or(Some(s.created)).map(Time),
            finished_at: s.finished.map(Time),
            container_id: Some(format!("{}://{}", view.runtime, s.id)),
            signal: None,
        }),
        ..ContainerState::default()
    }
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_string()),
            message: (!message.is_empty()).then(|| message.to_string()),
        }),
        ..ContainerState::default()
    }
}

/// Where the container stands, and how its previous instance ended.
fn states(
    spec: &PodSpec,
    sort: Sort,
    c: &Container,
    before: Option<&ContainerStatus>,
    view: &View<'_>,
) -> (ContainerState, Option<ContainerState>) {
    let mut records = view.seen.containers.iter().filter(|s| s.name == c.name);
    let newest = records.next();
    let taken = view.memory.taken.get(&c.name).filter(|t| newest.is_none_or(|n| n.attempt > t.attempt));
    let previous = records.find(|s| s.life == Life::Exited).or(taken).map(|s| terminated(s, view));
    let kept = || before.and_then(|b| b.last_state.clone()).filter(|l| l.terminated.is_some());
    let why = view.waiting.get(&c.name).or_else(|| view.memory.waiting.get(&c.name));
    let default = if spec::inits(spec).is_empty() { "ContainerCreating" } else { "PodInitializing" };
    match newest {
        None => {
            let (state, last) = unseen(sort, before, why, default, view);
            (state, previous.or(last))
        }
        Some(s) => match s.life {
            Life::Running => {
                let running = ContainerStateRunning { started_at: s.started.or(Some(s.created)).map(Time) };
                let state = ContainerState { running: Some(running), ..ContainerState::default() };
                (state, previous.or_else(kept))
            }
            Life::Exited => match why.filter(|_| !view.over) {
                Some(w) => (waiting(&w.reason, &w.message), Some(terminated(s, view))),
                None => (terminated(s, view), previous.or_else(kept)),
            },
            Life::Created | Life::Unknown => {
                let state = why.map_or_else(|| waiting(default, ""), |w| waiting(&w.reason, &w.message));
                (state, previous.or_else(kept))
            }
        },
    }
}

/// The states of a container the runtime knows nothing of.
fn unseen(
    sort: Sort,
    before: Option<&ContainerStatus>,
    why: Option<&Waiting>,
    default: &str,
    view: &View<'_>,
) -> (ContainerState, Option<ContainerState>) {
    let old = before.and_then(|b| b.state.clone()).unwrap_or_default();
    let last = before.and_then(|b| b.last_state.clone()).filter(|l| l.terminated.is_some());
    if old.terminated.is_some() && (view.over || matches!(sort, Sort::Init | Sort::Ephemeral)) {
        return (old, last);
    }
    if let Some(running) = old.running
        && view.over
    {
        let gone = ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".into()),
                message: Some(
                    "The container could not be located when the pod was deleted.  The container used to be Running"
                        .into(),
                ),
                started_at: running.started_at,
                finished_at: Some(Time(view.now)),
                container_id: before.and_then(|b| b.container_id.clone()),
                signal: None,
            }),
            ..ContainerState::default()
        };
        return (gone, last);
    }
    (why.map_or_else(|| waiting(default, ""), |w| waiting(&w.reason, &w.message)), last)
}

fn one(
    spec: &PodSpec,
    sort: Sort,
    c: &Container,
    before: Option<&ContainerStatus>,
    view: &View<'_>,
) -> ContainerStatus {
    let newest = view.seen.newest(&c.name);
    let (state, last_state) = states(spec, sort, c, before, view);
    let runs = newest.filter(|s| s.life == Life::Running && state.running.is_some());
    let started = runs.is_some_and(|s| startup_passed(c, s, view.memory));
    let exited_well = state.terminated.as_ref().is_some_and(|t| t.exit_code == 0);
    let ready = match sort {
        Sort::Init => exited_well,
        Sort::Ephemeral => false,
        Sort::Regular | Sort::Sidecar => runs.is_some_and(|s| {
            started
                && (c.readiness_probe.is_none()
                    || view.memory.verdicts_on(s).and_then(|v| v.readiness) == Some(true))
        }),
    };
    let sized = sort != Sort::Ephemeral && newest.is_some_and(|s| s.life == Life::Running);
    ContainerStatus {
        name: c.name.clone(),
        state: Some(state),
        last_state: Some(last_state.unwrap_or_default()),
        ready,
        started: Some(started),
        restart_count: newest
            .map(|s| i32::try_from(s.attempt).unwrap_or(i32::MAX))
            .or(before.map(|b| b.restart_count))
            .unwrap_or(0),
        image: newest.map(|s| s.image.clone()).unwrap_or_else(|| c.image.clone().unwrap_or_default()),
        image_id: newest
            .map(|s| s.image_id.clone())
            .or(before.map(|b| b.image_id.clone()))
            .unwrap_or_default(),
        container_id: newest
            .map(|s| format!("{}://{}", view.runtime, s.id))
            .or(before.and_then(|b| b.container_id.clone())),
        allocated_resources: c.resources.as_ref().filter(|_| sized).and_then(|r| r.requests.clone()),
        resources: newest
            .and_then(|s| view.resources.get(&s.id))
            .or(c.resources.as_ref())
            .filter(|_| sized)
            .cloned(),
        user: newest.and_then(|s| view.users.get(&s.id)).cloned(),
        volume_mounts: mounts(c),
        ..ContainerStatus::default()
    }
}

fn mounts(c: &Container) -> Option<Vec<VolumeMountStatus>> {
    let list = c.volume_mounts.as_ref()?;
    let each = list.iter().map(|m| VolumeMountStatus {
        name: m.name.clone(),
        mount_path: m.mount_path.clone(),
        read_only: m.read_only,
        recursive_read_only: m.read_only.filter(|r| *r).map(|_| {
            let wanted = m.recursive_read_only.as_deref().unwrap_or("Disabled");
            if wanted == "Disabled" { "Disabled" } else { "Enabled" }.to_string()
        }),
        ..VolumeMountStatus::default()
    });
    Some(each.collect())
}
