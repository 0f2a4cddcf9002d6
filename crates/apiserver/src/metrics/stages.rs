//! The stages before and around the handlers.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use base::exposition::Text;

use super::histogram::{ADMISSION, CHECKS, Histogram};

/// Admission plugins that have series of their own.
const PLUGINS_MAX: usize = 16;
const OPERATIONS: [&str; 4] = ["CREATE", "UPDATE", "DELETE", "CONNECT"];
const HALVES: [&str; 2] = ["admit", "validate"];
/// Per plugin: operations, halves, and whether it refused.
const CASES: usize = OPERATIONS.len() * HALVES.len() * 2;

/// A check that ends one of two ways.
#[derive(Debug)]
struct Check {
    attempts: [AtomicU64; 2],
    durations: [Histogram; 2],
}

impl Check {
    fn new() -> Self {
        Self { attempts: Default::default(), durations: [Histogram::new(&CHECKS), Histogram::new(&CHECKS)] }
    }

    fn note(&self, passed: bool, began: Instant) {
        self.attempts[usize::from(!passed)].fetch_add(1, Ordering::Relaxed);
        self.durations[usize::from(!passed)].observe(began.elapsed().as_secs_f64());
    }
}

/// The series of a plugin, and its name.
type Cases = [OnceLock<(&'static str, Histogram)>; CASES];

/// Authentication, authorization, admission.
#[derive(Debug)]
pub struct Stages {
    authentication: Check,
    authorization: Check,
    steps: [OnceLock<Histogram>; CASES],
    plugins: Box<[Cases; PLUGINS_MAX]>,
}

impl Default for Stages {
    fn default() -> Self {
        Self {
            authentication: Check::new(),
            authorization: Check::new(),
            steps: Default::default(),
            plugins: Box::default(),
        }
    }
}

/// Which series of a plugin or step.
fn case(operation: &str, half: usize, rejected: bool) -> usize {
    let operation = OPERATIONS.iter().position(|known| *known == operation).unwrap_or(3);
    (operation * HALVES.len() + half) * 2 + usize::from(rejected)
}

impl Stages {
    /// Someone showed who they are, or failed to.
    pub fn authenticated(&self, passed: bool, began: Instant) {
        self.authentication.note(passed, began);
    }

    /// Someone was let through, or not.
    pub fn authorized(&self, passed: bool, began: Instant) {
        self.authorization.note(passed, began);
    }

    /// A plugin, the `index`th of all, was asked; `validating` tells the second half from the first.
    pub fn plugin(
        &self,
        (index, name): (usize, &'static str),
        operation: &str,
        validating: bool,
        rejected: bool,
        began: Instant,
    ) {
        let Some(own) = self.plugins.get(index) else { return };
        let slot = &own[case(operation, usize::from(validating), rejected)];
        let (_, histogram) = slot.get_or_init(|| (name, Histogram::new(&ADMISSION)));
        histogram.observe(began.elapsed().as_secs_f64());
    }

    /// All plugins were asked.
    pub fn step(&self, operation: &str, validating: bool, rejected: bool, began: Instant) {
        let slot = &self.steps[case(operation, usize::from(validating), rejected)];
        slot.get_or_init(|| Histogram::new(&ADMISSION)).observe(began.elapsed().as_secs_f64());
    }

    /// Writes all of it.
    pub fn show(&self, out: &mut Text) {
        let checks = [
            ("authentication", &self.authentication, "authentication_attempts", ["success", "failure"]),
            ("authorization", &self.authorization, "authorization_attempts_total", ["allowed", "denied"]),
        ];
        for (name, check, attempts, results) in checks {
            out.family(attempts, "counter", "[ALPHA] Attempts by result.");
            for (result, count) in results.iter().zip(&check.attempts) {
                out.sample(attempts, &[("result", result)], count.load(Ordering::Relaxed) as f64);
            }
            let durations = format!("{name}_duration_seconds");
            out.family(&durations, "histogram", "[ALPHA] Duration in seconds by result.");
            for (result, histogram) in results.iter().zip(&check.durations) {
                histogram.show(&durations, &[("result", result)], out);
            }
        }
        out.family("authenticated_user_requests", "counter", "[ALPHA] Requests with a known user.");
        let known = self.authentication.attempts[0].load(Ordering::Relaxed);
        out.sample("authenticated_user_requests", &[("username", "other")], known as f64);
        self.admission(out);
    }

    fn admission(&self, out: &mut Text) {
        let parts = |case: usize| {
            let rejected = if case % 2 == 1 { "true" } else { "false" };
            (OPERATIONS[case / 4], HALVES[case / 2 % 2], rejected)
        };
        let name = "apiserver_admission_controller_admission_duration_seconds";
        out.family(name, "histogram", "[STABLE] Admission controller latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).");
        for plugin in self.plugins.iter() {
            for (i, (plugin, histogram)) in plugin.iter().enumerate().filter_map(|(i, s)| Some((i, s.get()?)))
            {
                let (operation, half, rejected) = parts(i);
                let labels =
                    [("name", *plugin), ("operation", operation), ("rejected", rejected), ("type", half)];
                histogram.show(name, &labels, out);
            }
        }
        let name = "apiserver_admission_step_admission_duration_seconds";
        out.family(name, "histogram", "[STABLE] Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step type (validate or admit).");
        for (i, histogram) in self.steps.iter().enumerate().filter_map(|(i, s)| Some((i, s.get()?))) {
            let (operation, half, rejected) = parts(i);
            let labels = [("operation", operation), ("rejected", rejected), ("type", half)];
            histogram.show(name, &labels, out);
        }
    }
}
