//! The one multi-call binary: composes the roles.
//!
//! Each role is a file in `roles/` with a `clap::Args` struct named `Args` and a `run(Args)` function; this file
//! only chooses. User commands live in the crate `cli`.

mod roles;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "kutter", version, about = "Managed Kubernetes on your own machines")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The commands. One line per role, in alphabetical order.
#[derive(Subcommand)]
enum Command {
    /// Run the API server alone
    Apiserver(roles::apiserver::Args),
    /// Run the controllers alone, against any API server
    Controllers(roles::controllers::Args),
    /// Run the node of this machine: kubelet, proxy and DNS
    Node(roles::node::Args),
    /// Run the scheduler alone, against any API server
    Scheduler(roles::scheduler::Args),
    /// Own the containers of one node
    #[command(hide = true)]
    Supervisor(roles::supervisor::Args),
    /// Print the version
    Version,
}

fn main() -> ExitCode {
    let result: Result<(), roles::RoleError> = match Cli::parse().command {
        Command::Apiserver(args) => roles::apiserver::run(args),
        Command::Controllers(args) => roles::controllers::run(args),
        Command::Node(args) => roles::node::run(args),
        Command::Scheduler(args) => roles::scheduler::run(args),
        Command::Supervisor(args) => roles::supervisor::run(args),
        Command::Version => {
            println!("kutter {} (Kubernetes v1.36)", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kutter: {}", roles::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}
