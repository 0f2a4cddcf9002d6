//! Typed objects from and to JSON, in one way only.
//!
//! Every form of input or output that serde has (bytes, text, `Value`) is another copy of the decoders or
//! encoders of all kinds in the program, so typed objects are read from bytes and written to bytes.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service,
    ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::storage::v1::StorageClass;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Error;

/// The object as a JSON value, by way of its text.
pub fn to_value<T: Serialize>(object: &T) -> Result<Value, Error> {
    let value = serde_json::to_vec(object).and_then(|text| serde_json::from_slice(&text));
    value.map_err(|e| Error::Request(e.to_string()))
}

/// The object that a JSON value holds, by way of its text.
pub fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T, serde_json::Error> {
    serde_json::from_slice(&serde_json::to_vec(value)?)
}

pub(crate) fn decode<T: DeserializeOwned>(what: String, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|source| Error::Decode { what, source })
}

/// Kinds that several crates read. Naming them here makes their decoders part of this crate, which crates
/// above it that are built for size share instead of each having its own.
#[used]
static SHARED: [fn(&[u8]) -> bool; 15] = [
    readable::<ConfigMap>,
    readable::<Deployment>,
    readable::<EndpointSlice>,
    readable::<Event>,
    readable::<Lease>,
    readable::<Namespace>,
    readable::<Node>,
    readable::<PersistentVolume>,
    readable::<PersistentVolumeClaim>,
    readable::<Pod>,
    readable::<ReplicaSet>,
    readable::<Secret>,
    readable::<Service>,
    readable::<ServiceAccount>,
    readable::<StorageClass>,
];

fn readable<T: DeserializeOwned>(bytes: &[u8]) -> bool {
    serde_json::from_slice::<T>(bytes).is_ok()
}
