//! The registry of this moment, swapped as a whole when kinds come and go.

use std::sync::{Arc, PoisonError, RwLock};

use api::Registry;

/// A registry that is swapped as a whole; readers keep the one they took.
#[derive(Debug)]
pub struct SharedRegistry(RwLock<Arc<Registry>>);

impl SharedRegistry {
    /// Starts with `registry`.
    pub fn new(registry: Registry) -> SharedRegistry {
        SharedRegistry(RwLock::new(Arc::new(registry)))
    }

    /// The registry of this moment.
    pub fn get(&self) -> Arc<Registry> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the registry for later readers.
    pub fn set(&self, registry: Registry) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(registry);
    }
}
