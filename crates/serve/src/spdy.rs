//! The server's side of SPDY/3.1, as far as remote commands and port forwarding of older clients need it.
//!
//! Streams are opened by the client, answered at once and handed out. There is no flow control: the clients that
//! still speak this never send window updates, so bounds come from the queues on this side and from TCP.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// Streams open at the same time.
const STREAMS_MAX: usize = 4096;
/// Frames that wait on either side of a stream.
const QUEUE: usize = 32;
/// The longest control frame and the longest decompressed header block, in bytes.
const CONTROL_MAX: usize = 64 << 10;
/// The most data sent in one frame.
const DATA_MAX: usize = 32 << 10;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FIN: u8 = 1;

/// Words of the compression dictionary that come with their length.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
    content-length content-location content-md5 content-range content-type date etag expect expires from host \
    if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards \
    pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding \
    upgrade user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public \
    set-cookie keep-alive origin";
/// What follows them.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
    Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 \
    Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May \
    Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, \
    GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
    text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut out = Vec::with_capacity(1423);
    for word in WORDS.split_whitespace() {
        out.extend_from_slice(&u32::try_from(word.len()).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(word.replace('_', " ").as_bytes());
    }
    out.extend_from_slice(TAIL.as_bytes());
    out
}

/// Headers of a stream, names in lower case.
pub type Headers = BTreeMap<String, String>;

/// One stream the client opened.
pub struct SpdyStream {
    /// What the client said when it opened it.
    pub headers: Headers,
    /// Data from the client; ends when it closed its half.
    pub incoming: mpsc::Receiver<Bytes>,
    /// To the client.
    pub outgoing: SpdyWriter,
}

/// Writes to one stream. Cheap to clone.
#[derive(Clone)]
pub struct SpdyWriter {
    id: u32,
    frames: mpsc::Sender<Bytes>,
}

impl SpdyWriter {
    /// Sends data; an error says that the connection is gone.
    pub async fn send(&self, data: &[u8]) -> io::Result<()> {
        for part in data.chunks(DATA_MAX) {
            self.frame(part, 0).await?;
        }
        Ok(())
    }

    /// Closes this half of the stream.
    pub async fn finish(&self) -> io::Result<()> {
        self.frame(&[], FIN).await
    }

    /// Ends both halves of the stream.
    pub async fn reset(&self) -> io::Result<()> {
        let mut payload = self.id.to_be_bytes().to_vec();
        payload.extend_from_slice(&5u32.to_be_bytes());
        self.push(control(RST_STREAM, 0, &payload)).await
    }

    async fn frame(&self, data: &[u8], flags: u8) -> io::Result<()> {
        let mut frame = Vec::with_capacity(8 + data.len());
        frame.extend_from_slice(&self.id.to_be_bytes());
        frame.extend_from_slice(&length(flags, data.len()));
        frame.extend_from_slice(data);
        self.push(frame.into()).await
    }

    async fn push(&self, frame: Bytes) -> io::Result<()> {
        self.frames.send(frame).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

fn length(flags: u8, n: usize) -> [u8; 4] {
    let [_, a, b, c] = u32::try_from(n).unwrap_or(0).to_be_bytes();
    [flags, a, b, c]
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Bytes {
    let mut frame = vec![0x80, 3];
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(&length(flags, payload.len()));
    frame.extend_from_slice(payload);
    frame.into()
}

/// Serves a connection. Streams come out of the receiver until the client goes away; dropping the receiver and
/// every writer ends the connection.
pub fn serve<S>(io: S) -> mpsc::Receiver<SpdyStream>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (reader, mut writer) = tokio::io::split(io);
    let (frames, mut outgoing) = mpsc::channel::<Bytes>(QUEUE);
    let (streams, opened) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        while let Some(frame) = outgoing.recv().await {
            if writer.write_all(&frame).await.is_err() {
                return;
            }
            if outgoing.is_empty() && writer.flush().await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    });
    tokio::spawn(async move {
        if let Err(error) = read_all(reader, frames, streams).await {
            tracing::debug!(%error, "a SPDY connection ended");
        }
    });
    opened
}

struct Session {
    frames: mpsc::WeakSender<Bytes>,
    inflate: Decompress,
    deflate: Compress,
    dictionary: Arc<Vec<u8>>,
    open: HashMap<u32, mpsc::Sender<Bytes>>,
}

async fn read_all<R: AsyncRead + Unpin>(
    mut reader: R,
    frames: mpsc::Sender<Bytes>,
    streams: mpsc::Sender<SpdyStream>,
) -> io::Result<()> {
    let dictionary = Arc::new(dictionary());
    let mut deflate = Compress::new(Compression::fast(), true);
    deflate.set_dictionary(&dictionary).map_err(io::Error::other)?;
    let mut session = Session {
        frames: frames.downgrade(),
        inflate: Decompress::new(true),
        deflate,
        dictionary,
        open: HashMap::new(),
    };
    // The session itself keeps the writer alive only while someone takes streams or still writes to one.
    let mut keep = Some(frames);
    loop {
        let mut head = [0u8; 8];
        let got = tokio::select! {
            got = reader.read_exact(&mut head) => got,
            () = streams.closed(), if keep.is_some() => {
                keep = None;
                continue;
            }
        };
        got?;
        let n = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if head[0] & 0x80 == 0 {
            let mut data = vec![0; n];
            reader.read_exact(&mut data).await?;
            session
                .data(u32::from_be_bytes([head[0], head[1], head[2], head[3]]), head[4], data.into())
                .await;
            continue;
        }
        if n > CONTROL_MAX {
            return Err(io::Error::other("a control frame is too long"));
        }
        let mut payload = vec![0; n];
        reader.read_exact(&mut payload).await?;
        match u16::from_be_bytes([head[2], head[3]]) {
            SYN_STREAM => session.opened(head[4], &payload, &streams).await?,
            RST_STREAM => session.reset(&payload),
            PING => session.push(control(PING, 0, &payload)).await?,
            GOAWAY => return Ok(()),
            _ => {}
        }
    }
}

impl Session {
    async fn push(&self, frame: Bytes) -> io::Result<()> {
        let Some(frames) = self.frames.upgrade() else { return Err(io::ErrorKind::BrokenPipe.into()) };
        frames.send(frame).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    async fn data(&mut self, id: u32, flags: u8, data: Bytes) {
        let Some(sender) = self.open.get(&id) else { return };
        let gone = !data.is_empty() && sender.send(data).await.is_err();
        if gone || flags & FIN != 0 {
            self.open.remove(&id);
        }
    }

    fn reset(&mut self, payload: &[u8]) {
        if let Some(id) = word(payload, 0) {
            self.open.remove(&id);
        }
    }

    async fn opened(
        &mut self,
        flags: u8,
        payload: &[u8],
        streams: &mpsc::Sender<SpdyStream>,
    ) -> io::Result<()> {
        let (Some(id), Some(block)) = (word(payload, 0), payload.get(10..)) else {
            return Err(io::Error::other("a SYN_STREAM is too short"));
        };
        let headers = self.headers(block)?;
        let Some(frames) = self.frames.upgrade() else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let outgoing = SpdyWriter { id, frames };
        if self.open.len() >= STREAMS_MAX {
            return outgoing.reset().await;
        }
        let mut reply = id.to_be_bytes().to_vec();
        reply.extend_from_slice(&self.compressed(&0u32.to_be_bytes())?);
        self.push(control(SYN_REPLY, 0, &reply)).await?;
        let (sender, incoming) = mpsc::channel(QUEUE);
        if flags & FIN == 0 {
            self.open.insert(id, sender);
        }
        let _ = streams.send(SpdyStream { headers, incoming, outgoing }).await;
        Ok(())
    }

    fn headers(&mut self, block: &[u8]) -> io::Result<Headers> {
        let text = self.inflated(block)?;
        let bad = || io::Error::other("a header block is malformed");
        let count = word(&text, 0).ok_or_else(bad)?;
        let mut headers = Headers::new();
        let mut at = 4;
        let mut take = || -> Option<String> {
            let n = word(&text, at)? as usize;
            let bytes = text.get(at + 4..at + 4 + n)?;
            at += 4 + n;
            Some(String::from_utf8_lossy(bytes).into_owned())
        };
        for _ in 0..count {
            let name = take().ok_or_else(bad)?.to_lowercase();
            headers.insert(name, take().ok_or_else(bad)?);
        }
        Ok(headers)
    }

    fn inflated(&mut self, block: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(4096);
        let begin = self.inflate.total_in();
        let mut known = false;
        loop {
            let used = usize::try_from(self.inflate.total_in() - begin).unwrap_or(usize::MAX);
            let Some(rest) = block.get(used..).filter(|r| !r.is_empty()) else { return Ok(out) };
            if out.len() > CONTROL_MAX {
                return Err(io::Error::other("a header block is too long"));
            }
            out.reserve(4096);
            match self.inflate.decompress_vec(rest, &mut out, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => return Ok(out),
                Ok(_) => {
                    let now = usize::try_from(self.inflate.total_in() - begin).unwrap_or(usize::MAX);
                    if now == used && out.len() < out.capacity() {
                        return Ok(out);
                    }
                }
                Err(e) if e.needs_dictionary().is_some() && !known => {
                    known = true;
                    self.inflate.set_dictionary(&self.dictionary).map_err(io::Error::other)?;
                }
                Err(e) => return Err(io::Error::other(e)),
            }
        }
    }

    fn compressed(&mut self, block: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(block.len() + 256);
        self.deflate.compress_vec(block, &mut out, FlushCompress::Sync).map_err(io::Error::other)?;
        Ok(out)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let four: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_be_bytes(four))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client's side of opening a stream with these headers.
    fn syn(deflate: &mut Compress, id: u32, headers: &[(&str, &str)]) -> Bytes {
        let mut block = u32::try_from(headers.len()).expect("few").to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(k, v)| [k, v]) {
            block.extend_from_slice(&u32::try_from(text.len()).expect("short").to_be_bytes());
            block.extend_from_slice(text.as_bytes());
        }
        let mut out = Vec::with_capacity(4096);
        deflate.compress_vec(&block, &mut out, FlushCompress::Sync).expect("compress");
        let mut payload = id.to_be_bytes().to_vec();
        payload.extend_from_slice(&[0; 6]);
        payload.extend_from_slice(&out);
        control(SYN_STREAM, 0, &payload)
    }

    #[tokio::test]
    async fn a_stream_carries_data_both_ways() {
        assert_eq!(dictionary().len(), 1423);
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let mut streams = serve(server);
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.set_dictionary(&dictionary()).expect("dictionary");
        for (id, kind) in [(1, "error"), (3, "data")] {
            client
                .write_all(&syn(&mut deflate, id, &[("streamtype", kind), ("port", "80")]))
                .await
                .expect("write");
            let stream = streams.recv().await.expect("a stream");
            assert_eq!(stream.headers["streamtype"], kind);
            assert_eq!(stream.headers["port"], "80");
            let mut head = [0; 8];
            client.read_exact(&mut head).await.expect("reply");
            assert_eq!(&head[..4], [0x80, 3, 0, 2]);
            let mut payload = vec![0; usize::from(head[7]) | usize::from(head[6]) << 8];
            client.read_exact(&mut payload).await.expect("reply");
            stream.outgoing.send(b"hi").await.expect("send");
            let mut frame = [0; 10];
            client.read_exact(&mut frame).await.expect("data");
            assert_eq!(&frame[4..], [0, 0, 0, 2, b'h', b'i']);
            assert_eq!(u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]), id);
        }
    }
}
