//! Pure decisions of the managed service: clusters, node pools, upgrades, autoscaling.
