//! Streams of exec, attach and port-forward: pipes and terminals handed over, then read and written here.

use super::wire::{Call, odd};
use crate::proto::{Layout, Reply, Request};
use crate::runtime::{Duplex, Error, ExecResult, Stream, StreamOptions, TerminalSize};
use crate::state::SandboxStatus;
use crate::sys;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

/// Most that `exec_sync` keeps of each output.
const OUTPUT_BYTES_MAX: u64 = 16 << 20;
/// How long output may go on after the command ended, for processes it left behind.
const LINGER: Duration = Duration::from_millis(200);

fn failed(what: &str) -> impl Fn(io::Error) -> Error + '_ {
    move |e| Error::Failed(format!("{what}: {e}"))
}

fn make_pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    let made = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC);
    made.map_err(|e| Error::Failed(format!("make pipe: {e}")))
}

fn null() -> Result<OwnedFd, Error> {
    let file = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
    Ok(file.map_err(failed("open /dev/null"))?.into())
}

fn reader(fd: OwnedFd) -> Result<pipe::Receiver, Error> {
    pipe::Receiver::from_owned_fd(fd).map_err(failed("read pipe"))
}

fn writer(fd: OwnedFd) -> Result<pipe::Sender, Error> {
    pipe::Sender::from_owned_fd(fd).map_err(failed("write pipe"))
}

pub async fn exec_sync(
    layout: &Layout,
    id: &str,
    args: Vec<String>,
    seconds: u32,
) -> Result<ExecResult, Error> {
    let (out, their_out) = make_pipe()?;
    let (err, their_err) = make_pipe()?;
    let request = Request::Exec { id: id.into(), args, tty: false, size: None, timeout_seconds: seconds };
    let mut call = Call::new(layout, &request, &[&null()?, &their_out, &their_err]).await?;
    drop((their_out, their_err));
    let (mut out, mut err) = (keep(reader(out)?), keep(reader(err)?));
    // Both outputs are read while the command runs, and a little longer.
    let code = match call.reply().await {
        Ok(Reply::Exit { code }) => code,
        Ok(other) => return Err(odd(&other)),
        Err(e) => return Err(e),
    };
    Ok(ExecResult { stdout: out.finish().await, stderr: err.finish().await, exit_code: code })
}

/// An output that is being read in the background.
struct Kept {
    task: tokio::task::JoinHandle<()>,
    bytes: Arc<std::sync::Mutex<Vec<u8>>>,
}

fn keep(mut from: pipe::Receiver) -> Kept {
    let bytes = Arc::new(std::sync::Mutex::new(vec![]));
    let into = bytes.clone();
    let task = tokio::spawn(async move {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(n) = from.read(&mut buffer).await
            && n > 0
        {
            let mut into = into.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let room = (OUTPUT_BYTES_MAX as usize).saturating_sub(into.len());
            into.extend_from_slice(&buffer[..n.min(room)]);
        }
    });
    Kept { task, bytes }
}

impl Kept {
    async fn finish(&mut self) -> Vec<u8> {
        // What a process left behind writes later is not waited for.
        let _ = tokio::time::timeout(LINGER, &mut self.task).await;
        std::mem::take(&mut self.bytes.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub async fn exec(
    layout: &Layout,
    id: &str,
    args: Vec<String>,
    want: StreamOptions,
) -> Result<Stream, Error> {
    let request = Request::Exec { id: id.into(), args, tty: want.tty, size: want.size, timeout_seconds: 0 };
    if want.tty {
        return exec_terminal(layout, &request, &want).await;
    }
    let (their_in, stdin) =
        if want.stdin { make_pipe().map(|(r, w)| (r, Some(w)))? } else { (null()?, None) };
    let (stdout, their_out) =
        if want.stdout { make_pipe().map(|(r, w)| (Some(r), w))? } else { (None, null()?) };
    let (stderr, their_err) =
        if want.stderr { make_pipe().map(|(r, w)| (Some(r), w))? } else { (None, null()?) };
    let call = Call::new(layout, &request, &[&their_in, &their_out, &their_err]).await?;
    let boxed = |fd: OwnedFd| reader(fd).map(|r| Box::new(r) as Box<dyn AsyncRead + Send + Unpin>);
    Ok(Stream {
        stdin: stdin.map(|fd| writer(fd).map(|w| Box::new(w) as _)).transpose()?,
        stdout: stdout.map(boxed).transpose()?,
        stderr: stderr.map(boxed).transpose()?,
        resize: None,
        exit: Box::pin(exit_code(call)),
    })
}

async fn exit_code(mut call: Call) -> Result<i32, Error> {
    match call.reply().await? {
        Reply::Exit { code } => Ok(code),
        other => Err(odd(&other)),
    }
}

async fn exec_terminal(layout: &Layout, request: &Request, want: &StreamOptions) -> Result<Stream, Error> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)
        .map_err(|e| Error::Failed(format!("make socket: {e}")))?;
    let mut call = Call::new(layout, request, &[&theirs]).await?;
    drop(theirs);
    // SAFETY: the descriptor is owned by what is registered and stays open as long as it.
    let ours =
        unsafe { AsyncFd::register(ours) }.map_err(|e| failed("wait for terminal")(e.into_parts().1))?;
    let mut fds = vec![];
    let came =
        ours.async_io(Interest::READABLE, |fd| sys::receive_with_fds(fd.as_fd(), &mut [0; 1], &mut fds));
    came.await.map_err(failed("receive terminal"))?;
    let Some(master) = fds.pop() else {
        // The command could not be started; the answer says why.
        return match call.reply().await? {
            Reply::Exit { code } => {
                Err(Error::Failed(format!("command ended with {code} before its terminal came")))
            }
            other => Err(odd(&other)),
        };
    };
    let terminal = Terminal::new(master)?;
    Ok(Stream {
        stdin: want.stdin.then(|| Box::new(terminal.clone()) as _),
        stdout: Some(Box::new(terminal.clone())),
        stderr: None,
        resize: Some(terminal.resizer()),
        exit: Box::pin(exit_code(call)),
    })
}

pub async fn attach(layout: &Layout, id: &str, want: StreamOptions) -> Result<Stream, Error> {
    let (stdout, their_out) = make_pipe()?;
    let (stderr, their_err) = make_pipe()?;
    let (out, err) = (want.stdout, want.stderr && !want.tty);
    let request = Request::Attach { id: id.into(), stdin: want.stdin, stdout: out, stderr: err };
    let mut call = Call::new(layout, &request, &[&their_out, &their_err]).await?;
    drop((their_out, their_err));
    let (input, tty) = match call.reply().await? {
        Reply::Attached { input, tty } => (input, tty),
        other => return Err(odd(&other)),
    };
    let input = if input { call.fds.pop() } else { None };
    let (mut stdin, mut resize) = (None, None);
    if let Some(fd) = input {
        if tty {
            let terminal = Terminal::new(fd)?;
            resize = Some(terminal.resizer());
            if let Some(size) = want.size {
                terminal.size(size);
            }
            stdin = want.stdin.then(|| Box::new(terminal) as _);
        } else {
            stdin = Some(Box::new(fifo_writer(fd)?) as _);
        }
    }
    Ok(Stream {
        stdin,
        stdout: if out { Some(Box::new(reader(stdout)?)) } else { None },
        stderr: if err && !tty { Some(Box::new(reader(stderr)?)) } else { None },
        resize,
        exit: Box::pin(exit_code(call)),
    })
}

/// The supervisor's end is open both ways, which a plain pipe sender refuses.
fn fifo_writer(fd: OwnedFd) -> Result<Terminal, Error> {
    Terminal::new(fd)
}

/// One descriptor that is read and written: a terminal's other end.
#[derive(Clone)]
struct Terminal {
    fd: Arc<AsyncFd<OwnedFd>>,
}

impl Terminal {
    fn new(fd: OwnedFd) -> Result<Self, Error> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
            .map_err(|e| Error::Failed(format!("prepare stream: {e}")))?;
        // SAFETY: the descriptor is owned by what is registered and stays open as long as it.
        let registered =
            unsafe { AsyncFd::register(fd) }.map_err(|e| failed("watch stream")(e.into_parts().1))?;
        Ok(Self { fd: Arc::new(registered) })
    }

    fn size(&self, size: TerminalSize) {
        // A terminal whose process ended takes no size.
        let _ = sys::set_terminal_size(self.fd.as_fd(), size.width, size.height);
    }

    fn resizer(&self) -> mpsc::Sender<TerminalSize> {
        let (to, mut from) = mpsc::channel(8);
        let this = self.clone();
        tokio::spawn(async move {
            while let Some(size) = from.recv().await {
                this.size(size);
            }
        });
        to
    }
}

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            let free = buf.initialize_unfilled();
            match guard.try_io(|fd| nix::unistd::read(fd.get_ref(), free).map_err(io::Error::from)) {
                Ok(Ok(n)) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                // A terminal says this once nothing has it open any more: the end.
                Ok(Err(e)) if e.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(e)) => return Poll::Ready(Err(e)),
                Err(_) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(cx))?;
            let write = |fd: &AsyncFd<OwnedFd>| Ok(nix::unistd::write(fd.get_ref(), bytes)?);
            if let Ok(result) = guard.try_io(write) {
                return Poll::Ready(result);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Connects inside a sandbox.
pub async fn port_forward(sandbox: SandboxStatus, port: u16) -> Result<Box<dyn Duplex>, Error> {
    let host = sandbox.namespaces.network == crate::config::NamespaceMode::Host;
    let connect = move || {
        let limit = Duration::from_secs(5);
        let four = std::net::TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), limit);
        four.or_else(|e| {
            let six =
                std::net::TcpStream::connect_timeout(&(std::net::Ipv6Addr::LOCALHOST, port).into(), limit);
            six.map_err(|_| e)
        })
    };
    let netns = match sandbox.netns {
        None if !host => return Err(Error::State(format!("sandbox {:?} is not ready", sandbox.id))),
        netns => netns,
    };
    let work = move || match netns {
        Some(path) => inside(path, connect),
        None => connect(),
    };
    let done = tokio::task::spawn_blocking(work).await;
    let stream = done.map_err(|e| Error::Failed(format!("connect: {e}")))?;
    let stream =
        stream.map_err(|e| Error::Failed(format!("connect to localhost:{port} in the sandbox: {e}")))?;
    stream.set_nonblocking(true).map_err(failed("connect"))?;
    Ok(Box::new(tokio::net::TcpStream::from_std(stream).map_err(failed("connect"))?))
}

/// Runs `work` in a network namespace, on a thread of its own that ends with it.
pub fn inside<T: Send + 'static>(
    netns: PathBuf,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let thread = std::thread::Builder::new().name("in-netns".into()).spawn(move || {
        let file = std::fs::File::open(&netns)?;
        sys::setns(file.as_fd(), libc::CLONE_NEWNET)?;
        work()
    })?;
    thread.join().map_err(|_| io::Error::other("thread in network namespace panicked"))?
}
