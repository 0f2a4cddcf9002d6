//! The client's end of the socket: one connection a request.

use crate::proto::{Layout, Reply, Request, encode, frame_length};
use crate::runtime::Error;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// A connection on which a request was sent.
pub struct Call {
    socket: UnixStream,
    input: Vec<u8>,
    /// Descriptors that came and were not taken.
    pub fds: Vec<OwnedFd>,
}

fn unavailable(layout: &Layout, e: &io::Error) -> Error {
    Error::Unavailable(format!("supervisor on {}: {e}", layout.socket().display()))
}

impl Call {
    /// Connects and sends `request` with descriptors.
    pub async fn new(layout: &Layout, request: &Request, fds: &[&OwnedFd]) -> Result<Self, Error> {
        let socket = UnixStream::connect(layout.socket()).await.map_err(|e| unavailable(layout, &e))?;
        let frame = encode(request)?;
        let raw: Vec<_> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
        let mut sent = 0;
        while sent < frame.len() {
            let fds = if sent == 0 { &raw[..] } else { &[] };
            sent += socket
                .async_io(Interest::WRITABLE, || {
                    crate::sys::send_with_fds(socket.as_fd(), &frame[sent..], fds)
                })
                .await
                .map_err(|e| unavailable(layout, &e))?;
        }
        Ok(Self { socket, input: vec![], fds: vec![] })
    }

    /// The next frame.
    pub async fn reply(&mut self) -> Result<Reply, Error> {
        let gone = |why: &str| Error::Unavailable(format!("supervisor: {why}"));
        loop {
            if let Some(length) = frame_length(&self.input)?.filter(|l| self.input.len() >= 4 + l) {
                let reply = serde_json::from_slice(&self.input[4..4 + length]);
                self.input.drain(..4 + length);
                return match reply.map_err(|e| gone(&format!("answer does not parse: {e}")))? {
                    Reply::Failed(e) => Err(e),
                    reply => Ok(reply),
                };
            }
            let mut buffer = [0; 16 << 10];
            let (socket, fds) = (&self.socket, &mut self.fds);
            let count = socket
                .async_io(Interest::READABLE, || {
                    crate::sys::receive_with_fds(socket.as_fd(), &mut buffer, fds)
                })
                .await
                .map_err(|e| gone(&e.to_string()))?;
            if count == 0 {
                return Err(gone("connection closed"));
            }
            self.input.extend_from_slice(&buffer[..count]);
        }
    }
}

/// A request with one answer.
pub async fn call(layout: &Layout, request: Request) -> Result<Reply, Error> {
    Call::new(layout, &request, &[]).await?.reply().await
}

/// The answer was one the request does not have.
pub fn odd(reply: &Reply) -> Error {
    Error::Failed(format!("supervisor gave an unexpected answer: {reply:?}"))
}
