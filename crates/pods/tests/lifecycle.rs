//! Plans, phases and statuses as a text table. A line of the table is `pod | seen | plan | phase | statuses`.
//!
//! Pod: `init:x side:x app:x` and `never`/`onfailure`/`always`, `deleted`. Seen: `sandbox` (ready), `dead` (a dead
//! sandbox), then `name#attempt=run|ok|exit(code)|created`, a `!` before the name means that its liveness failed.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use pods::backoff::Backoff;
use pods::model::{ContainerSeen, Life, Memory, Observed, SandboxSeen, Verdicts};
use pods::plan::{Action, plan};
use pods::status::{View, status};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).expect("in range")
}

fn pod(text: &str) -> Pod {
    let mut spec = PodSpec::default();
    let mut pod = Pod::default();
    pod.metadata.name = Some("p".into());
    pod.metadata.namespace = Some("n".into());
    pod.metadata.uid = Some("u".into());
    for word in text.split_whitespace() {
        let named = |n: &str| Container { name: n.into(), image: Some("i:1".into()), ..Container::default() };
        match word.split_once(':') {
            Some(("app", n)) => spec.containers.push(named(n)),
            Some(("init", n)) => spec.init_containers.get_or_insert_default().push(named(n)),
            Some(("side", n)) => {
                let c = Container { restart_policy: Some("Always".into()), ..named(n) };
                spec.init_containers.get_or_insert_default().push(c);
            }
            _ => match word {
                "never" => spec.restart_policy = Some("Never".into()),
                "onfailure" => spec.restart_policy = Some("OnFailure".into()),
                "always" => spec.restart_policy = Some("Always".into()),
                "deleted" => pod.metadata.deletion_timestamp = Some(Time(at(0))),
                other => panic!("word {other}"),
            },
        }
    }
    pod.spec = Some(spec);
    pod
}

fn seen(text: &str) -> (Observed, Memory) {
    let (mut seen, mut memory) = (Observed::default(), Memory::default());
    for word in text.split_whitespace() {
        let Some((who, state)) = word.split_once('=') else {
            seen.sandboxes.push(SandboxSeen {
                id: "s".into(),
                attempt: 0,
                ready: word == "sandbox",
                ips: vec!["10.0.0.1".into()],
                created: at(0),
            });
            continue;
        };
        let (name, attempt) = who.trim_start_matches('!').split_once('#').expect("name#attempt");
        let code = state.strip_prefix("exit(").map(|c| c.trim_end_matches(')').parse().expect("code"));
        let life = match state {
            "run" => Life::Running,
            "created" => Life::Created,
            _ => Life::Exited,
        };
        let id = format!("{name}{attempt}");
        if who.starts_with('!') {
            let v = Verdicts { container_id: id.clone(), liveness: Some(false), ..Verdicts::default() };
            memory.verdicts.insert(name.into(), v);
        }
        seen.containers.push(ContainerSeen {
            id,
            name: name.into(),
            sandbox: "s".into(),
            attempt: attempt.parse().expect("number"),
            life,
            image: "i:1".into(),
            image_id: "sha256:0".into(),
            created: at(0),
            started: Some(at(0)),
            finished: (life == Life::Exited).then(|| at(5)),
            exit_code: code.unwrap_or(0),
            reason: String::new(),
            message: String::new(),
            spec_hash: None,
        });
    }
    (seen.sorted(), memory)
}

fn words(actions: &[Action]) -> String {
    let word = |a: &Action| match a {
        Action::MakeSandbox { attempt } => format!("sandbox#{attempt}"),
        Action::Start { name, attempt, .. } => format!("{name}#{attempt}"),
        Action::Kill { name, .. } => format!("kill:{name}"),
        Action::RestartAll => "again".into(),
        Action::StopPod => "stop".into(),
    };
    actions.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn short(list: &Option<Vec<k8s_openapi::api::core::v1::ContainerStatus>>) -> String {
    let each = list.iter().flatten().map(|s| {
        let state = s.state.clone().unwrap_or_default();
        let word = state
            .waiting
            .and_then(|w| w.reason)
            .or(state.terminated.and_then(|t| t.reason))
            .unwrap_or_else(|| if s.ready { "Ready" } else { "Running" }.into());
        format!("{}:{word}/{}", s.name, s.restart_count)
    });
    each.collect::<Vec<_>>().join(" ")
}

const TABLE: &str = "
app:a                     |                               | sandbox#0    | Pending   | a:ContainerCreating/0
app:a app:b               | sandbox                       | a#0 b#0      | Pending   | a:ContainerCreating/0 b:ContainerCreating/0
app:a                     | sandbox a#0=run               |              | Running   | a:Ready/0
app:a                     | sandbox a#0=created           | a#1          | Pending   | a:ContainerCreating/0
app:a                     | sandbox a#0=ok                | a#1          | Running   | a:Completed/0
app:a onfailure           | sandbox a#0=ok                | stop         | Succeeded | a:Completed/0
app:a onfailure           | sandbox a#0=exit(1)           | a#1          | Running   | a:Error/0
app:a never               | sandbox a#0=exit(1)           | stop         | Failed    | a:Error/0
app:a never               | dead a#0=exit(1)              |              | Failed    | a:Error/0
app:a                     | dead a#0=exit(1)              | sandbox#1    | Running   | a:Error/0
app:a app:b never         | sandbox a#0=ok b#0=run        |              | Running   | a:Completed/0 b:Ready/0
app:a app:b never         | sandbox a#0=ok b#0=exit(3)    | stop         | Failed    | a:Completed/0 b:Error/0
app:a                     | sandbox !a#0=run              | kill:a       | Running   | a:Ready/0
init:i app:a              | sandbox                       | i#0          | Pending   | i:PodInitializing/0 a:PodInitializing/0
init:i app:a              | sandbox i#0=run               |              | Pending   | i:Running/0 a:PodInitializing/0
init:i app:a              | sandbox i#0=ok                | a#0          | Pending   | i:Completed/0 a:PodInitializing/0
init:i app:a never        | sandbox i#0=exit(1)           | stop         | Failed    | i:Error/0 a:PodInitializing/0
init:i app:a              | sandbox i#0=exit(1)           | i#1          | Pending   | i:Error/0 a:PodInitializing/0
init:i init:j app:a       | sandbox i#0=ok                | j#0          | Pending   | i:Completed/0 j:PodInitializing/0 a:PodInitializing/0
side:s app:a              | sandbox                       | s#0          | Pending   | s:PodInitializing/0 a:PodInitializing/0
side:s app:a              | sandbox s#0=run               | a#0          | Pending   | s:Ready/0 a:PodInitializing/0
side:s app:a              | sandbox s#0=ok a#0=run        | s#1          | Running   | s:Completed/0 a:Ready/0
side:s app:a never        | sandbox s#0=run a#0=ok        | stop         | Running   | s:Ready/0 a:Completed/0
app:a deleted             | sandbox a#0=run               | stop         | Running   | a:Ready/0
app:a deleted             | dead a#0=exit(137)            |              | Failed    | a:Error/0
";

#[test]
fn table() {
    for line in TABLE.lines().filter(|l| !l.is_empty()) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let pod = pod(cells[0]);
        let (seen, memory) = seen(cells[1]);
        let made = plan(&pod, &seen, &memory, at(10));
        assert_eq!(words(&made.actions), cells[2], "plan of {line}");
        let users = BTreeMap::new();
        let view = View {
            seen: &seen,
            memory: &memory,
            waiting: &made.waiting,
            over: made.over,
            host_ips: &["192.0.2.1".to_string()],
            runtime: "kutter",
            users: &users,
            resources: &BTreeMap::new(),
            now: at(10),
        };
        let s = status(&pod, &view);
        assert_eq!(s.phase.as_deref(), Some(cells[3]), "phase of {line}");
        let inits = short(&s.init_container_statuses);
        let all = format!("{inits} {}", short(&s.container_statuses));
        assert_eq!(all.trim(), cells[4], "statuses of {line}");
    }
}

#[test]
fn crash_loop_waits_and_says_so() {
    let pod = pod("app:a");
    let (seen, mut memory) = seen("sandbox a#3=exit(2)");
    memory.restarts.insert("a".into(), Backoff::after(Some(Backoff::after(None, at(0))), at(1)));
    let made = plan(&pod, &seen, &memory, at(10));
    assert_eq!(made.actions, []);
    assert_eq!(made.wake, Some(at(25)));
    let w = &made.waiting["a"];
    assert_eq!(w.reason, "CrashLoopBackOff");
    assert_eq!(w.message, "back-off 20s restarting failed container=a pod=p_n(u)");
    let later = plan(&pod, &seen, &memory, at(25));
    assert_eq!(words(&later.actions), "a#4");
}

/// The status of a pod of which nothing waits.
fn shown(pod: &Pod, seen: &Observed, memory: &Memory, over: bool) -> PodStatus {
    let view = View {
        seen,
        memory,
        waiting: &BTreeMap::new(),
        over,
        host_ips: &[],
        runtime: "kutter",
        users: &BTreeMap::new(),
        resources: &BTreeMap::new(),
        now: at(10),
    };
    status(pod, &view)
}

#[test]
fn conditions_say_what_is_missing() {
    let pod = pod("init:i app:a app:b");
    let (seen, memory) = seen("sandbox i#0=run");
    let s = shown(&pod, &seen, &memory, false);
    let got: Vec<String> = s
        .conditions
        .iter()
        .flatten()
        .map(|c| {
            let text = |t: &Option<String>| t.clone().unwrap_or_default();
            format!("{} {} {} {}", c.type_, c.status, text(&c.reason), text(&c.message)).trim().to_string()
        })
        .collect();
    assert_eq!(
        got,
        [
            "PodReadyToStartContainers True",
            "Initialized False ContainersNotInitialized containers with incomplete status: [i]",
            "Ready False ContainersNotReady containers with unready status: [a b]",
            "ContainersReady False ContainersNotReady containers with unready status: [a b]",
            "PodScheduled True",
        ]
    );
}

#[test]
fn a_pod_that_was_restarted_as_a_whole_remembers_how_its_containers_ended() {
    let mut pod = pod("app:a app:b never");
    let rule = serde_json::json!({"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}});
    let a = &mut pod.spec.as_mut().expect("spec").containers[0];
    a.restart_policy_rules = Some(vec![serde_json::from_value(rule).expect("rule")]);
    let (before, memory) = seen("sandbox a#1=exit(42) b#0=exit(137)");
    assert_eq!(words(&plan(&pod, &before, &memory, at(10)).actions), "again");
    let (before, _) = seen("sandbox a#1=exit(42) b#0=exit(137)");
    let taken: BTreeMap<_, _> = before.containers.into_iter().map(|c| (c.name.clone(), c)).collect();
    for now in ["sandbox", "sandbox a#2=created", "sandbox a#2=run b#1=run"] {
        let (seen, memory) = seen(now);
        let memory = Memory { taken: taken.clone(), ..memory };
        let got = shown(&pod, &seen, &memory, false);
        assert!(matches!(got.phase.as_deref(), Some("Running" | "Pending")), "{now}: {:?}", got.phase);
        let statuses = got.container_statuses.unwrap_or_default();
        let codes = statuses.iter().map(|s| s.last_state.as_ref()?.terminated.as_ref().map(|t| t.exit_code));
        assert_eq!(codes.collect::<Vec<_>>(), [Some(42), Some(137)], "{now}");
    }
}

#[test]
fn a_pod_that_is_about_to_be_restarted_as_a_whole_has_not_failed() {
    let mut pod = pod("app:a app:b never");
    let rule = serde_json::json!({"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}});
    let a = &mut pod.spec.as_mut().expect("spec").containers[0];
    a.restart_policy_rules = Some(vec![serde_json::from_value(rule).expect("rule")]);
    for (now, phase) in [
        ("sandbox a#0=exit(42) b#0=exit(137)", "Running"),
        ("sandbox a#0=exit(42)", "Pending"),
        ("sandbox a#0=exit(1) b#0=exit(137)", "Failed"),
    ] {
        let (seen, memory) = seen(now);
        let over = phase == "Failed";
        assert_eq!(shown(&pod, &seen, &memory, over).phase.as_deref(), Some(phase), "{now}");
    }
}

#[test]
fn what_runs_shows_its_resources() {
    let mut pod = pod("init:i app:a");
    let spec = pod.spec.as_mut().expect("spec");
    let resources: k8s_openapi::api::core::v1::ResourceRequirements =
        serde_json::from_value(serde_json::json!({"requests": {"cpu": "1"}})).expect("resources");
    spec.init_containers.as_mut().expect("inits")[0].resources = Some(resources.clone());
    spec.containers[0].resources = Some(resources.clone());
    for (now, init, app) in [("sandbox i#0=run", true, false), ("sandbox i#0=ok a#0=run", false, true)] {
        let (seen, memory) = seen(now);
        let s = shown(&pod, &seen, &memory, false);
        for (list, shown) in [(s.init_container_statuses, init), (s.container_statuses, app)] {
            let one = &list.expect("statuses")[0];
            let want = shown.then(|| resources.clone());
            assert_eq!(
                (&one.resources, &one.allocated_resources),
                (&want, &want.clone().and_then(|r| r.requests)),
                "{now}"
            );
        }
    }
}
