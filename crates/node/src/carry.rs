//! What travels between a client of exec or attach and a process, whatever the transport.

use bytes::Bytes;
use oci::runtime::{Error, Stream, TerminalSize};
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

/// Messages that wait on either side.
pub(crate) const QUEUE: usize = 32;
/// Bytes read from a process at once.
pub(crate) const BUFFER: usize = 32 << 10;

pub(crate) const STDIN: u8 = 0;
pub(crate) const STDOUT: u8 = 1;
pub(crate) const STDERR: u8 = 2;
pub(crate) const STATUS: u8 = 3;
pub(crate) const RESIZE: u8 = 4;

/// From the client.
pub(crate) enum In {
    Data(u8, Bytes),
    Close(u8),
}

/// To the client.
pub(crate) struct Out(pub(crate) u8, pub(crate) Bytes);

/// Both directions.
pub(crate) struct Mux {
    pub(crate) incoming: mpsc::Receiver<In>,
    pub(crate) outgoing: mpsc::Sender<Out>,
}

/// Carries a process's streams until it ends or the client goes. With `detaches`, a client that has ended its input
/// is let go while the process lives on.
pub(crate) async fn remote(stream: Result<Stream, Error>, mux: Mux, detaches: bool) {
    let Mux { mut incoming, outgoing } = mux;
    let stream = match stream {
        Ok(stream) => stream,
        Err(error) => {
            let _ = outgoing.send(Out(STATUS, failure(&error.to_string()))).await;
            return;
        }
    };
    let Stream { mut stdin, stdout, stderr, resize, exit } = stream;
    let feed = async move {
        while let Some(message) = incoming.recv().await {
            match message {
                In::Data(STDIN, data) => {
                    if let Some(pipe) = &mut stdin
                        && (pipe.write_all(&data).await.is_err() || pipe.flush().await.is_err())
                    {
                        stdin = None;
                    }
                }
                In::Close(STDIN) if detaches => return true,
                In::Close(STDIN) => stdin = None,
                In::Data(RESIZE, data) => {
                    if let (Some(resize), Ok(size)) = (&resize, serde_json::from_slice::<Size>(&data)) {
                        let _ = resize.send(TerminalSize { width: size.width, height: size.height }).await;
                    }
                }
                In::Data(..) | In::Close(_) => {}
            }
        }
        false
    };
    let drain = async {
        tokio::join!(pump(stdout, STDOUT, &outgoing), pump(stderr, STDERR, &outgoing));
    };
    let work = async {
        let (code, ()) = tokio::join!(exit, drain);
        match code {
            Ok(0) => success(),
            Ok(code) => exited(code),
            Err(error) => failure(&error.to_string()),
        }
    };
    tokio::pin!(feed, work);
    let status = tokio::select! {
        status = &mut work => status,
        // A client that is gone, not merely done: dropping the work ends the command.
        done = &mut feed => match done {
            true => success(),
            false => return,
        },
    };
    let _ = outgoing.send(Out(STATUS, status)).await;
}

#[derive(Deserialize)]
struct Size {
    #[serde(rename = "Width", alias = "width")]
    width: u16,
    #[serde(rename = "Height", alias = "height")]
    height: u16,
}

async fn pump(from: Option<Box<dyn AsyncRead + Send + Unpin>>, channel: u8, to: &mpsc::Sender<Out>) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; BUFFER];
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0 || to.send(Out(channel, Bytes::copy_from_slice(&buffer[..n]))).await.is_err() {
            return;
        }
    }
}

pub(crate) fn success() -> Bytes {
    json!({ "metadata": {}, "status": "Success" }).to_string().into()
}

fn exited(code: i32) -> Bytes {
    let message = format!("command terminated with non-zero exit code: exit status {code}");
    json!({
        "metadata": {}, "status": "Failure", "message": message, "reason": "NonZeroExitCode",
        "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
    })
    .to_string()
    .into()
}

fn failure(why: &str) -> Bytes {
    let message = format!("error executing command in container: {why}");
    json!({ "metadata": {}, "status": "Failure", "message": message, "reason": "InternalError", "code": 500 })
        .to_string()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that never ends by itself and tells its input back.
    fn endless() -> Stream {
        let (ours, theirs) = tokio::io::duplex(1024);
        Stream {
            stdin: Some(Box::new(ours)),
            stdout: Some(Box::new(theirs)),
            stderr: None,
            resize: None,
            exit: Box::pin(std::future::pending()),
        }
    }

    /// What the client gets until the end, and whether it was let go.
    async fn client(detaches: bool, sent: Vec<In>, goes: bool) -> Vec<(u8, String)> {
        let (to, incoming) = mpsc::channel(QUEUE);
        let (outgoing, mut from) = mpsc::channel(QUEUE);
        let work = tokio::spawn(remote(Ok(endless()), Mux { incoming, outgoing }, detaches));
        let mut got = Vec::new();
        let mut sent = sent.into_iter();
        to.send(sent.next().unwrap()).await.ok();
        let Out(channel, data) = from.recv().await.unwrap();
        got.push((channel, String::from_utf8(data.to_vec()).unwrap()));
        for message in sent {
            to.send(message).await.ok();
        }
        if goes {
            drop(to);
        }
        while let Some(Out(channel, data)) = from.recv().await {
            got.push((channel, String::from_utf8(data.to_vec()).unwrap()));
        }
        work.await.unwrap();
        got
    }

    #[tokio::test]
    async fn a_client_that_has_said_all_is_let_go() {
        let hello = || In::Data(STDIN, Bytes::from_static(b"hello"));
        let (echo, end) = ((STDOUT, "hello".to_owned()), String::from_utf8(success().to_vec()).unwrap());
        let got = client(true, vec![hello(), In::Close(STDIN)], false).await;
        assert_eq!(got, [echo.clone(), (STATUS, end)]);
        // Input of its own is closed instead, and the client that leaves gets no status.
        let got = client(false, vec![hello(), In::Close(STDIN)], true).await;
        assert_eq!(got[0], echo);
        assert!(got.iter().all(|(channel, _)| *channel != STATUS), "{got:?}");
    }
}
