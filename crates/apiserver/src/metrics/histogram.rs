//! Counts by size, without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

use base::exposition::Text;

/// Bounds of the durations of requests, in seconds.
pub static DURATIONS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];
/// Bounds of answers, in bytes.
pub static ANSWERS: [f64; 7] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// Bounds of what watches send, in bytes.
pub static EVENTS: [f64; 8] = [1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131_072.0];
/// Bounds of the stages before the handlers, in seconds.
pub static CHECKS: [f64; 15] = [
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384,
];
/// Bounds of admission, in seconds.
pub static ADMISSION: [f64; 6] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5];

/// Counts per bucket and the sum of what was seen.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    counts: Box<[AtomicU64]>,
    /// In millionths of the unit.
    sum: AtomicU64,
}

impl Histogram {
    /// Nothing seen yet.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }

    /// Counts one.
    pub fn observe(&self, value: f64) {
        let bucket = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add((value * 1e6) as u64, Ordering::Relaxed);
    }

    /// All of these in one.
    pub fn sum_of<'a>(bounds: &'static [f64], parts: impl Iterator<Item = &'a Histogram>) -> Self {
        let whole = Self::new(bounds);
        for part in parts {
            for (mine, theirs) in whole.counts.iter().zip(&part.counts) {
                mine.fetch_add(theirs.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            whole.sum.fetch_add(part.sum.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        whole
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| count.load(Ordering::Relaxed) == 0)
    }

    /// Adds what was seen to a document.
    pub fn show(&self, name: &str, labels: &[(&str, &str)], out: &mut Text) {
        let counts: Vec<u64> = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let sum = self.sum.load(Ordering::Relaxed) as f64 / 1e6;
        out.histogram(name, labels, self.bounds, &counts, sum);
    }
}
