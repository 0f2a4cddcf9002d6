//! Streams of frames: SPDY of remote commands, watch events, the records of the store's log.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::{Body, Client, ListOptions, Transport, TransportError};
use flate2::{Compress, Compression, FlushCompress};
use http_body_util::{BodyExt, StreamBody};
use k8s_openapi::api::core::v1::Pod;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::objects::samples;
use super::{Run, Target, runtime, split_line};

/// SPDY.
pub const SPDY: Target = Target {
    name: "spdy",
    what: "SPDY frames of exec, attach and port-forward",
    seeds: spdy_seeds,
    start: spdy,
};

/// Websockets.
pub const WEBSOCKET: Target = Target {
    name: "websocket",
    what: "websocket frames of exec and attach",
    seeds: websocket_seeds,
    start: websockets,
};

/// Watches.
pub const WATCH: Target =
    Target { name: "watch", what: "watch events and lists", seeds: watch_seeds, start: watches };

/// Records.
pub const RECORD: Target = Target {
    name: "record",
    what: "records of the log and of checkpoints",
    seeds: record_seeds,
    start: || Box::new(record),
};

/// A stream's opening, data, a ping, the end.
fn spdy_seeds() -> Vec<Vec<u8>> {
    let control = |kind: u16, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
        [&[0x80, 3][..], &kind.to_be_bytes(), &[0, length[1], length[2], length[3]], payload].concat()
    };
    let mut deflate = Compress::new(Compression::fast(), true);
    let mut open = |id: u32, headers: &[(&str, &str)]| {
        let mut block = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend_from_slice(&(text.len() as u32).to_be_bytes());
            block.extend_from_slice(text.as_bytes());
        }
        let mut packed = Vec::with_capacity(4096);
        deflate.compress_vec(&block, &mut packed, FlushCompress::Sync).expect("compress in memory");
        control(1, &[&id.to_be_bytes()[..], &[0; 6], &packed].concat())
    };
    let first = open(1, &[("streamtype", "error"), ("port", "80"), ("requestid", "0")]);
    let second = open(3, &[("streamType", "data"), ("port", "80")]);
    let data = [&3u32.to_be_bytes()[..], &[1, 0, 0, 2], b"hi"].concat();
    let all = [
        first.clone(),
        second,
        data,
        control(6, &[0; 4]),
        control(3, &[0, 0, 0, 1, 0, 0, 0, 5]),
        control(7, &[0; 8]),
    ];
    vec![first, all.concat()]
}

fn spdy() -> Run {
    let runtime = runtime();
    Box::new(move |input| {
        runtime.block_on(async {
            let (client, server) = tokio::io::duplex(1 << 16);
            let (mut reader, mut writer) = tokio::io::split(client);
            let mut streams = serve::spdy::serve(server);
            let taken = tokio::spawn(async move {
                while let Some(mut stream) = streams.recv().await {
                    while let Some(data) = stream.incoming.recv().await {
                        let _ = stream.outgoing.send(&data).await;
                    }
                }
            });
            let answers = tokio::spawn(async move {
                let mut buffer = vec![0; 1 << 16];
                while reader.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
            });
            let _ = writer.write_all(input).await;
            let _ = writer.shutdown().await;
            drop(writer);
            let end = Duration::from_secs(10);
            let stuck = tokio::time::timeout(end, taken).await.is_err();
            assert!(!stuck || input.len() > 4096, "the session does not end with its connection");
            answers.abort();
        });
    })
}

/// Frames with a mask of zeros: data, half a close, text, a ping, the end, a long one, one in two parts.
fn websocket_seeds() -> Vec<Vec<u8>> {
    let frame = |code: u8, data: &[u8]| [&[code, 0x80 | data.len() as u8, 0, 0, 0, 0][..], data].concat();
    let long = [&[0x82, 0xfe, 0x01, 0x00, 0, 0, 0, 0][..], &[0; 256]].concat();
    let parts = [frame(0x02, b"\0a"), frame(0x80, b"b")].concat();
    let one = [frame(0x82, b"\0hi"), frame(0x82, &[255, 0]), frame(0x82, b"\x04{\"Width\":1,\"Height\":2}")]
        .concat();
    let all = [one, frame(0x81, b"x"), frame(0x89, b"p"), long, parts, frame(0x88, &[3, 232])].concat();
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"]
        .map(|protocol| [protocol.as_bytes(), b"\n", &all].concat())
        .to_vec()
}

fn websockets() -> Run {
    let runtime = runtime();
    Box::new(move |input| {
        let Some((protocol, bytes)) = split_line(input) else { return };
        runtime.block_on(async {
            let (client, server) = tokio::io::duplex(1 << 16);
            let (mut reader, mut writer) = tokio::io::split(client);
            let answers = tokio::spawn(async move {
                let mut buffer = vec![0; 1 << 16];
                while reader.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
            });
            let talk = async {
                let _ = writer.write_all(bytes).await;
                let _ = writer.shutdown().await;
            };
            let served = node::streams::echo_websocket(server, protocol);
            let both = async { tokio::join!(talk, served) };
            let end = Duration::from_secs(10);
            assert!(
                tokio::time::timeout(end, both).await.is_ok(),
                "the session does not end with its connection"
            );
            answers.abort();
        });
    })
}

/// An API server that answers everything with the same chunks.
struct Canned(Vec<Bytes>);

impl Transport for Canned {
    fn send(
        &self,
        _: http::Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<http::Response<Body>, TransportError>> + Send + '_>> {
        let frames = self.0.clone().into_iter().map(|chunk| Ok::<_, TransportError>(http_body_frame(chunk)));
        let body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
        Box::pin(async move { Ok(http::Response::new(body)) })
    }
}

fn http_body_frame(chunk: Bytes) -> http_body::Frame<Bytes> {
    http_body::Frame::data(chunk)
}

fn watch_seeds() -> Vec<Vec<u8>> {
    let pod = samples().next().map_or("{}", |(_, text)| text);
    let events = format!(
        "9\n{{\"type\":\"ADDED\",\"object\":{pod}}}\n{{\"type\":\"BOOKMARK\",\"object\":{{\"metadata\":{{\"resourceVersion\":\"5\",\
        \"annotations\":{{\"k8s.io/initial-events-end\":\"true\"}}}}}}}}\n\n{{\"type\":\"DELETED\",\"object\":{{\"metadata\":{{}}}}}}\n\
        {{\"type\":\"ERROR\",\"object\":{{\"code\":410,\"reason\":\"Expired\"}}}}\n"
    );
    let list =
        format!("1000\n{{\"metadata\":{{\"continue\":\"x\",\"resourceVersion\":\"5\"}},\"items\":[{pod}]}}");
    vec![events.into(), list.into()]
}

fn watches() -> Run {
    let runtime = runtime();
    Box::new(move |input| {
        let Some((size, rest)) = split_line(input) else { return };
        let size = size.parse().unwrap_or(1000usize).clamp(1, 1 << 20);
        let chunks = rest.chunks(size).map(Bytes::copy_from_slice).collect();
        let client = Client::new(Arc::new(Canned(chunks)));
        runtime.block_on(async {
            drop(client.list::<Pod>("", &ListOptions::default()).await);
            let Ok(mut events) = client.watch::<Pod>("", &ListOptions::default()).await else { return };
            while let Ok(Some(_)) = events.next::<Pod>().await {}
        });
    })
}

fn record_seeds() -> Vec<Vec<u8>> {
    // Length, PUT, key (resource, namespace, name), flags, hole, uid, labels, fields, owners, the object.
    let text = |text: &str| [&[text.len() as u8][..], text.as_bytes()].concat();
    let key = [text("core/pods"), text("default"), text("web")].concat();
    let index = [
        text("uid-1"),
        vec![1],
        text("app"),
        text("web"),
        vec![1],
        text("spec.nodeName"),
        text("n1"),
        vec![1],
        text("o"),
    ]
    .concat();
    let value = [&[0, 2][..], &index, b"{\"metadata\":{\"resourceVersion\":\"\"}}"].concat();
    let expiring = [&[2, 2][..], &index, &[0x90, 0x4e], b"{}"].concat();
    let record = |op: u8, value: &[u8]| {
        let body = [&[op][..], &key, value].concat();
        [&[body.len() as u8][..], &body].concat()
    };
    let records = [record(1, &value), record(2, &[]), record(3, &expiring)].concat();
    let object = [&key[..], &[3, 4, value.len() as u8], &value].concat();
    vec![[&b"records\n"[..], &records].concat(), [&b"objects\n"[..], &object].concat()]
}

fn record(input: &[u8]) {
    let Some((kind, rest)) = split_line(input) else { return };
    match kind {
        "records" => drop(store::read_records(rest)),
        "objects" => drop(store::read_objects(rest, 1)),
        _ => {}
    }
}
