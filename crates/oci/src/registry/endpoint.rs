//! One place to ask for the parts of one repository: its address, its authorization, tries and waits.

use super::config::Place;
use super::http::{Ask, Http, Origin};
use super::{Fault, Limits, auth};
use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use http::{Method, Response, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::sync::{Mutex, PoisonError};
use tokio::sync::OnceCell;
use tokio::time::timeout;

/// Challenges answered for one request: an expired token, and one more.
const CHALLENGES_MAX: usize = 2;

/// A repository at a place.
pub struct Endpoint {
    place: Place,
    repository: String,
    origin: OnceCell<Origin>,
    authorization: Mutex<Option<HeaderValue>>,
}

impl Endpoint {
    /// Nothing is asked yet.
    pub fn new(place: Place, repository: &str) -> Self {
        Self {
            place,
            repository: repository.to_owned(),
            origin: OnceCell::new(),
            authorization: Mutex::default(),
        }
    }

    /// Host and port.
    pub fn name(&self) -> String {
        self.place.origin.to_string()
    }

    /// A document of at most `max` bytes, with the headers that came with it.
    pub async fn document(
        &self,
        http: &Http,
        limits: &Limits,
        path: &str,
        headers: &HeaderMap,
        max: usize,
    ) -> Result<(HeaderMap, Bytes), Fault> {
        let mut failed = 0;
        loop {
            let fault = match self.document_once(http, path, headers, max).await {
                Ok(done) => return Ok(done),
                Err(fault) => fault,
            };
            failed += 1;
            if !fault.transient() || failed >= limits.attempts {
                return Err(fault);
            }
            tokio::time::sleep(limits.wait(failed, &fault)).await;
        }
    }

    async fn document_once(
        &self,
        http: &Http,
        path: &str,
        headers: &HeaderMap,
        max: usize,
    ) -> Result<(HeaderMap, Bytes), Fault> {
        let (head, mut body) = self.ask(http, Method::GET, path, headers).await?.into_parts();
        let mut all = BytesMut::new();
        while let Some(part) = part(http, &self.place.origin, &mut body).await? {
            if all.len() + part.len() > max {
                let place = &self.place.origin;
                return Err(Fault::protocol(format!("{place} sent more than {max} bytes for {path}")));
            }
            all.extend_from_slice(&part);
        }
        Ok((head.headers, all.freeze()))
    }

    /// Asks for a path below the repository, e.g. `blobs/sha256:…`, answering challenges.
    pub async fn ask(
        &self,
        http: &Http,
        method: Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Response<Incoming>, Fault> {
        let origin = self.origin(http).await?;
        let url = self.url(origin, path)?;
        let mut challenges = 0;
        loop {
            let mut headers = headers.clone();
            let known = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
            headers.extend(known.map(|value| (AUTHORIZATION, value)));
            let ask = Ask { method: method.clone(), url: url.clone(), headers, body: Bytes::new() };
            let (answered, text) = match http.send(ask).await {
                Err(Fault::Status { code: 401, text, from, headers }) if from == origin.to_string() => {
                    (headers, text)
                }
                other => return other,
            };
            challenges += 1;
            if challenges > CHALLENGES_MAX {
                return Err(Fault::Unauthorized(format!("{text} (its own authorization is refused)")));
            }
            let challenge = auth::challenge(&answered);
            let challenge = challenge.ok_or_else(|| Fault::Unauthorized(text.clone()))?;
            let scope = format!("repository:{}:pull", self.repository);
            let value = auth::answer(http, origin, &challenge, self.place.auth.as_ref(), &scope).await?;
            let mut kept = self.authorization.lock().unwrap_or_else(PoisonError::into_inner);
            if challenge == auth::Challenge::Basic && kept.as_ref() == Some(&value) {
                return Err(Fault::Unauthorized(text));
            }
            *kept = Some(value);
        }
    }

    async fn origin(&self, http: &Http) -> Result<&Origin, Fault> {
        let find = || async {
            let origin = self.place.origin.clone();
            if self.place.perhaps_plain {
                // Without a port, plain HTTP has another one.
                let Place { authority, .. } = &self.place;
                let port = if authority.ends_with(&format!(":{}", origin.port)) { origin.port } else { 80 };
                let plain = Origin { tls: false, port, host: origin.host.clone() };
                match http.speaks_plain(&plain, authority).await {
                    Ok(true) => return Ok(plain),
                    Err(fault) if port == origin.port => return Err(fault),
                    _ => {}
                }
            }
            Ok(origin)
        };
        self.origin.get_or_try_init(find).await
    }

    fn url(&self, origin: &Origin, path: &str) -> Result<Uri, Fault> {
        let scheme = if origin.tls { "https" } else { "http" };
        let Place { authority, prefix, mirror_of, .. } = &self.place;
        let ask = mirror_of.as_ref().map_or(String::new(), |r| format!("?ns={}", super::http::escape(r)));
        let text = format!("{scheme}://{authority}{prefix}/v2/{}/{path}{ask}", self.repository);
        text.parse().map_err(|_| Fault::protocol(format!("{text:?} is no address")))
    }
}

/// The next part of a body; a stall counts as a broken connection.
pub async fn part(http: &Http, from: &Origin, body: &mut Incoming) -> Result<Option<Bytes>, Fault> {
    loop {
        let frame = timeout(http.stall(), body.frame()).await;
        let frame = frame.map_err(|_| Fault::Broken(format!("{from} stalled for {:?}", http.stall())))?;
        match frame {
            None => return Ok(None),
            Some(Err(e)) => return Err(Fault::Broken(format!("the answer of {from} broke off: {e}"))),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data()
                    && !data.is_empty()
                {
                    return Ok(Some(data));
                }
            }
        }
    }
}
