//! Images and containers: registry client, content store, snapshots, the runtime and its supervisor.
