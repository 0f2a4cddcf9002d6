//! The figures of a run.

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde::Serialize;

/// One phase.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Phase {
    /// Its name.
    pub name: &'static str,
    /// Requests (or events) that were answered.
    pub count: u64,
    /// Requests (or events) a second.
    pub per_second: f64,
    /// Bytes a second of the answers, in millions.
    pub megabytes_per_second: f64,
    /// Half of the requests took at most this long, in milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 took at most this long, in milliseconds.
    pub p99_ms: f64,
    /// Memory of the server after the phase, in MiB; 0 if no pid was given.
    pub memory_mib: f64,
}

/// All phases of a run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// In the order they ran.
    pub phases: Vec<Phase>,
}

impl Phase {
    /// Sums up a phase. Times in the histogram are microseconds.
    pub fn new(
        name: &'static str,
        seconds: f64,
        bytes: usize,
        times: &Histogram<u64>,
        memory_mib: f64,
    ) -> Phase {
        let ms = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
        Phase {
            name,
            count: times.len(),
            per_second: times.len() as f64 / seconds,
            megabytes_per_second: bytes as f64 / seconds / 1e6,
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            memory_mib,
        }
    }
}

impl Report {
    /// The table for people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<22} {:>9} {:>11} {:>9} {:>9} {:>9} {:>9}\n",
            "PHASE", "COUNT", "PER SECOND", "MB/S", "P50 MS", "P99 MS", "MIB"
        );
        for p in &self.phases {
            writeln!(
                text,
                "{:<22} {:>9} {:>11.0} {:>9.1} {:>9.2} {:>9.2} {:>9.1}",
                p.name, p.count, p.per_second, p.megabytes_per_second, p.p50_ms, p.p99_ms, p.memory_mib
            )
            .ok();
        }
        text
    }
}
