//! The one multi-call binary: composes the roles.
//!
//! Each role is a file in `roles/` with a `clap::Args` struct named `Args` and a `run(Args)` function; this file
//! only chooses. User commands live in the crate `cli`.

#[cfg(test)]
mod flags;
mod roles;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "kutter", version, about = "Managed Kubernetes on your own machines")]
struct Cli {
    #[command(flatten)]
    globals: cli::Globals,
    #[command(subcommand)]
    command: Command,
}

/// In the help, what people run every day comes first, then single roles, then the rest.
const ROLES: usize = 100;
const LAST: usize = 200;

/// The commands: those for users, then one line per role, in alphabetical order.
#[derive(Subcommand)]
enum Command {
    /// Run the API server alone
    #[command(display_order = ROLES)]
    Apiserver(roles::apiserver::Args),
    /// Measure an API server
    #[command(display_order = ROLES)]
    Bench(bench::Args),
    /// Run the controllers alone, against any API server
    #[command(display_order = ROLES)]
    Controllers(roles::controllers::Args),
    /// Run the control plane of a cluster
    #[command(hide = true)]
    Controlplane(roles::controlplane::Args),
    /// Run the node of this machine: kubelet, proxy and DNS
    #[command(display_order = ROLES)]
    Node(Box<roles::node::Args>),
    /// Run the scheduler alone, against any API server
    #[command(display_order = ROLES)]
    Scheduler(roles::scheduler::Args),
    /// Run a part of the demo application
    #[command(hide = true)]
    Shop(shop::Args),
    /// Own the containers of one node
    #[command(hide = true)]
    Supervisor(roles::supervisor::Args),
    #[command(flatten)]
    User(cli::Command),
    /// Start a process in other namespaces
    #[command(hide = true)]
    Launch(roles::launch::Args),
    /// Run the managed service
    #[command(hide = true)]
    Manager,
    /// Print a script that completes commands in a shell
    #[command(display_order = LAST)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write a man page for every command into a folder
    #[command(display_order = LAST)]
    Man {
        /// The folder
        dir: std::path::PathBuf,
    },
    /// Print the version
    #[command(display_order = LAST)]
    Version,
}

/// Reads the command line, over the environment, over the configuration file. What a manager starts is told
/// everything by it and reads no file.
fn command_line() -> Result<Cli, roles::RoleError> {
    let arguments = spelled(std::env::args_os().collect());
    let managed = std::env::var_os(manager::RUN_VARIABLE).is_some();
    let variable = if managed { Some(OsString::new()) } else { std::env::var_os(cli::config::VARIABLE) };
    let command = cli::config::layered(Cli::command(), &arguments, variable)?;
    let mut matches = command.get_matches_from(arguments);
    Ok(Cli::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.exit()))
}

/// `kutter node VERB` is `kutter nodes VERB`; without a verb it runs a node.
fn spelled(mut arguments: Vec<OsString>) -> Vec<OsString> {
    const VERBS: [&str; 5] = ["join", "token", "list", "stop", "start"];
    let place = arguments.windows(2).position(|w| w[0] == "node" && VERBS.iter().any(|v| w[1] == *v));
    if let Some(place) = place {
        arguments[place] = "nodes".into();
    }
    arguments
}

fn main() -> ExitCode {
    let cli = match command_line() {
        Ok(cli) => cli,
        Err(error) => {
            eprintln!("kutter: {}", roles::chain(error.as_ref()));
            return ExitCode::from(2);
        }
    };
    let result: Result<(), roles::RoleError> = match cli.command {
        Command::Bench(args) => roles::bench::run(args),
        Command::Controllers(args) => roles::controllers::run(args),
        Command::User(command) => cli::run(&cli.globals, command).map_err(Into::into),
        Command::Launch(args) => roles::launch::run(args),
        Command::Manager => roles::manager::run(&cli.globals.data_dir),
        Command::Apiserver(args) => roles::apiserver::run(args),
        Command::Controlplane(args) => roles::controlplane::run(args),
        Command::Node(args) => roles::node::run(*args),
        Command::Scheduler(args) => roles::scheduler::run(args),
        Command::Shop(args) => shop::run(args).map_err(Into::into),
        Command::Supervisor(args) => roles::supervisor::run(args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "kutter", &mut script);
            std::io::Write::write_all(&mut std::io::stdout(), &script).map_err(Into::into)
        }
        Command::Man { dir } => man(&dir),
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

fn man(dir: &std::path::Path) -> Result<(), roles::RoleError> {
    std::fs::create_dir_all(dir)?;
    Ok(clap_mangen::generate_to(Cli::command(), dir)?)
}
