//! The one body type of requests and responses, whether they cross a socket or not.

use std::error::Error;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, TryStreamExt};
use http_body::{Body as _, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};

/// Any error a body may end with.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Bytes as they arrive.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body that is known whole.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body without content.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body made of chunks that become ready over time.
pub fn streamed(chunks: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Body {
    StreamBody::new(chunks.map_ok(Frame::data)).boxed_unsync()
}

/// How many times the limit is still read and thrown away, so that a client which sends before it reads gets
/// the refusal and not a broken connection.
const DRAIN_FACTOR: usize = 4;

/// Reads a whole body of at most `limit` bytes; `Ok(None)` when it is longer.
pub async fn limited(mut body: Body, limit: usize) -> Result<Option<Bytes>, BoxError> {
    let drain_max = limit.saturating_mul(DRAIN_FACTOR);
    if body.size_hint().lower() > drain_max as u64 {
        return Ok(None);
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut seen = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        seen += data.len();
        if seen > drain_max {
            return Ok(None);
        }
        if seen > limit {
            (first, rest) = (Bytes::new(), BytesMut::new());
            continue;
        }
        if first.is_empty() {
            first = data;
            continue;
        }
        rest.extend_from_slice(&data);
    }
    if seen > limit {
        return Ok(None);
    }
    if rest.is_empty() {
        return Ok(Some(first));
    }
    let mut whole = BytesMut::with_capacity(first.len() + rest.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&rest);
    Ok(Some(whole.freeze()))
}
