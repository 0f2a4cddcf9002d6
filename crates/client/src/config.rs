//! Where the API server is and who we are: kubeconfig files and the pod's own account.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use serde::Deserialize;

/// Where the kubelet puts a pod's identity.
const IN_CLUSTER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A file is not a kubeconfig.
    #[error("cannot parse kubeconfig {}: {why}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        why: String,
    },
    /// The kubeconfig names something it does not have.
    #[error("kubeconfig has no {what} named {name:?}")]
    Missing {
        /// `context`, `cluster` or `user`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Certificates, keys or addresses are unusable.
    #[error("{0}")]
    Invalid(String),
}

/// Certificates, keys or tokens: given directly, or in a file that is read anew when it is needed.
#[derive(Clone, PartialEq, Eq)]
pub enum Material {
    /// The content itself.
    Inline(Vec<u8>),
    /// Where the content is.
    File(PathBuf),
}

impl Material {
    /// The content.
    pub fn read(&self) -> Result<Vec<u8>, ConfigError> {
        match self {
            Self::Inline(bytes) => Ok(bytes.clone()),
            Self::File(path) => {
                std::fs::read(path).map_err(|source| ConfigError::Read { path: path.clone(), source })
            }
        }
    }
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Inline(bytes) => write!(f, "Inline({} bytes)", bytes.len()),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

/// Who we are to the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// Nobody.
    #[default]
    Anonymous,
    /// An X.509 certificate and its key, PEM. Files are read anew for every connection.
    Certificate {
        /// The certificate chain.
        certificate: Material,
        /// The private key.
        key: Material,
    },
    /// A bearer token. A file is read anew about once a minute.
    Token(Material),
}

/// Where the API server is and who we are.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The server's addresses, `https://host:port` or `http://…`; the first that answers is used.
    pub servers: Vec<String>,
    /// The authorities that may vouch for the server, PEM; `None` takes the machine's.
    pub ca: Option<Material>,
    /// Who we are.
    pub identity: Identity,
    /// The namespace that is meant when none is named.
    pub namespace: String,
    /// The name to expect in the server's certificate, if not the address's.
    pub tls_server_name: Option<String>,
    /// Accept any server certificate.
    pub insecure: bool,
}

impl Config {
    /// A configuration for these addresses.
    #[must_use]
    pub fn new(servers: Vec<String>, ca: Option<Material>, identity: Identity) -> Self {
        Self { servers, ca, identity, namespace: "default".to_owned(), ..Self::default() }
    }

    /// The kubeconfig named, or the files of `$KUBECONFIG`, or the pod's own account, or `~/.kube/config`.
    pub fn infer(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Self, ConfigError> {
        if let Some(path) = kubeconfig {
            return Self::from_kubeconfig(path, context);
        }
        if let Some(paths) = std::env::var_os("KUBECONFIG").filter(|v| !v.is_empty()) {
            let mut merged = File::default();
            for path in std::env::split_paths(&paths).filter(|p| p.exists()) {
                merged.merge(File::load(&path)?);
            }
            return merged.resolve(context);
        }
        if Path::new(IN_CLUSTER).join("token").exists()
            && std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
        {
            return Self::in_cluster();
        }
        let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
        Self::from_kubeconfig(&home.join(".kube/config"), context)
    }

    /// Reads a kubeconfig file; `context` overrides its current one.
    pub fn from_kubeconfig(path: &Path, context: Option<&str>) -> Result<Self, ConfigError> {
        File::load(path)?.resolve(context)
    }

    /// Parses a kubeconfig; relative files are relative to `base`.
    pub fn parse(text: &str, base: &Path, context: Option<&str>) -> Result<Self, ConfigError> {
        File::parse(text, &base.join("kubeconfig"))?.resolve(context)
    }

    /// The identity and address the kubelet gives to a pod.
    pub fn in_cluster() -> Result<Self, ConfigError> {
        let variable = |name: &str| {
            std::env::var(name).map_err(|_| ConfigError::Invalid(format!("not in a pod: {name} is not set")))
        };
        let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let dir = Path::new(IN_CLUSTER);
        let namespace =
            std::fs::read_to_string(dir.join("namespace")).unwrap_or_else(|_| "default".to_owned());
        Ok(Self {
            namespace,
            ..Self::new(
                vec![format!("https://{host}:{port}")],
                Some(Material::File(dir.join("ca.crt"))),
                Identity::Token(Material::File(dir.join("token"))),
            )
        })
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct File {
    current_context: String,
    clusters: Vec<Named>,
    users: Vec<Named>,
    contexts: Vec<Named>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Named {
    name: String,
    cluster: Option<Cluster>,
    user: Option<User>,
    context: Option<Context>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    tls_server_name: Option<String>,
    insecure_skip_tls_verify: bool,
}

#[derive(Deserialize, Default, Clone)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    exec: Option<serde_json::Value>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
    namespace: Option<String>,
}

impl File {
    fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Parses, and makes the files it names relative to its own directory.
    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut file: Self = serde_saphyr::from_str(text)
            .map_err(|e| ConfigError::Parse { path: path.to_owned(), why: e.to_string() })?;
        let base = path.parent().unwrap_or(Path::new("."));
        let absolute = |p: &mut Option<PathBuf>| {
            if let Some(p) = p {
                *p = base.join(&*p);
            }
        };
        for cluster in file.clusters.iter_mut().filter_map(|n| n.cluster.as_mut()) {
            absolute(&mut cluster.certificate_authority);
        }
        for user in file.users.iter_mut().filter_map(|n| n.user.as_mut()) {
            absolute(&mut user.client_certificate);
            absolute(&mut user.client_key);
            absolute(&mut user.token_file);
        }
        Ok(file)
    }

    /// The first file that names something wins.
    fn merge(&mut self, other: Self) {
        if self.current_context.is_empty() {
            self.current_context = other.current_context;
        }
        let pairs = [
            (&mut self.clusters, other.clusters),
            (&mut self.users, other.users),
            (&mut self.contexts, other.contexts),
        ];
        for (mine, theirs) in pairs {
            let mut known: BTreeMap<String, Named> =
                theirs.into_iter().map(|n| (n.name.clone(), n)).collect();
            known.extend(mine.drain(..).map(|n| (n.name.clone(), n)));
            mine.extend(known.into_values());
        }
    }

    fn resolve(&self, context: Option<&str>) -> Result<Config, ConfigError> {
        fn find<'a>(list: &'a [Named], what: &'static str, name: &str) -> Result<&'a Named, ConfigError> {
            let found = list.iter().find(|n| n.name == name);
            found.ok_or_else(|| ConfigError::Missing { what, name: name.to_owned() })
        }
        let name = context.unwrap_or(&self.current_context);
        let context = find(&self.contexts, "context", name)?.context.clone().unwrap_or_default();
        let cluster = find(&self.clusters, "cluster", &context.cluster)?.cluster.clone().unwrap_or_default();
        let user = match context.user.is_empty() {
            true => User::default(),
            false => find(&self.users, "user", &context.user)?.user.clone().unwrap_or_default(),
        };
        Ok(Config {
            servers: vec![cluster.server],
            ca: material(cluster.certificate_authority_data, cluster.certificate_authority)?,
            identity: user.identity()?,
            namespace: context.namespace.filter(|n| !n.is_empty()).unwrap_or_else(|| "default".to_owned()),
            tls_server_name: cluster.tls_server_name,
            insecure: cluster.insecure_skip_tls_verify,
        })
    }
}

impl User {
    fn identity(self) -> Result<Identity, ConfigError> {
        let certificate = material(self.client_certificate_data, self.client_certificate)?;
        let key = material(self.client_key_data, self.client_key)?;
        match (certificate, key) {
            (Some(certificate), Some(key)) => return Ok(Identity::Certificate { certificate, key }),
            (None, None) => {}
            _ => {
                let why = "a kubeconfig user has a client certificate or a key, but not both";
                return Err(ConfigError::Invalid(why.to_owned()));
            }
        }
        if let Some(path) = self.token_file {
            return Ok(Identity::Token(Material::File(path)));
        }
        if let Some(token) = self.token.filter(|t| !t.is_empty()) {
            return Ok(Identity::Token(Material::Inline(token.into_bytes())));
        }
        if self.exec.is_some() {
            return Err(ConfigError::Invalid("exec credential plugins are not supported".to_owned()));
        }
        Ok(Identity::Anonymous)
    }
}

fn material(data: Option<String>, file: Option<PathBuf>) -> Result<Option<Material>, ConfigError> {
    let Some(data) = data.filter(|d| !d.is_empty()) else { return Ok(file.map(Material::File)) };
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(data.trim())
        .map_err(|e| ConfigError::Invalid(format!("kubeconfig data is not base64: {e}")))?;
    Ok(Some(Material::Inline(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
apiVersion: v1
kind: Config
current-context: a
clusters:
- name: c1
  cluster: {server: "https://127.0.0.1:6443", certificate-authority: pki/ca.crt}
- name: c2
  cluster: {server: "https://10.0.0.1", certificate-authority-data: aGVsbG8=, insecure-skip-tls-verify: true}
users:
- name: u1
  user: {client-certificate-data: Y2VydA==, client-key: k.pem}
- name: u2
  user: {token: abc}
contexts:
- name: a
  context: {cluster: c1, user: u1}
- name: b
  context: {cluster: c2, user: u2, namespace: web}
- name: broken
  context: {cluster: nope, user: u1}
"#;

    #[test]
    fn contexts() -> Result<(), ConfigError> {
        let base = Path::new("/etc/k");
        let a = Config::parse(TEXT, base, None)?;
        assert_eq!(a.servers, ["https://127.0.0.1:6443"]);
        assert_eq!(a.ca, Some(Material::File("/etc/k/pki/ca.crt".into())));
        let certificate = Material::Inline(b"cert".to_vec());
        assert_eq!(
            a.identity,
            Identity::Certificate { certificate, key: Material::File("/etc/k/k.pem".into()) }
        );
        let b = Config::parse(TEXT, base, Some("b"))?;
        assert_eq!((b.namespace.as_str(), b.insecure), ("web", true));
        assert_eq!(b.identity, Identity::Token(Material::Inline(b"abc".to_vec())));
        let broken = Config::parse(TEXT, base, Some("broken")).unwrap_err();
        assert_eq!(broken.to_string(), "kubeconfig has no cluster named \"nope\"");
        Ok(())
    }
}
