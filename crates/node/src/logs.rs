//! Container logs: selects lines of the CRI log file, and follows it as it grows.

use std::collections::VecDeque;
use std::io::SeekFrom;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::Timestamp;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use oci::runtime::{ContainerState, ContainerStatus};
use serve::{Body, streamed};
use tokio::fs::File;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, AsyncSeekExt, BufReader};
use tokio::sync::mpsc;

use crate::kubelet::Kubelet;
use crate::observe;
use crate::server::{Query, text};

/// Chunks that wait for a slow reader.
const QUEUE: usize = 16;
/// Bytes gathered into one chunk.
const CHUNK: usize = 32 << 10;

/// What a reader wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Want {
    follow: bool,
    previous: bool,
    timestamps: bool,
    tail: Option<usize>,
    since: Option<Timestamp>,
    limit: Option<u64>,
    stream: Option<String>,
}

fn want(query: &Query, now: Timestamp) -> Result<Want, String> {
    let number = |name: &str| -> Result<Option<i64>, String> {
        let value = query.get(name).filter(|v| !v.is_empty());
        value.map(|v| v.parse().map_err(|_| format!("{name} {v:?} is no number"))).transpose()
    };
    let time = query.get("sinceTime").filter(|v| !v.is_empty());
    let time =
        time.map(|t| t.parse::<Timestamp>().map_err(|e| format!("sinceTime {t:?}: {e}"))).transpose()?;
    let seconds = number("sinceSeconds")?;
    let since = seconds.and_then(|s| now.checked_sub(jiff::SignedDuration::from_secs(s)).ok());
    Ok(Want {
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        timestamps: query.flag("timestamps"),
        tail: number("tailLines")?.filter(|n| *n >= 0).and_then(|n| usize::try_from(n).ok()),
        since: since.or(time),
        limit: number("limitBytes")?.and_then(|n| u64::try_from(n).ok()),
        stream: query.get("stream").filter(|s| *s != "All" && !s.is_empty()).map(str::to_lowercase),
    })
}

/// Answers a request for logs.
pub async fn answer(
    k: &Arc<Kubelet>,
    (namespace, pod, container): (&str, &str, &str),
    query: &Query,
) -> Response<Body> {
    let want = match want(query, Timestamp::now()) {
        Ok(want) => want,
        Err(e) => return text(StatusCode::BAD_REQUEST, e),
    };
    let Some(handle) = k.handle_of(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, format!("pod \"{pod}\" does not exist"));
    };
    let known = handle.pod.lock().clone();
    let exists = known.spec.as_ref().and_then(|s| pods::spec::find(s, container)).is_some();
    if !exists {
        return text(StatusCode::NOT_FOUND, format!("container \"{container}\" not found in pod \"{pod}\""));
    }
    let uid = known.metadata.uid.clone().unwrap_or_default();
    let found = k.runtime.list_containers(observe::of_pod(&uid)).await.unwrap_or_default();
    let mut attempts: Vec<ContainerStatus> = found.into_iter().filter(|c| c.name == container).collect();
    attempts.sort_by_key(|c| std::cmp::Reverse(c.attempt));
    let chosen = attempts.into_iter().nth(usize::from(want.previous));
    let Some(chosen) = chosen.filter(|c| c.started_at != 0 || c.state != ContainerState::Created) else {
        let why = if want.previous {
            format!("previous terminated container \"{container}\" in pod \"{pod}\" not found")
        } else {
            format!(
                "container \"{container}\" in pod \"{pod}\" is waiting to start: {}",
                waiting(&handle, container)
            )
        };
        return text(StatusCode::BAD_REQUEST, why);
    };
    let (sender, receiver) = mpsc::channel(QUEUE);
    let runtime = k.runtime.clone();
    let id = chosen.id.clone();
    let job = async move {
        let running = || async {
            runtime.container_status(&id).await.is_ok_and(|c| c.state == ContainerState::Running)
        };
        let mut out = Out { sender, chunk: Vec::new(), left: want.limit };
        if let Err(error) = copy(&chosen.log_path, &want, &mut out, running).await {
            tracing::debug!(%error, path = %chosen.log_path.display(), "a log was not read to its end");
        }
        out.flush().await;
    };
    tokio::spawn(job);
    let chunks =
        futures_util::stream::unfold(receiver, |mut r| async move { Some((Ok(r.recv().await?), r)) });
    let mut response = Response::new(streamed(chunks));
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    response
}

fn waiting(handle: &crate::kubelet::Handle, container: &str) -> String {
    let status = handle.status.lock();
    let lists = status.iter().flat_map(|s| {
        s.init_container_statuses
            .iter()
            .chain(&s.container_statuses)
            .chain(&s.ephemeral_container_statuses)
            .flatten()
    });
    let found =
        lists.into_iter().find(|s| s.name == container).and_then(|s| s.state.as_ref()?.waiting.as_ref());
    found.and_then(|w| w.reason.clone()).unwrap_or_else(|| "ContainerCreating".into())
}

/// Gathers lines into chunks; gives up when the reader is gone or has enough.
struct Out {
    sender: mpsc::Sender<Bytes>,
    chunk: Vec<u8>,
    left: Option<u64>,
}

impl Out {
    /// `false` when no more is wanted.
    async fn put(&mut self, bytes: &[u8]) -> bool {
        let mut bytes = bytes;
        if let Some(left) = &mut self.left {
            let n = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
            bytes = &bytes[..n];
            *left -= n as u64;
        }
        self.chunk.extend_from_slice(bytes);
        let more = self.left != Some(0);
        if self.chunk.len() >= CHUNK || !more { self.flush().await && more } else { true }
    }

    async fn flush(&mut self) -> bool {
        if self.chunk.is_empty() {
            return !self.sender.is_closed();
        }
        self.sender.send(std::mem::take(&mut self.chunk).into()).await.is_ok()
    }
}

/// One line of a CRI log: `time stream tag text`.
fn split(line: &[u8]) -> Option<[&[u8]; 4]> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    Some([parts.next()?, parts.next()?, parts.next()?, parts.next()?])
}

/// What a line gives the reader; empty when it is not wanted.
fn select(line: &[u8], want: &Want) -> Vec<u8> {
    let Some([time, stream, tag, text]) = split(line) else { return Vec::new() };
    if want.stream.as_deref().is_some_and(|s| s.as_bytes() != stream) {
        return Vec::new();
    }
    if let Some(since) = want.since {
        let stamp = std::str::from_utf8(time).ok().and_then(|t| t.parse::<Timestamp>().ok());
        if stamp.is_some_and(|s| s < since) {
            return Vec::new();
        }
    }
    let mut out = Vec::with_capacity(line.len());
    if want.timestamps {
        out.extend_from_slice(time);
        out.push(b' ');
    }
    out.extend_from_slice(text);
    if tag.starts_with(b"F") && !out.ends_with(b"\n") {
        out.push(b'\n');
    } else if tag.starts_with(b"P") && out.ends_with(b"\n") {
        out.pop();
    }
    out
}

async fn copy<F, R>(path: &Path, want: &Want, out: &mut Out, running: F) -> std::io::Result<()>
where
    F: Fn() -> R,
    R: Future<Output = bool>,
{
    let watch = if want.follow { Some(Watch::new(path)?) } else { None };
    let mut reader = BufReader::new(File::open(path).await?);
    if let Some(n) = want.tail {
        let start = tail_offset(&mut reader, n).await?;
        reader.seek(SeekFrom::Start(start)).await?;
    }
    let mut line = Vec::new();
    let mut last_look = false;
    loop {
        let n = reader.read_until(b'\n', &mut line).await?;
        if line.ends_with(b"\n") {
            let whole = std::mem::take(&mut line);
            if !out.put(&select(&whole, want)).await {
                return Ok(());
            }
            continue;
        }
        if n > 0 {
            continue;
        }
        let Some(watch) = &watch else { return Ok(()) };
        if !out.flush().await || last_look {
            return Ok(());
        }
        if !running().await {
            // Whatever was written before the end is read once more.
            last_look = true;
            continue;
        }
        tokio::select! {
            changed = watch.changed() => changed?,
            () = out.sender.closed() => return Ok(()),
            // An exit writes nothing: look whether it still runs.
            () = tokio::time::sleep(std::time::Duration::from_millis(500)) => {}
        }
        if watch.rotated() {
            reader = BufReader::new(File::open(path).await?);
        }
    }
}

/// Where the last `n` lines begin.
async fn tail_offset(reader: &mut BufReader<File>, n: usize) -> std::io::Result<u64> {
    let mut starts = VecDeque::with_capacity(n.min(1024) + 1);
    let mut offset = 0u64;
    let mut line = Vec::new();
    let mut fresh = true;
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).await?;
        if read == 0 {
            break;
        }
        // Parts of one line count as one.
        if fresh {
            starts.push_back(offset);
        }
        fresh = split(&line).is_none_or(|[_, _, tag, _]| tag.starts_with(b"F"));
        offset += read as u64;
        if starts.len() > n {
            starts.pop_front();
        }
    }
    Ok(if n == 0 { offset } else { starts.front().copied().unwrap_or(offset) })
}

/// Tells when a file grows or is exchanged.
struct Watch {
    fd: AsyncFd<Descriptor>,
    path: PathBuf,
    inode: AtomicU64,
}

/// What the reactor needs to know an inotify instance by.
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Watch {
    fn new(path: &Path) -> std::io::Result<Watch> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        inotify.add_watch(path, AddWatchFlags::IN_MODIFY)?;
        if let Some(parent) = path.parent() {
            inotify.add_watch(parent, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)?;
        }
        let inode = AtomicU64::new(inode(path));
        let inotify = Descriptor(inotify);
        // SAFETY: `Descriptor` owns its file descriptor and names the same one for as long as it lives.
        let fd = unsafe { AsyncFd::register(inotify) }.map_err(std::io::Error::other)?;
        Ok(Watch { fd, path: path.into(), inode })
    }

    async fn changed(&self) -> std::io::Result<()> {
        let mut guard = self.fd.readable().await?;
        while self.fd.get_ref().0.read_events().is_ok_and(|e| !e.is_empty()) {}
        guard.clear_ready();
        Ok(())
    }

    /// Whether another file has taken the name since the last call.
    fn rotated(&self) -> bool {
        let now = inode(&self.path);
        let other = now != 0 && now != self.inode.load(Ordering::Relaxed);
        if other {
            self.inode.store(now, Ordering::Relaxed);
            let _ = self.fd.get_ref().0.add_watch(&self.path, AddWatchFlags::IN_MODIFY);
        }
        other
    }
}

fn inode(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).map_or(0, |m| m.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &str, want: Want) -> String {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("0.log");
        std::fs::write(&path, text).expect("write");
        let (sender, mut receiver) = mpsc::channel(QUEUE);
        let mut out = Out { sender, chunk: Vec::new(), left: want.limit };
        copy(&path, &want, &mut out, || async { false }).await.expect("copy");
        out.flush().await;
        drop(out);
        let mut all = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            all.extend_from_slice(&chunk);
        }
        String::from_utf8(all).expect("text")
    }

    const LOG: &str = "2026-01-01T00:00:00.000000001Z stdout F one\n2026-01-01T00:00:01Z stderr P tw\n2026-01-01T00:00:01Z stderr F o\n2026-01-01T00:00:02Z stdout F three\n";

    #[tokio::test]
    async fn selects_lines() {
        let base = Want::default();
        let table = [
            (base.clone(), "one\ntwo\nthree\n"),
            (Want { tail: Some(2), ..base.clone() }, "two\nthree\n"),
            (Want { tail: Some(0), ..base.clone() }, ""),
            (Want { since: "2026-01-01T00:00:02Z".parse().ok(), ..base.clone() }, "three\n"),
            (Want { limit: Some(5), ..base.clone() }, "one\nt"),
            (Want { stream: Some("stdout".into()), ..base.clone() }, "one\nthree\n"),
            (Want { timestamps: true, tail: Some(1), ..base.clone() }, "2026-01-01T00:00:02Z three\n"),
            (Want { follow: true, ..base }, "one\ntwo\nthree\n"),
        ];
        for (want, expected) in table {
            assert_eq!(read(LOG, want.clone()).await, expected, "{want:?}");
        }
    }
}
