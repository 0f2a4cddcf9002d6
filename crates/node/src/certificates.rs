//! The node's certificates: renewed by request long before they end, each with a new key.
//!
//! The client's certificate and key are in one file, so that whoever reads it gets both of one renewal; the kubeconfig
//! refers to it, and every new connection reads it. The server begins with a certificate of its own making and
//! exchanges it for one of the cluster's authority when that has signed it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::Client;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serve::ServerTls;
use serve::pki::{self, Subject};

use crate::kubelet::Kubelet;

/// Signs what kubelets show to the API server.
const CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signs what kubelets serve with.
const SERVING: &str = "kubernetes.io/kubelet-serving";
/// Between looks at the age of a certificate.
const LOOK: Duration = Duration::from_secs(600);
/// After a request that failed, doubled each time up to [`LOOK`].
const RETRY: Duration = Duration::from_secs(5);
/// Between looks at a request, and how long it may wait for its signature.
const POLL: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(300);

/// Renews the client's certificate in `file` for ever.
pub async fn client(k: Arc<Kubelet>, file: PathBuf) {
    let subject = Subject::client(format!("system:node:{}", k.options.name), ["system:nodes"]);
    let mut retry = RETRY;
    loop {
        let pause = match is_due(&file) {
            false => LOOK,
            true => match renew(&k.client, CLIENT, "client auth", &subject, &file, "").await {
                Ok(_) => {
                    tracing::info!(file = %file.display(), "the client certificate is renewed");
                    retry = RETRY;
                    LOOK
                }
                Err(why) => {
                    tracing::warn!(why, retry_s = retry.as_secs(), "the client certificate is not renewed");
                    next(&mut retry)
                }
            },
        };
        tokio::time::sleep(pause).await;
    }
}

/// Has the server's certificate signed and renews it for ever. The one it began with serves until then.
pub async fn serving(k: Arc<Kubelet>, tls: ServerTls) {
    let file = k.options.data_dir.join("pki/kubelet-server.pem");
    let mut subject = Subject::server(
        format!("system:node:{}", k.options.name),
        vec![k.options.name.clone()],
        k.options.ips.clone(),
    );
    subject.groups = vec!["system:nodes".to_owned()];
    // The first line of the file says what it is for: another address needs another certificate.
    let names = format!("{} {}\n", k.options.name, k.options.ip_texts().join(" "));
    let mut retry = RETRY;
    loop {
        let fits = std::fs::read_to_string(&file).is_ok_and(|text| text.starts_with(&names));
        let renewed = match fits && !is_due(&file) {
            true => std::fs::read_to_string(&file).map_err(|e| e.to_string()),
            false => renew(&k.client, SERVING, "server auth", &subject, &file, &names).await,
        };
        let used = renewed.and_then(|pem| tls.replace(&pem, &pem).map_err(|e| e.to_string()));
        let pause = match used {
            Ok(()) => {
                retry = RETRY;
                LOOK
            }
            Err(why) => {
                tracing::warn!(why, retry_s = retry.as_secs(), "the serving certificate is not signed");
                next(&mut retry)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// This pause, and the next one twice as long.
fn next(retry: &mut Duration) -> Duration {
    let longer = (*retry * 2).min(LOOK);
    std::mem::replace(retry, longer)
}

/// Whether two thirds of the certificate's life are over, or there is none that can be read.
fn is_due(file: &Path) -> bool {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let now = jiff::Timestamp::now().as_second();
    pki::due_at(&text, now).unwrap_or(true)
}

/// Has a new key certified and keeps both in the file, below `head`; gives what is kept.
async fn renew(
    client: &Client,
    signer: &str,
    usage: &str,
    subject: &Subject,
    file: &Path,
    head: &str,
) -> Result<String, String> {
    let (request, key) = pki::request(subject).map_err(|e| e.to_string())?;
    let certificate = signed(client, signer, usage, request).await?;
    let text = format!("{head}{certificate}{key}");
    pki::replace_file(file, text.as_bytes(), 0o600).map_err(|e| e.to_string())?;
    Ok(text)
}

async fn signed(client: &Client, signer: &str, usage: &str, request: String) -> Result<String, String> {
    let object = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("csr-".into()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.into_bytes()),
            signer_name: signer.to_owned(),
            usages: Some(vec!["digital signature".to_owned(), usage.to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        ..CertificateSigningRequest::default()
    };
    let made = client.create(&object).await.map_err(|e| e.chain())?;
    let name = made.metadata.name.unwrap_or_default();
    let waiting = async {
        loop {
            let found: CertificateSigningRequest = client.get("", &name).await.map_err(|e| e.chain())?;
            let status = found.status.unwrap_or_default();
            if let Some(certificate) = status.certificate.filter(|c| !c.0.is_empty()) {
                return String::from_utf8(certificate.0).map_err(|e| e.to_string());
            }
            let mut conditions = status.conditions.into_iter().flatten();
            if let Some(refused) = conditions.find(|c| c.type_ == "Denied" || c.type_ == "Failed") {
                return Err(format!("request {name}: {}", refused.message.unwrap_or_default()));
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let late = || format!("request {name} is neither approved nor denied: see `kubectl get csr {name}`");
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| Err(late()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_due_in_the_last_third_of_their_life() {
        let dir = tempfile::tempdir().unwrap();
        let authority = pki::Authority::generate("ca").unwrap();
        let subject = Subject::client("system:node:n", ["system:nodes"]);
        let file = dir.path().join("client.pem");
        assert!(is_due(&file), "absent");
        for (life, due) in [(Duration::from_secs(86_400), false), (Duration::from_secs(60), true)] {
            let pair = authority.issue(&subject, life).unwrap();
            std::fs::write(&file, format!("n 10.0.0.1\n{}{}", pair.certificate, pair.key)).unwrap();
            assert_eq!(is_due(&file), due, "{life:?}");
        }
    }
}
