//! gRPC over a unix socket: one method a call, errors in our words.

use crate::runtime::{Error, ImageError};
use hyper_util::rt::TokioIo;
use prost::Message;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

/// Service with sandboxes and containers.
pub const RUNTIME: &str = "/runtime.v1.RuntimeService/";
/// Service with images.
pub const IMAGES: &str = "/runtime.v1.ImageService/";
/// Answers are at most this long; two outputs of 16 MiB fit.
const ANSWER_MAX: usize = 40 << 20;
/// A method that does no work answers within.
const PATIENCE: Duration = Duration::from_secs(120);

/// The connection. It is made anew when it broke.
#[derive(Clone)]
pub struct Peer {
    channel: Channel,
    socket: PathBuf,
}

impl Peer {
    /// Takes a socket; the first call connects.
    pub fn new(socket: &Path) -> Result<Self, Error> {
        let place = socket.to_owned();
        let connect = tower::service_fn(move |_: Uri| {
            let place = place.clone();
            async move { tokio::net::UnixStream::connect(place).await.map(TokioIo::new) }
        });
        // The address is never resolved, but a request has to have one.
        let endpoint = Endpoint::from_static("http://localhost");
        Ok(Self { channel: endpoint.connect_with_connector_lazy(connect), socket: socket.to_owned() })
    }

    fn grpc(&self) -> Grpc<Channel> {
        Grpc::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX)
    }

    async fn ready(&self, grpc: &mut Grpc<Channel>) -> Result<(), Status> {
        grpc.ready().await.map_err(|e| Status::unavailable(chain(&e)))
    }

    /// Calls a method that answers soon.
    pub async fn call<A, B>(&self, service: &str, method: &str, request: A) -> Result<B, Status>
    where
        A: Message + 'static,
        B: Message + Default + 'static,
    {
        self.call_within(service, method, request, Some(PATIENCE)).await
    }

    /// Calls a method that may take long.
    pub async fn call_within<A, B>(
        &self,
        service: &str,
        method: &str,
        request: A,
        limit: Option<Duration>,
    ) -> Result<B, Status>
    where
        A: Message + 'static,
        B: Message + Default + 'static,
    {
        self.request_within(service, method, Request::new(request), limit).await
    }

    /// Calls a method with headers.
    pub async fn request_within<A, B>(
        &self,
        service: &str,
        method: &str,
        request: Request<A>,
        limit: Option<Duration>,
    ) -> Result<B, Status>
    where
        A: Message + 'static,
        B: Message + Default + 'static,
    {
        let path = path(service, method)?;
        let mut grpc = self.grpc();
        let work = async {
            self.ready(&mut grpc).await?;
            grpc.unary(request, path, ProstCodec::<A, B>::default()).await
        };
        let answer = match limit {
            Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
                Err(Status::deadline_exceeded(format!("{method} was not answered within {limit:?}")))
            }),
            None => work.await,
        };
        answer.map(tonic::Response::into_inner).map_err(|s| self.located(s))
    }

    /// Calls a method that answers with a stream.
    pub async fn stream<A, B>(
        &self,
        service: &str,
        method: &str,
        request: Request<A>,
    ) -> Result<tonic::Streaming<B>, Status>
    where
        A: Message + 'static,
        B: Message + Default + 'static,
    {
        let path = path(service, method)?;
        let mut grpc = self.grpc();
        self.ready(&mut grpc).await?;
        let answer = grpc.server_streaming(request, path, ProstCodec::<A, B>::default()).await;
        answer.map(tonic::Response::into_inner)
    }

    fn located(&self, status: Status) -> Status {
        if status.code() != Code::Unavailable {
            return status;
        }
        Status::unavailable(format!("{}: {}", self.socket.display(), chain(&status)))
    }
}

fn path(service: &str, method: &str) -> Result<PathAndQuery, Status> {
    format!("{service}{method}").parse().map_err(|_| Status::internal("the method has no path"))
}

/// An error with its causes; those that repeat what was said are left out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}

/// What went wrong with a sandbox or container.
pub fn failed(kind: &'static str, id: &str) -> impl FnOnce(Status) -> Error {
    let id = id.to_owned();
    move |status| match status.code() {
        Code::NotFound => Error::not_found(kind, &id),
        Code::Unimplemented => Error::Unsupported(status.message().to_owned()),
        Code::Unavailable => Error::Unavailable(status.message().to_owned()),
        Code::InvalidArgument => Error::Invalid(status.message().to_owned()),
        Code::FailedPrecondition => Error::State(status.message().to_owned()),
        _ => Error::Failed(status.message().to_owned()),
    }
}

/// What went wrong with an image. CRI has codes for few causes, so that texts of the known runtimes are looked at.
pub fn image_failed(reference: &str) -> impl FnOnce(Status) -> Error {
    let reference = reference.to_owned();
    move |status| {
        let reason = status.message().to_owned();
        let says = |words: &[&str]| words.iter().any(|w| reason.contains(w));
        match status.code() {
            Code::Unavailable => return Error::Unavailable(reason),
            Code::NotFound => return ImageError::NotFound { reference, reason }.into(),
            _ => {}
        }
        let registry = || reference.split('/').next().unwrap_or_default().to_owned();
        if says(&["RegistryUnavailable", "connection refused", "no such host", "i/o timeout"]) {
            ImageError::RegistryUnavailable { registry: registry(), reason }.into()
        } else if says(&["401 Unauthorized", "403 Forbidden", "authorization failed", "pull access denied"]) {
            ImageError::Unauthorized { reference, reason }.into()
        } else if says(&["not found", "manifest unknown"]) {
            ImageError::NotFound { reference, reason }.into()
        } else if says(&["failed to parse image", "invalid reference format"]) {
            ImageError::InvalidName { reference, reason }.into()
        } else {
            ImageError::Other { reference, reason }.into()
        }
    }
}
