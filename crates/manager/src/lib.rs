//! The managed service: clusters and node pools as supervised child processes.
