//! Outgoing requests over connections that are kept: webhooks and aggregated servers are asked again and again.
//!
//! One pool has all that is bounded: idle connections per place and in all, their age, and the settings of TLS
//! that were made of certificate bundles.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;

use crate::outbound::{ClientTls, OutboundError, open};
use crate::{Body, BoxError, TlsError};

/// Idle connections kept to one place.
const IDLE_PER_PLACE: usize = 16;
/// Idle connections kept in all.
const IDLE_MAX: usize = 256;
/// How long an idle connection is kept.
const IDLE_AGE: Duration = Duration::from_secs(60);
/// Settings of TLS that are remembered.
const TLS_MAX: usize = 256;

/// Whereto, and as whom.
#[derive(Clone)]
pub struct Place {
    /// Name or address to dial.
    pub host: String,
    /// Port to dial.
    pub port: u16,
    /// The name the other end shows in its certificate.
    pub server_name: String,
    /// With TLS, unless absent.
    pub tls: Option<ClientTls>,
}

#[derive(PartialEq, Eq, Hash, Clone)]
struct Key {
    host: String,
    port: u16,
    server_name: String,
    tls: usize,
}

struct Idle {
    sender: SendRequest<Body>,
    since: Instant,
    /// Keeps the settings alive, so that no others get their address.
    _tls: Option<ClientTls>,
}

type TlsKey = (String, String, String);

#[derive(Default)]
struct Kept {
    idle: HashMap<Key, Vec<Idle>>,
    count: usize,
}

/// Kept connections. Clones share them.
#[derive(Clone, Default)]
pub struct Pool(Arc<Inner>);

#[derive(Default)]
struct Inner {
    kept: std::sync::Mutex<Kept>,
    tls: std::sync::Mutex<HashMap<TlsKey, ClientTls>>,
}

fn locked<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Pool {
    /// The client's side of TLS for these texts (as [`ClientTls::new`]), made once.
    pub fn tls(&self, authorities: &str, chain: &str, key: &str) -> Result<ClientTls, TlsError> {
        let id = (authorities.to_string(), chain.to_string(), key.to_string());
        if let Some(known) = locked(&self.0.tls).get(&id) {
            return Ok(known.clone());
        }
        let made = ClientTls::new(authorities, chain, key)?;
        let mut known = locked(&self.0.tls);
        if known.len() >= TLS_MAX {
            known.clear();
        }
        Ok(known.entry(id).or_insert(made).clone())
    }

    /// Sends a request whose body is known whole. A kept connection that turns out to be closed is replaced by a
    /// new one.
    pub async fn send(
        &self,
        place: &Place,
        head: http::request::Parts,
        body: Bytes,
    ) -> Result<Response<Body>, OutboundError> {
        let key = Key {
            host: place.host.clone(),
            port: place.port,
            server_name: place.server_name.clone(),
            tls: place.tls.as_ref().map_or(0, ClientTls::address),
        };
        let request = || {
            let body = if body.is_empty() { crate::empty() } else { crate::full(body.clone()) };
            Request::from_parts(head.clone(), body)
        };
        while let Some(mut sender) = self.take(&key).await {
            match sender.send_request(request()).await {
                Ok(response) => return Ok(self.returning(response, sender, key, place.tls.clone())),
                Err(cause) if cause.is_canceled() || cause.is_closed() || cause.is_incomplete_message() => {
                    tracing::debug!(%cause, host = place.host, "a kept connection was closed");
                }
                Err(cause) => return Err(failed(place, &cause)),
            }
        }
        let mut sender = open((&place.host, place.port), &place.server_name, place.tls.as_ref()).await?;
        let response = sender.send_request(request()).await.map_err(|cause| failed(place, &cause))?;
        Ok(self.returning(response, sender, key, place.tls.clone()))
    }

    async fn take(&self, key: &Key) -> Option<SendRequest<Body>> {
        loop {
            let mut idle = {
                let mut kept = locked(&self.0.kept);
                let list = kept.idle.get_mut(key)?;
                let Some(idle) = list.pop() else {
                    kept.idle.remove(key);
                    return None;
                };
                kept.count -= 1;
                idle
            };
            if idle.since.elapsed() < IDLE_AGE
                && !idle.sender.is_closed()
                && idle.sender.ready().await.is_ok()
            {
                return Some(idle.sender);
            }
        }
    }

    fn put(&self, key: &Key, sender: SendRequest<Body>, tls: Option<ClientTls>) {
        if sender.is_closed() {
            return;
        }
        let mut kept = locked(&self.0.kept);
        if kept.count >= IDLE_MAX {
            kept.idle.retain(|_, list| {
                list.retain(|idle| idle.since.elapsed() < IDLE_AGE && !idle.sender.is_closed());
                !list.is_empty()
            });
            kept.count = kept.idle.values().map(Vec::len).sum();
        }
        let Kept { idle, count } = &mut *kept;
        if *count >= IDLE_MAX {
            return;
        }
        let list = idle.entry(key.clone()).or_default();
        if list.len() < IDLE_PER_PLACE {
            list.push(Idle { sender, since: Instant::now(), _tls: tls });
            *count += 1;
        }
    }

    fn returning(
        &self,
        response: Response<Incoming>,
        sender: SendRequest<Body>,
        key: Key,
        tls: Option<ClientTls>,
    ) -> Response<Body> {
        if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
            return response.map(|body| body.map_err(BoxError::from).boxed_unsync());
        }
        let home = Some((self.clone(), key, sender, tls));
        response.map(|body| Returning { body, home, ended: false }.boxed_unsync())
    }
}

fn failed(place: &Place, cause: &hyper::Error) -> OutboundError {
    OutboundError::Request { address: format!("{}:{}", place.host, place.port), cause: cause.to_string() }
}

/// A body that gives its connection back when it has been read to its end.
struct Returning {
    body: Incoming,
    home: Option<(Pool, Key, SendRequest<Body>, Option<ClientTls>)>,
    ended: bool,
}

impl HttpBody for Returning {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(None) = polled {
            self.ended = true;
        }
        polled.map_err(BoxError::from)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Returning {
    fn drop(&mut self) {
        if (self.ended || self.body.is_end_stream())
            && let Some((pool, key, sender, tls)) = self.home.take()
        {
            pool.put(&key, sender, tls);
        }
    }
}
