//! What a process knows of the cluster: objects as its watches told them, parsed once for all processes.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

macro_rules! kinds {
    ($count:literal: $($plural:literal $variant:ident $field:ident $kind:ty,)*) => {
        /// The kinds of the simulation.
        pub static PLURALS: [&str; $count] = [$($plural),*];

        /// One object.
        #[derive(Clone, Debug)]
        pub enum Object {
            $(#[doc = concat!("One of ", $plural, ".")] $variant(Arc<$kind>),)*
        }

        impl Object {
            /// Parses an object of this kind.
            pub fn of(plural: &str, value: Value) -> Option<Self> {
                Some(match plural {
                    $($plural => Self::$variant(Arc::new(serde_json::from_value(value).ok()?)),)*
                    _ => return None,
                })
            }

            /// Its metadata.
            pub fn meta(&self) -> &ObjectMeta {
                match self {
                    $(Self::$variant(object) => &object.metadata,)*
                }
            }
        }

        /// Objects by name, and how far each table is known.
        #[derive(Default)]
        pub struct Cache {
            $(#[doc = concat!("All ", $plural, ".")] pub $field: BTreeMap<String, Arc<$kind>>,)*
            known: BTreeMap<&'static str, u64>,
        }

        impl Cache {
            /// Takes a change in.
            pub fn learn(&mut self, change: &Change) {
                let name = &change.name;
                match (change.plural, change.object.clone()) {
                    $((_, Some(Object::$variant(object))) => drop(self.$field.insert(name.clone(), object)),)*
                    $(($plural, None) => drop(self.$field.remove(name)),)*
                    _ => {}
                }
                self.reached(change.plural, change.revision);
            }

            /// Names of a table.
            pub fn names(&self, plural: &str) -> Vec<String> {
                match plural {
                    $($plural => self.$field.keys().cloned().collect(),)*
                    _ => Vec::new(),
                }
            }

            /// The metadata of an object.
            pub fn meta(&self, plural: &str, name: &str) -> Option<&ObjectMeta> {
                match plural {
                    $($plural => self.$field.get(name).map(|object| &object.metadata),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! { 10:
    "deployments" Deployment deployments Deployment,
    "replicasets" Set sets ReplicaSet,
    "pods" Pod pods Pod,
    "nodes" Node nodes Node,
    "jobs" Job jobs Job,
    "statefulsets" Stateful statefuls StatefulSet,
    "daemonsets" Daemon daemons DaemonSet,
    "controllerrevisions" Revision revisions ControllerRevision,
    "persistentvolumes" Volume volumes PersistentVolume,
    "persistentvolumeclaims" Claim claims PersistentVolumeClaim,
}

impl Object {
    /// Its name.
    pub fn name(&self) -> String {
        self.meta().name.clone().unwrap_or_default()
    }
}

/// One change of a table, as a watch tells it.
#[derive(Clone, Debug)]
pub struct Change {
    /// The kind.
    pub plural: &'static str,
    /// The object's name.
    pub name: String,
    /// The object; absent when it is gone.
    pub object: Option<Object>,
    /// As of this revision.
    pub revision: u64,
}

impl Cache {
    /// A table is known up to here.
    pub fn reached(&mut self, plural: &'static str, revision: u64) {
        let known = self.known.entry(plural).or_default();
        *known = revision.max(*known);
    }

    /// How far a table is known; absent before its first list.
    pub fn known(&self, plural: &str) -> Option<u64> {
        self.known.get(plural).copied()
    }
}
