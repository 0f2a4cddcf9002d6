//! Port-forward: connections into a pod behind websockets or SPDY.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use oci::runtime::Runtime;
use serve::Body;
use serve::spdy::{self, SpdyStream, SpdyWriter};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use crate::carry::{BUFFER, Out, QUEUE};
use crate::kubelet::Kubelet;
use crate::observe;
use crate::server::{Query, text};
use crate::streams::{Socket, goodbye, listed, open_websocket, switching, wants, websocket};

/// Forwards ports of a pod.
pub async fn port_forward(
    k: &Arc<Kubelet>,
    (namespace, pod): (&str, &str),
    query: &Query,
    mut request: Request<Body>,
) -> Response<Body> {
    const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
    let Some(handle) = k.handle_of(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, "pod does not exist");
    };
    let uid = handle.pod.lock().metadata.uid.clone().unwrap_or_default();
    let sandboxes = k.runtime.list_sandboxes(observe::of_pod(&uid)).await.unwrap_or_default();
    let live = sandboxes.into_iter().find(|s| s.state == oci::runtime::SandboxState::Ready);
    let Some(sandbox) = live.map(|s| s.id) else {
        return text(StatusCode::NOT_FOUND, "the pod has no running sandbox");
    };
    let runtime = k.runtime.clone();
    if wants(&request, "websocket") {
        let offered = listed(&request, "sec-websocket-protocol");
        let has = |p: &str| offered.iter().any(|o| o == p);
        if has(TUNNEL) {
            let answer = open_websocket(&request, TUNNEL);
            tokio::spawn(async move {
                let Some(socket) = websocket(&mut request).await else { return };
                forward_spdy(runtime, sandbox, spdy::serve(tunnel(socket))).await;
            });
            return answer;
        }
        if !has("v4.channel.k8s.io") && !has("portforward.k8s.io") {
            return text(
                StatusCode::BAD_REQUEST,
                format!("none of the subprotocols {offered:?} is supported"),
            );
        }
        let ports: Vec<u16> =
            query.all("port").iter().flat_map(|p| p.split(',')).filter_map(|p| p.parse().ok()).collect();
        if ports.is_empty() || ports.len() > 100 {
            return text(StatusCode::BAD_REQUEST, "query parameter \"port\" is required");
        }
        let answer = open_websocket(
            &request,
            if has("v4.channel.k8s.io") { "v4.channel.k8s.io" } else { "portforward.k8s.io" },
        );
        tokio::spawn(async move {
            if let Some(socket) = websocket(&mut request).await {
                forward_channels(runtime, sandbox, ports, socket).await;
            }
        });
        return answer;
    }
    if wants(&request, "spdy/3.1") {
        tokio::spawn(async move {
            if let Ok(io) = hyper::upgrade::on(&mut request).await {
                forward_spdy(runtime, sandbox, spdy::serve(TokioIo::new(io))).await;
            }
        });
        return switching(&[
            ("upgrade", "SPDY/3.1".into()),
            ("x-stream-protocol-version", "portforward.k8s.io".into()),
        ]);
    }
    text(StatusCode::BAD_REQUEST, "you must upgrade to websockets or SPDY/3.1")
}

/// A byte stream inside a websocket's binary messages.
fn tunnel(socket: Socket) -> tokio::io::DuplexStream {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let (mut sink, mut source) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(ours);
    tokio::spawn(async move {
        while let Some(Ok(message)) = source.next().await {
            match message {
                Message::Binary(data) if writer.write_all(&data).await.is_err() => return,
                Message::Close(_) => break,
                _ => {}
            }
        }
        let _ = writer.shutdown().await;
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; BUFFER];
        while let Ok(n) = reader.read(&mut buffer).await {
            if n == 0 || sink.send(Message::binary(buffer[..n].to_vec())).await.is_err() {
                break;
            }
        }
        let _ = sink.send(goodbye()).await;
    });
    theirs
}

/// Pairs of data and error streams, as they come.
async fn forward_spdy(runtime: Arc<dyn Runtime>, sandbox: String, mut streams: mpsc::Receiver<SpdyStream>) {
    let mut half: HashMap<String, SpdyStream> = HashMap::new();
    while let Some(stream) = streams.recv().await {
        let id = stream.headers.get("requestid").cloned().unwrap_or_default();
        let Some(other) = half.remove(&id) else {
            half.insert(id, stream);
            continue;
        };
        let is_data = |s: &SpdyStream| s.headers.get("streamtype").map(String::as_str) == Some("data");
        let (data, error) = if is_data(&stream) { (stream, other) } else { (other, stream) };
        let port = data.headers.get("port").and_then(|p| p.parse().ok()).unwrap_or(0);
        let (runtime, sandbox) = (runtime.clone(), sandbox.clone());
        tokio::spawn(async move {
            let SpdyStream { mut incoming, outgoing, .. } = data;
            let target = Target::Spdy(outgoing.clone());
            let outcome = forward_one(&*runtime, &sandbox, port, &mut incoming, target).await;
            if let Err(why) = outcome {
                let _ = error.outgoing.send(why.as_bytes()).await;
            }
            let _ = outgoing.finish().await;
            let _ = error.outgoing.finish().await;
        });
    }
}

/// Where what comes from the pod goes.
enum Target {
    Spdy(SpdyWriter),
    Channel(mpsc::Sender<Out>, u8),
}

impl Target {
    /// `false` when the client is gone.
    async fn send(&self, data: &[u8]) -> bool {
        match self {
            Target::Spdy(writer) => writer.send(data).await.is_ok(),
            Target::Channel(queue, channel) => {
                queue.send(Out(*channel, Bytes::copy_from_slice(data))).await.is_ok()
            }
        }
    }
}

/// Carries one connection.
async fn forward_one(
    runtime: &dyn Runtime,
    sandbox: &str,
    port: u16,
    incoming: &mut mpsc::Receiver<Bytes>,
    target: Target,
) -> Result<(), String> {
    let connection = runtime.port_forward(sandbox, port).await;
    let connection =
        connection.map_err(|e| format!("failed to connect to localhost:{port} inside the pod: {e}"))?;
    let (mut reader, mut writer) = tokio::io::split(connection);
    let up = async {
        while let Some(data) = incoming.recv().await {
            if writer.write_all(&data).await.is_err() {
                break;
            }
        }
        let _ = writer.shutdown().await;
    };
    let down = async {
        let mut buffer = vec![0; BUFFER];
        loop {
            match reader.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(n) if !target.send(&buffer[..n]).await => return,
                Ok(_) => {}
            }
        }
    };
    tokio::pin!(up, down);
    tokio::select! {
        () = &mut down => {}
        () = &mut up => down.await,
    }
    Ok(())
}

/// Two channels per port: data and error, each of which begins with the port.
async fn forward_channels(runtime: Arc<dyn Runtime>, sandbox: String, ports: Vec<u16>, socket: Socket) {
    let (mut sink, mut source) = socket.split();
    let (outgoing, mut messages) = mpsc::channel::<Out>(QUEUE);
    let mut inputs = Vec::new();
    for (i, port) in ports.into_iter().enumerate() {
        let (sender, mut incoming) = mpsc::channel(QUEUE);
        inputs.push(sender);
        let (runtime, sandbox, outgoing) = (runtime.clone(), sandbox.clone(), outgoing.clone());
        let data = u8::try_from(i * 2).unwrap_or(0);
        tokio::spawn(async move {
            for channel in [data, data + 1] {
                let hello = Bytes::copy_from_slice(&port.to_le_bytes());
                if outgoing.send(Out(channel, hello)).await.is_err() {
                    return;
                }
            }
            let target = Target::Channel(outgoing.clone(), data);
            if let Err(why) = forward_one(&*runtime, &sandbox, port, &mut incoming, target).await {
                let _ = outgoing.send(Out(data + 1, why.into())).await;
            }
        });
    }
    drop(outgoing);
    let feed = async {
        while let Some(Ok(message)) = source.next().await {
            let Message::Binary(data) = message else { continue };
            let Some(channel) = data.first().filter(|c| **c % 2 == 0) else { continue };
            if let Some(input) = inputs.get(usize::from(channel / 2)) {
                let _ = input.send(data.slice(1..)).await;
            }
        }
    };
    let drain = async {
        while let Some(Out(channel, data)) = messages.recv().await {
            if sink.send(Message::binary([&[channel], &data[..]].concat())).await.is_err() {
                return;
            }
        }
        let _ = sink.send(goodbye()).await;
    };
    tokio::select! {
        () = feed => {}
        () = drain => {}
    }
}
