//! `kutter controllers`: the controllers alone, against any API server.

use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    /// The certificate of the authority that signs certificate requests; without it they wait for another signer.
    #[arg(long, value_name = "FILE")]
    cluster_signing_cert_file: Option<PathBuf>,
    /// The key of that authority.
    #[arg(long, value_name = "FILE")]
    cluster_signing_key_file: Option<PathBuf>,
    /// The authority that is published in every namespace; otherwise that of the kubeconfig.
    #[arg(long, value_name = "FILE")]
    root_ca_file: Option<PathBuf>,
    /// Ranges of pod addresses, of which nodes without a range get parts; none leaves that to others.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    cluster_cidr: Vec<String>,
    /// Controllers that are not to run, by name.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    disable: Vec<String>,
}

/// Runs until it is interrupted.
pub fn run(args: Args) -> Result<(), RoleError> {
    super::init_logging();
    super::memory::allow_huge_pages(false);
    let config = Config::infer(args.kubeconfig.as_deref(), args.context.as_deref())?;
    let root_ca = match &args.root_ca_file {
        Some(path) => Some(read(path)?.into_bytes()),
        None => config.ca.as_ref().map(client::Material::read).transpose()?,
    };
    let root_ca = root_ca.map(String::from_utf8).transpose()?;
    let authority = match (&args.cluster_signing_cert_file, &args.cluster_signing_key_file) {
        (Some(certificate), Some(key)) => Some(signer(certificate, key)?),
        (None, None) => None,
        _ => {
            let both =
                "--cluster-signing-cert-file and --cluster-signing-key-file need each other: give both";
            return Err(both.into());
        }
    };
    let server = config.servers.join(",");
    let signs = authority.is_some();
    let client = Client::from_config(config)?;
    let identity = format!("{}_{}", nix::unistd::gethostname()?.to_string_lossy(), std::process::id());
    let election = args.leader_elect.then(|| Election::new("kutter-controllers", identity));
    let options = Options {
        election,
        disabled: args.disable,
        settings: Settings { root_ca, authority, pod_ranges: args.cluster_cidr, ..Settings::default() },
        ..Options::default()
    };
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        super::memory::settle_soon();
        let names = drive::controllers::names();
        let running = names.filter(|name| !options.disabled.iter().any(|d| d == name)).count();
        let elects = options.election.is_some();
        tracing::info!(server = %server, controllers = running, elects, signs, "controllers started");
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            () = drive::controllers::run(client, options) => {}
            stopped = tokio::signal::ctrl_c() => stopped?,
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}

fn read(path: &Path) -> Result<String, RoleError> {
    Ok(std::fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))?)
}

fn signer(certificate: &Path, key: &Path) -> Result<Arc<dyn drive::Authority>, RoleError> {
    let pair = serve::pki::Pair { certificate: read(certificate)?, key: read(key)? };
    let authority = serve::pki::Authority::from_pair(pair)
        .map_err(|error| format!("{} and {}: {error}", certificate.display(), key.display()))?;
    Ok(Arc::new(super::authority::Signer(authority)))
}
