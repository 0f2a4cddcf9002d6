//! `kutter launch`: starts this program in other namespaces and tells its pid; used by the manager.

use std::path::PathBuf;

use manager::launch::{Place, launch};

use super::RoleError;

/// Where to start what.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The network namespace of the new namespaces; this machine's if absent
    #[arg(long, requires = "hostname", value_name = "PATH")]
    network: Option<PathBuf>,
    /// Make new namespaces with this hostname
    #[arg(long)]
    hostname: Option<String>,
    /// Enter the namespaces of this process
    #[arg(long, conflicts_with_all = ["network", "hostname"], value_name = "PID")]
    join: Option<i32>,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    arguments: Vec<String>,
}

/// Prints the pid of the started process.
pub fn run(args: Args) -> Result<(), RoleError> {
    let place = match (args.hostname, args.join) {
        (Some(hostname), _) => Place::New { network: args.network, hostname },
        (None, Some(pid)) => Place::Of(pid),
        (None, None) => Place::Machine,
    };
    let program = std::env::current_exe()?;
    println!("{}", launch(&place, &program, &args.arguments)?);
    Ok(())
}
