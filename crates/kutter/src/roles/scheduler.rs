//! `kutter scheduler`: the scheduler alone, against any API server.

use std::path::PathBuf;

use client::{Client, Config};
use drive::lease::Election;
use drive::scheduler::Options;

use super::RoleError;

/// Run the scheduler against an API server.
#[derive(clap::Args)]
pub struct Args {
    /// Where the API server is and who we are.
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context, if not its current one.
    #[arg(long)]
    context: Option<String>,
    /// Run only while holding the lease kube-system/kutter-scheduler.
    #[arg(long)]
    leader_elect: bool,
}

/// Runs until it is interrupted.
pub fn run(args: Args) -> Result<(), RoleError> {
    super::init_logging();
    super::memory::allow_huge_pages(false);
    let client = Client::from_config(Config::infer(args.kubeconfig.as_deref(), args.context.as_deref())?)?;
    let identity = format!("{}_{}", nix::unistd::gethostname()?.to_string_lossy(), std::process::id());
    let election = args.leader_elect.then(|| Election::new("kutter-scheduler", identity));
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        super::memory::settle_soon();
        tokio::select! {
            () = drive::scheduler::run(client, Options { election }) => {}
            stopped = tokio::signal::ctrl_c() => stopped?,
        }
        Ok(())
    })
}
