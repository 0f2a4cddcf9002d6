//! The API server role: request path, registry and admission over the store.
