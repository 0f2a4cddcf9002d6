//! `kutter launch`: starts this program in other namespaces and tells its pid; used by the manager.

use std::path::PathBuf;

use manager::launch::{Place, launch};

use super::RoleError;

/// Where to start what.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Make new namespaces around this network namespace
    #[arg(long, requires = "hostname", value_name = "PATH")]
    network: Option<PathBuf>,
    /// Hostname in the new namespaces
    #[arg(long)]
    hostname: Option<String>,
    /// Enter the namespaces of this process
    #[arg(long, conflicts_with = "network", value_name = "PID")]
    join: Option<i32>,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    arguments: Vec<String>,
}

/// Prints the pid of the started process.
pub fn run(args: Args) -> Result<(), RoleError> {
    let place = match (args.network, args.join) {
        (Some(network), _) => Place::New { network, hostname: args.hostname.unwrap_or_default() },
        (None, Some(pid)) => Place::Of(pid),
        (None, None) => Place::Machine,
    };
    let program = std::env::current_exe()?;
    println!("{}", launch(&place, &program, &args.arguments)?);
    Ok(())
}
