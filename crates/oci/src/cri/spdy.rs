//! The client's side of SPDY/3.1, as far as a runtime's exec and attach need it.
//!
//! Streams are opened once, at the start; their header blocks go out compressed without the protocol's dictionary,
//! which a decompressor must accept, and those that come back are not looked at. Nobody who still speaks this sends
//! window updates, so that bounds come from the pipes on this side and from TCP.

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};
use std::collections::HashMap;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

const SYN_STREAM: u16 = 1;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FIN: u8 = 1;

/// Most bytes of the answer to the upgrade.
const HEAD_MAX: usize = 16 << 10;
/// The longest control frame that is read.
const CONTROL_MAX: usize = 64 << 10;
/// Frames that wait to be sent.
const QUEUE: usize = 32;
/// Bytes that wait in a stream of ours.
const PIPE: usize = 64 << 10;

/// A stream to open: its headers, and whether bytes come from the peer (else they go there).
pub struct Open {
    pub kind: &'static str,
    pub incoming: bool,
}

/// The open streams, by kind.
pub struct Session {
    pub pipes: HashMap<&'static str, DuplexStream>,
    /// Ends the connection when dropped, unless it is let go.
    pub guard: Guard,
}

/// Ends the tasks of a connection when dropped.
pub struct Guard(Vec<tokio::task::AbortHandle>);

impl Guard {
    /// The connection ends by itself.
    pub fn release(mut self) {
        self.0.clear();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

fn frame(head: [u8; 4], flags: u8, payload: &[u8]) -> Bytes {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut out = Vec::with_capacity(8 + payload.len());
    out.extend_from_slice(&head);
    out.extend_from_slice(&[flags, a, b, c]);
    out.extend_from_slice(payload);
    out.into()
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Bytes {
    let [a, b] = kind.to_be_bytes();
    frame([0x80, 3, a, b], flags, payload)
}

/// Connects to `http://HOST:PORT/PATH` and opens streams.
pub async fn connect(url: &str, protocol: &str, streams: &[Open]) -> io::Result<Session> {
    let rest = url.strip_prefix("http://").ok_or_else(|| {
        io::Error::other(format!("only plain http is spoken to the runtime's streams, not {url:?}"))
    })?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    let mut socket = TcpStream::connect(host).await?;
    socket.set_nodelay(true)?;
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: {protocol}\r\nContent-Length: 0\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    upgraded(&mut socket).await?;
    let (reader, writer) = socket.into_split();
    let (frames, outgoing) = mpsc::channel(QUEUE);
    let mut session = Session { pipes: HashMap::new(), guard: Guard(vec![]) };
    let mut deflate = Compress::new(Compression::fast(), true);
    let mut sinks = HashMap::new();
    let mut tasks = vec![tokio::spawn(write_all(writer, outgoing)).abort_handle()];
    for (id, open) in (1u32..).step_by(2).zip(streams) {
        let mut payload = id.to_be_bytes().to_vec();
        payload.extend_from_slice(&[0; 6]);
        payload.extend_from_slice(&headers(&mut deflate, &[("streamtype", open.kind)])?);
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        frames.send(control(SYN_STREAM, 0, &payload)).await.map_err(gone)?;
        let (ours, theirs) = tokio::io::duplex(PIPE);
        session.pipes.insert(open.kind, theirs);
        if open.incoming {
            sinks.insert(id, ours);
        } else {
            tasks.push(tokio::spawn(pump(id, ours, frames.clone())).abort_handle());
        }
    }
    tasks.push(tokio::spawn(read_all(reader, frames, sinks)).abort_handle());
    session.guard = Guard(tasks);
    Ok(session)
}

async fn upgraded(socket: &mut TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    // Byte by byte: what follows the head belongs to the streams.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > HEAD_MAX {
            return Err(io::Error::other("the runtime's answer to an upgrade has too long a head"));
        }
        head.push(socket.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&head);
    if text.split(' ').nth(1) == Some("101") {
        return Ok(());
    }
    let mut reason = vec![0; 512];
    let n = socket.read(&mut reason).await.unwrap_or(0);
    let reason = String::from_utf8_lossy(&reason[..n]).trim().to_owned();
    let line = text.lines().next().unwrap_or_default();
    Err(io::Error::other(format!("the runtime refused to stream: {line}: {reason}")))
}

fn headers(deflate: &mut Compress, list: &[(&str, &str)]) -> io::Result<Vec<u8>> {
    let length = |n: usize| u32::try_from(n).unwrap_or(0).to_be_bytes();
    let mut block = length(list.len()).to_vec();
    for text in list.iter().flat_map(|(k, v)| [k, v]) {
        block.extend_from_slice(&length(text.len()));
        block.extend_from_slice(text.as_bytes());
    }
    let mut out = Vec::with_capacity(block.len() + 256);
    deflate.compress_vec(&block, &mut out, FlushCompress::Sync).map_err(io::Error::other)?;
    Ok(out)
}

async fn write_all(mut writer: OwnedWriteHalf, mut frames: mpsc::Receiver<Bytes>) {
    while let Some(frame) = frames.recv().await {
        if writer.write_all(&frame).await.is_err() {
            return;
        }
    }
}

/// Sends what is written into a stream of ours, and its end.
async fn pump(id: u32, mut from: DuplexStream, frames: mpsc::Sender<Bytes>) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let n = from.read(&mut buffer).await.unwrap_or(0);
        let flags = if n == 0 { FIN } else { 0 };
        let sent = frames.send(frame(id.to_be_bytes(), flags, &buffer[..n])).await;
        if n == 0 || sent.is_err() {
            return;
        }
    }
}

/// Hands out what comes. A stream whose reader went away is read and dropped.
async fn read_all(
    mut reader: OwnedReadHalf,
    frames: mpsc::Sender<Bytes>,
    mut sinks: HashMap<u32, DuplexStream>,
) -> io::Result<()> {
    loop {
        let mut head = [0u8; 8];
        reader.read_exact(&mut head).await?;
        let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if word >> 31 == 0 {
            copy(&mut reader, length, sinks.get_mut(&word)).await?;
            if head[4] & FIN != 0 {
                sinks.remove(&word);
            }
            continue;
        }
        if length > CONTROL_MAX {
            return Err(io::Error::other("a control frame is too long"));
        }
        let mut payload = vec![0; length];
        reader.read_exact(&mut payload).await?;
        match u16::from_be_bytes([head[2], head[3]]) {
            RST_STREAM if length >= 4 => {
                let id = u32::from_be_bytes([payload[0], payload[1], payload[2], payload[3]]);
                sinks.remove(&id);
            }
            PING => {
                let _ = frames.send(control(PING, 0, &payload)).await;
            }
            GOAWAY => return Ok(()),
            _ => {}
        }
    }
}

async fn copy(reader: &mut OwnedReadHalf, length: usize, to: Option<&mut DuplexStream>) -> io::Result<()> {
    let mut left = length;
    let mut buffer = vec![0; left.min(16 << 10)];
    let mut to = to;
    while left > 0 {
        let n = left.min(buffer.len());
        reader.read_exact(&mut buffer[..n]).await?;
        left -= n;
        if let Some(sink) = to.as_mut()
            && sink.write_all(&buffer[..n]).await.is_err()
        {
            to = None;
        }
    }
    Ok(())
}
