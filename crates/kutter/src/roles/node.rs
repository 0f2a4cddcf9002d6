//! `kutter node`: the kubelet of this machine, against any API server.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::{Client, Config, Identity, Material};
use k8s_openapi::api::core::v1::Taint;
use node::network::fabric::{Fabric, NetworkOptions};
use node::size::Size;
use node::{Kubelet, NoNetwork, Options, PodNetwork};
use oci::Embedded;
use oci::runtime::Runtime;

use super::RoleError;

/// Run the node: kubelet, proxy and DNS.
#[derive(clap::Args)]
pub struct Args {
    /// Where the API server is and who we are.
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Name of the Node; the host's name if not given.
    #[arg(long)]
    name: Option<String>,
    /// Pods, volumes, images and certificates live below.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kutter/node")]
    data_dir: PathBuf,
    /// The container runtime: `embedded`, `embedded=DIR` for another directory than DATA/runtime, or
    /// `cri=unix:///PATH` for containerd, CRI-O or another runtime behind that socket.
    #[arg(long, default_value = "embedded")]
    runtime: String,
    /// Names by which RuntimeClasses may ask for the embedded runtime, besides none.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    runtime_handler: Vec<String>,
    /// Addresses of the node, the primary one first.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1")]
    ip: Vec<IpAddr>,
    /// Where the HTTPS server listens.
    #[arg(long, default_value = "0.0.0.0:10250")]
    listen: std::net::SocketAddr,
    /// Addresses of the cluster's DNS.
    #[arg(long, value_delimiter = ',', default_value = "10.96.0.10")]
    cluster_dns: Vec<String>,
    /// The cluster's domain.
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// Labels to register with, as `key=value`.
    #[arg(long, value_delimiter = ',')]
    label: Vec<String>,
    /// Renew the client certificate by request; the kubeconfig must refer to one file for certificate and key.
    #[arg(long)]
    rotate_certificates: bool,
    /// Have the HTTPS server's certificate signed by the cluster, and renew it.
    #[arg(long)]
    rotate_server_certificates: bool,
    /// Taints to register with, as `key=value:Effect`.
    #[arg(long, value_name = "KEY=VALUE:EFFECT", value_delimiter = ',', value_parser = taint)]
    taint: Vec<Taint>,
    /// Pods it takes at most.
    #[arg(long, value_name = "N", default_value_t = 110)]
    max_pods: u32,
    /// Processors it has; all of the machine if absent.
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// Memory it has in MiB; all of the machine if absent.
    #[arg(long, value_name = "MIB")]
    memory_mib: Option<u64>,
    /// Directory of static pod manifests.
    #[arg(long, value_name = "DIR")]
    static_pods: Option<PathBuf>,
    /// Mirrors, credentials and authorities of image registries.
    #[arg(long, value_name = "FILE", default_value = oci::registry::FILE)]
    registries: PathBuf,
    /// Most processes and threads of one pod; 0 for no limit.
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pod_max_pids: u32,
    /// Images that are pulled at once.
    #[arg(long, value_name = "N", default_value_t = 1)]
    max_parallel_image_pulls: usize,
    /// Authority that signs clients of the HTTPS server.
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// The pod network: `overlay`, or `none` for pods that see only themselves.
    #[arg(long, default_value = "overlay")]
    network: String,
    /// Range of the addresses of this node's pods, when no controller gives it one.
    #[arg(long)]
    pod_cidr: Option<String>,
    /// Ranges of all pods of the cluster.
    #[arg(long, value_delimiter = ',')]
    cluster_cidr: Vec<netplan::Cidr>,
    /// Ranges of Services.
    #[arg(long, value_delimiter = ',')]
    service_cidr: Vec<netplan::Cidr>,
    /// Range of addresses for Services of type LoadBalancer; none leaves them to somebody else.
    #[arg(long, value_name = "CIDR")]
    load_balancer_cidr: Option<netplan::Cidr>,
    /// Where this node's machine leads other machines to its tunnel, when its own address is not known to them.
    #[arg(long, value_name = "ADDR:PORT")]
    tunnel: Option<std::net::SocketAddr>,
    /// The machine's address on the network of its nodes, with --tunnel.
    #[arg(long, value_name = "ADDR")]
    tunnel_gateway: Option<IpAddr>,
    /// Where the ingress answers for HTTP and for HTTPS, as two addresses; none runs no ingress.
    #[arg(long, value_name = "ADDR:PORT", num_args = 2)]
    ingress: Vec<std::net::SocketAddr>,
    /// Cgroup below which pods get theirs.
    #[arg(long, default_value = "/kubepods")]
    cgroup_root: String,
    /// What must stay free, as `memory.available<100Mi,nodefs.available<10%`; replaces the defaults.
    #[arg(long, value_name = "SIGNAL<AMOUNT,…")]
    eviction_hard: Option<String>,
    /// What should stay free: a pod is evicted when it has not for the time of --eviction-soft-grace-period.
    #[arg(long, value_name = "SIGNAL<AMOUNT,…", default_value = "")]
    eviction_soft: String,
    /// For how long, as `memory.available=1m30s,nodefs.available=2m`.
    #[arg(long, value_name = "SIGNAL=DURATION,…", default_value = "")]
    eviction_soft_grace_period: String,
    /// Most seconds that a pod gets which --eviction-soft evicts.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    eviction_max_pod_grace_period: u32,
    /// How much more than its threshold must be free before eviction ends, as `nodefs.available=500Mi`.
    #[arg(long, value_name = "SIGNAL=AMOUNT,…", default_value = "")]
    eviction_minimum_reclaim: String,
    /// Seconds for which a condition of pressure stays after the pressure.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    eviction_pressure_transition_period: u64,
    /// Seconds that pods have to end, and are ended in, when this process gets SIGTERM; 0 leaves them running.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    shutdown_grace_period: u64,
    /// Seconds of these that are kept for critical pods, which end last.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    shutdown_grace_period_critical_pods: u64,
    /// Seconds for which an image stays after it was last used, however short the disk is.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    image_minimum_gc_age: u64,
    /// Kernel parameters that pods may set besides the safe ones; `net.*` allows all that begin so.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    allowed_unsafe_sysctls: Vec<String>,
}

fn taint(text: &str) -> Result<Taint, String> {
    let wrong = || "write key=value:NoSchedule, :PreferNoSchedule or :NoExecute".to_owned();
    let (key_value, effect) = text.rsplit_once(':').ok_or_else(wrong)?;
    let (key, value) = match key_value.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (key_value, None),
    };
    match effect {
        "NoSchedule" | "PreferNoSchedule" | "NoExecute" if !key.is_empty() => {
            Ok(Taint { key: key.into(), value, effect: effect.into(), time_added: None })
        }
        _ => Err(wrong()),
    }
}

/// Runs until it is interrupted. Containers go on, unless there is a grace period for their shutdown.
pub fn run(args: Args) -> Result<(), RoleError> {
    super::init_logging();
    super::memory::allow_huge_pages(false);
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = Config::infer(args.kubeconfig.as_deref(), None)?;
    let client_pem = match &config.identity {
        _ if !args.rotate_certificates => None,
        Identity::Certificate { certificate: Material::File(file), key: Material::File(key) }
            if file == key =>
        {
            Some(file.clone())
        }
        _ => {
            return Err(
                "--rotate-certificates needs a kubeconfig whose client-certificate and client-key are one \
                        file, which it may replace"
                    .into(),
            );
        }
    };
    let client = Client::from_config(config)?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname()?.to_string_lossy().into_owned(),
    };
    let options =
        Options { client_pem, signed_serving: args.rotate_server_certificates, ..options(&args, &name)? };
    // Few threads, because each keeps memory of its own; the work is short.
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    threads.worker_threads(2).max_blocking_threads(4).enable_all();
    threads.build()?.block_on(async {
        let runtime = runtime(&args).await?;
        let network = network(&args, &options, client.clone()).await?;
        let kubelet = Kubelet::start(options, client, runtime, network).await?;
        super::notify_ready();
        super::memory::settle_soon();
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            stopped = tokio::signal::ctrl_c() => stopped?,
            _ = terminate.recv() => node::shutdown::run(&kubelet).await,
        }
        Ok(())
    })
}

fn options(args: &Args, name: &str) -> Result<Options, RoleError> {
    let mut options = Options::new(name, args.data_dir.clone());
    options.ips.clone_from(&args.ip);
    options.listen = args.listen;
    options.cluster_dns.clone_from(&args.cluster_dns);
    options.cluster_domain.clone_from(&args.cluster_domain);
    options.static_pods.clone_from(&args.static_pods);
    options.client_ca.clone_from(&args.client_ca);
    options.pulls_at_once = args.max_parallel_image_pulls;
    options.cgroup_root.clone_from(&args.cgroup_root);
    options.pod_cidr.clone_from(&args.pod_cidr);
    if let Some(text) = &args.eviction_hard {
        options.eviction.hard = text.parse()?;
    }
    let most = args.eviction_max_pod_grace_period;
    options.eviction.set_soft(&args.eviction_soft, &args.eviction_soft_grace_period, most)?;
    options.eviction.set_reclaim(&args.eviction_minimum_reclaim)?;
    if args.shutdown_grace_period_critical_pods > args.shutdown_grace_period {
        return Err(
            "--shutdown-grace-period-critical-pods is a part of --shutdown-grace-period: not longer".into()
        );
    }
    options.shutdown = node::shutdown::Grace {
        whole: Duration::from_secs(args.shutdown_grace_period),
        critical: Duration::from_secs(args.shutdown_grace_period_critical_pods),
    };
    options.pressure_hold = Duration::from_secs(args.eviction_pressure_transition_period);
    options.image_age = Duration::from_secs(args.image_minimum_gc_age);
    options.allowed_sysctls.clone_from(&args.allowed_unsafe_sysctls);
    options.taints.clone_from(&args.taint);
    options.max_pods = args.max_pods;
    options.pids_max = args.pod_max_pids;
    let tunnel = [
        (node::network::TUNNEL, args.tunnel.map(|t| t.to_string())),
        (node::network::TUNNEL_GATEWAY, args.tunnel_gateway.map(|t| t.to_string())),
    ];
    options.annotations.extend(tunnel.map(|(key, value)| (key.to_owned(), value)));
    options.size = Size { cpus: args.cpus, memory: args.memory_mib.map(|m| m << 20) };
    for label in &args.label {
        let (key, value) =
            label.split_once('=').ok_or_else(|| format!("label {label:?} is not key=value"))?;
        options.labels.insert(key.into(), value.into());
    }
    Ok(options)
}

async fn network(args: &Args, o: &Options, client: Client) -> Result<Arc<dyn PodNetwork>, RoleError> {
    match args.network.as_str() {
        "none" => Ok(Arc::new(NoNetwork)),
        "overlay" => {
            let mut options = NetworkOptions::new(&o.name, &o.data_dir, o.ips.clone());
            if !o.cluster_dns.is_empty() {
                options.cluster_dns = o.cluster_dns.iter().map(|ip| ip.parse()).collect::<Result<_, _>>()?;
            }
            options.cluster_domain.clone_from(&o.cluster_domain);
            options.resolv_conf.clone_from(&o.resolv_conf);
            options.cluster_cidrs.clone_from(&args.cluster_cidr);
            options.service_cidrs.clone_from(&args.service_cidr);
            options.load_balancers = args.load_balancer_cidr;
            options.tunnel = args.tunnel;
            if let [http, https] = args.ingress[..] {
                options.ingress = Some((http, https));
            }
            Ok(Fabric::start(client, options).await?)
        }
        other => Err(format!("network {other:?} is not known: use overlay or none").into()),
    }
}

/// Connects to the runtime. The supervisor is started if it is not there, in a session of its own, so that it
/// outlives this process.
async fn runtime(args: &Args) -> Result<Arc<dyn Runtime>, RoleError> {
    let dir = match args.runtime.split_once('=') {
        None if args.runtime == "embedded" => args.data_dir.join("runtime"),
        Some(("embedded", dir)) => dir.into(),
        Some(("cri", endpoint)) => {
            let cri = oci::Cri::connect(endpoint).await?;
            if cri.ensure_network().await? == oci::cri::shim::Plugs::Foreign {
                tracing::warn!("the runtime has a CNI network of its own: it plugs the pods");
            }
            return Ok(Arc::new(cri));
        }
        _ => {
            return Err(format!(
                "runtime {:?} is not known: use embedded, embedded=DIR or cri=unix:///PATH",
                args.runtime
            )
            .into());
        }
    };
    std::fs::create_dir_all(&dir)?;
    let connect = || Embedded::connect_with(&dir, Some(&args.registries), &args.runtime_handler);
    if let Ok(found) = connect().await {
        return Ok(Arc::new(found));
    }
    start_supervisor(&dir)?;
    for _ in 0..200 {
        if let Ok(found) = connect().await {
            return Ok(Arc::new(found));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(Arc::new(connect().await?))
}

fn start_supervisor(dir: &Path) -> Result<(), RoleError> {
    use std::os::unix::process::CommandExt;
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.arg("supervisor").arg("--dir").arg(dir).stdin(std::process::Stdio::null());
    command.process_group(0).spawn()?;
    Ok(())
}
