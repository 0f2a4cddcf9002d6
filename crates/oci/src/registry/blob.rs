//! A blob on its way: verified while it passes, taken up again where it broke off, and handed to as many
//! readers as want it.

use super::endpoint::{Endpoint, part};
use super::http::{Http, Origin};
use super::manifest::Descriptor;
use super::{Fault, Limits};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use sha2::{Digest, Sha256};
use std::io::{self, Read};
use tokio::sync::mpsc;

/// Parts that wait for a reader that is slower than the network.
const PARTS_MAX: usize = 64;
/// When every reader gave up, as much is still read to tell whether the registry lied.
const REST_MAX: u64 = 4 << 20;

enum Part {
    Data(Bytes),
    /// All came, and it is what its digest promises.
    End,
}

/// Where a blob goes.
pub struct Sink {
    to: Option<mpsc::Sender<Part>>,
}

/// What a reader in a thread of its own reads from. It ends well only if the blob was verified.
pub struct Source {
    from: mpsc::Receiver<Part>,
    rest: Bytes,
    ended: bool,
}

/// Both ends.
pub fn pipe() -> (Sink, Source) {
    let (to, from) = mpsc::channel(PARTS_MAX);
    (Sink { to: Some(to) }, Source { from, rest: Bytes::new(), ended: false })
}

impl Sink {
    async fn give(&mut self, part: Part) {
        if let Some(to) = &self.to
            && to.send(part).await.is_err()
        {
            self.to = None;
        }
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() && !self.ended {
            match self.from.blocking_recv() {
                Some(Part::Data(data)) => self.rest = data,
                Some(Part::End) => self.ended = true,
                None => return Err(io::Error::other("the download broke off")),
            }
        }
        let n = self.rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.rest.split_to(n));
        Ok(n)
    }
}

/// How far a blob is.
struct Transfer<'a> {
    blob: &'a Descriptor,
    at: u64,
    hash: Sha256,
    sinks: &'a mut [Sink],
    arrived: &'a (dyn Fn(u64) + Sync),
}

/// Brings a blob to the sinks, from the first endpoint that has it. `arrived` is told of bytes.
pub async fn fetch(
    http: &Http,
    limits: &Limits,
    endpoints: &[&Endpoint],
    blob: &Descriptor,
    sinks: &mut [Sink],
    arrived: &(dyn Fn(u64) + Sync),
) -> Result<(), Fault> {
    let mut transfer = Transfer { blob, at: 0, hash: Sha256::new(), sinks, arrived };
    let mut last = Fault::protocol("no place to ask".into());
    for endpoint in endpoints {
        let mut failed = 0;
        loop {
            let fault = match transfer.go_on(http, endpoint).await {
                Ok(()) => return transfer.finish().await,
                Err(fault) => fault,
            };
            failed += 1;
            let wait = limits.wait(failed, &fault);
            let over = !fault.transient() || failed >= limits.attempts;
            if matches!(fault, Fault::Corrupt { .. }) && transfer.at > 0 {
                return Err(fault);
            }
            last = fault;
            if over {
                break;
            }
            tracing::debug!(digest = blob.digest, at = transfer.at, error = %last, "going on with a blob");
            tokio::time::sleep(wait).await;
        }
    }
    Err(last)
}

impl Transfer<'_> {
    async fn go_on(&mut self, http: &Http, endpoint: &Endpoint) -> Result<(), Fault> {
        let mut headers = HeaderMap::new();
        if self.at > 0 {
            let range = format!("bytes={}-", self.at);
            headers.extend(HeaderValue::try_from(range).ok().map(|v| (RANGE, v)));
        }
        let path = format!("blobs/{}", self.blob.digest);
        let response = endpoint.ask(http, Method::GET, &path, &headers).await?;
        let mut skip = self.begin(&response)?;
        let name = endpoint.name();
        let from = Origin { tls: true, host: name.clone(), port: 0 };
        let mut body = response.into_body();
        while let Some(mut data) = part(http, &from, &mut body).await? {
            let passed = skip.min(data.len() as u64);
            skip -= passed;
            let _ = data.split_to(usize::try_from(passed).unwrap_or(usize::MAX));
            self.take(data).await?;
        }
        if self.at < self.blob.size {
            let (at, size) = (self.at, self.blob.size);
            return Err(Fault::Broken(format!("{name} ended the blob after {at} of {size} bytes")));
        }
        Ok(())
    }

    /// Checks the head of an answer; gives the bytes at its beginning that are here already.
    fn begin(&self, response: &Response<Incoming>) -> Result<u64, Fault> {
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let header = |name| response.headers().get(name).and_then(|v: &HeaderValue| v.to_str().ok());
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        let whole = if partial {
            let range = header(CONTENT_RANGE).and_then(|v| v.strip_prefix("bytes "));
            let start = range.and_then(|r| r.split('-').next()).and_then(number);
            if start != Some(self.at) {
                return Err(Fault::protocol(format!("the registry went on at {start:?}, not {}", self.at)));
            }
            range.and_then(|r| r.rsplit('/').next()).and_then(number)
        } else {
            header(CONTENT_LENGTH).and_then(number)
        };
        match whole {
            Some(whole) if whole != self.blob.size => {
                Err(self.corrupt(format!("it has {whole} bytes, its manifest says {}", self.blob.size)))
            }
            _ => Ok(if partial { 0 } else { self.at }),
        }
    }

    async fn take(&mut self, data: Bytes) -> Result<(), Fault> {
        let length = data.len() as u64;
        if self.at + length > self.blob.size {
            return Err(
                self.corrupt(format!("it goes on after the {} bytes of its manifest", self.blob.size))
            );
        }
        self.hash.update(&data);
        self.at += length;
        (self.arrived)(length);
        for sink in self.sinks.iter_mut() {
            sink.give(Part::Data(data.clone())).await;
        }
        let wanted = self.sinks.iter().any(|s| s.to.is_some());
        if !wanted && self.blob.size - self.at > REST_MAX {
            return Err(Fault::protocol("nobody reads on".into()));
        }
        Ok(())
    }

    async fn finish(self) -> Result<(), Fault> {
        let actual = format!("sha256:{}", hex::encode(self.hash.clone().finalize()));
        if actual != self.blob.digest {
            return Err(self.corrupt(format!("its {} bytes hash to {actual}", self.at)));
        }
        for sink in self.sinks.iter_mut() {
            sink.give(Part::End).await;
        }
        Ok(())
    }

    fn corrupt(&self, reason: String) -> Fault {
        Fault::Corrupt { digest: self.blob.digest.clone(), reason }
    }
}
