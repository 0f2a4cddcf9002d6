//! The network with real packets, in namespaces of the tests' own.

mod dns;
mod lab;
mod overlay;
mod services;
