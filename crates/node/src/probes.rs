//! Runs probes: one task per probe of a running container, which tells the worker when a verdict changes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use parking_lot::Mutex;
use pods::model::{ContainerSeen, Life, Memory, Observed, Verdicts};
use pods::plan::startup_passed;
use pods::probe::{self, Counter, Kind};
use pods::spec::{self, Sort};
use tokio::task::JoinHandle;

use crate::container::field;
use crate::hooks;
use crate::kubelet::Kubelet;

type Key = (String, Kind);

/// The probes of one pod.
#[derive(Default)]
pub struct Probes {
    tasks: HashMap<Key, JoinHandle<()>>,
    verdicts: Arc<Mutex<HashMap<Key, bool>>>,
}

impl Drop for Probes {
    fn drop(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

impl Probes {
    /// Puts the verdicts so far where the decisions look.
    pub fn tell(&self, seen: &Observed, memory: &mut Memory) {
        let verdicts = self.verdicts.lock();
        memory.verdicts.clear();
        for s in seen.containers.iter().filter(|s| s.life == Life::Running) {
            let of = |kind| verdicts.get(&(s.id.clone(), kind)).copied();
            let v = Verdicts {
                container_id: s.id.clone(),
                startup: of(Kind::Startup),
                liveness: of(Kind::Liveness),
                readiness: of(Kind::Readiness),
            };
            memory.verdicts.insert(s.name.clone(), v);
        }
    }

    /// Starts and stops tasks so that exactly the due probes run. While a pod ends, only readiness is asked.
    pub fn sync(
        &mut self,
        k: &Arc<Kubelet>,
        pod: &Arc<Pod>,
        seen: &Observed,
        memory: &Memory,
        ips: &[String],
    ) {
        let ending = pod.metadata.deletion_timestamp.is_some() || memory.end.is_some();
        let mut wanted: HashMap<Key, (Sort, Container, Probe, ContainerSeen)> = HashMap::new();
        for (sort, c) in pod.spec.as_ref().map(spec::all).unwrap_or_default() {
            if !matches!(sort, Sort::Regular | Sort::Sidecar) {
                continue;
            }
            let Some(s) = seen.newest(&c.name).filter(|s| s.life == Life::Running) else { continue };
            let started = startup_passed(&c, s, memory);
            let list = [
                (Kind::Startup, &c.startup_probe, !started && !ending),
                (Kind::Liveness, &c.liveness_probe, started && !ending),
                (Kind::Readiness, &c.readiness_probe, started),
            ];
            for (kind, probe, due) in list {
                if let (Some(probe), true) = (probe, due) {
                    wanted.insert((s.id.clone(), kind), (sort, c.clone(), probe.clone(), s.clone()));
                }
            }
        }
        self.tasks.retain(|key, task| {
            let keep = wanted.contains_key(key);
            if !keep {
                task.abort();
            }
            keep
        });
        let alive: Vec<&String> = seen.containers.iter().map(|s| &s.id).collect();
        self.verdicts.lock().retain(|(id, _), _| alive.contains(&id));
        for (key, (sort, container, probe, s)) in wanted {
            if self.tasks.contains_key(&key) {
                continue;
            }
            let one = One {
                k: k.clone(),
                pod: pod.clone(),
                sort,
                container,
                probe,
                id: s.id.clone(),
                started: s.started.unwrap_or(s.created),
                ip: ips.first().cloned().unwrap_or_else(|| "127.0.0.1".into()),
                kind: key.1,
                verdicts: self.verdicts.clone(),
            };
            self.tasks.insert(key, tokio::spawn(one.run()));
        }
    }
}

/// One probe of one container instance.
struct One {
    k: Arc<Kubelet>,
    pod: Arc<Pod>,
    sort: Sort,
    container: Container,
    probe: Probe,
    id: String,
    started: Timestamp,
    ip: String,
    kind: Kind,
    verdicts: Arc<Mutex<HashMap<Key, bool>>>,
}

impl One {
    async fn run(self) {
        let timing = probe::timing(&self.probe);
        let mut counter = Counter::default();
        let mut last = None;
        loop {
            let now = Timestamp::now();
            let due = probe::next(&timing, self.started, last, now);
            tokio::time::sleep(Duration::try_from(due.duration_since(now)).unwrap_or_default()).await;
            last = Some(Timestamp::now());
            let limit = Duration::try_from(timing.timeout).unwrap_or(Duration::from_secs(1));
            let outcome = self.ask(limit).await;
            if let Err(text) = &outcome {
                let text = format!("{} probe failed: {text}", self.kind.word());
                let place = field(self.sort, &self.container.name);
                self.k.events.pod(&self.pod, Some(place), true, "Unhealthy", text);
            }
            if let Some(verdict) = counter.count(outcome.is_ok(), &timing) {
                let before = self.verdicts.lock().insert((self.id.clone(), self.kind), verdict);
                if before != Some(verdict) {
                    self.k.wake(self.pod.metadata.uid.as_deref().unwrap_or(""));
                }
            }
        }
    }

    async fn ask(&self, limit: Duration) -> Result<(), String> {
        let (p, c) = (&self.probe, &self.container);
        if let Some(e) = &p.exec {
            let seconds = u32::try_from(limit.as_secs()).unwrap_or(1).max(1);
            return hooks::exec(&self.k, &self.id, e.command.clone().unwrap_or_default(), seconds).await;
        }
        if let Some(h) = &p.http_get {
            return hooks::http_get(h, c, &self.ip, limit).await;
        }
        let timed = async {
            match (&p.tcp_socket, &p.grpc) {
                (Some(t), _) => hooks::tcp(t, c, &self.ip).await,
                (None, Some(g)) => hooks::grpc(g, &self.ip).await,
                (None, None) => Err("the probe has no action".into()),
            }
        };
        tokio::time::timeout(limit, timed)
            .await
            .unwrap_or_else(|_| Err(format!("timeout: no answer within {}s", limit.as_secs())))
    }
}
