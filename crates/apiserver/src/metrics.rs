//! Counts and durations of requests, under upstream's names.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use parking_lot::RwLock;
use store::Store;

use crate::info::RequestInfo;

/// Upper bounds of the duration buckets, in seconds.
const BOUNDS: [f64; 22] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 60.0,
];
/// More distinct label sets than this are counted together, so that odd paths cannot use up memory.
const SERIES_MAX: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Labels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
}

#[derive(Debug, Default)]
struct Series {
    codes: RwLock<HashMap<u16, Arc<AtomicU64>>>,
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
    watching: AtomicI64,
}

/// All series of the server.
#[derive(Debug, Default)]
pub struct Metrics {
    series: RwLock<HashMap<Labels, Arc<Series>>>,
    inflight: [AtomicI64; 2],
}

/// The series of a request under way.
pub struct Started {
    series: Arc<Series>,
    long: bool,
    mutating: bool,
}

impl Metrics {
    /// Notes the start of a request.
    pub fn begin(&self, info: &RequestInfo) -> Started {
        let scope = match (info.is_resource, info.name.is_empty(), info.namespace.is_empty()) {
            (false, ..) => "",
            (true, false, _) => "resource",
            (true, true, false) => "namespace",
            (true, true, true) => "cluster",
        };
        let labels = Labels {
            verb: verb(info.verb),
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: if info.is_resource { info.subresource.clone() } else { info.path.clone() },
            scope,
        };
        let long = matches!(info.verb, "watch")
            || matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy");
        let mutating = !matches!(labels.verb, "GET" | "LIST" | "WATCH");
        if !long {
            self.inflight[usize::from(mutating)].fetch_add(1, Ordering::Relaxed);
        }
        Started { series: self.series(labels), long, mutating }
    }

    fn series(&self, labels: Labels) -> Arc<Series> {
        if let Some(found) = self.series.read().get(&labels) {
            return found.clone();
        }
        let mut all = self.series.write();
        let labels = match all.len() < SERIES_MAX {
            true => labels,
            false => {
                let empty = String::new;
                let (group, version, resource, subresource) = (empty(), empty(), empty(), empty());
                Labels { verb: "OTHER", group, version, resource, subresource, scope: "" }
            }
        };
        all.entry(labels).or_default().clone()
    }

    /// Notes the end of a request.
    pub fn end(&self, started: Started, code: u16, took: Duration) {
        let series = &started.series;
        let known = series.codes.read().get(&code).cloned();
        let count = known.unwrap_or_else(|| series.codes.write().entry(code).or_default().clone());
        count.fetch_add(1, Ordering::Relaxed);
        if started.long {
            return;
        }
        self.inflight[usize::from(started.mutating)].fetch_sub(1, Ordering::Relaxed);
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        series.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        series.micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }

    /// The text exposition.
    pub fn text(&self, store: &dyn Store) -> String {
        let mut all: Vec<_> =
            self.series.read().iter().map(|(labels, series)| (labels.clone(), series.clone())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        let mut out = String::from(
            "# HELP apiserver_request_total [STABLE] Counter of apiserver requests.\n# TYPE apiserver_request_total counter\n",
        );
        for (labels, series) in &all {
            let mut codes: Vec<_> = series
                .codes
                .read()
                .iter()
                .map(|(code, count)| (*code, count.load(Ordering::Relaxed)))
                .collect();
            codes.sort_unstable();
            for (code, count) in codes {
                let _ = writeln!(
                    out,
                    "apiserver_request_total{{code=\"{code}\",dry_run=\"\",{}}} {count}",
                    labels.text()
                );
            }
        }
        out.push_str("# HELP apiserver_request_duration_seconds [STABLE] Response latency.\n# TYPE apiserver_request_duration_seconds histogram\n");
        for (labels, series) in &all {
            series.durations(&labels.text(), &mut out);
        }
        out.push_str("# TYPE apiserver_current_inflight_requests gauge\n");
        for (kind, count) in ["readOnly", "mutating"].iter().zip(&self.inflight) {
            let count = count.load(Ordering::Relaxed).max(0);
            let _ = writeln!(out, "apiserver_current_inflight_requests{{request_kind=\"{kind}\"}} {count}");
        }
        out.push_str("# TYPE apiserver_longrunning_requests gauge\n");
        for (labels, series) in all.iter().filter(|(labels, _)| labels.verb == "WATCH") {
            let watching = series.watching.load(Ordering::Relaxed);
            let _ = writeln!(out, "apiserver_longrunning_requests{{{}}} {watching}", labels.text());
        }
        out.push_str("# HELP apiserver_storage_objects [STABLE] Number of stored objects.\n# TYPE apiserver_storage_objects gauge\n");
        for (resource, count) in store.counts() {
            let (group, plural) = resource.split_once('/').unwrap_or(("core", &resource));
            let name = crate::status::qualified(if group == "core" { "" } else { group }, plural);
            let _ = writeln!(out, "apiserver_storage_objects{{resource=\"{name}\"}} {count}");
        }
        out
    }
}

impl Labels {
    fn text(&self) -> String {
        let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!(
            "group=\"{}\",resource=\"{}\",scope=\"{}\",subresource=\"{}\",verb=\"{}\",version=\"{}\"",
            escape(&self.group),
            escape(&self.resource),
            self.scope,
            escape(&self.subresource),
            self.verb,
            escape(&self.version)
        )
    }
}

impl Series {
    fn durations(&self, labels: &str, out: &mut String) {
        let mut total = 0;
        let counts: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        if counts.iter().all(|count| *count == 0) {
            return;
        }
        let bounds = BOUNDS.iter().map(f64::to_string).chain(["+Inf".to_string()]);
        for (bound, count) in bounds.zip(counts) {
            total += count;
            let _ =
                writeln!(out, "apiserver_request_duration_seconds_bucket{{{labels},le=\"{bound}\"}} {total}");
        }
        let seconds = self.micros.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(out, "apiserver_request_duration_seconds_sum{{{labels}}} {seconds}");
        let _ = writeln!(out, "apiserver_request_duration_seconds_count{{{labels}}} {total}");
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
        _ => "OTHER",
    }
}
