//! What probes and lifecycle hooks do: run a command, ask over HTTP, connect, call the gRPC health service.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{
    Container, GRPCAction, HTTPGetAction, LifecycleHandler, Pod, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use oci::runtime::Error;
use tokio::net::TcpStream;

use crate::kubelet::Kubelet;

/// No limit but the pod's end.
pub const FOREVER: Duration = Duration::from_secs(24 * 3600);
/// The most of an answer that is read, in bytes.
const BODY_MAX: usize = 10 << 10;

/// The number of a port that may be a name.
pub fn port(c: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(n) => Some(*n),
        IntOrString::String(name) => {
            let named = c.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            named.map(|p| p.container_port).or_else(|| name.parse().ok())
        }
    };
    number
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n > 0)
        .ok_or_else(|| format!("couldn't find port: {port:?} in container {}", c.name))
}

/// Runs a lifecycle hook.
pub async fn run(
    k: &Arc<Kubelet>,
    _pod: &Pod,
    c: &Container,
    id: &str,
    ips: &[String],
    hook: &LifecycleHandler,
    limit: Duration,
) -> Result<(), String> {
    let ip = ips.first().map_or("127.0.0.1", String::as_str);
    let work = async {
        if let Some(e) = &hook.exec {
            let command = e.command.clone().unwrap_or_default();
            let seconds = u32::try_from(limit.as_secs()).unwrap_or(u32::MAX).max(1);
            return match k.runtime.exec_sync(id, command, seconds).await {
                Ok(r) if r.exit_code == 0 => Ok(()),
                Ok(r) => {
                    let text = [r.stdout, r.stderr].concat();
                    Err(format!("exit code {}: {}", r.exit_code, String::from_utf8_lossy(&text).trim()))
                }
                Err(e) => Err(e.to_string()),
            };
        }
        if let Some(h) = &hook.http_get {
            return http_get(h, c, ip, limit).await.map(drop);
        }
        if let Some(s) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(s.seconds).unwrap_or(0))).await;
            return Ok(());
        }
        if let Some(t) = &hook.tcp_socket {
            return tcp(t, c, ip).await;
        }
        Ok(())
    };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err("the hook ran out of time".into()))
}

/// Runs a command as a probe. `Err` is a failure with its output.
pub async fn exec(k: &Arc<Kubelet>, id: &str, command: Vec<String>, seconds: u32) -> Result<(), String> {
    match k.runtime.exec_sync(id, command.clone(), seconds).await {
        Ok(r) if r.exit_code == 0 => Ok(()),
        Ok(r) => Err(String::from_utf8_lossy(&[r.stdout, r.stderr].concat()).into_owned()),
        Err(Error::Deadline { .. }) => {
            Err(format!("command timed out: {command:?} timed out after {seconds}s"))
        }
        Err(e) => Err(e.to_string()),
    }
}

/// Asks over HTTP. A status from 200 to 399 is good.
pub async fn http_get(h: &HTTPGetAction, c: &Container, ip: &str, limit: Duration) -> Result<(), String> {
    let port = port(c, &h.port)?;
    let host = h.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(ip);
    let https = h.scheme.as_deref() == Some("HTTPS");
    let path = h.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_string() } else { format!("/{path}") };
    let shown = format!("{}://{}{path}", if https { "https" } else { "http" }, authority(host, port));
    let ask = async {
        let stream = TcpStream::connect((host, port))
            .await
            .map_err(|e| format!("Get \"{shown}\": dial tcp {}: {e}", authority(host, port)))?;
        let request = http_request(h, &path, &authority(host, port))?;
        let status = if https {
            let tls = insecure_tls(host, stream).await?;
            exchange(TokioIo::new(tls), request).await
        } else {
            exchange(TokioIo::new(stream), request).await
        };
        status.map_err(|e| format!("Get \"{shown}\": {e}"))
    };
    let status = tokio::time::timeout(limit, ask).await.map_err(|_| {
        format!("Get \"{shown}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)")
    })??;
    if (200..400).contains(&status) {
        Ok(())
    } else {
        Err(format!("HTTP probe failed with statuscode: {status}"))
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn http_request(
    h: &HTTPGetAction,
    path: &str,
    authority: &str,
) -> Result<http::Request<Full<Bytes>>, String> {
    let mut request = http::Request::get(path);
    let mut seen = Vec::new();
    for header in h.http_headers.iter().flatten() {
        seen.push(header.name.to_lowercase());
        request = request.header(&header.name, &header.value);
    }
    let mut default = |name: &str, value: &str| {
        if !seen.iter().any(|s| s == name) {
            let taken = std::mem::take(&mut request);
            request = taken.header(name, value);
        }
    };
    default("host", authority);
    default("user-agent", "kube-probe/1.36");
    default("accept", "*/*");
    default("connection", "close");
    request.body(Full::default()).map_err(|e| e.to_string())
}

async fn exchange<S>(stream: TokioIo<S>, request: http::Request<Full<Bytes>>) -> Result<u16, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(stream).await.map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|e| e.to_string());
    let status = match response {
        Ok(r) => {
            let status = r.status().as_u16();
            let _ = Limited::new(r.into_body(), BODY_MAX).collect().await;
            Ok(status)
        }
        Err(e) => Err(e),
    };
    driver.abort();
    status
}

/// Connects over TCP.
pub async fn tcp(t: &TCPSocketAction, c: &Container, ip: &str) -> Result<(), String> {
    let port = port(c, &t.port)?;
    let host = t.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(ip);
    let stream = TcpStream::connect((host, port)).await;
    stream.map(drop).map_err(|e| format!("dial tcp {}: {e}", authority(host, port)))
}

/// Calls the gRPC health service.
pub async fn grpc(g: &GRPCAction, ip: &str) -> Result<(), String> {
    let port = u16::try_from(g.port).map_err(|_| format!("{} is no port", g.port))?;
    let stream =
        TcpStream::connect((ip, port)).await.map_err(|e| format!("dial tcp {}: {e}", authority(ip, port)))?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let request = http::Request::post(format!("http://{}/grpc.health.v1.Health/Check", authority(ip, port)))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(health_request(g.service.as_deref().unwrap_or(""))))
        .map_err(|e| e.to_string())?;
    let outcome = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let head = response.headers().get("grpc-status").cloned();
        let body = Limited::new(response.into_body(), BODY_MAX).collect().await.map_err(|e| e.to_string())?;
        let status = body.trailers().and_then(|t| t.get("grpc-status")).cloned().or(head);
        let code = status.and_then(|s| s.to_str().ok().map(str::to_string)).unwrap_or_default();
        if code != "0" {
            return Err(format!("the health service answered with gRPC status {code}"));
        }
        // One length-prefixed message whose field 1 is the serving status; 1 is SERVING.
        let bytes = body.to_bytes();
        match bytes.get(5..) {
            Some([0x08, 1, ..]) => Ok(()),
            _ => Err("service unhealthy (responded with \"NOT_SERVING\")".to_string()),
        }
    }
    .await;
    driver.abort();
    outcome
}

/// HealthCheckRequest in a gRPC frame: field 1 is the service's name.
fn health_request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut n = service.len();
        while n >= 0x80 {
            message.push((n & 0x7f) as u8 | 0x80);
            n >>= 7;
        }
        message.push(n as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(0);
    let mut frame = vec![0];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&message);
    frame.into()
}

/// TLS that trusts everyone, as probes do: they ask whether something serves, not who.
async fn insecure_tls(
    host: &str,
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    use rustls::pki_types::ServerName;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(trust::anyone(provider))
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_string()).map_err(|e| e.to_string())?;
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|e| e.to_string())
}
