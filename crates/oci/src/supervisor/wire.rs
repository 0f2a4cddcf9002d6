//! Connections of clients: frames in, frames out, never waiting.

use super::{Child, Supervisor, Token};
use crate::proto::{Reply, Request, encode, frame_length};
use crate::runtime::Error;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// What may wait for a client that does not read; then it is dropped.
const UNREAD_BYTES_MAX: usize = 8 << 20;

/// One client.
pub(crate) struct Conn {
    fd: OwnedFd,
    input: Vec<u8>,
    fds: Vec<OwnedFd>,
    output: Vec<u8>,
    /// Descriptors to send beside the first byte of `output`.
    out_fds: Vec<OwnedFd>,
    waiting_to_write: bool,
}

impl Conn {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd, input: vec![], fds: vec![], output: vec![], out_fds: vec![], waiting_to_write: false }
    }
}

impl Supervisor {
    pub(super) fn on_conn(&mut self, token: Token, flags: EpollFlags) {
        if flags.contains(EpollFlags::EPOLLOUT) {
            self.write_out(token);
        }
        if !flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            return;
        }
        let mut buffer = [0; 16 << 10];
        loop {
            let Some(conn) = self.conns.get_mut(&token) else { return };
            match crate::sys::receive_with_fds(conn.fd.as_fd(), &mut buffer, &mut conn.fds) {
                Ok(0) => return self.hang_up(token),
                Ok(n) => conn.input.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.hang_up(token),
            }
        }
        self.frames(token);
    }

    fn frames(&mut self, token: Token) {
        while let Some(conn) = self.conns.get_mut(&token) {
            let length = match frame_length(&conn.input) {
                Ok(Some(length)) if conn.input.len() >= 4 + length => length,
                Ok(_) => return,
                Err(_) => return self.hang_up(token),
            };
            let parsed = serde_json::from_slice::<Request>(&conn.input[4..4 + length]);
            conn.input.drain(..4 + length);
            if conn.input.is_empty() {
                conn.input = vec![];
            }
            let fds = std::mem::take(&mut conn.fds);
            match parsed {
                Ok(request) => self.request(token, request, fds),
                Err(e) => {
                    let why = Error::Invalid(format!("request does not parse: {e}"));
                    self.reply(token, &Reply::Failed(why), &[]);
                }
            }
        }
    }

    /// Sends a frame; a client that is gone or does not read is dropped.
    pub(super) fn reply(&mut self, token: Token, reply: &Reply, fds: &[&OwnedFd]) {
        let Ok(frame) = encode(reply) else { return self.hang_up(token) };
        let Some(conn) = self.conns.get_mut(&token) else { return };
        if conn.output.len() + frame.len() > UNREAD_BYTES_MAX.max(frame.len()) {
            return self.hang_up(token);
        }
        conn.out_fds.extend(fds.iter().filter_map(|fd| fd.try_clone().ok()));
        conn.output.extend_from_slice(&frame);
        self.write_out(token);
    }

    fn write_out(&mut self, token: Token) {
        let Some(conn) = self.conns.get_mut(&token) else { return };
        while !conn.output.is_empty() {
            let fds: Vec<_> = conn.out_fds.iter().map(AsRawFd::as_raw_fd).collect();
            match crate::sys::send_with_fds(conn.fd.as_fd(), &conn.output, &fds) {
                Ok(n) => {
                    conn.out_fds.clear();
                    conn.output.drain(..n);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.hang_up(token),
            }
        }
        let wait = !conn.output.is_empty();
        if !wait {
            conn.output = vec![];
        }
        if wait != conn.waiting_to_write {
            conn.waiting_to_write = wait;
            let out = if wait { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
            // The descriptor is watched as long as the connection is known.
            let _ = self.epoll.modify(&conn.fd, &mut EpollEvent::new(EpollFlags::EPOLLIN | out, token));
        }
    }

    /// Forgets a client and withdraws what it asked for.
    pub(super) fn hang_up(&mut self, token: Token) {
        let Some(conn) = self.conns.remove(&token) else { return };
        self.unwatch(token, &conn.fd);
        self.subscribers.retain(|t| *t != token);
        for container in self.containers.values_mut() {
            container.waiters.retain(|t| *t != token);
        }
        for child in self.children.values() {
            if let Child::Exec(exec) = child
                && exec.conn == token
            {
                // It may have ended meanwhile.
                let _ = crate::sys::pidfd_signal(exec.pidfd.as_fd(), libc::SIGKILL);
            }
        }
        self.detach(token);
    }
}
