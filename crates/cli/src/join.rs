//! `kutter node join`: this machine becomes a node of a cluster whose control plane is elsewhere.
//!
//! The server is asked who it is before it is trusted: its authority must be the one whose hash is in the command.
//! Then the token shows that we may join; the certificate that follows is this node's own, and its key never leaves
//! the machine. From there on the manager keeps the node running like those of its own clusters.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use base::bootstrap;
use client::{Client, Config, Identity, Material};
use fleet::{ClusterView, Phase, Remote};
use http::Method;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::{Value, json};
use serve::pki::{self, Pair, Subject};

use crate::commands::Join;
use crate::manager::Manager;
use crate::progress::Progress;
use crate::{CliError, Doing, Globals, Output, cluster, doctor, up};

/// The ConfigMap of `kube-system` that tells joining nodes what they must know.
pub const CONFIG: &str = "kutter-join";
/// The port when none is named.
const PORT: u16 = 6443;
/// Between looks at a request.
const LOOK: Duration = Duration::from_millis(50);

/// What the cluster tells joining nodes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeConfig {
    cluster_name: String,
    cluster_dns: Vec<IpAddr>,
    pod_cidr: String,
    service_cidr: String,
    load_balancer_cidr: Option<String>,
}

/// Joins, and waits until the node is ready.
pub async fn run(globals: &Globals, args: Join) -> Result<(), CliError> {
    let missing = doctor::missing_capabilities();
    if !missing.is_empty() {
        return Err(CliError::told(format!("a node needs {}: run as root", missing.join(", "))));
    }
    if bootstrap::Token::parse(&args.token).is_none() {
        return Err(CliError::told(
            "that is no token: six letters or digits, a dot, sixteen letters or digits",
        ));
    }
    let address = address_of(&args.server)?;
    let server = format!("https://{address}");
    let timeout = Duration::from_secs(args.timeout);
    let mut progress = Progress::new(globals.output == Output::Json);
    progress.step("cluster found");
    let authority = within(timeout, authority(&server, &args.ca_hash)).await?;
    let client = client(&server, &authority, Identity::Token(Material::Inline(args.token.clone().into())))?;
    let config = within(timeout, node_config(&client)).await?;
    let name = args.name.clone().map_or_else(hostname, Ok)?.to_lowercase();
    let own = args.ip.map_or_else(|| address_towards(address), Ok)?;
    within(timeout, is_free(&client, &name)).await?;
    progress.step("certificate");
    let pair = within(timeout, certify(&client, &name)).await?;
    progress.step("node started");
    let cluster = args.cluster.clone().unwrap_or_else(|| config.cluster_name.clone());
    let body = membership(&args, &server, &config, &name, own, &authority, &pair)?;
    let manager = Manager::ensure(globals).await?;
    if manager.find(&cluster).await?.is_some() {
        return Err(CliError::told(format!(
            "a cluster {cluster:?} is on this machine already: remove it with `kutter delete {cluster}`, or call \
             this one otherwise with --as NAME"
        )));
    }
    let _: ClusterView = manager.call(Method::PUT, &format!("/v1/clusters/{cluster}"), Some(&body)).await?;
    let mut views = manager.watch(&cluster).await?;
    let view = views.until(timeout, |v| v.phase == Phase::Running).await?;
    let view = view.ok_or_else(|| CliError::told("the manager ended; see `kutter logs manager`"))?;
    progress.step("node ready");
    up::wait_nodes_ready(&view, timeout).await?;
    let taken = progress.finish();
    if globals.output == Output::Json {
        return crate::output::json(&view);
    }
    println!(
        "\nNode {name} ({own}) has joined {} at {server}: {:.2} s",
        config.cluster_name,
        taken.as_secs_f64()
    );
    println!("  Look:     kutter status");
    println!("  Stop:     kutter down      (it stays a member)");
    println!("  Leave:    kutter delete    (nothing stays here; `kubectl delete node {name}` there)");
    Ok(())
}

async fn within<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    let late =
        || CliError::told(format!("gave up after {} s: the server does not answer", timeout.as_secs()));
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| Err(late()))
}

/// `address`, `address:port` or `https://address:port`.
fn address_of(text: &str) -> Result<SocketAddr, CliError> {
    let bare = text.trim_start_matches("https://").trim_end_matches('/');
    let alone = bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT));
    bare.parse().or(alone).map_err(|_| CliError::told(format!("{text:?} is no address: write ADDR:PORT")))
}

fn hostname() -> Result<String, CliError> {
    let name = nix::unistd::gethostname().doing("read the hostname")?;
    Ok(name.to_string_lossy().into_owned())
}

/// This machine's address on the way to the server. Nothing is sent.
fn address_towards(server: SocketAddr) -> Result<IpAddr, CliError> {
    let any: IpAddr = if server.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    let what = || format!("find the way to {server}");
    let socket = UdpSocket::bind((any, 0)).doing(what())?;
    socket.connect(server).doing(what())?;
    Ok(socket.local_addr().doing(what())?.ip())
}

fn client(server: &str, authority: &str, identity: Identity) -> Result<Client, CliError> {
    let ca = Some(Material::Inline(authority.as_bytes().to_vec()));
    Client::from_config(Config::new(vec![server.to_owned()], ca, identity)).doing("make a client")
}

/// The cluster's authority, as the server tells it to anybody, if it is the one that is expected.
async fn authority(server: &str, expected: &str) -> Result<String, CliError> {
    let config = Config { insecure: true, ..Config::new(vec![server.to_owned()], None, Identity::Anonymous) };
    let client = Client::from_config(config).doing("make a client")?;
    let what = format!("ask {server} who it is");
    let info: ConfigMap = client.get("kube-public", bootstrap::CLUSTER_INFO).await.doing(what)?;
    let text = info.data.unwrap_or_default().remove("kubeconfig").unwrap_or_default();
    let authority = told_authority(&text)?;
    let hash = pki::key_hash(&authority).doing("read the server's authority")?;
    let wanted = expected.trim_start_matches("sha256:").to_lowercase();
    if hash != wanted {
        return Err(CliError::told(format!(
            "{server} is not the cluster that was meant: its authority is sha256:{hash}, not sha256:{wanted}"
        )));
    }
    Ok(authority)
}

/// The authority in the kubeconfig of `cluster-info`.
fn told_authority(kubeconfig: &str) -> Result<String, CliError> {
    use base64::Engine as _;
    let value: Value = serde_saphyr::from_str(kubeconfig).doing("read what the server says of itself")?;
    let data = value["clusters"][0]["cluster"]["certificate-authority-data"].as_str().unwrap_or_default();
    let pem = base64::engine::general_purpose::STANDARD.decode(data).doing("read the server's authority")?;
    String::from_utf8(pem).doing("read the server's authority")
}

async fn node_config(client: &Client) -> Result<NodeConfig, CliError> {
    let found: Result<ConfigMap, client::Error> = client.get(bootstrap::NAMESPACE, CONFIG).await;
    let config = match found {
        Err(client::Error::Api(error)) if error.code() == 401 => {
            let hint =
                "the token is not known or over: make one with `kutter node token create` at the cluster";
            return Err(CliError::told(hint));
        }
        other => other.doing("ask the cluster what its nodes must know")?,
    };
    let text = config.data.unwrap_or_default().remove("node").unwrap_or_default();
    serde_json::from_str(&text).doing("read what nodes must know")
}

/// Refuses a name that a running node has.
async fn is_free(client: &Client, name: &str) -> Result<(), CliError> {
    match client.find::<Node>("", name).await.doing("look for a node of this name")? {
        Some(node) if up::is_ready(&node) => Err(CliError::told(format!(
            "a node {name:?} runs already: choose another name with --name, or stop that one"
        ))),
        _ => Ok(()),
    }
}

/// Makes a key and has its certificate signed.
async fn certify(client: &Client, name: &str) -> Result<Pair, CliError> {
    let subject = Subject::client(format!("system:node:{name}"), ["system:nodes"]);
    let (request, key) = pki::request(&subject).doing("make a key")?;
    let usages = ["digital signature", "client auth"].map(str::to_owned).to_vec();
    let object = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("node-csr-".into()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.into_bytes()),
            signer_name: "kubernetes.io/kube-apiserver-client-kubelet".into(),
            usages: Some(usages),
            ..CertificateSigningRequestSpec::default()
        },
        ..CertificateSigningRequest::default()
    };
    let made = client.create(&object).await.doing("ask for a certificate")?;
    let certificate = signed(client, &made.metadata.name.unwrap_or_default()).await?;
    Ok(Pair { certificate, key })
}

/// Waits for the certificate of a request.
async fn signed(client: &Client, name: &str) -> Result<String, CliError> {
    let begun = Instant::now();
    loop {
        let request: CertificateSigningRequest = client.get("", name).await.doing("look at the request")?;
        let status = request.status.unwrap_or_default();
        if let Some(certificate) = status.certificate.filter(|c| !c.0.is_empty()) {
            return String::from_utf8(certificate.0).doing("read the certificate");
        }
        let refused =
            status.conditions.into_iter().flatten().find(|c| c.type_ == "Denied" || c.type_ == "Failed");
        if let Some(refused) = refused {
            let why = refused.message.unwrap_or_default();
            return Err(CliError::told(format!("the cluster refused a certificate: {why}")));
        }
        tracing::trace!(name, waited = ?begun.elapsed(), "not signed yet");
        tokio::time::sleep(LOOK).await;
    }
}

/// What the manager is told.
fn membership(
    args: &Join,
    server: &str,
    config: &NodeConfig,
    name: &str,
    own: IpAddr,
    authority: &str,
    pair: &Pair,
) -> Result<Value, CliError> {
    let remote = Remote {
        server: server.to_owned(),
        cluster_dns: config.cluster_dns.clone(),
        pod_cidr: config.pod_cidr.clone(),
        service_cidr: config.service_cidr.clone(),
        load_balancer_cidr: config.load_balancer_cidr.clone(),
    };
    Ok(json!({
        "desired": "running",
        "remote": remote,
        "credentials": {"authority": authority, "certificate": pair.certificate, "key": pair.key},
        "pools": [{
            "name": up::POOL, "count": 1, "host": {"node": name, "address": own, "runtime": args.runtime},
            "labels": cluster::parse_labels(&args.labels)?, "taints": args.taints,
        }],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_by_table() {
        let table = [
            ("10.0.0.5", Some("10.0.0.5:6443")),
            ("10.0.0.5:7000", Some("10.0.0.5:7000")),
            ("https://10.0.0.5:6443/", Some("10.0.0.5:6443")),
            ("[fd00::1]:6443", Some("[fd00::1]:6443")),
            ("fd00::1", Some("[fd00::1]:6443")),
            ("nowhere", None),
        ];
        for (text, expected) in table {
            let got = address_of(text).ok().map(|a| a.to_string());
            assert_eq!(got.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn the_authority_is_known_by_its_key() {
        use base64::Engine as _;
        let made = pki::Authority::generate("ca").unwrap();
        let pem = made.certificate();
        let data = base64::engine::general_purpose::STANDARD.encode(pem);
        let info = json!({"clusters": [{"cluster": {"certificate-authority-data": data}}]}).to_string();
        assert_eq!(told_authority(&info).unwrap(), pem);
        let hash = pki::key_hash(pem).unwrap();
        assert!(hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()), "{hash}");
        let other = pki::Authority::generate("ca").unwrap();
        assert_ne!(pki::key_hash(other.certificate()).unwrap(), hash);
    }
}
