//! The one schema engine: default, prune, validate, merge and transcode any kind's value tree.
//!
//! Values are `serde_json::Value`; what is known of them is a [`Schema`]. Walk it by name:
//!
//! ```text
//! let pod = api::schema_of("core_v1.Pod").unwrap();
//! let containers = pod.at("spec.containers").unwrap();      // or .field("spec")?.field("containers")?
//! containers.is_list(); containers.item();                  // item schema (lists, maps)
//! containers.list_type();                                   // ListType::Map(["name"]): server-side apply
//! containers.patch().merge; containers.merge_key();         // strategic merge: Some("name")
//! containers.item().unwrap().is_atomic();                   // structs and maps replaced as a whole
//! pod.at("spec.containers[].ports[].protocol").unwrap().default();
//! ```
//!
//! Engines: [`decode::decode`] (a request's body, in any of the three forms), [`json::parse`] (duplicates, unknown
//! fields), [`canonicalize`] (types, canonical scalars, zero values),
//! [`defaulting::default`], [`prune::prune`], [`validate::validate`], [`crd::check`] and [`crd::compile`],
//! [`FieldError`] (messages and causes), [`protobuf`] (transcoding and the envelope).
//!
//! [`Schema::object`] gives the fields of an object type with tags and emission rules ([`Field`]).

pub mod canonical;
pub mod crd;
pub mod decode;
pub mod defaulting;
pub mod duration;
pub mod error;
pub mod expressions;
pub mod facts;
pub mod fieldset;
pub mod json;
pub mod managed;
pub mod protobuf;
pub mod prune;
pub mod strategic;
pub mod typed;
pub mod types;
pub mod validate;

pub use canonical::{TypeError, canonicalize};
pub use error::{FieldError, Path, Reason, aggregate};
pub use types::{
    Either, Emit, Field, Hook, ListType, Object, ObjectRef, Patch, Rules, Schema, Text, Type, Wire,
};
