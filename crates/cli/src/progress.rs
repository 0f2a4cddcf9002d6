//! Progress of long work: one line per step with its seconds; live on a terminal, plain elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A sequence of steps.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    step_started: Instant,
    step: Option<String>,
    bar: Option<ProgressBar>,
    quiet: bool,
}

impl Progress {
    /// Starts the clock. A quiet one prints nothing (JSON output).
    pub fn new(quiet: bool) -> Progress {
        let live = !quiet && std::io::stderr().is_terminal();
        let bar = live.then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} {elapsed}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        let now = Instant::now();
        Progress { started: now, step_started: now, step: None, bar, quiet }
    }

    /// Ends the step before and begins the next.
    pub fn step(&mut self, what: &str) {
        self.end_step();
        self.step = Some(what.to_owned());
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_owned());
        }
    }

    /// A remark on the running step, shown on a terminal only.
    pub fn remark(&self, text: &str) {
        if let (Some(bar), Some(step)) = (&self.bar, &self.step) {
            bar.set_message(format!("{step} ({text})"));
        }
    }

    /// Ends the last step; gives the time since the start.
    pub fn finish(mut self) -> Duration {
        self.end_step();
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.started.elapsed()
    }

    fn end_step(&mut self) {
        let taken = self.step_started.elapsed();
        self.step_started = Instant::now();
        let Some(step) = self.step.take() else { return };
        let line = format!("  ✓ {step:<44} {:>6.2} s", taken.as_secs_f64());
        match (&self.bar, self.quiet) {
            (Some(bar), _) => bar.println(line),
            (None, false) => eprintln!("{line}"),
            (None, true) => {}
        }
    }
}
