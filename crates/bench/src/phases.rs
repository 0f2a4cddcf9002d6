//! The phases: what is sent, by how many, how often.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::Method;
use http_body_util::BodyExt;
use serde_json::json;

use crate::report::{Phase, Report};
use crate::{Args, BenchError, Endpoint, Worker};

/// Where everything of a run lives.
pub const NAMESPACE: &str = "kutter-bench";
/// The usual content type.
pub const JSON: &str = "application/json";
/// The content type of merge patches.
pub const MERGE: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
/// How often a whole list is read by each client.
const LISTS: usize = 5;
/// How often the namespace of an earlier run is looked for.
const NAMESPACE_PAUSE: Duration = Duration::from_millis(200);
/// How long the watch phases update.
const WATCH_SECONDS: u64 = 5;

/// One request: the method, path, content type and body.
pub type Request = (Method, String, &'static str, Bytes);

/// A run under way.
pub struct Bench<'a> {
    /// What was asked for.
    pub args: &'a Args,
    /// The server.
    pub endpoint: Arc<Endpoint>,
    /// The figures so far.
    pub report: Report,
}

/// Runs every phase that is not left out.
pub async fn all(args: &Args, endpoint: Arc<Endpoint>) -> Result<Report, BenchError> {
    let mut bench = Bench { args, endpoint, report: Report::default() };
    let mut first = bench.endpoint.connect().await?;
    make_namespace(&mut first, args).await?;
    wait_for_account(&mut first).await?;
    let (many, wide) = (args.objects, args.connections);
    bench.requests("create configmap", many, wide, create_configmap).await?;
    bench.requests("get configmap", many, wide, get_configmap).await?;
    bench.requests("create pod", many, wide, create_pod).await?;
    bench.requests("get pod", many, wide, get_pod).await?;
    bench.requests("status merge patch", many, wide, patch_status).await?;
    bench.requests("list pods, 1 client", LISTS, 1, list_pods).await?;
    bench.requests("list pods, 8 clients", LISTS * 8, 8, list_pods).await?;
    bench.requests("list pods by label", LISTS * 8, 8, list_by_label).await?;
    bench.requests("list pods by field", LISTS * 8, 8, list_by_field).await?;
    bench.requests("list pods, page of 500", LISTS * 8, 8, list_page).await?;
    bench.requests("apply create", many, wide, apply_first).await?;
    bench.requests("apply update", many, wide, apply_again).await?;
    bench.watch("watch, 200 updates/s", Some(200)).await?;
    bench.watch("watch, flat out", None).await?;
    let outcome = match crate::cluster::all(&mut bench).await {
        Ok(()) => crate::start::all(&mut bench).await,
        failed => failed,
    };
    // The first connection may have been idle for longer than the server suffers.
    let mut last = bench.endpoint.connect().await?;
    let path = format!("/api/v1/namespaces/{NAMESPACE}");
    last.call(Method::DELETE, &path, JSON, Bytes::new()).await?;
    outcome.map(|()| bench.report)
}

/// Makes the namespace of the run, once that of an earlier run is gone.
async fn make_namespace(worker: &mut Worker, args: &Args) -> Result<(), BenchError> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    let body = Bytes::from(namespace.to_string());
    let started = Instant::now();
    loop {
        match worker.call(Method::POST, "/api/v1/namespaces", JSON, body.clone()).await {
            Ok(_) => return Ok(()),
            Err(BenchError::Refused { status: 409, .. }) if started.elapsed() < args.patience() => {
                tokio::time::sleep(NAMESPACE_PAUSE).await;
            }
            Err(BenchError::Refused { status: 409, .. }) => {
                return Err(BenchError::Occupied { namespace: NAMESPACE, seconds: args.timeout });
            }
            Err(other) => return Err(other),
        }
    }
}

/// Pods are refused until the namespace has its service account, which a controller makes; where none runs, it is
/// made here.
async fn wait_for_account(worker: &mut Worker) -> Result<(), BenchError> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    match worker.call(Method::POST, &path, JSON, account.to_string().into()).await {
        Err(BenchError::Refused { status: 409, .. }) | Ok(_) => Ok(()),
        Err(other) => Err(other),
    }
}

impl Bench<'_> {
    /// Whether a phase of this name is left out.
    pub fn skips(&self, name: &str) -> bool {
        let named = |words: &[String]| words.iter().any(|word| name.contains(word.as_str()));
        named(&self.args.skip) || !self.args.only.is_empty() && !named(&self.args.only)
    }

    /// Whether a phase that is left out unless it is named is named.
    pub fn asked_for(&self, name: &str) -> bool {
        !self.args.only.is_empty() && !self.skips(name)
    }

    /// `count` requests shared by `width` connections.
    async fn requests(
        &mut self,
        name: &'static str,
        count: usize,
        width: usize,
        make: fn(usize) -> Request,
    ) -> Result<(), BenchError> {
        if self.skips(name) {
            return Ok(());
        }
        let started = Instant::now();
        let (times, bytes) = self.send(count, width, make).await?;
        self.note(name, started.elapsed(), bytes, &times);
        Ok(())
    }

    /// Sends `count` requests over `width` connections; gives the times they took and the size of the answers.
    pub async fn send(
        &self,
        count: usize,
        width: usize,
        make: impl Fn(usize) -> Request + Clone + Send + 'static,
    ) -> Result<(Histogram<u64>, usize), BenchError> {
        let mut workers = Vec::new();
        for _ in 0..width {
            workers.push(self.endpoint.connect().await?);
        }
        let next = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = workers
            .into_iter()
            .map(|worker| tokio::spawn(work(worker, Arc::clone(&next), count, make.clone())))
            .collect();
        let mut times = histogram();
        let mut bytes = 0;
        for task in tasks {
            let (own, size) = task.await.map_err(|e| BenchError::Io { what: "work", source: e.into() })??;
            times.add(own).ok();
            bytes += size;
        }
        Ok((times, bytes))
    }

    /// Watchers of one configmap while it is updated, at a rate or as fast as it goes.
    async fn watch(&mut self, name: &'static str, rate: Option<u64>) -> Result<(), BenchError> {
        if self.skips(name) {
            return Ok(());
        }
        let base = Instant::now();
        let mut writer = self.endpoint.connect().await?;
        let clock = format!("/api/v1/namespaces/{NAMESPACE}/configmaps/clock");
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "clock"}});
        writer
            .call(Method::PATCH, &format!("{clock}?fieldManager=bench"), APPLY, body.to_string().into())
            .await?;
        let path = format!(
            "/api/v1/namespaces/{NAMESPACE}/configmaps?watch=true&fieldSelector=metadata.name%3Dclock"
        );
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let mut tasks = Vec::new();
        for _ in 0..self.args.watchers {
            let mut worker = self.endpoint.connect().await?;
            let (_, body) = worker.open(Method::GET, &path, JSON, Bytes::new()).await?;
            tasks.push(tokio::spawn(observe(worker, body, base, stopped.clone())));
        }
        let started = Instant::now();
        let mut sent = 0u64;
        while started.elapsed() < Duration::from_secs(WATCH_SECONDS) {
            if let Some(rate) = rate {
                let due = Duration::from_micros(sent * 1_000_000 / rate);
                tokio::time::sleep(due.saturating_sub(started.elapsed())).await;
            }
            let body = format!(r#"{{"data":{{"at":"{}."}}}}"#, base.elapsed().as_micros());
            writer.call(Method::PATCH, &clock, MERGE, body.into()).await?;
            sent += 1;
        }
        let taken = started.elapsed();
        tokio::time::sleep(Duration::from_millis(500)).await;
        stop.send_replace(true);
        let mut times = histogram();
        let mut bytes = 0;
        for task in tasks {
            let (own, size) = task.await.map_err(|e| BenchError::Io { what: "watch", source: e.into() })?;
            times.add(own).ok();
            bytes += size;
        }
        self.note(name, taken, bytes, &times);
        Ok(())
    }

    /// Puts a phase into the report.
    pub fn note(&mut self, name: &'static str, taken: Duration, bytes: usize, times: &Histogram<u64>) {
        let memory = self.args.pids.iter().map(|pid| resident_mib(*pid)).sum::<f64>().max(0.0);
        let phase = Phase::new(name, taken.as_secs_f64(), bytes, times, memory);
        if !self.args.json {
            eprintln!("{:<22} {:>11.0}/s  p99 {:.2} ms", phase.name, phase.per_second, phase.p99_ms);
        }
        self.report.phases.push(phase);
    }
}

/// An empty histogram of microseconds.
pub fn histogram() -> Histogram<u64> {
    // Up to 100 s in microseconds with three digits: the bounds are constants that the type accepts.
    Histogram::new_with_bounds(1, 100_000_000, 3).unwrap_or_else(|_| unreachable!("constant bounds"))
}

async fn work(
    mut worker: Worker,
    next: Arc<AtomicUsize>,
    count: usize,
    make: impl Fn(usize) -> Request,
) -> Result<(Histogram<u64>, usize), BenchError> {
    let mut times = histogram();
    let mut bytes = 0;
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= count {
            return Ok((times, bytes));
        }
        let (method, path, content_type, body) = make(n);
        let started = Instant::now();
        bytes += worker.call(method, &path, content_type, body).await?;
        times.saturating_record(started.elapsed().as_micros() as u64);
    }
}

/// Counts events until told to stop; the time of each is from the moment written into the object.
async fn observe(
    worker: Worker,
    mut body: hyper::body::Incoming,
    base: Instant,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) -> (Histogram<u64>, usize) {
    let mut times = histogram();
    let mut bytes = 0;
    let mut rest = Vec::new();
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            _ = stopped.changed() => break,
        };
        let Some(Ok(frame)) = frame else { break };
        let now = base.elapsed().as_micros() as u64;
        rest.extend_from_slice(frame.data_ref().map_or(&[], |d| d));
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            bytes += line.len();
            if let Some(at) = moment(&line) {
                times.saturating_record(now.saturating_sub(at));
            }
        }
    }
    drop(worker);
    (times, bytes)
}

/// The microseconds in `"at":"N."`.
fn moment(line: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(line).ok()?;
    text.split_once(r#""at":""#)?.1.split_once('.')?.0.parse().ok()
}

/// Resident memory of a process in MiB.
fn resident_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// The path of a core collection of the run.
pub fn in_namespace(plural: &str, rest: &str) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/{plural}{rest}")
}

/// A body that is written once, and then only numbered: `#` is the object's number, `%` its last two digits. Client
/// and server share the machine, so what the client spends is the server's loss.
fn numbered(text: &str, n: usize) -> Bytes {
    text.replace('#', &n.to_string()).replace('%', &(n % 100).to_string()).into()
}

fn create_configmap(n: usize) -> Request {
    static BODY: LazyLock<String> = LazyLock::new(|| {
        let body = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm-#", "labels": {"n": "%"}},
            "data": {"text": "x".repeat(512)},
        });
        body.to_string()
    });
    (Method::POST, in_namespace("configmaps", ""), JSON, numbered(&BODY, n))
}

fn get_configmap(n: usize) -> Request {
    (Method::GET, in_namespace("configmaps", &format!("/cm-{n}")), JSON, Bytes::new())
}

/// A pod of about 4 KB once it is stored.
fn create_pod(n: usize) -> Request {
    static BODY: LazyLock<String> = LazyLock::new(|| {
        let env: Vec<_> =
            (0..12).map(|i| json!({"name": format!("VARIABLE_{i}"), "value": "v".repeat(40)})).collect();
        let body = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "pod-#", "labels": {"app": "bench", "n": "%"}},
            "spec": {
                "schedulerName": "nobody",
                "containers": [{
                    "name": "main", "image": "registry.example/app:1.0", "env": env,
                    "ports": [{"containerPort": 8080}],
                    "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                    "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}},
                }],
            },
        });
        body.to_string()
    });
    (Method::POST, in_namespace("pods", ""), JSON, numbered(&BODY, n))
}

fn get_pod(n: usize) -> Request {
    (Method::GET, in_namespace("pods", &format!("/pod-{n}")), JSON, Bytes::new())
}

fn patch_status(n: usize) -> Request {
    const BODY: &str = r##"{"status": {"phase": "Running", "message": "patched #", "conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}"##;
    (Method::PATCH, in_namespace("pods", &format!("/pod-{n}/status")), MERGE, numbered(BODY, n))
}

fn list_pods(_: usize) -> Request {
    (Method::GET, in_namespace("pods", ""), JSON, Bytes::new())
}

fn list_by_label(n: usize) -> Request {
    (Method::GET, in_namespace("pods", &format!("?labelSelector=n%3D{}", n % 100)), JSON, Bytes::new())
}

fn list_by_field(n: usize) -> Request {
    (
        Method::GET,
        in_namespace("pods", &format!("?fieldSelector=metadata.name%3Dpod-{n}")),
        JSON,
        Bytes::new(),
    )
}

fn list_page(_: usize) -> Request {
    (Method::GET, in_namespace("pods", "?limit=500"), JSON, Bytes::new())
}

fn applied(n: usize, text: &str) -> Request {
    static BODY: LazyLock<String> = LazyLock::new(|| {
        let body = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "applied-#", "labels": {"app": "bench"}},
            "data": {"text": "@", "more": "x".repeat(256)},
        });
        body.to_string()
    });
    let path = in_namespace("configmaps", &format!("/applied-{n}?fieldManager=bench"));
    (Method::PATCH, path, APPLY, numbered(&BODY.replace('@', text), n))
}

fn apply_first(n: usize) -> Request {
    applied(n, "first")
}

fn apply_again(n: usize) -> Request {
    applied(n, "again")
}
