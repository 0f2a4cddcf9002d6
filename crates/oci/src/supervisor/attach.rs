//! Attached clients: copies of what a container writes, and its input.

use super::log::Output;
use super::{Source, Supervisor, Token};
use crate::proto::Reply;
use crate::runtime::Error;
use nix::sys::epoll::EpollFlags;
use std::os::fd::OwnedFd;

/// What may wait for a reader that is slow; then it is dropped, so that it never slows the container.
const UNREAD_BYTES_MAX: usize = 1 << 20;

/// One attached output.
pub(crate) struct Reader {
    fd: OwnedFd,
    output: Output,
    conn: Token,
    waiting: Vec<u8>,
    token: Option<Token>,
    last: bool,
}

impl Supervisor {
    pub(super) fn attach(
        &mut self,
        conn: Token,
        id: &str,
        stdin: bool,
        outputs: [bool; 2],
        fds: Vec<OwnedFd>,
    ) -> Result<Option<Reply>, Error> {
        let c = self.find(id)?;
        if c.status.state != crate::state::ContainerState::Running {
            return Err(Error::State(format!("container {id:?} is not running")));
        }
        let mut fds = fds.into_iter();
        for (output, wanted) in [Output::Stdout, Output::Stderr].into_iter().zip(outputs) {
            if let Some(fd) = fds.next().filter(|_| wanted) {
                use nix::fcntl::{FcntlArg, OFlag, fcntl};
                fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(super::failed("prepare pipe"))?;
                c.readers.push(Reader { fd, output, conn, waiting: vec![], token: None, last: false });
            }
        }
        c.attached.push(conn);
        let tty = c.tty;
        // A terminal is also what sizes are set on.
        let give = if stdin || tty { c.stdin.as_ref().and_then(|fd| fd.try_clone().ok()) } else { None };
        if stdin && c.stdin_once && !tty {
            c.stdin = None;
            self.save(id);
        }
        let fds: Vec<&OwnedFd> = give.iter().collect();
        self.reply(conn, &Reply::Attached { input: give.is_some(), tty }, &fds);
        Ok(None)
    }

    pub(super) fn copy_to_readers(&mut self, id: &str, output: Output, bytes: &[u8]) {
        let Some(c) = self.containers.get_mut(id).filter(|c| !c.readers.is_empty()) else { return };
        let mut stuck = vec![];
        let mut readers = std::mem::take(&mut c.readers);
        readers.retain_mut(|r| r.output != output || r.push(bytes));
        for reader in &mut readers {
            if !reader.waiting.is_empty() && reader.token.is_none() {
                stuck.push(reader);
            }
        }
        for reader in stuck {
            reader.token = self.watch(&reader.fd, Source::Reader(id.to_owned()), EpollFlags::EPOLLOUT).ok();
        }
        if let Some(c) = self.containers.get_mut(id) {
            c.readers = readers;
        }
    }

    /// A slow reader can take more.
    pub(super) fn on_reader(&mut self, id: &str, token: Token) {
        let Some(c) = self.containers.get_mut(id) else {
            self.sources.remove(&token);
            return;
        };
        let Some(at) = c.readers.iter().position(|r| r.token == Some(token)) else { return };
        let alive = c.readers[at].push(&[]);
        let empty = c.readers[at].waiting.is_empty();
        if !alive || (empty && c.readers[at].last) {
            let reader = c.readers.remove(at);
            self.unwatch(token, &reader.fd);
        } else if empty {
            c.readers[at].token = None;
            let fd = c.readers[at].fd.try_clone();
            self.sources.remove(&token);
            if let Ok(fd) = fd {
                // Epoll knows the description under its first number; taking that out is what counts.
                drop(fd);
            }
            if let Some(c) = self.containers.get(id) {
                let _ = self.epoll.delete(&c.readers[at].fd);
            }
        }
    }

    /// Nothing more comes: readers that have everything are closed, the others when they have.
    pub(super) fn end_readers(&mut self, id: &str) {
        let Some(c) = self.containers.get_mut(id) else { return };
        c.readers.retain_mut(|r| {
            r.last = true;
            r.push(&[]) && !r.waiting.is_empty()
        });
    }

    /// A client that attached is gone.
    pub(super) fn detach(&mut self, conn: Token) {
        let mut gone = vec![];
        for c in self.containers.values_mut() {
            c.attached.retain(|t| *t != conn);
            let (left, going) =
                std::mem::take(&mut c.readers).into_iter().partition(|r| r.conn != conn || r.last);
            c.readers = left;
            gone.extend::<Vec<Reader>>(going);
        }
        for reader in gone {
            if let Some(token) = reader.token {
                self.unwatch(token, &reader.fd);
            }
        }
    }
}

impl Reader {
    /// Writes what it can and keeps the rest; false when the reader is gone or too slow.
    fn push(&mut self, bytes: &[u8]) -> bool {
        self.waiting.extend_from_slice(bytes);
        while !self.waiting.is_empty() {
            match nix::unistd::write(&self.fd, &self.waiting) {
                Ok(n) => drop(self.waiting.drain(..n)),
                Err(nix::errno::Errno::EAGAIN) => break,
                Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
        self.waiting.len() <= UNREAD_BYTES_MAX
    }
}
