//! `kutter controlplane`: API server, controllers and scheduler of one cluster in one process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use apiserver::authenticate::Identity;
use apiserver::services::Cidr;
use apiserver::{ApiServer, Config};
use client::Client;

use super::RoleError;
use super::local::LocalTransport;
use super::open::Joining;

/// Run the control plane of a cluster.
#[derive(clap::Args)]
pub struct Args {
    /// Where it keeps its state.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Where the API server listens; the last address is the one that nodes and pods use, unless --external is given.
    #[arg(long, value_name = "ADDR:PORT", required = true)]
    listen: Vec<SocketAddr>,
    /// Range of Service addresses.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', default_value = "10.96.0.0/12")]
    service_cidr: Vec<Cidr>,
    /// Range of pod addresses; every node gets a part of it.
    #[arg(long, value_name = "CIDR", default_value = "10.244.0.0/16")]
    pod_cidr: String,
    /// Range of addresses for Services of type LoadBalancer.
    #[arg(long, value_name = "CIDR")]
    load_balancer_cidr: Option<String>,
    /// Where it listens for other machines, which then may join with a token; nodes and pods use it, too.
    #[arg(long, value_name = "ADDR:PORT")]
    external: Option<SocketAddr>,
    /// The cluster's name in the kubeconfig.
    #[arg(long, value_name = "NAME", default_value = "kutter")]
    cluster_name: String,
}

/// Runs until it is told to stop.
pub fn run(args: Args) -> Result<(), RoleError> {
    super::init_logging();
    super::memory::allow_huge_pages(false);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(args))
}

async fn serve(args: Args) -> Result<(), RoleError> {
    let (first, rest) = args.listen.split_first().ok_or("an address to listen on is needed")?;
    let pki = args.data_dir.join("pki");
    let ca = pki.join("ca.crt");
    let dns = args.service_cidr.first().and_then(|range| super::addons::dns_address(&range.to_string()));
    let also_listen: Vec<SocketAddr> = rest.iter().copied().chain(args.external).collect();
    let service_cidr = args.service_cidr.first().map(ToString::to_string);
    let config = Config {
        advertise: also_listen.last().copied(),
        // Local nodes keep the address they know when the advertised one is another.
        names: rest.iter().map(|address| address.ip().to_string()).collect(),
        also_listen,
        service_cidrs: args.service_cidr,
        cluster_name: args.cluster_name.clone(),
        pod_security: super::pod_security(),
        ..Config::new(args.data_dir, *first)
    };
    let running = ApiServer::start(config).await?;
    running.server.components.write().extend(["controller-manager", "scheduler"]);
    let client = |name: &str| {
        Client::new(Arc::new(LocalTransport::new(Arc::clone(&running.server), Identity::system(name))))
    };
    let root_ca = std::fs::read_to_string(&ca)?;
    let authority = serve::pki::Authority::load_or_generate(&pki, "ca", "kubernetes-ca")?;
    let settings = drive::Settings {
        root_ca: Some(root_ca),
        pod_ranges: vec![args.pod_cidr.clone()],
        authority: Some(Arc::new(super::authority::Signer(authority))),
        ..drive::Settings::default()
    };
    let controllers = drive::controllers::Options { settings, ..Default::default() };
    let metrics = controllers.metrics.clone();
    running.server.metrics.also(Box::new(move || metrics.text()));
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    if let Some(dns) = dns {
        super::addons::ensure(&client("system:kutter-addons"), dns).await?;
    }
    super::notify_ready();
    super::memory::settle_soon();
    tracing::info!(listen = %running.address, external = args.external.map(|a| a.to_string()), "control plane started");
    if args.external.is_some() {
        let joining = Joining {
            cluster: args.cluster_name,
            cluster_dns: dns.into_iter().collect(),
            pod_cidr: args.pod_cidr,
            service_cidr: service_cidr.unwrap_or_default(),
            load_balancer_cidr: args.load_balancer_cidr,
        };
        // Without these objects machines cannot join; all else works.
        if let Err(error) = super::open::open(&client("system:kutter-addons"), &joining).await {
            tracing::error!(error = error.chain(), "what joining machines need could not be made");
        }
    }
    // The scheduler looks at what the controllers look at: one copy of it is enough.
    let mut shell = drive::controllers::start(client("system:kube-controller-manager"), &controllers);
    let (caches, scheduler) = (Arc::clone(shell.caches()), client("system:kube-scheduler"));
    tokio::select! {
        () = shell.wait() => {}
        () = drive::scheduler::start(&caches, &scheduler) => {}
        _ = terminate.recv() => {}
        stopped = tokio::signal::ctrl_c() => stopped?,
    }
    running.shutdown().await;
    Ok(())
}
