//! `kutter supervisor`: owns the containers of one node; started by the manager or by `kutter node`.

use std::path::PathBuf;

use super::RoleError;

/// Own the containers of one node.
#[derive(clap::Args)]
pub struct Args {
    /// Where containers, images and the socket are kept.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

/// Runs until it is told to stop.
pub fn run(args: Args) -> Result<(), RoleError> {
    super::init_logging();
    Ok(oci::supervisor::run(&args.dir)?)
}
