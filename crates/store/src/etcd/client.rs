//! Calls to etcd: one channel over all endpoints, a time limit on everything but the watch.

use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::proto::{WatchRequest, WatchResponse};
use super::{EtcdOptions, unavailable};
use crate::api::StoreError;

const CALL_MAX: Duration = Duration::from_secs(10);
const CONNECT_MAX: Duration = Duration::from_secs(5);
const ALIVE_EVERY: Duration = Duration::from_secs(10);
/// Largest answer that is taken, in bytes.
const ANSWER_MAX: usize = 512 << 20;

#[derive(Debug, Clone)]
pub(super) struct Client {
    channel: Channel,
}

/// The error of a call in the words of the store.
pub(super) fn told(status: &Status) -> StoreError {
    let text = format!("etcd: {} ({:?})", status.message(), status.code());
    match status.code() {
        Code::ResourceExhausted if status.message().contains("space") => StoreError::NoSpace(text),
        _ => StoreError::Unavailable(text),
    }
}

impl Client {
    pub fn new(urls: &[String], options: &EtcdOptions) -> Result<Self, StoreError> {
        if urls.is_empty() {
            return Err(unavailable("no endpoint was named"));
        }
        let endpoints = urls.iter().map(|url| endpoint(url, options)).collect::<Result<Vec<_>, _>>()?;
        let channel = match <[Endpoint; 1]>::try_from(endpoints) {
            Ok([one]) => one.connect_lazy(),
            Err(many) => Channel::balance_list(many.into_iter()),
        };
        Ok(Self { channel })
    }

    fn grpc(&self) -> Grpc<Channel> {
        Grpc::new(self.channel.clone())
            .max_decoding_message_size(ANSWER_MAX)
            .max_encoding_message_size(ANSWER_MAX)
    }

    /// One call with one answer. The path is `/etcdserverpb.SERVICE/METHOD`.
    pub async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.grpc();
        let call = async {
            grpc.ready().await.map_err(|error| Status::unavailable(chain(&error)))?;
            let codec = ProstCodec::<Q, A>::default();
            grpc.unary(Request::new(request), PathAndQuery::from_static(path), codec).await
        };
        match tokio::time::timeout(CALL_MAX, call).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(Status::deadline_exceeded(format!("no answer in {} s", CALL_MAX.as_secs()))),
        }
    }

    /// A watch stream; it stays open as long as `first` and its stream live.
    pub async fn watch(&self, first: WatchRequest) -> Result<Streaming<WatchResponse>, Status> {
        let mut grpc = self.grpc();
        let open = async {
            grpc.ready().await.map_err(|error| Status::unavailable(chain(&error)))?;
            let requests = futures_util::StreamExt::chain(
                futures_util::stream::iter([first]),
                futures_util::stream::pending::<WatchRequest>(),
            );
            let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
            let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
            grpc.streaming(Request::new(requests), path, codec).await
        };
        match tokio::time::timeout(CALL_MAX, open).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(Status::deadline_exceeded(format!("no answer in {} s", CALL_MAX.as_secs()))),
        }
    }
}

/// An error with its causes; the transport's own text says nothing.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn endpoint(url: &str, options: &EtcdOptions) -> Result<Endpoint, StoreError> {
    let wrong = |error: tonic::transport::Error| unavailable(format!("endpoint {url:?}: {}", chain(&error)));
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(wrong)?
        .connect_timeout(CONNECT_MAX)
        .http2_keep_alive_interval(ALIVE_EVERY)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    let Some(tls) = &options.tls else { return Ok(endpoint) };
    let mut config = ClientTlsConfig::new();
    if let Some(ca) = &tls.ca_pem {
        config = config.ca_certificate(Certificate::from_pem(ca));
    }
    if let Some((certificate, key)) = &tls.identity_pem {
        config = config.identity(Identity::from_pem(certificate, key));
    }
    endpoint.tls_config(config).map_err(wrong)
}
