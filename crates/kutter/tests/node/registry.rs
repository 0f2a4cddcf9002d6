//! A small registry on loopback: what is under `private/` wants the user `me` with the password `secret`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use oci::images::digest;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A registry with one image under every name and the tag `1`; it ends when dropped.
pub struct Registry {
    /// Where it listens.
    pub address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Registry {
    /// Serves an image of a static busybox.
    pub async fn start(busybox: &Path) -> Self {
        let files = Arc::new(image(&std::fs::read(busybox).expect("busybox")));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("address");
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, files.clone()));
            }
        });
        Self { address, task }
    }

    /// `127.0.0.1:PORT/name`.
    pub fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// A docker configuration with the credentials it wants.
    pub fn docker_config(&self) -> String {
        json!({ "auths": { self.address.to_string(): { "auth": "bWU6c2VjcmV0" } } }).to_string()
    }
}

/// Everything it serves, by the last part of the path.
fn image(program: &[u8]) -> HashMap<String, Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, kind, content) in [
        ("bin/busybox", tar::EntryType::Regular, program),
        ("bin/sh", tar::EntryType::Symlink, &[]),
        ("bin/sleep", tar::EntryType::Symlink, &[]),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        if kind == tar::EntryType::Symlink {
            header.set_link_name("/bin/busybox").expect("link");
        }
        tar.append_data(&mut header, name, content).expect("tar");
    }
    let layer = tar.into_inner().expect("tar");
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Cmd": ["/bin/sleep", "1000"] },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    })
    .to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(config.as_bytes()), "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": digest(&layer), "size": layer.len(),
        }],
    })
    .to_string();
    let named = [manifest.clone().into_bytes(), config.into_bytes(), layer].map(|b| (digest(&b), b));
    named.into_iter().chain([("1".to_owned(), manifest.into_bytes())]).collect()
}

/// Answers one request and closes. A client that goes away early is no concern of the registry's.
async fn serve(mut stream: TcpStream, files: Arc<HashMap<String, Vec<u8>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < 16 << 10 {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut words = head.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let known = head.lines().any(|l| l.eq_ignore_ascii_case("authorization: Basic bWU6c2VjcmV0"));
    let found = path.rsplit('/').next().and_then(|name| files.get(name));
    let (status, more, body) = match found {
        _ if path.contains("/private/") && !known => {
            ("401 Unauthorized", "WWW-Authenticate: Basic realm=\"test\"\r\n".to_owned(), &[][..])
        }
        None => ("404 Not Found", String::new(), &[][..]),
        Some(body) => {
            let more = format!("Content-Type: {MANIFEST}\r\nDocker-Content-Digest: {}\r\n", digest(body));
            ("200 OK", more, body.as_slice())
        }
    };
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\n{more}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(head.as_bytes()).await;
    if method != "HEAD" {
        let _ = stream.write_all(body).await;
    }
    let _ = stream.shutdown().await;
}
