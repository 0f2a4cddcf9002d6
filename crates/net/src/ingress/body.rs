//! Request bodies that survive a backend that cannot be reached.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// A client's body, shared with the proxy: as long as nobody has read from it, it can be sent again.
#[derive(Clone)]
pub(crate) struct Retained(Arc<Mutex<Inner>>);

struct Inner {
    body: Incoming,
    touched: bool,
}

impl Retained {
    pub(crate) fn new(body: Incoming) -> Retained {
        // A body known to be empty can always be sent again.
        Retained(Arc::new(Mutex::new(Inner { body, touched: false })))
    }

    /// Nothing was read from it.
    pub(crate) fn is_whole(&self) -> bool {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !inner.touched || inner.body.is_end_stream()
    }
}

impl Body for Retained {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.touched = true;
        Pin::new(&mut inner.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).body.size_hint()
    }
}
