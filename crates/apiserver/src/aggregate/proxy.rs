//! Requests passed on to other API servers, together with who asks.

use http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Method, Response, Uri};
use serve::Body;
use serve::pool::Place;

use super::Remote;
use crate::answer;
use crate::authenticate::Identity;
use crate::connect;
use crate::endpoints;
use crate::server::{ApiServer, BODY_MAX};
use crate::status::Status;

const USER: HeaderName = HeaderName::from_static("x-remote-user");
const UID: HeaderName = HeaderName::from_static("x-remote-uid");
const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const EXTRA: &str = "x-remote-extra-";

/// Where a server is now.
pub fn place(server: &ApiServer, remote: &Remote) -> Result<Place, String> {
    let (namespace, name, port) = &remote.service;
    let tls = remote.tls.clone()?;
    let (host, port) = endpoints::service(server, (namespace, name), *port)?;
    Ok(Place { host, port, server_name: format!("{name}.{namespace}.svc"), tls: Some(tls) })
}

/// Names the server that is asked.
pub fn host(headers: &mut HeaderMap, remote: &Remote) -> Result<(), String> {
    let (namespace, name, port) = &remote.service;
    let host = HeaderValue::try_from(format!("{name}.{namespace}.svc:{port}"));
    headers.insert(HOST, host.map_err(|cause| cause.to_string())?);
    Ok(())
}

/// Says who asks; what the client itself said of that is dropped.
pub fn identify(headers: &mut HeaderMap, identity: &Identity) -> Result<(), http::Error> {
    let foreign = |name: &HeaderName| {
        let name = name.as_str();
        name.starts_with("x-remote-") || name.starts_with("impersonate-")
    };
    let foreign: Vec<HeaderName> = headers.keys().filter(|name| foreign(name)).cloned().collect();
    foreign.into_iter().for_each(|name| drop(headers.remove(name)));
    headers.remove(AUTHORIZATION);
    headers.insert(USER, HeaderValue::try_from(&identity.name)?);
    if !identity.uid.is_empty() {
        headers.insert(UID, HeaderValue::try_from(&identity.uid)?);
    }
    for group in &identity.groups {
        headers.append(GROUP, HeaderValue::try_from(group)?);
    }
    for (key, values) in &identity.extra {
        let name = HeaderName::try_from(format!("{EXTRA}{}", escaped(key)))?;
        for value in values {
            headers.append(name.clone(), HeaderValue::try_from(value)?);
        }
    }
    Ok(())
}

/// A key in the letters that names of headers may have, others percent-encoded.
fn escaped(key: &str) -> String {
    let plain =
        |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase() || b"!#$&'*+-.^_`|~".contains(&byte);
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        match plain(byte) {
            true => out.push(byte as char),
            false => out.push_str(&format!("%{byte:02x}")),
        }
    }
    out
}

/// Passes a request on.
pub async fn forward(
    server: &ApiServer,
    remote: &Remote,
    identity: &Identity,
    mut head: Parts,
    body: Body,
) -> Result<Response<Body>, Status> {
    let away = || answer::text(503, "service unavailable\n");
    if !remote.available {
        return Ok(away());
    }
    if let Err(cause) = &remote.tls {
        return Ok(answer::text(500, format!("{cause}\n")));
    }
    let place = match place(server, remote) {
        Ok(place) => place,
        Err(cause) => {
            tracing::debug!(cause, name = remote.name, "an aggregated server cannot be reached");
            return Ok(away());
        }
    };
    let upgrade = head.headers.contains_key(UPGRADE);
    let client = head.extensions.remove();
    head.headers = connect::passed_headers(&head.headers, upgrade);
    identify(&mut head.headers, identity).map_err(Status::internal)?;
    host(&mut head.headers, remote).map_err(Status::internal)?;
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    head.uri = path.parse::<Uri>().map_err(|cause| Status::bad_request(cause.to_string()))?;
    head.version = http::Version::HTTP_11;
    let failed = |cause: serve::outbound::OutboundError| {
        tracing::debug!(%cause, name = remote.name, "an aggregated server did not answer");
        answer::text(503, format!("error trying to reach service: {cause}\n"))
    };
    if upgrade {
        return connect::upgraded(&place, head, client).await.map(|sent| sent.unwrap_or_else(failed));
    }
    let bare = matches!(head.method, Method::GET | Method::HEAD);
    let bytes = match bare {
        true => bytes::Bytes::new(),
        false => {
            let read = serve::limited(body, BODY_MAX).await;
            let read = read.map_err(|cause| Status::bad_request(format!("read request body: {cause}")))?;
            read.ok_or_else(|| Status::too_large(BODY_MAX))?
        }
    };
    head.headers.remove(http::header::CONTENT_LENGTH);
    Ok(match server.outbound.send(&place, head, bytes).await {
        Ok(response) => connect::passed_back(response),
        Err(cause) => failed(cause),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_says_by_himself_who_he_is() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("x-remote-user", "root"), ("x-remote-extra-a", "b"), ("impersonate-user", "c"), ("accept", "d")]
        {
            headers.append(name, HeaderValue::from_static(value));
        }
        let mut identity = Identity::user("me", ["g"]);
        identity.extra.insert("example.com/Key".into(), vec!["v".into(), "w".into()]);
        identify(&mut headers, &identity).expect("identity");
        let all: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap_or(""))).collect();
        assert_eq!(
            all,
            [
                "accept=d",
                "x-remote-user=me",
                "x-remote-group=g",
                "x-remote-group=system:authenticated",
                "x-remote-extra-example.com%2f%4bey=v",
                "x-remote-extra-example.com%2f%4bey=w"
            ]
        );
    }
}
