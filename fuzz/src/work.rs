//! One target's work in a process of its own: seeds first, then what grows from them, until the time is up.
//!
//! A panic, an abort, a hang or too much memory ends the process; its last input is in the state file, for whoever
//! started it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::coverage::Coverage;
use crate::mutate::{mutate, words};
use crate::targets::Target;

/// More than this of address space is too much for any input, in bytes.
const MEMORY_MAX: u64 = 4 << 30;
/// Kept inputs; no target comes near in CI.
const CORPUS_MAX: usize = 50_000;

/// What a run of a target came to, as one line between the processes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Inputs tried.
    pub runs: u64,
    /// Edges taken.
    pub edges: usize,
    /// Inputs that did something new.
    pub kept: usize,
    /// The longest run, in microseconds.
    pub slowest_us: u128,
}

impl Summary {
    /// As a line.
    pub fn line(&self) -> String {
        format!("{} {} {} {}", self.runs, self.edges, self.kept, self.slowest_us)
    }

    /// From a line.
    pub fn read(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        Some(Self {
            runs: words.next()?.parse().ok()?,
            edges: words.next()?.parse().ok()?,
            kept: words.next()?.parse().ok()?,
            slowest_us: words.next()?.parse().ok()?,
        })
    }
}

/// The input at work and how many came before it, for whoever watches.
pub struct State(File);

impl State {
    /// Writes to this file.
    pub fn create(path: &std::path::Path) -> io::Result<Self> {
        File::create(path).map(Self)
    }

    fn put(&self, runs: u64, input: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(16 + input.len());
        bytes.extend_from_slice(&runs.to_le_bytes());
        bytes.extend_from_slice(&(input.len() as u64).to_le_bytes());
        bytes.extend_from_slice(input);
        self.0.write_all_at(&bytes, 0)
    }

    /// Reads what another process wrote last.
    pub fn get(path: &std::path::Path) -> Option<(u64, Vec<u8>)> {
        let bytes = std::fs::read(path).ok()?;
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let length = usize::try_from(number(8)?).ok()?;
        Some((number(0)?, bytes.get(16..16 + length)?.to_vec()))
    }
}

/// Works on a target for a time.
pub fn work(target: &Target, seed: u64, time: Duration, state: &State) -> io::Result<Summary> {
    use nix::sys::resource::{Resource, setrlimit};
    setrlimit(Resource::RLIMIT_AS, MEMORY_MAX, MEMORY_MAX)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let end = Instant::now() + time;
    let (mut rng, mut coverage, mut summary) =
        (StdRng::seed_from_u64(seed), Coverage::default(), Summary::default());
    let seeds = (target.seeds)();
    let words = words(&seeds);
    let mut run = (target.start)();
    let mut corpus: Vec<Vec<u8>> = Vec::new();
    let mut try_one = |input: &[u8], summary: &mut Summary| -> io::Result<bool> {
        state.put(summary.runs, input)?;
        Coverage::clear();
        let began = Instant::now();
        run(input);
        summary.slowest_us = summary.slowest_us.max(began.elapsed().as_micros());
        summary.runs += 1;
        Ok(coverage.learn())
    };
    for seed in &seeds {
        try_one(seed, &mut summary)?;
        corpus.push(seed.clone());
    }
    while Instant::now() < end {
        let input = mutate(&mut rng, &corpus, &words);
        if try_one(&input, &mut summary)? && corpus.len() < CORPUS_MAX {
            corpus.push(input);
            summary.kept += 1;
        }
    }
    summary.edges = coverage.edges;
    Ok(summary)
}
