//! The kind table and the schema facts of every built-in kind.
//!
//! ```text
//! let registry = Registry::builtin();
//! let pods = registry.by_path("", "v1", "pods").unwrap().clone();   // Arc<KindDef>
//! pods.kind; pods.api_version(); pods.namespaced(); pods.allows("watch");
//! pods.resource();                      // "core/pods": the store's table
//! pods.schema().at("spec.containers");  // compiled from facts on first use
//! pods.subresource("eviction");         // kind and verbs
//! pods.selects("spec.nodeName"); pods.selectable;
//! let registry = registry.with_custom(crd_kinds);
//! ```
//!
//! `custom::kinds(&crd)` compiles a CustomResourceDefinition into kinds, `custom::check(&crd)` says what is wrong with
//! its schemas. `schema::defaulting::default(pods.schema(), &mut value)` applies plain and conditional defaults.
//!
//! `types::schema_of("meta_v1.DeleteOptions")` gives types that are no served kind.

pub mod cells;
pub mod custom;
pub mod defaults;
pub mod discovery;
pub mod docs;
pub mod kinds;
pub mod openapi;
pub mod registry;
pub mod types;
pub mod validation;
pub mod warnings;

pub use kinds::{Column, FieldForm, Generation, KindDef, Scope, SelectableField, Subresource};
pub use registry::Registry;
pub use types::schema_of;

#[cfg(test)]
mod tests;
