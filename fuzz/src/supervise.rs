//! Starts a process per target, watches that each gets on, and tells what became of them.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::coverage::Coverage;
use crate::targets::Target;
use crate::work::{State, Summary};

/// An input that takes longer hangs. No input takes a hundredth of it.
const HANG: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(200);

/// How to run the targets.
pub struct Plan {
    /// For each target.
    pub time: Duration,
    /// Where random choices begin.
    pub seed: u64,
    /// Targets at the same time.
    pub jobs: usize,
    /// Where inputs that break a target go.
    pub findings: PathBuf,
}

struct Finding {
    why: String,
    input: Vec<u8>,
    said: String,
}

/// Runs the targets; whether all stood.
pub fn run(plan: &Plan, targets: &[&Target]) -> Result<bool, Box<dyn std::error::Error>> {
    println!("seed {}, {} s each, {} edges to count", plan.seed, plan.time.as_secs(), Coverage::counters());
    let (open, stood) = (Mutex::new(targets.iter()), Mutex::new(true));
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs {
            scope.spawn(|| {
                loop {
                    let next = open.lock().ok().and_then(|mut open| open.next());
                    let Some(target) = next else { return };
                    let good = one(plan, target);
                    if let Ok(mut stood) = stood.lock() {
                        *stood &= good;
                    }
                }
            });
        }
    });
    Ok(stood.into_inner().unwrap_or(false))
}

fn one(plan: &Plan, target: &Target) -> bool {
    match watch(plan, target) {
        Ok(Ok(sum)) => {
            let slowest = sum.slowest_us as f64 / 1000.0;
            let line = format!("{} runs, {} edges, {} kept", sum.runs, sum.edges, sum.kept);
            println!("{:<12} {line}, slowest {slowest:.1} ms", target.name);
            true
        }
        Ok(Err(finding)) => {
            let kept = keep(&plan.findings.join(target.name), &finding.input);
            let place = kept.unwrap_or_else(|error| format!("not kept: {error}"));
            println!("{:<12} BROKEN: {}\n  input: {place}\n{}", target.name, finding.why, finding.said);
            false
        }
        Err(error) => {
            println!("{:<12} not run: {error}", target.name);
            false
        }
    }
}

/// Ends the process it holds when it goes.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn watch(plan: &Plan, target: &Target) -> io::Result<Result<Summary, Finding>> {
    // What the process leaves goes with this directory; in memory where the machine has such a place.
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory)? } else { tempfile::tempdir()? };
    let (state, said, told) = (dir.path().join("state"), dir.path().join("said"), dir.path().join("told"));
    let mut child = Guard(
        Command::new(std::env::current_exe()?)
            .args(["work", target.name, &plan.time.as_secs().to_string(), &plan.seed.to_string()])
            .arg(&state)
            .env("TMPDIR", dir.path())
            .stdin(Stdio::null())
            .stdout(File::create(&told)?)
            .stderr(File::create(&said)?)
            .spawn()?,
    );
    let (mut runs, mut since) = (None, Instant::now());
    let why = loop {
        if let Some(status) = child.0.try_wait()? {
            if status.success() {
                let text = std::fs::read_to_string(&told)?;
                let sum = text.lines().last().and_then(Summary::read);
                return sum.map(Ok).ok_or_else(|| io::Error::other("the target gave no summary"));
            }
            break format!("its process ended with {status}");
        }
        let now = State::get(&state).map(|(runs, _)| runs);
        if now != runs {
            (runs, since) = (now, Instant::now());
        }
        if since.elapsed() > HANG {
            break format!("no end after {} s", HANG.as_secs());
        }
        std::thread::sleep(LOOK);
    };
    drop(child);
    let input = State::get(&state).map(|(_, input)| input).unwrap_or_default();
    let said = std::fs::read_to_string(&said).unwrap_or_default();
    let said = said.lines().take(20).map(|line| format!("  | {line}\n")).collect();
    Ok(Err(Finding { why, input, said }))
}

/// Puts an input where the tests find it.
fn keep(dir: &Path, input: &[u8]) -> io::Result<String> {
    std::fs::create_dir_all(dir)?;
    let digest = oci::images::digest(input);
    let path = dir.join(digest.trim_start_matches("sha256:").get(..12).unwrap_or("input"));
    std::fs::write(&path, input)?;
    Ok(path.display().to_string())
}
