//! The netlink socket and message writer that routes, nftables and connection tracking share.
//!
//! Messages are written straight into one buffer and sent with one call: a pod's whole attachment or a rule change
//! with thousands of elements is one write. Calls block; they run on threads of their own, never on an executor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// The kernel refused a request, or could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket does not work.
    #[error("talk to the kernel over netlink")]
    Socket(#[source] io::Error),
    /// A request was refused.
    #[error("{what}")]
    Refused {
        /// The request.
        what: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel's answer makes no sense.
    #[error("read the kernel's netlink answer: {0}")]
    Garbled(&'static str),
}

impl NetlinkError {
    /// The kernel's error number, if it answered.
    pub fn errno(&self) -> Option<i32> {
        match self {
            NetlinkError::Refused { source, .. } | NetlinkError::Socket(source) => source.raw_os_error(),
            NetlinkError::Garbled(_) => None,
        }
    }

    /// The thing to make exists already.
    pub fn exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// The thing to act on does not exist.
    pub fn missing(&self) -> bool {
        matches!(self.errno(), Some(libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL))
    }
}

/// Flags of a request.
pub mod flags {
    /// It is a request.
    pub const REQUEST: u16 = 1;
    /// Answer also on success.
    pub const ACK: u16 = 4;
    /// List.
    pub const DUMP: u16 = 0x300;
    /// Replace what exists.
    pub const REPLACE: u16 = 0x100;
    /// Fail if it exists.
    pub const EXCL: u16 = 0x200;
    /// Create if missing.
    pub const CREATE: u16 = 0x400;
    /// Add at the end.
    pub const APPEND: u16 = 0x800;
}

/// Messages for one write. Remembers what each was for.
#[derive(Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    sequence: u32,
    starts: Vec<usize>,
    what: Vec<(u32, String)>,
}

/// An open nested attribute.
#[must_use]
pub struct Nest(usize);

impl Buffer {
    /// An empty buffer.
    pub fn new() -> Buffer {
        Buffer::default()
    }

    /// Bytes written.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Nothing written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Begins a message; the one before is closed.
    pub fn message(&mut self, kind: u16, flags: u16, family_header: &[u8], what: impl Into<String>) {
        self.close();
        self.sequence += 1;
        self.what.push((self.sequence, what.into()));
        self.starts.push(self.bytes.len());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | self::flags::REQUEST).to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend(family_header);
        self.pad();
    }

    /// Bytes of the message being written.
    pub fn message_len(&self) -> usize {
        self.starts.last().map_or(0, |s| self.bytes.len() - s)
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn close(&mut self) {
        if let Some(start) = self.starts.last() {
            let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
            self.bytes[*start..*start + 4].copy_from_slice(&length.to_ne_bytes());
        }
    }

    /// An attribute of bytes.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.pad();
    }

    /// An attribute of a text, with its closing zero.
    pub fn text(&mut self, kind: u16, value: &str) {
        let mut v = value.as_bytes().to_vec();
        v.push(0);
        self.bytes(kind, &v);
    }

    /// A number in host order.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// A number in network order.
    pub fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Opens a nested attribute.
    pub fn nest(&mut self, kind: u16) -> Nest {
        let at = self.bytes.len();
        self.bytes.extend([0, 0]);
        self.bytes.extend((kind | 0x8000).to_ne_bytes());
        Nest(at)
    }

    /// Closes it.
    pub fn end(&mut self, nest: Nest) {
        let length = u16::try_from(self.bytes.len() - nest.0).unwrap_or(u16::MAX);
        self.bytes[nest.0..nest.0 + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Plain bytes, for structures inside nested attributes.
    pub fn raw(&mut self, value: &[u8]) {
        self.bytes.extend(value);
        self.pad();
    }

    fn add_flags(&mut self, index: usize, flags: u16) {
        let at = self.starts[index] + 6;
        let have = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]);
        self.bytes[at..at + 2].copy_from_slice(&(have | flags).to_ne_bytes());
    }
}

/// One netlink socket, bound to the network namespace it was opened in.
pub struct Socket {
    fd: OwnedFd,
}

/// Room for the kernel's answers.
const ANSWER_BYTES: usize = 64 * 1024;

impl Socket {
    /// A socket for `protocol` (`libc::NETLINK_ROUTE` or `libc::NETLINK_NETFILTER`).
    pub fn open(protocol: i32) -> Result<Socket, NetlinkError> {
        // SAFETY: socket(2) with constant arguments; the descriptor is checked before it is owned.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
        if fd < 0 {
            return Err(NetlinkError::Socket(io::Error::last_os_error()));
        }
        // SAFETY: `fd` is a fresh, open descriptor that nothing else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let socket = Socket { fd };
        socket.option(libc::NETLINK_CAP_ACK, 1);
        socket.option(libc::NETLINK_EXT_ACK, 1);
        Ok(socket)
    }

    fn option(&self, name: i32, value: i32) {
        // SAFETY: the pointer and length describe a live i32. A kernel without the option gives plainer errors.
        unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_NETLINK,
                name,
                (&raw const value).cast(),
                size_of::<i32>() as u32,
            );
        }
    }

    fn grow(&self, bytes: usize) {
        let value = i32::try_from(bytes).unwrap_or(i32::MAX);
        for name in [libc::SO_SNDBUFFORCE, libc::SO_RCVBUFFORCE] {
            // SAFETY: as in `option`.
            unsafe {
                libc::setsockopt(
                    self.fd.as_raw_fd(),
                    libc::SOL_SOCKET,
                    name,
                    (&raw const value).cast(),
                    size_of::<i32>() as u32,
                );
            }
        }
    }

    fn write(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        self.grow((bytes.len() * 2).max(256 * 1024));
        let sent =
            nix::sys::socket::send(self.fd.as_fd().as_raw_fd(), bytes, nix::sys::socket::MsgFlags::empty())
                .map_err(|e| NetlinkError::Socket(e.into()))?;
        if sent == bytes.len() { Ok(()) } else { Err(NetlinkError::Garbled("short write")) }
    }

    fn read(&self, buffer: &mut Vec<u8>) -> Result<(), NetlinkError> {
        buffer.resize(ANSWER_BYTES, 0);
        loop {
            match nix::sys::socket::recv(self.fd.as_raw_fd(), buffer, nix::sys::socket::MsgFlags::empty()) {
                Ok(n) => {
                    buffer.truncate(n);
                    return Ok(());
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(NetlinkError::Socket(e.into())),
            }
        }
    }

    /// Sends all messages and waits for an answer to each. Gives every refusal.
    pub fn run(&self, mut buffer: Buffer) -> Result<Vec<NetlinkError>, NetlinkError> {
        if buffer.is_empty() {
            return Ok(Vec::new());
        }
        for i in 0..buffer.starts.len() {
            buffer.add_flags(i, flags::ACK);
        }
        buffer.close();
        self.write(&buffer.bytes)?;
        let mut refusals = Vec::new();
        let mut waiting = buffer.starts.len();
        let mut answer = Vec::new();
        while waiting > 0 {
            self.read(&mut answer)?;
            for m in Messages(&answer) {
                let Some(errno) = m.error() else { continue };
                waiting = waiting.saturating_sub(1);
                refusals.extend(refusal(&buffer, m.sequence, errno));
            }
        }
        Ok(refusals)
    }

    /// Sends all messages; the first refusal is the error. Messages after a refused one were still tried.
    pub fn call(&self, buffer: Buffer) -> Result<(), NetlinkError> {
        self.run(buffer)?.into_iter().next().map_or(Ok(()), Err)
    }

    /// Sends messages that are one transaction (a netfilter batch): the answer to the last but one (the last
    /// operation) or any refusal ends it.
    pub fn transact(&self, mut buffer: Buffer) -> Result<(), NetlinkError> {
        if buffer.starts.len() < 3 {
            return Ok(());
        }
        let last = buffer.starts.len() - 2;
        buffer.add_flags(last, flags::ACK);
        buffer.close();
        self.write(&buffer.bytes)?;
        let last_sequence = buffer.what[last].0;
        let mut answer = Vec::new();
        loop {
            self.read(&mut answer)?;
            for m in Messages(&answer) {
                let Some(errno) = m.error() else { continue };
                if let Some(e) = refusal(&buffer, m.sequence, errno) {
                    return Err(e);
                }
                if m.sequence == last_sequence {
                    return Ok(());
                }
            }
        }
    }

    /// Sends one dump request and gives each answer's kind and body to `each`.
    pub fn dump(&self, mut buffer: Buffer, mut each: impl FnMut(u16, &[u8])) -> Result<(), NetlinkError> {
        buffer.add_flags(0, flags::DUMP);
        buffer.close();
        self.write(&buffer.bytes)?;
        let mut answer = Vec::new();
        loop {
            self.read(&mut answer)?;
            for m in Messages(&answer) {
                if m.kind == libc::NLMSG_DONE as u16 {
                    return Ok(());
                }
                match m.error() {
                    Some(errno) => {
                        if let Some(e) = refusal(&buffer, m.sequence, errno) {
                            return Err(e);
                        }
                        return Ok(());
                    }
                    None => each(m.kind, m.body),
                }
            }
        }
    }
}

fn refusal(buffer: &Buffer, sequence: u32, errno: i32) -> Option<NetlinkError> {
    if errno == 0 {
        return None;
    }
    let index = buffer.what.binary_search_by_key(&sequence, |(s, _)| *s).ok();
    let what = index.map_or_else(|| "carry out a netlink request".to_owned(), |i| buffer.what[i].1.clone());
    Some(NetlinkError::Refused { what, source: io::Error::from_raw_os_error(errno) })
}

/// A received message.
pub struct Message<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Message<'_> {
    /// The error number of an answer (0 for success); `None` if it is no answer.
    fn error(&self) -> Option<i32> {
        if self.kind != libc::NLMSG_ERROR as u16 {
            return None;
        }
        let number = self.body.first_chunk::<4>().map(|b| i32::from_ne_bytes(*b))?;
        Some(-number)
    }
}

struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header = self.0.get(..16)?;
        let length = u32::from_ne_bytes(header[0..4].try_into().ok()?) as usize;
        if length < 16 {
            return None;
        }
        let message = Message {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            sequence: u32::from_ne_bytes(header[8..12].try_into().ok()?),
            body: self.0.get(16..length)?,
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

/// The attributes in `bytes`: kind (without the nesting flags) and value.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*rest.first()?, *rest.get(1)?]));
        let kind = u16::from_ne_bytes([*rest.get(2)?, *rest.get(3)?]) & 0x3fff;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}
