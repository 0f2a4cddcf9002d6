//! What containers write and read: named pipes or a terminal between them and the supervisor.

use super::child::Stdio;
use super::log::{Log, Output};
use super::{Source, Supervisor, failed};
use crate::proto::Spec;
use crate::runtime::Error;
use crate::sys;
use nix::fcntl::OFlag;
use nix::sys::epoll::EpollFlags;
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

impl Supervisor {
    /// Named pipes for the streams, owned by the node's user `owner`, or a socket that the terminal will come over.
    pub(super) fn make_streams(&mut self, id: &str, spec: &Spec, owner: u32) -> Result<Stdio, Error> {
        let mut stdio = Stdio { streams: [None, None, None], console: None, size: None };
        if spec.tty {
            use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
            let (kind, flags) = (SockType::Stream, SockFlag::SOCK_CLOEXEC);
            let (ours, theirs) =
                socketpair(AddressFamily::Unix, kind, None, flags).map_err(failed("make socket"))?;
            let token = self.watch(&ours, Source::Console(id.to_owned()), EpollFlags::EPOLLIN)?;
            self.find(id)?.console = Some((ours, token));
            stdio.console = Some(theirs);
        } else {
            let owner = nix::unistd::Uid::from_raw(owner);
            let dir = self.layout.container(id);
            for name in ["stdin", "stdout", "stderr"] {
                let path = dir.join(name);
                nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600))
                    .map_err(failed("make named pipe"))?;
                nix::unistd::chown(&path, Some(owner), None).map_err(failed("own named pipe"))?;
            }
            self.open_outputs(id, spec.stdin)?;
            // Both ends in the container: it outlives the supervisor without a broken pipe.
            stdio.streams = [
                if spec.stdin { Some(open_fifo(&dir.join("stdin"), OFlag::O_RDONLY)?) } else { None },
                Some(open_fifo(&dir.join("stdout"), OFlag::O_RDWR)?),
                Some(open_fifo(&dir.join("stderr"), OFlag::O_RDWR)?),
            ];
        }
        let path = self.find(id)?.status.log_path.clone();
        self.find(id)?.log = Log::open(path);
        Ok(stdio)
    }

    pub(super) fn open_outputs(&mut self, id: &str, stdin: bool) -> Result<(), Error> {
        let dir = self.layout.container(id);
        for (name, output) in [("stdout", Output::Stdout), ("stderr", Output::Stderr)] {
            let fd = open_fifo(&dir.join(name), OFlag::O_RDWR | OFlag::O_NONBLOCK)?;
            let token = self.watch(&fd, Source::Output(id.to_owned(), output), EpollFlags::EPOLLIN)?;
            self.find(id)?.outputs[output as usize] = Some((fd, token));
        }
        if stdin {
            self.find(id)?.stdin = Some(open_fifo(&dir.join("stdin"), OFlag::O_RDWR | OFlag::O_NONBLOCK)?);
        }
        Ok(())
    }

    /// Something was written.
    pub(super) fn on_output(&mut self, id: &str, output: Output) {
        let mut buffer = [0; 32 << 10];
        // Bounded, so that one chatty container does not starve the others.
        for _ in 0..8 {
            let Some(c) = self.containers.get_mut(id) else { return };
            let Some((fd, token)) = &c.outputs[output as usize] else { return };
            match nix::unistd::read(fd, &mut buffer) {
                Ok(n) if n > 0 => {
                    c.log.write(output, &buffer[..n]);
                    self.copy_to_readers(id, output, &buffer[..n]);
                }
                Err(nix::errno::Errno::EAGAIN) => return,
                Err(nix::errno::Errno::EINTR) => {}
                // A terminal says EIO once nothing has it open any more.
                Ok(_) | Err(_) => {
                    let token = *token;
                    if let Some((fd, _)) = c.outputs[output as usize].take() {
                        self.unwatch(token, &fd);
                    }
                    return;
                }
            }
        }
    }

    /// The terminal of a container came.
    pub(super) fn on_console(&mut self, id: &str) {
        let Some((socket, token)) = self.containers.get_mut(id).and_then(|c| c.console.take()) else {
            return;
        };
        let (mut byte, mut fds) = ([0; 1], vec![]);
        // Nothing comes when the child failed before.
        let _ = sys::receive_with_fds(socket.as_fd(), &mut byte, &mut fds);
        self.unwatch(token, &socket);
        let Some(master) = fds.pop() else { return };
        let nonblocking = nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK | OFlag::O_RDWR);
        // A plain terminal takes this flag.
        let _ = nix::fcntl::fcntl(&master, nix::fcntl::FcntlArg::F_GETFL)
            .map(|_| nix::fcntl::fcntl(&master, nonblocking));
        let source = Source::Output(id.to_owned(), Output::Stdout);
        let Ok(token) = self.watch(&master, source, EpollFlags::EPOLLIN) else { return };
        if let Some(c) = self.containers.get_mut(id) {
            c.stdin = master.try_clone().ok();
            c.outputs[0] = Some((master, token));
        }
    }
}

fn open_fifo(path: &Path, flags: OFlag) -> Result<OwnedFd, Error> {
    nix::fcntl::open(path, flags | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|e| Error::Failed(format!("open {}: {e}", path.display())))
}
