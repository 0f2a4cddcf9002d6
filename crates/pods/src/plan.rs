//! Desired against actual: what to do next for one pod.
//!
//! A pass is level-triggered: it looks at everything and returns every action that may be taken now, in parallel
//! where nothing says otherwise. It never waits; what must wait is in [`Plan::wake`].

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::backoff::{Backoff, words};
use crate::model::{ContainerSeen, Life, Memory, Observed, Waiting};
use crate::spec::{self, Sort, Verdict};

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make a sandbox; a dead one with containers is stopped first.
    MakeSandbox {
        /// Which sandbox of the pod this is, from 0.
        attempt: u32,
    },
    /// Make and start a container in the live sandbox.
    Start {
        /// Name in the pod.
        name: String,
        /// Its sort.
        sort: Sort,
        /// How often it was restarted before.
        attempt: u32,
    },
    /// Stop one container, which is replaced or restarted later.
    Kill {
        /// The runtime's id.
        id: String,
        /// Name in the pod.
        name: String,
        /// Why, as the Killing event says it.
        message: String,
        /// The grace period in seconds; `None` is the pod's own.
        grace: Option<i64>,
    },
    /// Stop and remove every container, then begin again with the first init container.
    RestartAll,
    /// Stop every container, then the sandbox.
    StopPod,
}

/// What a pass decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What to do now.
    pub actions: Vec<Action>,
    /// Containers that wait, with the reason for their status.
    pub waiting: BTreeMap<String, Waiting>,
    /// Restart back-offs to remember once the matching start is attempted.
    pub backoffs: BTreeMap<String, Backoff>,
    /// When to look again even if nothing happens.
    pub wake: Option<Timestamp>,
    /// Whether the pod is over: nothing will be started again.
    pub over: bool,
    /// Why nothing is done, when nothing is.
    pub why: &'static str,
}

impl Plan {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }
}

/// What every part of a pass looks at.
struct Pass<'a> {
    pod: &'a Pod,
    spec: &'a PodSpec,
    seen: &'a Observed,
    memory: &'a Memory,
    now: Timestamp,
}

/// Decides the next actions for a pod that this node has admitted.
pub fn plan(pod: &Pod, seen: &Observed, memory: &Memory, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &pod.spec else {
        plan.why = "no spec";
        return plan;
    };
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    let ending = pod.metadata.deletion_timestamp.is_some()
        || memory.end.is_some()
        || matches!(phase, "Succeeded" | "Failed");
    if ending {
        return stop(plan, seen, "the pod is over");
    }
    if let Some(deadline) = deadline(pod) {
        plan.wake_at(deadline);
    }
    let pass = Pass { pod, spec, seen, memory, now };
    match seen.live_sandbox() {
        None => begin(plan, &pass),
        Some(sandbox) => go_on(plan, &pass, &sandbox.id),
    }
}

/// When `activeDeadlineSeconds` runs out, if the pod has one and has started.
pub fn deadline(pod: &Pod) -> Option<Timestamp> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    let start = pod.status.as_ref()?.start_time.as_ref()?.0;
    start.checked_add(jiff::SignedDuration::from_secs(seconds)).ok()
}

fn stop(mut plan: Plan, seen: &Observed, why: &'static str) -> Plan {
    plan.over = true;
    plan.why = why;
    let sandbox_left = seen.sandboxes.iter().any(|s| s.ready);
    if sandbox_left || seen.containers.iter().any(|c| matches!(c.life, Life::Running | Life::Unknown)) {
        plan.actions.push(Action::StopPod);
    }
    plan
}

/// No live sandbox: make one if anything is left to run.
fn begin(mut plan: Plan, pass: &Pass<'_>) -> Plan {
    let Pass { spec, seen, memory, now, .. } = *pass;
    let attempt = seen.sandboxes.first().map_or(0, |s| s.attempt + 1);
    if attempt > 0 && !seen.containers.is_empty() {
        let failed_init = spec::inits(spec).iter().filter(|c| !spec::is_sidecar(c)).any(|c| {
            seen.newest(&c.name).is_some_and(|s| {
                s.life == Life::Exited && s.exit_code != 0 && !spec::restarts(spec, c, s.exit_code)
            })
        });
        let left = spec.containers.iter().any(|c| wants_start(spec, c, seen.newest(&c.name)));
        if failed_init || !left {
            return stop(plan, seen, "every container has ended for good");
        }
        let never = spec::restart_policy(spec) == "Never";
        let any_rule =
            spec.containers.iter().any(|c| c.restart_policy.is_some() || c.restart_policy_rules.is_some());
        if never && !any_rule {
            return stop(plan, seen, "the sandbox is gone and the pod never restarts");
        }
    }
    if let Some(at) = memory.not_before.get("").copied().filter(|at| *at > now) {
        plan.wake_at(at);
        plan.why = "waiting to try a sandbox again";
        return plan;
    }
    plan.actions.push(Action::MakeSandbox { attempt });
    plan
}

fn go_on(mut plan: Plan, pass: &Pass<'_>, sandbox: &str) -> Plan {
    let Pass { spec, seen, memory, .. } = *pass;
    if restart_all_due(spec, seen, sandbox) {
        plan.actions.push(Action::RestartAll);
        return plan;
    }
    for c in spec::ephemerals(spec) {
        if seen.newest(&c.name).is_none() {
            start(&mut plan, pass, &c, Sort::Ephemeral);
        }
    }
    let initialized = spec.containers.iter().any(|c| seen.newest_in(&c.name, sandbox).is_some());
    match inits(&mut plan, pass, sandbox, initialized) {
        Inits::Failed => return stop(plan, seen, "an init container failed for good"),
        Inits::Busy => {
            plan.why = "init containers run";
            return plan;
        }
        Inits::Done => {}
    }
    let mut alive = 0;
    for c in &spec.containers {
        let newest = seen.newest(&c.name);
        match newest {
            Some(s) if s.life == Life::Running => {
                alive += 1;
                if let Some((message, grace)) = doomed(c, s, memory) {
                    plan.actions.push(Action::Kill {
                        id: s.id.clone(),
                        name: c.name.clone(),
                        message,
                        grace,
                    });
                }
            }
            _ if wants_start(spec, c, newest) => {
                alive += 1;
                start(&mut plan, pass, c, Sort::Regular);
            }
            _ => {}
        }
    }
    if alive == 0 {
        let ephemeral_runs =
            plan.actions.iter().any(|a| matches!(a, Action::Start { sort: Sort::Ephemeral, .. }));
        if !ephemeral_runs {
            plan.actions.clear();
            plan.waiting.clear();
            return stop(plan, seen, "every container has ended for good");
        }
    }
    if plan.actions.is_empty() {
        plan.why = "as it should be";
    }
    plan
}

/// The containers of this sandbox that ended in a way that restarts the whole pod.
pub fn restarters<'a>(spec: &PodSpec, seen: &'a Observed, sandbox: &str) -> Vec<&'a ContainerSeen> {
    let all = spec::inits(spec).iter().chain(&spec.containers);
    all.filter_map(|c| {
        let newest = seen.newest_in(&c.name, sandbox)?;
        let due =
            newest.life == Life::Exited && spec::on_exit(spec, c, newest.exit_code) == Verdict::RestartAll;
        due.then_some(newest)
    })
    .collect()
}

/// Whether a container of this sandbox ended in a way that restarts the whole pod.
pub(crate) fn restart_all_due(spec: &PodSpec, seen: &Observed, sandbox: &str) -> bool {
    !restarters(spec, seen, sandbox).is_empty()
}

enum Inits {
    Done,
    Busy,
    Failed,
}

fn inits(plan: &mut Plan, pass: &Pass<'_>, sandbox: &str, initialized: bool) -> Inits {
    let Pass { spec, seen, memory, .. } = *pass;
    let list = spec::inits(spec);
    let reached = list.iter().rposition(|c| seen.newest_in(&c.name, sandbox).is_some());
    for (i, c) in list.iter().enumerate() {
        let current = seen.newest_in(&c.name, sandbox);
        let behind = initialized || reached.is_some_and(|r| i < r);
        if spec::is_sidecar(c) {
            match current {
                Some(s) if s.life == Life::Running => {
                    if let Some((message, grace)) = doomed(c, s, memory) {
                        plan.actions.push(Action::Kill {
                            id: s.id.clone(),
                            name: c.name.clone(),
                            message,
                            grace,
                        });
                        if !behind {
                            return Inits::Busy;
                        }
                    } else if !behind && !startup_passed(c, s, memory) {
                        return Inits::Busy;
                    }
                }
                _ => {
                    start(plan, pass, c, Sort::Sidecar);
                    if !behind {
                        return Inits::Busy;
                    }
                }
            }
            continue;
        }
        if behind {
            continue;
        }
        match current {
            Some(s) if s.life == Life::Exited && s.exit_code == 0 => {}
            Some(s) if s.life == Life::Running => return Inits::Busy,
            Some(s) if s.life == Life::Exited && !spec::restarts(spec, c, s.exit_code) => {
                return Inits::Failed;
            }
            _ => {
                start(plan, pass, c, Sort::Init);
                return Inits::Busy;
            }
        }
    }
    Inits::Done
}

/// Whether a container that is not running should be started.
fn wants_start(spec: &PodSpec, c: &Container, newest: Option<&ContainerSeen>) -> bool {
    match newest {
        None => true,
        Some(s) => match s.life {
            Life::Running => false,
            Life::Created | Life::Unknown => true,
            Life::Exited => spec::restarts(spec, c, s.exit_code),
        },
    }
}

/// Whether the startup probe lets the container count as started.
pub fn startup_passed(c: &Container, s: &ContainerSeen, memory: &Memory) -> bool {
    c.startup_probe.is_none() || memory.verdicts_on(s).and_then(|v| v.startup) == Some(true)
}

/// Why a running container must be stopped, and with which grace.
fn doomed(c: &Container, s: &ContainerSeen, memory: &Memory) -> Option<(String, Option<i64>)> {
    if s.spec_hash.is_some_and(|h| h != spec::hash(c)) {
        return Some((format!("Container {} definition changed, will be restarted", c.name), None));
    }
    let verdicts = memory.verdicts_on(s)?;
    let grace = |p: &Option<k8s_openapi::api::core::v1::Probe>| {
        p.as_ref().and_then(|p| p.termination_grace_period_seconds)
    };
    if verdicts.startup == Some(false) {
        let text = format!("Container {} failed startup probe, will be restarted", c.name);
        return Some((text, grace(&c.startup_probe)));
    }
    if verdicts.liveness == Some(false) {
        let text = format!("Container {} failed liveness probe, will be restarted", c.name);
        return Some((text, grace(&c.liveness_probe)));
    }
    None
}

fn start(plan: &mut Plan, pass: &Pass<'_>, c: &Container, sort: Sort) {
    let Pass { pod, spec, seen, memory, now } = *pass;
    let name = &c.name;
    if let Some(at) = memory.not_before.get(name).copied().filter(|at| *at > now) {
        plan.wake_at(at);
        if let Some(w) = memory.waiting.get(name) {
            plan.waiting.insert(name.clone(), w.clone());
        }
        return;
    }
    let newest = seen.newest(name);
    if let Some(ended) = newest.filter(|s| s.life == Life::Exited)
        && sort != Sort::Ephemeral
        && (ended.exit_code != 0 || spec::restarts(spec, c, ended.exit_code))
    {
        let event = ended.finished.unwrap_or(ended.created);
        let known = memory.restarts.get(name).copied();
        if let Some(until) = known.and_then(|b| b.until(event)).filter(|u| *u > now) {
            plan.wake_at(until);
            let delay = known.map(|b| words(b.delay)).unwrap_or_default();
            plan.waiting.insert(
                name.clone(),
                Waiting {
                    reason: "CrashLoopBackOff".into(),
                    message: format!(
                        "back-off {delay} restarting failed container={name} pod={}",
                        spec::describe(pod)
                    ),
                },
            );
            return;
        }
        plan.backoffs.insert(name.clone(), Backoff::after(known, event));
    }
    let attempt = newest.map_or(0, |s| s.attempt + 1);
    plan.actions.push(Action::Start { name: name.clone(), sort, attempt });
}
