//! The network with real packets, in namespaces of the tests' own.

mod dns;
mod edge;
mod ingress;
mod lab;
mod overlay;
mod policy;
mod services;
mod size;
