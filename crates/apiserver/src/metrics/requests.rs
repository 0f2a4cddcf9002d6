//! One series per verb, kind and scope.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base::exposition::Text;
use parking_lot::RwLock;

use super::histogram::{ANSWERS, DURATIONS, EVENTS, Histogram};
use crate::info::RequestInfo;

/// More distinct label sets than this are counted together, so that odd paths cannot use up memory.
const SERIES_MAX: usize = 4096;

/// The labels of a request, borrowed from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Labels<'a> {
    verb: &'static str,
    group: &'a str,
    version: &'a str,
    resource: &'a str,
    subresource: &'a str,
    scope: &'static str,
    dry_run: bool,
}

/// What series have that cannot be told apart any more.
const REST: Labels<'static> = Labels {
    verb: "OTHER",
    group: "",
    version: "",
    resource: "",
    subresource: "",
    scope: "",
    dry_run: false,
};

/// The labels of a series.
#[derive(Debug)]
struct Owned {
    verb: &'static str,
    texts: [Box<str>; 4],
    scope: &'static str,
    dry_run: bool,
}

impl Owned {
    fn labels(&self) -> Labels<'_> {
        let [group, version, resource, subresource] = &self.texts;
        let (verb, scope, dry_run) = (self.verb, self.scope, self.dry_run);
        Labels { verb, group, version, resource, subresource, scope, dry_run }
    }
}

/// What a watch sent.
#[derive(Debug)]
struct Sent {
    open: AtomicI64,
    events: AtomicU64,
    sizes: Histogram,
}

#[derive(Debug)]
struct Series {
    labels: Owned,
    codes: RwLock<Vec<(u16, Arc<AtomicU64>)>>,
    durations: Histogram,
    answers: OnceLock<Histogram>,
    sent: OnceLock<Sent>,
}

impl Series {
    fn new(labels: Labels<'_>) -> Arc<Self> {
        let texts = [labels.group, labels.version, labels.resource, labels.subresource].map(Box::from);
        Arc::new(Self {
            labels: Owned { verb: labels.verb, texts, scope: labels.scope, dry_run: labels.dry_run },
            codes: RwLock::default(),
            durations: Histogram::new(&DURATIONS),
            answers: OnceLock::new(),
            sent: OnceLock::new(),
        })
    }

    fn count(&self, code: u16) {
        let find =
            |all: &[(u16, Arc<AtomicU64>)]| all.iter().find(|(c, _)| *c == code).map(|(_, n)| n.clone());
        let known = find(&self.codes.read());
        let count = known.unwrap_or_else(|| {
            let mut all = self.codes.write();
            find(&all).unwrap_or_else(|| {
                let new = Arc::new(AtomicU64::new(0));
                all.push((code, new.clone()));
                new
            })
        });
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// All series, by the hash of their labels: looking one up copies nothing.
#[derive(Debug, Default)]
pub struct Requests {
    series: RwLock<HashMap<u64, Vec<Arc<Series>>>>,
    state: std::collections::hash_map::RandomState,
    inflight: [AtomicI64; 2],
}

/// The series of a request under way.
pub struct Started {
    series: Arc<Series>,
    long: bool,
    mutating: bool,
}

/// A watch that is open.
pub struct Watching(Arc<Series>);

impl Requests {
    /// Notes the start of a request; `apply` tells server-side apply from other patches.
    pub fn begin(&self, info: &RequestInfo, apply: bool, dry_run: bool) -> Started {
        let scope = match (info.is_resource, info.name.is_empty(), info.namespace.is_empty()) {
            (false, ..) => "",
            (true, false, _) => "resource",
            (true, true, false) => "namespace",
            (true, true, true) => "cluster",
        };
        let verb = if apply && info.verb == "patch" { "APPLY" } else { verb(info.verb) };
        let labels = Labels {
            verb,
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: if info.is_resource { &info.subresource } else { &info.path },
            scope,
            dry_run,
        };
        let long = matches!(info.verb, "watch")
            || matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy");
        let mutating = !matches!(verb, "GET" | "LIST" | "WATCH");
        if !long {
            self.inflight[usize::from(mutating)].fetch_add(1, Ordering::Relaxed);
        }
        Started { series: self.find(labels), long, mutating }
    }

    fn find(&self, labels: Labels<'_>) -> Arc<Series> {
        let hash = |labels: &Labels<'_>| self.state.hash_one(labels);
        let among = |all: &HashMap<u64, Vec<Arc<Series>>>, key: u64, labels: &Labels<'_>| {
            all.get(&key)?.iter().find(|series| series.labels.labels() == *labels).cloned()
        };
        let key = hash(&labels);
        if let Some(found) = among(&self.series.read(), key, &labels) {
            return found;
        }
        let mut all = self.series.write();
        let (key, labels) = if all.len() < SERIES_MAX { (key, labels) } else { (hash(&REST), REST) };
        among(&all, key, &labels).unwrap_or_else(|| {
            let new = Series::new(labels);
            all.entry(key).or_default().push(new.clone());
            new
        })
    }

    /// Notes the end of a request and the size of its answer, if it is known.
    pub fn end(&self, started: &Started, code: u16, took: Duration, bytes: Option<u64>) {
        let series = &started.series;
        series.count(code);
        if started.long {
            return;
        }
        self.inflight[usize::from(started.mutating)].fetch_sub(1, Ordering::Relaxed);
        series.durations.observe(took.as_secs_f64());
        if let Some(bytes) = bytes {
            series.answers.get_or_init(|| Histogram::new(&ANSWERS)).observe(bytes as f64);
        }
    }

    /// Writes all of it.
    pub fn show(&self, out: &mut Text) {
        let mut all: Vec<Arc<Series>> = self.series.read().values().flatten().cloned().collect();
        all.sort_by(|a, b| a.labels.labels().cmp(&b.labels.labels()));
        counts(&all, out);
        durations(&all, out);
        answers(&all, out);
        watches(&all, out);
        let name = "apiserver_current_inflight_requests";
        out.family(name, "gauge", "[STABLE] Maximal number of currently used inflight request limit of this apiserver per request kind in last second.");
        for (kind, count) in ["readOnly", "mutating"].iter().zip(&self.inflight) {
            out.sample(name, &[("request_kind", kind)], count.load(Ordering::Relaxed).max(0) as f64);
        }
    }
}

impl Started {
    /// Counts an open watch until what this gives is dropped.
    pub fn watching(&self) -> Watching {
        let sent = self.series.sent.get_or_init(|| Sent {
            open: AtomicI64::new(0),
            events: AtomicU64::new(0),
            sizes: Histogram::new(&EVENTS),
        });
        sent.open.fetch_add(1, Ordering::Relaxed);
        Watching(self.series.clone())
    }
}

impl Watching {
    /// One event of so many bytes is on its way.
    pub fn sent(&self, bytes: usize) {
        if let Some(sent) = self.0.sent.get() {
            sent.events.fetch_add(1, Ordering::Relaxed);
            sent.sizes.observe(bytes as f64);
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(sent) = self.0.sent.get() {
            sent.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn component(labels: &Labels<'_>) -> &'static str {
    if labels.scope.is_empty() { "" } else { "apiserver" }
}

fn counts(all: &[Arc<Series>], out: &mut Text) {
    let name = "apiserver_request_total";
    out.family(name, "counter", "[STABLE] Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.");
    for series in all {
        let labels = series.labels.labels();
        let mut codes: Vec<(u16, u64)> =
            series.codes.read().iter().map(|(code, count)| (*code, count.load(Ordering::Relaxed))).collect();
        codes.sort_unstable();
        for (code, count) in codes {
            let pairs = [
                ("code", code.to_string()),
                ("component", component(&labels).to_owned()),
                ("dry_run", dry_run(&labels).to_owned()),
            ];
            let mut pairs: Vec<(&str, &str)> =
                pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
            pairs.extend(common(&labels));
            out.sample(name, &pairs, count as f64);
        }
    }
    let name = "apiserver_requested_deprecated_apis";
    out.family(name, "gauge", "[STABLE] Gauge of deprecated APIs that have been requested, broken out by API group, version, resource, subresource, and removed_release.");
    let mut seen = std::collections::BTreeSet::new();
    for series in all {
        let l = series.labels.labels();
        let deprecated = l.group.is_empty() && matches!(l.resource, "endpoints" | "componentstatuses");
        if deprecated && seen.insert((l.resource, l.subresource)) {
            let labels = [
                ("group", ""),
                ("removed_release", ""),
                ("resource", l.resource),
                ("subresource", l.subresource),
                ("version", l.version),
            ];
            out.sample(name, &labels, 1.0);
        }
    }
}

fn dry_run(labels: &Labels<'_>) -> &'static str {
    if labels.dry_run { "All" } else { "" }
}

/// The labels that every family of requests has.
fn common<'a>(labels: &Labels<'a>) -> [(&'static str, &'a str); 6] {
    [
        ("group", labels.group),
        ("resource", labels.resource),
        ("scope", labels.scope),
        ("subresource", labels.subresource),
        ("verb", labels.verb),
        ("version", labels.version),
    ]
}

fn durations(all: &[Arc<Series>], out: &mut Text) {
    let families = [
        (
            "apiserver_request_duration_seconds",
            "[STABLE] Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
        ),
        (
            "apiserver_request_sli_duration_seconds",
            "[ALPHA] Response latency distribution (not counting webhook duration and priority & fairness queue wait times) in seconds for each verb, group, version, resource, subresource, scope and component.",
        ),
    ];
    for (name, help) in families {
        out.family(name, "histogram", help);
        for series in all.iter().filter(|series| !series.durations.is_empty()) {
            let labels = series.labels.labels();
            let mut pairs = vec![("component", component(&labels))];
            if name == "apiserver_request_duration_seconds" {
                pairs.push(("dry_run", dry_run(&labels)));
            }
            pairs.extend(common(&labels));
            series.durations.show(name, &pairs, out);
        }
    }
}

fn answers(all: &[Arc<Series>], out: &mut Text) {
    let name = "apiserver_response_sizes";
    out.family(name, "histogram", "[STABLE] Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.");
    for (series, sizes) in all.iter().filter_map(|series| Some((series, series.answers.get()?))) {
        let labels = series.labels.labels();
        let mut pairs = vec![("component", component(&labels))];
        pairs.extend(common(&labels));
        sizes.show(name, &pairs, out);
    }
}

fn watches(all: &[Arc<Series>], out: &mut Text) {
    let open: Vec<_> =
        all.iter().filter_map(|series| Some((series.labels.labels(), series.sent.get()?))).collect();
    let name = "apiserver_longrunning_requests";
    out.family(name, "gauge", "[STABLE] Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.");
    for (labels, sent) in &open {
        let mut pairs = vec![("component", component(labels))];
        pairs.extend(common(labels));
        out.sample(name, &pairs, sent.open.load(Ordering::Relaxed).max(0) as f64);
    }
    // Scopes of one kind are one series here.
    let mut by_kind: std::collections::BTreeMap<(&str, &str, &str), Vec<&Sent>> = Default::default();
    for (labels, sent) in &open {
        by_kind.entry((labels.group, labels.resource, labels.version)).or_default().push(sent);
    }
    let name = "apiserver_watch_events_total";
    out.family(name, "counter", "[ALPHA] Number of events sent in watch clients");
    for ((group, resource, version), sent) in &by_kind {
        let total: u64 = sent.iter().map(|sent| sent.events.load(Ordering::Relaxed)).sum();
        out.sample(name, &[("group", group), ("resource", resource), ("version", version)], total as f64);
    }
    let name = "apiserver_watch_events_sizes";
    out.family(name, "histogram", "[ALPHA] Watch event size distribution in bytes");
    for ((group, resource, version), sent) in &by_kind {
        let sum = Histogram::sum_of(&EVENTS, sent.iter().map(|sent| &sent.sizes));
        sum.show(name, &[("group", group), ("resource", resource), ("version", version)], out);
    }
}

fn verb(verb: &str) -> &'static str {
    match verb {
        "get" | "head" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "proxy" => "CONNECT",
        _ => "OTHER",
    }
}
