//! Fuzzes the parsers that face the network, each in a process of its own, and reports what breaks them.
//!
//! `.ci/fuzz` builds this with coverage counters and runs every target for some seconds.

mod coverage;
mod mutate;
mod supervise;
mod targets;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Fuzzes the parsers that face the network")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Names the targets.
    List,
    /// Works on the named targets, or on all.
    Run {
        /// Which.
        targets: Vec<String>,
        /// How long, for each.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// Where the random choices begin.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Targets at the same time; 0 for as many as there are processors.
        #[arg(long, default_value_t = 0)]
        jobs: usize,
        /// Where inputs that break a target are put.
        #[arg(long, default_value = "fuzz/findings")]
        findings: PathBuf,
    },
    /// Runs one target on the given files.
    Replay {
        /// Which.
        target: String,
        /// The inputs.
        files: Vec<PathBuf>,
    },
    /// Works on one target in this process.
    #[command(hide = true)]
    Work { target: String, seconds: u64, seed: u64, state: PathBuf },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fuzz: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<bool, Box<dyn std::error::Error>> {
    match command {
        Command::List => {
            targets::ALL.iter().for_each(|target| println!("{:<12} {}", target.name, target.what));
            Ok(true)
        }
        Command::Run { targets, seconds, seed, jobs, findings } => {
            let chosen = targets::choose(&targets)?;
            let jobs = match jobs {
                0 => std::thread::available_parallelism().map_or(1, usize::from),
                some => some,
            };
            let plan = supervise::Plan { time: Duration::from_secs(seconds), seed, jobs, findings };
            supervise::run(&plan, &chosen)
        }
        Command::Replay { target, files } => {
            targets::abort_on_panic();
            let inputs: Vec<_> = files.iter().map(std::fs::read).collect::<Result<_, _>>()?;
            let mut run = (targets::find(&target)?.start)();
            for (file, input) in files.iter().zip(inputs) {
                println!("{}", file.display());
                run(&input);
            }
            Ok(true)
        }
        Command::Work { target, seconds, seed, state } => {
            targets::abort_on_panic();
            let state = work::State::create(&state)?;
            let summary = work::work(targets::find(&target)?, seed, Duration::from_secs(seconds), &state)?;
            println!("{}", summary.line());
            Ok(true)
        }
    }
}
