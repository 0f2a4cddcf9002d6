//! Starting and ending a server: certificates, store, listener, admin kubeconfig.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Response};
use serve::pki::{self, Authority, Pair, PkiError, Subject};
use serve::{Body, Handler, Limits, Peer, ServerTls, TlsError};
use store::{Embedded, Store, StoreError};
use tokio::net::TcpListener;

use crate::aggregate::FrontProxy;
use crate::authenticate::{Identity, certificate_identity};
use crate::config::{Config, Etcd, StoreChoice};
use crate::connect::KubeletAccess;
use crate::server::{ApiServer, Settings};

/// How long open requests may take when the server ends.
const GRACE: Duration = Duration::from_secs(10);
/// How often certificates are looked at for renewal.
const RENEWAL_EVERY: Duration = Duration::from_secs(3600);

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory or file of the data directory.
    #[error("prepare {path}")]
    Directory {
        /// Which.
        path: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A file that the configuration names.
    #[error("read {path}")]
    Read {
        /// Which.
        path: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A file that says something nobody knows.
    #[error("{path}: {cause}")]
    Understand {
        /// Which.
        path: String,
        /// What.
        cause: String,
    },
    /// Certificates.
    #[error("prepare certificates")]
    Pki(#[from] PkiError),
    /// The key of service-account tokens.
    #[error("prepare service-account tokens")]
    Tokens(#[from] crate::authenticate::token::KeyError),
    /// TLS.
    #[error("prepare TLS")]
    Tls(#[from] TlsError),
    /// The address.
    #[error("listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The store.
    #[error("open store")]
    Store(#[from] StoreError),
}

/// A server at work.
pub struct Running {
    /// The bound address.
    pub address: SocketAddr,
    /// The file with the administrator's access.
    pub admin_kubeconfig: PathBuf,
    /// The server, for callers in this process.
    pub server: Arc<ApiServer>,
    listeners: Vec<serve::Running>,
    background: Vec<tokio::task::JoinHandle<()>>,
    embedded: Option<Arc<Embedded>>,
}

impl Running {
    /// Lets open requests end, ends watches, and closes the store.
    pub async fn shutdown(self) {
        self.server.stop();
        let ending = self.listeners.into_iter().map(|listener| listener.shutdown(GRACE));
        futures_util::future::join_all(ending).await;
        for task in self.background {
            task.abort();
        }
        if let Some(embedded) = self.embedded {
            embedded.close();
        }
    }
}

impl ApiServer {
    /// Starts a server. It answers when this returns.
    ///
    /// The future is boxed so that it is compiled here, and with it every task that it starts and every request:
    /// an `async fn` is compiled by the crate that awaits it, at the optimisation level of that crate.
    pub fn start(config: Config) -> Pin<Box<dyn Future<Output = Result<Running, StartError>> + Send>> {
        Box::pin(Self::started(config))
    }

    async fn started(config: Config) -> Result<Running, StartError> {
        let security = config.pod_security.as_deref().map(pod_security).transpose()?.unwrap_or_default();
        let pki_dir = config.data_dir.join("pki");
        make_dir(&pki_dir)?;
        let bound = bind(config.listen).await?;
        let mut also = Vec::new();
        for address in &config.also_listen {
            also.push(bind(*address).await?);
        }
        let address =
            bound.local_addr().map_err(|source| StartError::Listen { address: config.listen, source })?;
        let advertise = config.advertise.unwrap_or_else(|| reachable(address));
        let authority = Authority::load_or_generate(&pki_dir, "ca", "kubernetes-ca")?;
        let serving = serving_subject(&config, address, advertise);
        let pair = authority.maintain(&pki_dir, "apiserver", &serving)?;
        let kubelet_client = Subject::client("kube-apiserver-kubelet-client", [crate::authenticate::MASTERS]);
        let kubelet = authority.maintain(&pki_dir, "apiserver-kubelet-client", &kubelet_client)?;
        let front_authority = Authority::load_or_generate(&pki_dir, "front-proxy-ca", "front-proxy-ca")?;
        let front_client = Subject::client("front-proxy-client", [] as [&str; 0]);
        let front_pair = front_authority.maintain(&pki_dir, "front-proxy-client", &front_client)?;
        let front_tls = ServerTls::new(&pair.certificate, &pair.key, front_authority.certificate())?;
        let tls = ServerTls::new(&pair.certificate, &pair.key, authority.certificate())?;
        let (store, embedded) = open_store(&config).await?;
        let settings = Settings {
            advertise,
            service_cidrs: config.service_cidrs.clone(),
            node_ports: config.node_ports,
            shared_store: embedded.is_none(),
            pod_security: security,
            kubelet: Some(KubeletAccess {
                authorities: String::new(),
                certificate: kubelet.certificate,
                key: kubelet.key,
            }),
        };
        let server = ApiServer::new(store, settings);
        let tokens = crate::authenticate::token::Tokens::load_or_generate(&pki_dir)?;
        server.tokens.get_or_init(|| tokens);
        crate::bootstrap::run(&server).await?;
        crate::bootstrap::cluster_info(&server, authority.certificate()).await?;
        let (clients, front) = (authority.certificate(), front_authority.certificate());
        crate::bootstrap::extension_authentication(&server, clients, front).await?;
        let shown = FrontProxy { certificate: front_pair.certificate, key: front_pair.key };
        server.aggregation.front.get_or_init(|| shown);
        crate::custom::settle(&server).await;
        let admin = authority.maintain(
            &pki_dir,
            "admin",
            &Subject::client("kubernetes-admin", [crate::authenticate::MASTERS]),
        )?;
        let admin_kubeconfig = config.data_dir.join("admin.kubeconfig");
        let text = kubeconfig(&config.cluster_name, reachable(address), authority.certificate(), &admin);
        pki::replace_file(&admin_kubeconfig, text.as_bytes(), 0o600)?;
        let front = Arc::new(Front { server: server.clone(), tls: tls.clone(), proxies: front_tls });
        let mut listeners = Vec::new();
        for bound in std::iter::once(bound).chain(also) {
            let listener = serve::serve(bound, Some(tls.clone()), Limits::default(), front.clone())
                .map_err(|source| StartError::Listen { address, source })?;
            listeners.push(listener);
        }
        if let Some(embedded) = &embedded {
            let _ = server.embedded.set((embedded.clone(), config.data_dir.clone()));
        }
        let definitions = tokio::spawn(crate::custom::follow(server.clone()));
        let aggregation = tokio::spawn(crate::aggregate::follow(server.clone()));
        let policies = tokio::spawn(crate::policies::follow(server.clone()));
        let fairness = tokio::spawn(crate::fairness::follow(server.clone()));
        let rules = tokio::spawn(server.rbac.clone().follow(server.store.clone()));
        let quotas = tokio::spawn(crate::quota::run(server.clone()));
        let services = tokio::spawn(crate::services::shared::follow(server.clone()));
        let renewal = tokio::spawn(renew(authority, pki_dir, serving, tls));
        Ok(Running {
            address,
            admin_kubeconfig,
            server,
            listeners,
            background: vec![renewal, definitions, aggregation, policies, fairness, rules, quotas, services],
            embedded,
        })
    }

    /// Why the store does not take writes, if it does not.
    pub fn store_failure(&self) -> Option<String> {
        self.store.failure()
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })
}

async fn open_store(config: &Config) -> Result<(Arc<dyn Store>, Option<Arc<Embedded>>), StartError> {
    match &config.store {
        StoreChoice::Embedded => {
            let directory = config.data_dir.join("store");
            let opened = Embedded::open(&directory, store::Options::default())?;
            Ok((opened.clone(), Some(opened)))
        }
        StoreChoice::Etcd(etcd) => {
            let mut options = store::EtcdOptions::new(config.data_dir.join("store.keys"));
            options.tls = etcd_tls(etcd)?;
            let connected = store::Etcd::connect(&etcd.urls, options).await?;
            Ok((connected, None))
        }
    }
}

fn pod_security(path: &Path) -> Result<policy::podsecurity::Settings, StartError> {
    let shown = || path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| StartError::Read { path: shown(), source })?;
    serde_saphyr::from_str(&text)
        .map_err(|cause| StartError::Understand { path: shown(), cause: cause.to_string() })
}

fn etcd_tls(etcd: &Etcd) -> Result<Option<store::Tls>, StartError> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|source| StartError::Read { path: path.display().to_string(), source })
    };
    if etcd.ca_file.is_none() && etcd.identity.is_none() {
        return Ok(None);
    }
    let ca_pem = etcd.ca_file.as_ref().map(read).transpose()?;
    let identity_pem = match &etcd.identity {
        Some((certificate, key)) => Some((read(certificate)?, read(key)?)),
        None => None,
    };
    Ok(Some(store::Tls { ca_pem, identity_pem }))
}

fn make_dir(path: &Path) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| StartError::Directory { path: path.display().to_string(), source })
}

/// The address under which this machine reaches a listener.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip().is_unspecified() {
        true => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port()),
        false => address,
    }
}

fn serving_subject(config: &Config, address: SocketAddr, advertise: SocketAddr) -> Subject {
    let mut dns: Vec<String> = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    .map(String::from)
    .to_vec();
    let mut ips: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()];
    ips.extend(config.service_cidrs.first().map(|cidr| cidr.address(1)));
    for ip in [address.ip(), advertise.ip()] {
        if !ips.contains(&ip) && !ip.is_unspecified() {
            ips.push(ip);
        }
    }
    for name in &config.names {
        match name.parse::<IpAddr>() {
            Ok(ip) if !ips.contains(&ip) => ips.push(ip),
            Ok(_) => {}
            Err(_) => dns.push(name.clone()),
        }
    }
    Subject::server("kube-apiserver", dns, ips)
}

async fn renew(authority: Authority, directory: PathBuf, subject: Subject, tls: ServerTls) {
    loop {
        tokio::time::sleep(RENEWAL_EVERY).await;
        match authority.maintain(&directory, "apiserver", &subject) {
            Ok(pair) => {
                if let Err(cause) = tls.replace(&pair.certificate, &pair.key) {
                    tracing::error!(%cause, "use renewed serving certificate");
                }
            }
            Err(cause) => tracing::error!(%cause, "renew serving certificate"),
        }
    }
}

/// A kubeconfig with everything inside.
pub fn kubeconfig(cluster: &str, address: SocketAddr, authority: &str, pair: &Pair) -> String {
    let encode = |text: &str| STANDARD.encode(text);
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: {cluster}\n  cluster:\n    server: https://{address}\n    certificate-authority-data: {}\nusers:\n- name: {cluster}-admin\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\ncontexts:\n- name: {cluster}\n  context:\n    cluster: {cluster}\n    user: {cluster}-admin\ncurrent-context: {cluster}\n",
        encode(authority),
        encode(&pair.certificate),
        encode(&pair.key),
    )
}

/// The server as connections see it.
struct Front {
    server: Arc<ApiServer>,
    tls: ServerTls,
    /// Knows the certificates of servers that pass requests on.
    proxies: ServerTls,
}

/// What a connection's certificate proves.
#[derive(Default)]
struct Session {
    identity: Option<Arc<Identity>>,
    refused: bool,
    /// It may say for whom it asks.
    proxy: bool,
}

impl Front {
    fn is_proxy(&self, peer: &Peer) -> bool {
        let name = peer.certificates.first().and_then(|leaf| certificate_identity(leaf));
        let allowed =
            name.is_some_and(|own| crate::authenticate::front::ALLOWED.contains(&own.name.as_str()));
        allowed && self.proxies.verify_client(&peer.certificates).is_ok()
    }
}

impl Handler for Front {
    type Session = Session;

    fn open(&self, peer: Peer) -> Session {
        let Some(leaf) = peer.certificates.first() else { return Session::default() };
        match self.tls.verify_client(&peer.certificates) {
            Ok(()) => {
                let identity = certificate_identity(leaf).map(Arc::new);
                Session { refused: identity.is_none(), identity, proxy: false }
            }
            Err(_) if self.is_proxy(&peer) => Session { proxy: true, ..Session::default() },
            Err(cause) => {
                tracing::debug!(address = %peer.address, %cause, "client certificate refused");
                Session { refused: true, ..Session::default() }
            }
        }
    }

    async fn handle(self: Arc<Self>, session: Arc<Session>, request: Request<Body>) -> Response<Body> {
        if session.refused && !request.headers().contains_key(http::header::AUTHORIZATION) {
            let status = crate::status::Status::unauthorized();
            return crate::answer::status(&status, crate::negotiate::Format::Json);
        }
        if session.proxy
            && let Some(identity) = crate::authenticate::front::identity(request.headers())
        {
            return self.server.handle(Arc::new(identity), request).await;
        }
        self.server.handle_remote(session.identity.as_ref(), request).await
    }
}
