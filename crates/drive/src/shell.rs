//! Runs controllers: wires caches to queues, and passes to the executor.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use base::certificate::Request;
use client::{Cache, Change, Client, Kind, ObjectKey};
use controllers::{Action, Failure, Plan, Wake};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::caches::{AnyCache, Caches};
use crate::events::Recorder;
use crate::execute::{Outcome, Stopped, execute};
use crate::graph::Graph;
use crate::metrics::Metrics;
use crate::queue::Queue;

/// Passes of one controller that run at once.
const PASSES_MAX: usize = 16;
/// How long a key waits for the caches to show what was written.
const FRESH_TIME_MAX: Duration = Duration::from_secs(30);

/// What a pass is given.
pub struct Pass<'a> {
    /// What it is about.
    pub key: &'a ObjectKey,
    /// The time it is.
    pub now: Timestamp,
    /// What went wrong in the pass before.
    pub failure: Option<&'a Failure>,
}

type Asking = Pin<Box<dyn Future<Output = Result<Plan, client::Error>> + Send>>;

/// Gathers a view and plans.
pub enum Planner {
    /// From caches alone; it must not wait.
    Local(Box<dyn Fn(&Pass<'_>) -> Plan + Send + Sync>),
    /// Where the end of something is final, the API itself is asked.
    Asking(Box<dyn Fn(ObjectKey, Timestamp) -> Asking + Send + Sync>),
}

impl Planner {
    /// A planner that only reads caches.
    pub fn local(plan: impl Fn(&Pass<'_>) -> Plan + Send + Sync + 'static) -> Self {
        Self::Local(Box::new(plan))
    }

    /// A planner that asks the API.
    pub fn asking<F>(plan: impl Fn(ObjectKey, Timestamp) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Plan, client::Error>> + Send + 'static,
    {
        Self::Asking(Box::new(move |key, now| Box::pin(plan(key, now))))
    }
}

/// Reads certificate requests and signs them. Errors say what is wrong with the request.
pub trait Authority: std::fmt::Debug + Send + Sync {
    /// What a PKCS#10 request (PEM) asks for.
    fn read(&self, request: &[u8]) -> Result<Request, String>;
    /// A certificate (PEM) for a request, with usages in the words of `certificates.k8s.io`.
    fn sign(&self, request: &[u8], usages: &[String], life: Duration) -> Result<String, String>;
    /// When a certificate (PEM) ends.
    fn expiry(&self, certificate: &[u8]) -> Option<Timestamp>;
}

/// What controllers are to know of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The certificate that vouches for the API server, PEM; published in every namespace.
    pub root_ca: Option<String>,
    /// What signs the requests of the cluster's own signers; without it they stay unsigned.
    pub authority: Option<Arc<dyn Authority>>,
    /// The ranges of all pods, `address/length`, of which nodes without a range get parts; none gives no parts.
    pub pod_ranges: Vec<String>,
    /// How long a node may be silent before its pods are given up; `None` takes upstream's 50 seconds.
    pub node_grace: Option<Duration>,
}

/// A controller: its name, and how it is wired.
#[derive(Clone, Copy)]
pub struct Controller {
    /// The name events and metrics carry.
    pub name: &'static str,
    /// Subscribes to caches and gives the planner.
    pub wire: fn(&mut Wiring) -> Planner,
}

/// What a controller is wired with.
pub struct Wiring {
    caches: Arc<Caches>,
    queue: Arc<Queue>,
    uses: Vec<Arc<dyn AnyCache>>,
    settings: Arc<Settings>,
    graph: Arc<OnceLock<Arc<Graph>>>,
    /// Tells events outside of plans.
    pub recorder: Recorder,
}

impl Wiring {
    /// The shared cache of a kind; the controller starts when it is filled.
    pub fn cache<K: Kind>(&mut self) -> Cache<K> {
        let cache = self.caches.get::<K>();
        self.uses.push(Arc::new(cache.clone()));
        cache
    }

    /// The client, for what needs one outside of plans.
    #[must_use]
    pub fn client(&self) -> &Client {
        self.caches.client()
    }

    /// All shared caches.
    #[must_use]
    pub fn caches(&self) -> &Arc<Caches> {
        &self.caches
    }

    /// What there is to know of the cluster.
    #[must_use]
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// The owner graph, started if it is not running.
    #[must_use]
    pub fn graph(&self) -> Arc<Graph> {
        self.graph.get_or_init(|| Graph::start(self.caches.client().named("garbage-collector"))).clone()
    }

    /// The controller's queue, for what wakes it other than objects.
    #[must_use]
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Every change of an object of this kind wakes the object's own key.
    pub fn own<K: Kind>(&mut self) -> Cache<K> {
        self.on_change::<K>(|change, wake| wake(change.key.clone()))
    }

    /// Every change of an object of this kind wakes the keys that `keys` names for it, before and after.
    pub fn on<K: Kind>(
        &mut self,
        keys: impl Fn(&K, &mut dyn FnMut(ObjectKey)) + Send + Sync + 'static,
    ) -> Cache<K> {
        self.on_change::<K>(move |change, wake| {
            for object in [change.old, change.new].into_iter().flatten() {
                keys(object, wake);
            }
        })
    }

    /// Every change of an object of this kind wakes the keys that `keys` names for it.
    pub fn on_change<K: Kind>(
        &mut self,
        keys: impl Fn(&Change<'_, K>, &mut dyn FnMut(ObjectKey)) + Send + Sync + 'static,
    ) -> Cache<K> {
        let (cache, queue) = (self.cache::<K>(), self.queue.clone());
        cache.hook(move |change| keys(change, &mut |key| queue.add(key)));
        cache
    }

    /// As [`Wiring::on`], for the objects that a field selector matches.
    pub fn on_where<K: Kind>(
        &mut self,
        fields: &'static str,
        keys: impl Fn(&K, &mut dyn FnMut(ObjectKey)) + Send + Sync + 'static,
    ) -> Cache<K> {
        let (cache, queue) = (self.caches.get_where::<K>(fields), self.queue.clone());
        self.uses.push(Arc::new(cache.clone()));
        cache.hook(move |change| {
            for object in [change.old, change.new].into_iter().flatten() {
                keys(object, &mut |key| queue.add(key));
            }
        });
        cache
    }

    /// Every change of an object of this kind wakes the owner that controls it, if it is of kind `owner`;
    /// changes of what no one controls wake the keys `orphan` names.
    pub fn owned<K: Kind>(
        &mut self,
        owner: &'static str,
        orphan: impl Fn(&K, &mut dyn FnMut(ObjectKey)) + Send + Sync + 'static,
    ) -> Cache<K> {
        self.on::<K>(move |object, wake| {
            let meta = object.meta();
            match controllers::pod::controller_of(meta) {
                Some(o) if o.kind == owner => {
                    wake(ObjectKey::new(meta.namespace.as_deref().unwrap_or(""), &o.name));
                }
                Some(_) => {}
                None => orphan(object, wake),
            }
        })
    }
}

/// Runs controllers over one set of shared caches.
pub struct Shell {
    caches: Arc<Caches>,
    recorder: Recorder,
    metrics: Arc<Metrics>,
    settings: Arc<Settings>,
    graph: Arc<OnceLock<Arc<Graph>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Shell {
    /// A shell without controllers. Needs a Tokio runtime.
    #[must_use]
    pub fn new(client: Client, metrics: Arc<Metrics>, settings: Settings) -> Self {
        let recorder = Recorder::start(client.clone(), "kutter", "");
        let (caches, graph) = (Arc::new(Caches::new(client)), Arc::default());
        Self { caches, recorder, metrics, settings: Arc::new(settings), graph, tasks: Vec::new() }
    }

    /// The shared caches.
    #[must_use]
    pub fn caches(&self) -> &Arc<Caches> {
        &self.caches
    }

    /// The recorder of events.
    #[must_use]
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Starts a controller.
    pub fn start(&mut self, controller: Controller) {
        let queue = Arc::new(Queue::default());
        self.metrics.watch(controller.name, &queue);
        let recorder = self.recorder.of(controller.name);
        let (caches, uses) = (self.caches.clone(), Vec::new());
        let (settings, graph) = (self.settings.clone(), self.graph.clone());
        let recording = recorder.clone();
        let mut wiring = Wiring { caches, queue: queue.clone(), uses, settings, graph, recorder: recording };
        let planner = (controller.wire)(&mut wiring);
        let runner = Arc::new(Runner {
            name: controller.name,
            client: self.caches.client().named(controller.name),
            caches: self.caches.clone(),
            queue,
            recorder,
            metrics: self.metrics.clone(),
            planner,
            failures: Mutex::default(),
            slots: Arc::new(Semaphore::new(PASSES_MAX)),
        });
        self.tasks.push(tokio::spawn(runner.run(wiring.uses)));
    }

    /// Waits for as long as the controllers run, which is until the shell is dropped.
    pub async fn wait(&mut self) {
        for task in &mut self.tasks {
            // A controller only ends when it is aborted or its code panics; the others go on.
            let _ = task.await;
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

struct Runner {
    name: &'static str,
    client: Client,
    caches: Arc<Caches>,
    queue: Arc<Queue>,
    recorder: Recorder,
    metrics: Arc<Metrics>,
    planner: Planner,
    failures: Mutex<HashMap<ObjectKey, Failure>>,
    slots: Arc<Semaphore>,
}

impl Runner {
    async fn run(self: Arc<Self>, uses: Vec<Arc<dyn AnyCache>>) {
        for cache in uses {
            cache.fills().await;
        }
        tracing::debug!(controller = self.name, "running");
        // Dropped with this task, and with it every pass.
        let mut passes = tokio::task::JoinSet::new();
        loop {
            let Ok(slot) = self.slots.clone().acquire_owned().await else { return };
            let Some((key, waited)) = self.queue.next().await else { return };
            self.metrics.waited(self.name, waited);
            let runner = self.clone();
            passes.spawn(async move { runner.pass(key, slot).await });
            while passes.try_join_next().is_some() {}
        }
    }

    async fn pass(&self, key: ObjectKey, slot: tokio::sync::OwnedSemaphorePermit) {
        let started = Instant::now();
        let failure = self.failures.lock().get(&key).cloned();
        let now = Timestamp::now();
        let planned = match &self.planner {
            Planner::Local(plan) => Ok(plan(&Pass { key: &key, now, failure: failure.as_ref() })),
            Planner::Asking(plan) => plan(key.clone(), now).await,
        };
        let mut count = 0;
        let (plan, outcome) = match planned {
            Ok(mut plan) => {
                let actions: Arc<[Action]> = std::mem::take(&mut plan.actions).into();
                count = actions.len();
                let outcome = execute(&self.client, &self.recorder, &actions).await;
                (plan, outcome)
            }
            Err(error) => {
                let failure = Some(Stopped::Failed { verb: "read", message: error.chain() });
                (Plan::default(), Outcome { failure, ..Outcome::default() })
            }
        };
        tracing::debug!(controller = self.name, %key, actions = count, why = ?plan.why, failure = ?outcome.failure, "pass");
        // Waiting for freshness needs no slot. Who asks the API itself needs no caches.
        drop(slot);
        let reads_caches = matches!(self.planner, Planner::Local(_));
        if reads_caches
            && !outcome.writes.is_empty()
            && !self.caches.show(&outcome.writes, FRESH_TIME_MAX).await
        {
            tracing::warn!(controller = self.name, %key, "caches do not show what was written {FRESH_TIME_MAX:?} ago");
        }
        self.metrics.worked(self.name, started.elapsed());
        match outcome.failure {
            None => {
                self.queue.forget(&key);
                if self.failures.lock().remove(&key).is_some() {
                    // The planner has yet to see that all is well again.
                    self.queue.add(key.clone());
                }
                self.schedule(&key, plan.wake);
            }
            Some(stopped) => {
                if let Stopped::Failed { verb, message } = stopped {
                    tracing::debug!(controller = self.name, %key, verb, message, "the pass failed");
                    self.failures.lock().insert(key.clone(), Failure { verb, message, at: Timestamp::now() });
                }
                self.queue.retry(key.clone());
            }
        }
        self.queue.done(&key);
    }

    fn schedule(&self, key: &ObjectKey, wake: Wake) {
        if let Wake::At(time) = wake {
            let delay = time.duration_since(Timestamp::now());
            self.queue.add_after(key.clone(), delay.try_into().unwrap_or(Duration::ZERO));
        }
    }
}
