//! How busy the controllers are, under upstream's names.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::queue::Queue;

type Labels = Vec<(&'static str, &'static str)>;
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// Metrics of all queues of a process.
pub struct Metrics {
    registry: Registry,
    queues: Mutex<Vec<(&'static str, Weak<Queue>)>>,
    depth: Family<Labels, Gauge>,
    adds: Family<Labels, Gauge>,
    retries: Family<Labels, Gauge>,
    unfinished: Family<Labels, Gauge>,
    waiting: Histograms,
    working: Histograms,
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(1e-5, 10.0, 8))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let (depth, adds, retries, unfinished) =
            <(Family<_, Gauge>, Family<_, Gauge>, Family<_, Gauge>, Family<_, Gauge>)>::default();
        let waiting: Histograms = Family::new_with_constructor(seconds);
        let working: Histograms = Family::new_with_constructor(seconds);
        registry.register("workqueue_depth", "Current depth of workqueue", depth.clone());
        registry.register("workqueue_adds_total", "Number of adds handled by workqueue", adds.clone());
        registry.register(
            "workqueue_retries_total",
            "Number of retries handled by workqueue",
            retries.clone(),
        );
        registry.register("workqueue_unfinished_work", "Keys that are being worked on", unfinished.clone());
        registry.register("workqueue_queue_duration_seconds", "How long a key waits", waiting.clone());
        registry.register("workqueue_work_duration_seconds", "How long a pass takes", working.clone());
        Self { registry, queues: Mutex::default(), depth, adds, retries, unfinished, waiting, working }
    }
}

impl Metrics {
    pub(crate) fn watch(&self, name: &'static str, queue: &Arc<Queue>) {
        self.queues.lock().push((name, Arc::downgrade(queue)));
    }

    pub(crate) fn waited(&self, name: &'static str, time: Duration) {
        self.waiting.get_or_create(&vec![("name", name)]).observe(time.as_secs_f64());
    }

    pub(crate) fn worked(&self, name: &'static str, time: Duration) {
        self.working.get_or_create(&vec![("name", name)]).observe(time.as_secs_f64());
    }

    /// The metrics in the text format of OpenMetrics.
    #[must_use]
    pub fn text(&self) -> String {
        for (name, queue) in self.queues.lock().iter() {
            let Some(stats) = queue.upgrade().map(|q| q.stats()) else { continue };
            let labels: Labels = vec![("name", *name)];
            let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            self.depth.get_or_create(&labels).set(whole(stats.depth as u64));
            self.adds.get_or_create(&labels).set(whole(stats.adds));
            self.retries.get_or_create(&labels).set(whole(stats.retries));
            self.unfinished.get_or_create(&labels).set(whole(stats.held as u64));
        }
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
