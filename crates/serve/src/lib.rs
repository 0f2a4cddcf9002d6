//! TLS, HTTP/1.1 and HTTP/2, websockets and SPDY streams.
