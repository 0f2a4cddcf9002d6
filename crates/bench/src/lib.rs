//! A load generator that drives any Kubernetes API server through the same phases.
