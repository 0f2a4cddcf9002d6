//! Volume engines: mounts, projected files and node-local persistent volumes.
