//! Exec and attach: the runtime answers with an address, where the streams are had.

use super::{Cri, spdy, wire};
use crate::runtime::{Error, Stream, StreamOptions, TerminalSize};
use crate::state::ContainerState;
use futures_util::future::BoxFuture;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

/// The exit code comes as a Status on the stream for errors from this version on.
const PROTOCOL: &str = "v4.channel.k8s.io";
/// Most bytes of that Status.
const STATUS_MAX: u64 = 64 << 10;
/// How often, and how many times, a container is asked for its end after its streams ended.
const LOOK: Duration = Duration::from_millis(50);
const LOOKS: usize = 40;

/// Starts a command.
pub async fn exec(cri: &Cri, id: &str, cmd: Vec<String>, want: StreamOptions) -> Result<Stream, Error> {
    let request = wire::ExecRequest {
        container_id: id.into(),
        cmd,
        tty: want.tty,
        stdin: want.stdin,
        stdout: want.stdout,
        stderr: want.stderr && !want.tty,
    };
    let told: wire::ExecResponse = cri.ask("Exec", request, "container", id).await?;
    open(&told.url, &want, None).await
}

/// Attaches to the main process.
pub async fn attach(cri: &Cri, id: &str, want: StreamOptions) -> Result<Stream, Error> {
    let request = wire::AttachRequest {
        container_id: id.into(),
        stdin: want.stdin,
        tty: want.tty,
        stdout: want.stdout,
        stderr: want.stderr && !want.tty,
    };
    let told: wire::ExecResponse = cri.ask("Attach", request, "container", id).await?;
    let (cri, id) = (cri.clone(), id.to_owned());
    open(&told.url, &want, Some(Box::pin(async move { exit_of(&cri, &id).await }))).await
}

/// The exit code of a container whose streams ended; 0 while it still runs.
async fn exit_of(cri: &Cri, id: &str) -> Result<i32, Error> {
    for _ in 0..LOOKS {
        let status = cri.status_of(id).await?;
        if status.state == ContainerState::Exited {
            return Ok(status.exit_code);
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(0)
}

async fn open(
    url: &str,
    want: &StreamOptions,
    after: Option<BoxFuture<'static, Result<i32, Error>>>,
) -> Result<Stream, Error> {
    let all = [
        ("error", true, true),
        ("stdin", false, want.stdin),
        ("stdout", true, want.stdout),
        ("stderr", true, want.stderr && !want.tty),
        ("resize", false, want.tty),
    ];
    let wanted: Vec<spdy::Open> = all
        .into_iter()
        .filter(|(_, _, wanted)| *wanted)
        .map(|(kind, incoming, _)| spdy::Open { kind, incoming })
        .collect();
    let session = spdy::connect(url, PROTOCOL, &wanted).await;
    let mut session = session.map_err(|e| Error::Failed(format!("reach the runtime's streams: {e}")))?;
    let error = session.pipes.remove("error");
    let resize = session.pipes.remove("resize").map(|pipe| resizer(pipe, want.size));
    let mut input = |kind| session.pipes.remove(kind);
    let stdin = input("stdin").map(|p| Box::new(p) as Box<dyn AsyncWrite + Send + Unpin>);
    let stdout = input("stdout").map(|p| Box::new(p) as Box<dyn AsyncRead + Send + Unpin>);
    let stderr = input("stderr").map(|p| Box::new(p) as Box<dyn AsyncRead + Send + Unpin>);
    let guard = session.guard;
    let exit = async move {
        let code = exit_code(error).await;
        guard.release();
        match (code?, after) {
            (0, Some(after)) => after.await,
            (code, _) => Ok(code),
        }
    };
    Ok(Stream { stdin, stdout, stderr, resize, exit: Box::pin(exit) })
}

fn resizer(mut pipe: DuplexStream, first: Option<TerminalSize>) -> mpsc::Sender<TerminalSize> {
    let (to, mut from) = mpsc::channel(8);
    if let Some(size) = first {
        let _ = to.try_send(size);
    }
    tokio::spawn(async move {
        while let Some(size) = from.recv().await {
            let TerminalSize { width, height } = size;
            let text = format!("{{\"Width\":{width},\"Height\":{height}}}\n");
            if pipe.write_all(text.as_bytes()).await.is_err() {
                return;
            }
        }
    });
    to
}

/// Reads the stream for errors to its end: a Status, or nothing for success.
async fn exit_code(error: Option<DuplexStream>) -> Result<i32, Error> {
    let mut text = Vec::new();
    if let Some(pipe) = error {
        // A broken connection leaves what came so far, which is then no Status.
        let _ = pipe.take(STATUS_MAX).read_to_end(&mut text).await;
    }
    parse_status(&text)
}

fn parse_status(text: &[u8]) -> Result<i32, Error> {
    if text.is_empty() {
        return Ok(0);
    }
    let Ok(status) = serde_json::from_slice::<serde_json::Value>(text) else {
        return Err(Error::Failed(String::from_utf8_lossy(text).trim().to_owned()));
    };
    if status["status"] == "Success" {
        return Ok(0);
    }
    let causes = status.pointer("/details/causes").and_then(|c| c.as_array());
    let code = causes.into_iter().flatten().find(|c| c["reason"] == "ExitCode");
    match code.and_then(|c| c["message"].as_str()).and_then(|m| m.parse().ok()) {
        Some(code) => Ok(code),
        None => Err(Error::Failed(status["message"].as_str().unwrap_or("the command failed").to_owned())),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn exit_codes() {
        let exit = r#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
        let refused = r#"{"status":"Failure","message":"no such container"}"#;
        let code = |t: &str| super::parse_status(t.as_bytes()).map_err(|e| e.to_string());
        assert_eq!(code(""), Ok(0));
        assert_eq!(code(r#"{"status":"Success"}"#), Ok(0));
        assert_eq!(code(exit), Ok(7));
        assert_eq!(code(refused), Err("no such container".into()));
        assert_eq!(code("broken\n"), Err("broken".into()));
    }
}
