//! `kutter apiserver`: the API server alone.

use std::net::SocketAddr;
use std::path::PathBuf;

use apiserver::services::Cidr;
use apiserver::{ApiServer, Config, Etcd, StoreChoice};

use super::RoleError;

/// Run an API server with a store of its own.
#[derive(clap::Args)]
pub struct Args {
    /// Where it keeps its state.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Where it listens.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:6443")]
    listen: SocketAddr,
    /// Under which address others reach it, when that is not the one it listens on.
    #[arg(long, value_name = "ADDR:PORT")]
    advertise: Option<SocketAddr>,
    /// Further names and addresses its certificate is good for.
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// Keep objects elsewhere: etcd=URL[,URL…].
    #[arg(long, value_name = "etcd=URLS", value_parser = store)]
    store: Option<StoreChoice>,
    /// Certificates of the authorities that etcd's certificates are of.
    #[arg(long, value_name = "FILE")]
    etcd_cafile: Option<PathBuf>,
    /// The certificate that is shown to etcd.
    #[arg(long, value_name = "FILE")]
    etcd_certfile: Option<PathBuf>,
    /// The key of that certificate.
    #[arg(long, value_name = "FILE")]
    etcd_keyfile: Option<PathBuf>,
    /// A PodSecurityConfiguration: what pods are held to where their namespace says nothing, and who is exempt.
    #[arg(long, value_name = "FILE")]
    pod_security_config: Option<PathBuf>,
    /// Ranges of Service addresses, the primary family first.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', default_value = "10.96.0.0/12")]
    service_cidr: Vec<Cidr>,
}

fn store(text: &str) -> Result<StoreChoice, String> {
    match text.split_once('=') {
        None if text == "embedded" => Ok(StoreChoice::Embedded),
        Some(("etcd", urls)) if !urls.is_empty() => {
            let urls = urls.split(',').map(str::to_string).collect();
            Ok(StoreChoice::Etcd(Etcd { urls, ..Etcd::default() }))
        }
        _ => Err("neither `embedded` nor `etcd=URLS`".into()),
    }
}

/// Runs until it is interrupted.
pub fn run(args: Args) -> Result<(), RoleError> {
    super::init_logging();
    super::memory::allow_huge_pages(false);
    let mut store = args.store.unwrap_or_default();
    if args.etcd_certfile.is_some() != args.etcd_keyfile.is_some() {
        return Err("--etcd-certfile and --etcd-keyfile need each other: give both".into());
    }
    match &mut store {
        StoreChoice::Etcd(etcd) => {
            etcd.ca_file = args.etcd_cafile;
            etcd.identity = args.etcd_certfile.zip(args.etcd_keyfile);
        }
        _ if args.etcd_cafile.is_some() || args.etcd_certfile.is_some() => {
            return Err("--etcd-cafile, --etcd-certfile and --etcd-keyfile need --store etcd=URLS".into());
        }
        _ => {}
    }
    let config = Config {
        advertise: args.advertise,
        names: args.names,
        store,
        service_cidrs: args.service_cidr,
        pod_security: args.pod_security_config.or_else(super::pod_security),
        ..Config::new(args.data_dir, args.listen)
    };
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let running = ApiServer::start(config).await?;
        super::memory::settle_soon();
        println!("API server   https://{}", running.address);
        println!("Kubernetes   v1.36");
        println!("kubectl      kubectl --kubeconfig {} get namespaces", running.admin_kubeconfig.display());
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            stopped = tokio::signal::ctrl_c() => stopped?,
            _ = terminate.recv() => {}
        }
        running.shutdown().await;
        Ok(())
    })
}
