//! `kutter controllers`: the controllers alone, against any API server.

use std::path::PathBuf;

use client::{Client, Config};
use drive::Settings;
use drive::controllers::Options;
use drive::lease::Election;

use super::RoleError;

/// Run the controllers against an API server.
#[derive(clap::Args)]
pub struct Args {
    /// Where the API server is and who we are.
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context, if not its current one.
    #[arg(long)]
    context: Option<String>,
    /// Run only while holding the lease kube-system/kutter-controllers.
    #[arg(long)]
    leader_elect: bool,
    /// Controllers that are not to run, by name.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    disable: Vec<String>,
}

/// Runs until it is interrupted.
pub fn run(args: Args) -> Result<(), RoleError> {
    super::init_logging();
    super::memory::allow_huge_pages(false);
    let config = Config::infer(args.kubeconfig.as_deref(), args.context.as_deref())?;
    let root_ca = config.ca.as_ref().map(client::Material::read).transpose()?;
    let root_ca = root_ca.map(String::from_utf8).transpose()?;
    let client = Client::from_config(config)?;
    let identity = format!("{}_{}", nix::unistd::gethostname()?.to_string_lossy(), std::process::id());
    let election = args.leader_elect.then(|| Election::new("kutter-controllers", identity));
    let options = Options {
        election,
        disabled: args.disable,
        settings: Settings { root_ca, ..Settings::default() },
        ..Options::default()
    };
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        super::memory::settle_soon();
        tokio::select! {
            () = drive::controllers::run(client, options) => {}
            stopped = tokio::signal::ctrl_c() => stopped?,
        }
        Ok(())
    })
}
