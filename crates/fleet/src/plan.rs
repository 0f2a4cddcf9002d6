//! The supervision planner: what to start, stop and remove so that what runs becomes what is wanted.
//!
//! Order up: control plane and supervisors at once, each node as soon as both it needs are ready. Order down:
//! nodes, then supervisors (which end the containers), then control planes, then data.

use crate::spec::{Cluster, Desired, NodePool};

/// The part a process plays in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// API server, controllers and scheduler.
    ControlPlane,
    /// Owner of one node's namespaces and containers.
    Supervisor {
        /// The node's name.
        node: String,
    },
    /// Kubelet, proxy and DNS of one node.
    Node {
        /// The node's name.
        node: String,
    },
}

impl Role {
    /// The word users see: `control-plane`, `supervisor` or `node`.
    pub fn word(&self) -> &'static str {
        match self {
            Role::ControlPlane => "control-plane",
            Role::Supervisor { .. } => "supervisor",
            Role::Node { .. } => "node",
        }
    }

    /// The node it belongs to, if any.
    pub fn node(&self) -> Option<&str> {
        match self {
            Role::ControlPlane => None,
            Role::Supervisor { node } | Role::Node { node } => Some(node),
        }
    }
}

/// Names one process among all clusters of the machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The cluster's name.
    pub cluster: String,
    /// The part it plays.
    pub role: Role,
}

/// How a process ended last. Times are milliseconds of any monotonic clock, the same as `now` of [`plan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// When it ended.
    pub at_ms: u64,
    /// How often it has ended in a row without having run for [`STEADY_MS`].
    pub streak: u32,
}

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessState {
    /// It runs and has not yet said that it is ready.
    Starting,
    /// It runs and is ready.
    Ready,
    /// It has been asked to end.
    Stopping {
        /// When it was asked.
        since_ms: u64,
    },
    /// It does not run.
    Exited(Exit),
}

/// An observed process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Which one.
    pub target: Target,
    /// What it does.
    pub state: ProcessState,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Start this process.
    Start(Target),
    /// Ask this process to end.
    Stop(Target),
    /// End this process now: it was asked and did not.
    Kill(Target),
    /// Forget a process that has ended and is not wanted, and remove what its node left behind.
    Forget(Target),
    /// Remove the cluster's data and its record: nothing of it runs any more.
    Remove(String),
}

/// What to do now, and when to look again even if nothing happens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// The next time (same clock as `now`) at which time alone changes the answer.
    pub wake_ms: Option<u64>,
    /// Why a wanted process is not being started.
    pub why: Vec<String>,
}

/// A process that ran this long is healthy again: its restart delay starts anew.
pub const STEADY_MS: u64 = 60_000;
/// How long a process may take to end before it is killed.
pub const STOP_MS: u64 = 15_000;
const RESTART_FIRST_MS: u64 = 100;
const RESTART_MAX_MS: u64 = 10_000;

/// The delay before the restart after `streak` ends in a row: 0, 100, 200, 400 … 10,000 ms. The first restart
/// is at once.
pub fn restart_delay_ms(streak: u32) -> u64 {
    match streak {
        0 | 1 => 0,
        n => (RESTART_FIRST_MS << (n - 2).min(10)).min(RESTART_MAX_MS),
    }
}

/// Compares what is wanted with what runs.
pub fn plan(clusters: &[Cluster], pools: &[NodePool], processes: &[Process], now_ms: u64) -> Plan {
    let mut plan = Plan::default();
    for cluster in clusters {
        let of_cluster: Vec<&Process> =
            processes.iter().filter(|p| p.target.cluster == cluster.name).collect();
        let wanted = wanted(cluster, pools);
        for target in &wanted {
            let missing = missing_need(cluster, target, &wanted, &of_cluster);
            start_if_due(&mut plan, target, missing, &of_cluster, now_ms);
        }
        stop_unwanted(&mut plan, &wanted, &of_cluster, now_ms);
        if cluster.desired == Desired::Deleted && of_cluster.is_empty() {
            plan.steps.push(Step::Remove(cluster.name.clone()));
        }
    }
    plan
}

/// Every process that shall run for this cluster, in starting order.
fn wanted(cluster: &Cluster, pools: &[NodePool]) -> Vec<Target> {
    if cluster.desired != Desired::Running {
        return Vec::new();
    }
    let target = |role| Target { cluster: cluster.name.clone(), role };
    let pools = || pools.iter().filter(|p| p.cluster == cluster.name);
    let supervised = pools().filter(|p| p.foreign_runtime().is_none()).flat_map(NodePool::node_names);
    let control_plane = cluster.remote.is_none().then(|| target(Role::ControlPlane));
    let mut wanted: Vec<Target> = control_plane.into_iter().collect();
    wanted.extend(supervised.map(|node| target(Role::Supervisor { node })));
    wanted.extend(pools().flat_map(NodePool::node_names).map(|node| target(Role::Node { node })));
    wanted
}

fn start_if_due(
    plan: &mut Plan,
    target: &Target,
    missing: Option<&str>,
    processes: &[&Process],
    now_ms: u64,
) {
    let observed = processes.iter().find(|p| p.target == *target);
    let exit = match observed.map(|p| p.state) {
        None => None,
        Some(ProcessState::Exited(exit)) => Some(exit),
        Some(_) => return,
    };
    if let Some(missing) = missing {
        plan.why.push(format!("{} waits for {missing}", describe(target)));
        return;
    }
    let due_ms = exit.map_or(0, |e| e.at_ms + restart_delay_ms(e.streak));
    if due_ms <= now_ms {
        plan.steps.push(Step::Start(target.clone()));
    } else {
        plan.why.push(format!("{} restarts in {} ms", describe(target), due_ms - now_ms));
        wake(plan, due_ms);
    }
}

/// What must be ready before this process may start. A node that has run before starts without a control
/// plane: it has all it needs on disk and fails static.
fn missing_need(
    cluster: &Cluster,
    target: &Target,
    wanted: &[Target],
    processes: &[&Process],
) -> Option<&'static str> {
    let Role::Node { node } = &target.role else { return None };
    let ready =
        |role: &Role| processes.iter().any(|p| p.target.role == *role && p.state == ProcessState::Ready);
    let has_run = processes.iter().any(|p| p.target == *target);
    let supervisor = Role::Supervisor { node: node.clone() };
    if wanted.iter().any(|w| w.role == supervisor) && !ready(&supervisor) {
        Some("its supervisor")
    } else if cluster.remote.is_none() && !has_run && !ready(&Role::ControlPlane) {
        Some("the control plane")
    } else {
        None
    }
}

/// Ends what is not wanted, nodes first, each kind only after the one before it is gone.
fn stop_unwanted(plan: &mut Plan, wanted: &[Target], processes: &[&Process], now_ms: u64) {
    let unwanted: Vec<&&Process> = processes.iter().filter(|p| !wanted.contains(&p.target)).collect();
    let runs = |p: &Process| !matches!(p.state, ProcessState::Exited(_));
    let alive = |role_of: fn(&Role) -> bool, node: Option<&str>| {
        unwanted
            .iter()
            .any(|p| runs(p) && role_of(&p.target.role) && (node.is_none() || p.target.role.node() == node))
    };
    for process in &unwanted {
        let role = &process.target.role;
        let held = match role {
            Role::Node { .. } => false,
            Role::Supervisor { node } => alive(|r| matches!(r, Role::Node { .. }), Some(node)),
            Role::ControlPlane => alive(|r| !matches!(r, Role::ControlPlane), None),
        };
        match process.state {
            ProcessState::Exited(_) if held => {}
            ProcessState::Exited(_) => plan.steps.push(Step::Forget(process.target.clone())),
            _ if held => {
                plan.why.push(format!("{} ends after what depends on it", describe(&process.target)))
            }
            ProcessState::Starting | ProcessState::Ready => {
                plan.steps.push(Step::Stop(process.target.clone()))
            }
            ProcessState::Stopping { since_ms } if since_ms + STOP_MS <= now_ms => {
                plan.steps.push(Step::Kill(process.target.clone()));
            }
            ProcessState::Stopping { since_ms } => wake(plan, since_ms + STOP_MS),
        }
    }
}

fn wake(plan: &mut Plan, at_ms: u64) {
    plan.wake_ms = Some(plan.wake_ms.map_or(at_ms, |w| w.min(at_ms)));
}

fn describe(target: &Target) -> String {
    match target.role.node() {
        Some(node) => format!("{} of {node}", target.role.word()),
        None => format!("{} of {}", target.role.word(), target.cluster),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Remote;

    fn cluster(desired: Desired) -> Cluster {
        Cluster { desired, ..Cluster::new("c", &[], &[]).unwrap() }
    }

    fn role(word: &str) -> Role {
        match word {
            "cp" => Role::ControlPlane,
            "sup" => Role::Supervisor { node: "c-p-0".into() },
            _ => Role::Node { node: "c-p-0".into() },
        }
    }

    fn state(word: &str) -> ProcessState {
        match word {
            "starting" => ProcessState::Starting,
            "ready" => ProcessState::Ready,
            "stopping" => ProcessState::Stopping { since_ms: 1_000 },
            "exited" => ProcessState::Exited(Exit { at_ms: 1_000, streak: 1 }),
            "crashing" => ProcessState::Exited(Exit { at_ms: 1_000, streak: 3 }),
            other => panic!("no state {other}"),
        }
    }

    /// `cp ready, sup starting` → processes.
    fn processes(text: &str) -> Vec<Process> {
        text.split(", ")
            .filter(|s| !s.is_empty())
            .map(|item| {
                let (who, what) = item.split_once(' ').unwrap();
                Process { target: Target { cluster: "c".into(), role: role(who) }, state: state(what) }
            })
            .collect()
    }

    fn render(plan: &Plan) -> String {
        let word = |t: &Target| match t.role {
            Role::ControlPlane => "cp",
            Role::Supervisor { .. } => "sup",
            Role::Node { .. } => "node",
        };
        let mut parts: Vec<String> = plan
            .steps
            .iter()
            .map(|step| match step {
                Step::Start(t) => format!("start {}", word(t)),
                Step::Stop(t) => format!("stop {}", word(t)),
                Step::Kill(t) => format!("kill {}", word(t)),
                Step::Forget(t) => format!("forget {}", word(t)),
                Step::Remove(_) => "remove".into(),
            })
            .collect();
        parts.extend(plan.wake_ms.map(|w| format!("wake {w}")));
        parts.join(", ")
    }

    #[test]
    fn plans_by_table() {
        let table = [
            (Desired::Running, "", "start cp, start sup"),
            (Desired::Running, "cp starting, sup ready", ""),
            (Desired::Running, "cp ready, sup ready", "start node"),
            (Desired::Running, "cp ready, sup ready, node ready", ""),
            (Desired::Running, "cp exited, sup ready, node ready", "start cp"),
            (Desired::Running, "cp exited, sup ready, node exited", "start cp, start node"),
            (Desired::Running, "cp ready, sup exited, node exited", "start sup"),
            (Desired::Running, "cp crashing, sup ready, node ready", "wake 1200"),
            (Desired::Stopped, "cp ready, sup ready, node ready", "stop node"),
            (Desired::Stopped, "cp ready, sup ready, node stopping", "wake 16000"),
            (Desired::Stopped, "cp ready, sup ready, node exited", "stop sup, forget node"),
            (Desired::Stopped, "cp ready, sup exited", "stop cp, forget sup"),
            (Desired::Stopped, "cp exited", "forget cp"),
            (Desired::Stopped, "", ""),
            (Desired::Deleted, "cp ready", "stop cp"),
            (Desired::Deleted, "", "remove"),
        ];
        for (desired, given, expected) in table {
            let pools = [NodePool::new("c", "p", 1, &[]).unwrap()];
            let got = plan(&[cluster(desired)], &pools, &processes(given), 1_000);
            assert_eq!(render(&got), expected, "{desired:?}: {given}");
        }
    }

    #[test]
    fn a_member_needs_no_control_plane_of_its_own() {
        let remote = Remote {
            server: "https://192.0.2.1:6443".into(),
            cluster_dns: Vec::new(),
            pod_cidr: "10.42.0.0/16".into(),
            service_cidr: "10.96.0.0/16".into(),
            load_balancer_cidr: None,
        };
        let member = Cluster { remote: Some(remote), ..cluster(Desired::Running) };
        let pools = [NodePool::new("c", "p", 1, &[]).unwrap()];
        for (given, expected) in
            [("", "start sup"), ("sup ready", "start node"), ("sup ready, node ready", "")]
        {
            let got = plan(std::slice::from_ref(&member), &pools, &processes(given), 1_000);
            assert_eq!(render(&got), expected, "{given}");
        }
    }

    #[test]
    fn a_process_that_does_not_end_is_killed() {
        let got = plan(&[cluster(Desired::Stopped)], &[], &processes("cp stopping"), 1_000 + STOP_MS);
        assert_eq!(render(&got), "kill cp");
    }

    #[test]
    fn a_removed_node_is_stopped_and_the_rest_stays() {
        let pools = [NodePool::new("c", "p", 0, &[]).unwrap()];
        let got =
            plan(&[cluster(Desired::Running)], &pools, &processes("cp ready, sup ready, node ready"), 0);
        assert_eq!(render(&got), "stop node");
    }

    #[test]
    fn restart_delays_grow_and_are_bounded() {
        let delays: Vec<u64> = [0, 1, 2, 3, 4, 50].into_iter().map(restart_delay_ms).collect();
        assert_eq!(delays, [0, 0, 100, 200, 400, RESTART_MAX_MS]);
    }
}
