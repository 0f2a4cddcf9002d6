//! exec, attach and run: a runtime's streams behind websockets or SPDY.
//!
//! Both transports become the same pair of queues of numbered channels (0 standard input, 1 output, 2 error output,
//! 3 the final status, 4 terminal sizes), so that the work is written once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use oci::runtime::{ContainerState, StreamOptions};
use serve::spdy::{self, SpdyStream, SpdyWriter};
use serve::{Body, empty};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use crate::carry::{In, Mux, Out, QUEUE, RESIZE, STATUS, STDERR, STDIN, STDOUT, remote, success};
use crate::kubelet::Kubelet;
use crate::observe;
use crate::server::{Query, text};

/// How long a SPDY client may take to open all its streams.
const OPEN_LIMIT: Duration = Duration::from_secs(30);
/// What the request wants; `None` with an answer when it is malformed.
fn options(query: &Query) -> Result<StreamOptions, Box<Response<Body>>> {
    let is = |long: &str, short: &str| query.flag(long) || query.flag(short);
    let tty = query.flag("tty");
    let options = StreamOptions {
        stdin: is("input", "stdin"),
        stdout: is("output", "stdout"),
        stderr: is("error", "stderr") && !tty,
        tty,
        size: None,
    };
    if !options.stdin && !options.stdout && !options.stderr {
        let why = "you must specify at least 1 of stdin, stdout, stderr";
        return Err(Box::new(text(StatusCode::BAD_REQUEST, why)));
    }
    Ok(options)
}

/// The id of a pod's running container.
async fn running(
    k: &Kubelet,
    (namespace, pod, container): (&str, &str, &str),
) -> Result<String, Box<Response<Body>>> {
    let not_found = |what: String| Box::new(text(StatusCode::NOT_FOUND, what));
    let Some(handle) = k.handle_of(namespace, pod) else {
        return Err(not_found("pod does not exist".into()));
    };
    let uid = handle.pod.lock().metadata.uid.clone().unwrap_or_default();
    let found = k.runtime.list_containers(observe::of_pod(&uid)).await.unwrap_or_default();
    let live = found.into_iter().find(|c| c.name == container && c.state == ContainerState::Running);
    live.map(|c| c.id).ok_or_else(|| not_found(format!("container not found (\"{container}\")")))
}

/// Runs a command with the client's streams.
pub async fn exec(
    k: &Arc<Kubelet>,
    who: (&str, &str, &str),
    query: &Query,
    request: Request<Body>,
) -> Response<Body> {
    let (id, want) = match (running(k, who).await, options(query)) {
        (Ok(id), Ok(want)) => (id, want),
        (Err(r), _) | (_, Err(r)) => return *r,
    };
    let (runtime, command) = (k.runtime.clone(), query.all("command"));
    let opts = want.clone();
    upgrade(request, want, move |mux| async move {
        let stream = runtime.exec(&id, command, opts).await;
        remote(stream, mux, false).await;
    })
}

/// Attaches the client to a container's own streams.
pub async fn attach(
    k: &Arc<Kubelet>,
    who: (&str, &str, &str),
    query: &Query,
    request: Request<Body>,
) -> Response<Body> {
    let (id, mut want) = match (running(k, who).await, options(query)) {
        (Ok(id), Ok(want)) => (id, want),
        (Err(r), _) | (_, Err(r)) => return *r,
    };
    let handle = k.handle_of(who.0, who.1);
    let spec = handle.and_then(|h| h.pod.lock().spec.as_ref().and_then(|s| pods::spec::find(s, who.2)));
    let mut detaches = want.stdin;
    if let Some((_, c)) = spec {
        want.tty = c.tty == Some(true);
        want.stderr &= !want.tty;
        // Input that is for one client alone ends with it, and the client waits for what comes of that.
        detaches &= want.tty || c.stdin_once != Some(true);
    }
    let runtime = k.runtime.clone();
    let opts = want.clone();
    upgrade(request, want, move |mux| async move {
        let stream = runtime.attach(&id, opts).await;
        remote(stream, mux, detaches).await;
    })
}

/// Runs a command to its end and answers with what it wrote.
pub async fn run(k: &Arc<Kubelet>, who: (&str, &str, &str), query: &Query) -> Response<Body> {
    let id = match running(k, who).await {
        Ok(id) => id,
        Err(r) => return *r,
    };
    let command = query.get("cmd").unwrap_or("").split_whitespace().map(str::to_string).collect();
    match k.runtime.exec_sync(&id, command, 0).await {
        Ok(r) => text(StatusCode::OK, [r.stdout, r.stderr].concat()),
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    }
}

/// The words of a comma-separated header.
pub(crate) fn listed<B>(request: &Request<B>, name: &str) -> Vec<String> {
    let values = request.headers().get_all(name).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(|w| w.trim().to_string()).filter(|w| !w.is_empty()).collect()
}

pub(crate) fn wants<B>(request: &Request<B>, protocol: &str) -> bool {
    listed(request, "upgrade").iter().any(|u| u.eq_ignore_ascii_case(protocol))
}

pub(crate) fn switching(headers: &[(&str, String)]) -> Response<Body> {
    let mut response =
        Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).header(header::CONNECTION, "Upgrade");
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    response.body(empty()).unwrap_or_else(|e| text(StatusCode::BAD_REQUEST, e.to_string()))
}

/// The answer that opens a websocket with this subprotocol.
pub(crate) fn open_websocket<B>(request: &Request<B>, protocol: &str) -> Response<Body> {
    let key = request.headers().get("sec-websocket-key").map(|k| k.as_bytes().to_vec()).unwrap_or_default();
    let mut headers =
        vec![("upgrade", "websocket".to_string()), ("sec-websocket-accept", derive_accept_key(&key))];
    if !protocol.is_empty() {
        headers.push(("sec-websocket-protocol", protocol.to_string()));
    }
    switching(&headers)
}

/// Switches to a websocket or to SPDY, whichever the client asks for, and runs the work on it.
fn upgrade<W, F>(mut request: Request<Body>, want: StreamOptions, work: W) -> Response<Body>
where
    W: FnOnce(Mux) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    const KNOWN: [&str; 4] =
        ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io"];
    if wants(&request, "websocket") {
        let offered = listed(&request, "sec-websocket-protocol");
        let Some(protocol) =
            KNOWN.into_iter().find(|k| offered.iter().any(|o| o == k)).filter(|p| !p.contains("base64"))
        else {
            return text(
                StatusCode::BAD_REQUEST,
                format!("none of the subprotocols {offered:?} is supported"),
            );
        };
        let answer = open_websocket(&request, protocol);
        tokio::spawn(async move {
            if let Some(socket) = websocket(&mut request).await {
                on_websocket(socket, &want, protocol, work).await;
            }
        });
        return answer;
    }
    if wants(&request, "spdy/3.1") {
        const VERSIONS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
        let offered = listed(&request, "x-stream-protocol-version");
        let Some(version) = VERSIONS.into_iter().find(|k| offered.iter().any(|o| o == k)) else {
            return text(StatusCode::FORBIDDEN, format!("none of the protocols {offered:?} is supported"));
        };
        tokio::spawn(async move {
            if let Ok(io) = hyper::upgrade::on(&mut request).await {
                on_spdy(spdy::serve(TokioIo::new(io)), &want, work).await;
            }
        });
        return switching(&[("upgrade", "SPDY/3.1".into()), ("x-stream-protocol-version", version.into())]);
    }
    text(StatusCode::BAD_REQUEST, "you must upgrade to websockets or SPDY/3.1")
}

/// An answer as messages of a websocket, one per chunk, when the client asks for one.
pub(crate) fn framed(mut request: Request<Body>, answer: Response<Body>) -> Response<Body> {
    const KNOWN: [&str; 2] = ["binary.k8s.io", "base64.binary.k8s.io"];
    if !wants(&request, "websocket") || answer.status() != StatusCode::OK {
        return answer;
    }
    let offered = listed(&request, "sec-websocket-protocol");
    let protocol = KNOWN.into_iter().find(|known| offered.iter().any(|o| o == known));
    let Some(protocol) = protocol.or(offered.is_empty().then_some("")) else {
        let message = format!("none of the subprotocols {offered:?} is supported");
        return text(StatusCode::BAD_REQUEST, message);
    };
    let opened = open_websocket(&request, protocol);
    let mut chunks = answer.into_body().into_data_stream();
    tokio::spawn(async move {
        let Some(socket) = websocket(&mut request).await else { return };
        let (mut sink, mut source) = socket.split();
        let ended = async { while let Some(Ok(_)) = source.next().await {} };
        let copied = async {
            while let Some(Ok(chunk)) = chunks.next().await {
                let message = match protocol.starts_with("base64") {
                    true => Message::text(STANDARD.encode(&chunk)),
                    false => Message::binary(chunk),
                };
                if sink.send(message).await.is_err() {
                    return;
                }
            }
            let _ = sink.send(goodbye()).await;
        };
        tokio::select! {
            () = copied => {}
            () = ended => {}
        }
    });
    opened
}

pub(crate) type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

pub(crate) async fn websocket(request: &mut Request<Body>) -> Option<Socket> {
    let io = hyper::upgrade::on(request).await.ok()?;
    Some(WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await)
}

/// Sends a client's own data back over a websocket of this protocol. For fuzzing.
#[doc(hidden)]
pub async fn echo_websocket<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: S, protocol: &str) {
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
    let echo = |mux: Mux| async move {
        let Mux { mut incoming, outgoing } = mux;
        while let Some(message) = incoming.recv().await {
            if let In::Data(channel, data) = message
                && outgoing.send(Out(channel, data)).await.is_err()
            {
                return;
            }
        }
    };
    on_websocket(socket, &StreamOptions::default(), protocol, echo).await;
}

async fn on_websocket<S, W, F>(socket: WebSocketStream<S>, want: &StreamOptions, protocol: &str, work: W)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    W: FnOnce(Mux) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (mut sink, mut source) = socket.split();
    let (to_work, incoming) = mpsc::channel(QUEUE);
    let (outgoing, mut from_work) = mpsc::channel::<Out>(QUEUE);
    let frame = |channel: u8, data: &[u8]| Message::binary([&[channel], data].concat());
    // An empty message says that the connection stands.
    let first = if want.stdout {
        STDOUT
    } else if want.stderr {
        STDERR
    } else {
        STATUS
    };
    if sink.send(frame(first, &[])).await.is_err() {
        return;
    }
    let half_close = protocol.starts_with("v5");
    // The first protocol has no word for success.
    let tells_success = protocol != "channel.k8s.io";
    let reader = tokio::spawn(async move {
        while let Some(Ok(message)) = source.next().await {
            let data = match message {
                Message::Binary(data) => data,
                Message::Text(t) => Bytes::copy_from_slice(t.as_bytes()),
                Message::Close(_) => return,
                _ => continue,
            };
            let told = match data.first() {
                Some(255) if half_close => In::Close(data.get(1).copied().unwrap_or(STDIN)),
                Some(channel) => In::Data(*channel, data.slice(1..)),
                None => continue,
            };
            if to_work.send(told).await.is_err() {
                return;
            }
        }
    });
    let worker = tokio::spawn(work(Mux { incoming, outgoing }));
    while let Some(Out(channel, data)) = from_work.recv().await {
        if channel == STATUS && !tells_success && data == success() {
            continue;
        }
        if sink.send(frame(channel, &data)).await.is_err() {
            worker.abort();
            break;
        }
    }
    let _ = sink.send(goodbye()).await;
    // The client answers the close; it is read so that nothing it sent is lost in a reset.
    let _ = tokio::time::timeout(Duration::from_secs(5), reader).await;
}

/// The message that ends a websocket in good order.
pub(crate) fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

fn channel(kind: &str) -> Option<u8> {
    Some(match kind {
        "stdin" => STDIN,
        "stdout" => STDOUT,
        "stderr" => STDERR,
        "error" => STATUS,
        "resize" => RESIZE,
        _ => return None,
    })
}

async fn on_spdy<W, F>(mut streams: mpsc::Receiver<SpdyStream>, want: &StreamOptions, work: W)
where
    W: FnOnce(Mux) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let wanted = 1 + [want.stdin, want.stdout, want.stderr, want.tty].iter().filter(|w| **w).count();
    let (to_work, incoming) = mpsc::channel(QUEUE);
    let (outgoing, mut from_work) = mpsc::channel::<Out>(QUEUE);
    let mut writers: HashMap<u8, SpdyWriter> = HashMap::new();
    let gather = async {
        while writers.len() < wanted {
            let Some(stream) = streams.recv().await else { return false };
            let Some(channel) = stream.headers.get("streamtype").and_then(|t| channel(t)) else { continue };
            writers.insert(channel, stream.outgoing);
            let (mut data, to_work) = (stream.incoming, to_work.clone());
            tokio::spawn(async move {
                while let Some(bytes) = data.recv().await {
                    if to_work.send(In::Data(channel, bytes)).await.is_err() {
                        return;
                    }
                }
                let _ = to_work.send(In::Close(channel)).await;
            });
        }
        true
    };
    if !matches!(tokio::time::timeout(OPEN_LIMIT, gather).await, Ok(true)) {
        return;
    }
    let worker = tokio::spawn(work(Mux { incoming, outgoing }));
    // Only a vanished connection ends the queue of streams: then there is no one left to work for.
    let gone = async { while streams.recv().await.is_some() {} };
    let send = async {
        while let Some(Out(channel, data)) = from_work.recv().await {
            let Some(writer) = writers.get(&channel) else { continue };
            if writer.send(&data).await.is_err() {
                return;
            }
        }
        for writer in writers.values() {
            let _ = writer.finish().await;
        }
    };
    tokio::select! {
        () = send => {}
        () = gone => {}
    }
    drop(to_work);
    worker.abort();
}
