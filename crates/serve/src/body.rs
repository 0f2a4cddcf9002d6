//! The one body type of requests and responses, whether they cross a socket or not.

use std::error::Error;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, LengthLimitError, Limited, StreamBody};

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

/// Reads a whole body of at most `limit` bytes; `Ok(None)` when it is longer.
pub async fn limited(body: Body, limit: usize) -> Result<Option<Bytes>, BoxError> {
    match Limited::new(body, limit).collect().await {
        Ok(whole) => Ok(Some(whole.to_bytes())),
        Err(cause) if cause.is::<LengthLimitError>() => Ok(None),
        Err(cause) => Err(cause),
    }
}
